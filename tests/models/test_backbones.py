"""Every timm family: timm's initialisation from scratch, equal outputs after save and load."""

import pytest
import timm
import torch
from torch import nn
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForPreTraining
from transformers.modeling_outputs import BaseModelOutputWithPooling

import ssl_zoo
from ssl_zoo.nn.backbone import create_backbone, pooled_features
from tests.tolerances import SAME_NETWORK


_TINY_VIT = {"embed_dim": 24, "depth": 2, "num_heads": 2}
_TINY_SWIN = {"img_size": 32, "embed_dim": 24, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4}
FAMILIES = {
    "resnet18": ({"channels": [8, 16, 24, 32], "layers": [1, 1, 1, 1]}, 64),
    "convnext_atto": ({"dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1]}, 64),
    "vit_tiny_patch16_224": ({**_TINY_VIT, "img_size": 32}, 32),
    "swin_tiny_patch4_window7_224": (_TINY_SWIN, 32),
    "swinv2_cr_tiny_224": (_TINY_SWIN, 32),
    "test_maxvit": ({"img_size": 64}, 64),
    "beit_base_patch16_224": ({**_TINY_VIT, "img_size": 32}, 32),
    "eva02_tiny_patch14_224": ({**_TINY_VIT, "img_size": 28}, 28),
    "vit_small_patch16_dinov3": ({**_TINY_VIT, "img_size": 32}, 32),
}


def _config(architecture: str, **fields: object) -> "ssl_zoo.MiraConfig":
    return ssl_zoo.MiraConfig(
        architecture=architecture,
        model_args=FAMILIES[architecture][0],
        num_prototypes=10,
        projector_hidden_features=[16],
        projection_features=8,
        **fields,
    )


def _assert_equal_weights(ours: nn.Module, theirs: nn.Module) -> None:
    expected = theirs.state_dict()
    assert ours.state_dict().keys() == expected.keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


@pytest.fixture
def poisoned_memory(monkeypatch):
    """Fills uninitialised memory with values that break every forward pass."""
    empty_like = torch.empty_like

    def poisoned(*args, **kwargs):
        tensor = empty_like(*args, **kwargs)
        if tensor.device.type != "meta":
            tensor.fill_(float("nan") if tensor.is_floating_point() else torch.iinfo(torch.int32).max)
        return tensor

    monkeypatch.setattr(torch, "empty_like", poisoned)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_initialisation_is_timms(architecture):
    torch.manual_seed(3)
    expected = timm.create_model(architecture, num_classes=0, **FAMILIES[architecture][0])
    for model_class in (ssl_zoo.MiraModel, ssl_zoo.MiraForPreTraining, ssl_zoo.MiraForImageClassification):
        torch.manual_seed(3)
        _assert_equal_weights(model_class(_config(architecture)).timm_model, expected)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_save_and_load_gives_equal_outputs(architecture, tmp_path, poisoned_memory):
    size = FAMILIES[architecture][1]
    model = ssl_zoo.MiraForPreTraining(_config(architecture)).train()
    views = [torch.randn(4, 3, size, size) for _ in range(2)]
    model.update_state([model(views)], progress=0.5, epoch=1.0)  # running statistics differ from their start
    model.eval().save_pretrained(tmp_path)

    full = AutoModelForPreTraining.from_pretrained(tmp_path).eval()
    _assert_equal_weights(full, model)
    torch.testing.assert_close(full(views).loss, model(views).loss, **SAME_NETWORK)

    loaded = AutoModel.from_pretrained(tmp_path).eval()
    assert isinstance(loaded, ssl_zoo.MiraModel)
    with torch.no_grad():
        features, embeddings = pooled_features(model.timm_model, views[0])
        output = loaded(views[0])
    assert isinstance(output, BaseModelOutputWithPooling)
    torch.testing.assert_close(output.pooler_output, embeddings, **SAME_NETWORK)
    torch.testing.assert_close(output.last_hidden_state, features, **SAME_NETWORK)
    assert output.pooler_output.shape == (4, loaded.config.num_features)


def test_student_takes_the_teachers_weights_from_a_backbone_checkpoint(tmp_path):
    backbone = ssl_zoo.MiraModel(_config("resnet18"))
    backbone.save_pretrained(tmp_path)
    model = AutoModelForPreTraining.from_pretrained(tmp_path)
    _assert_equal_weights(model.timm_model, backbone.timm_model)
    _assert_equal_weights(model.student_backbone, backbone.timm_model)
    _assert_equal_weights(model.student_projector, model.teacher_projector)
    assert model.prototypes.weight.isfinite().all()


def test_teacher_stays_frozen_after_loading(tmp_path):
    ssl_zoo.MiraForPreTraining(_config("resnet18")).save_pretrained(tmp_path)
    model = AutoModelForPreTraining.from_pretrained(tmp_path).train()
    trained = {name.partition(".")[0] for name, tensor in model.named_parameters() if tensor.requires_grad}
    assert trained == {"student_backbone", "student_projector", "prototypes"}


def test_classifier_is_never_random_by_accident(tmp_path):
    ssl_zoo.MiraModel(_config("resnet18")).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="without a classifier; pass `num_labels=`"):
        AutoModelForImageClassification.from_pretrained(tmp_path)
    model = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=2, id2label={0: "cat", 1: "dog"})
    model.save_pretrained(tmp_path / "tuned")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "tuned").eval()
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(again(images).logits, model.eval()(images).logits, **SAME_NETWORK)


def test_linear_probe_leaves_the_backbone_alone():
    model = ssl_zoo.MiraForImageClassification(_config("resnet18", num_labels=3))
    model.freeze_backbone()
    model.train()
    before = {name: tensor.clone() for name, tensor in model.timm_model.state_dict().items()}
    output = model(torch.randn(4, 3, 64, 64), labels=torch.tensor([0, 1, 2, 0]))
    output.loss.backward()
    assert {name for name, tensor in model.named_parameters() if tensor.grad is not None} == {
        "classifier.weight",
        "classifier.bias",
    }
    for name, tensor in model.timm_model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_small_image_stem_keeps_the_resolution():
    plain = create_backbone("resnet18", model_args=FAMILIES["resnet18"][0])
    small = create_backbone("resnet18", model_args=FAMILIES["resnet18"][0], small_image_stem=True)
    images = torch.randn(2, 3, 32, 32)
    assert pooled_features(plain, images)[0].shape[-1] == 1
    assert pooled_features(small, images)[0].shape[-1] == 4
    assert small.conv1.kernel_size == (3, 3)
    # Kaiming, fan-out, as timm initialises a ResNet: the stem is 64 wide whatever `channels` says.
    assert small.conv1.weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.1)


def test_small_image_stem_survives_save_and_load(tmp_path):
    model = ssl_zoo.MiraModel(_config("resnet18", small_image_stem=True)).eval()
    model.save_pretrained(tmp_path)
    images = torch.randn(2, 3, 32, 32)
    loaded = AutoModel.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(images).pooler_output, model(images).pooler_output, **SAME_NETWORK)


@pytest.mark.parametrize(
    ("architecture", "stem", "message"),
    [
        ("resnet81", False, "got 'resnet81'; did you mean .*resnet18"),
        ("qqqqqqqqq", False, "list_models"),
        ("vit_tiny_patch16_224", True, "`small_image_stem` needs a ResNet"),
        ("resnet50d", True, "`small_image_stem` needs a ResNet"),
    ],
)
def test_bad_backbones_are_named(architecture, stem, message):
    with pytest.raises(ValueError, match=message):
        create_backbone(architecture, small_image_stem=stem)
