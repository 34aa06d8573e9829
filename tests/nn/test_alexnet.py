"""AlexNet with batch norm: the authors' layers, timm's protocol, and the exported code."""

import pytest
import timm
import torch

import ssl_zoo
from ssl_zoo.hub.remote_code import flatten
from ssl_zoo.nn.alexnet import AlexNet
from ssl_zoo.nn.backbone import create_backbone, pooled_features
from tests import forked
from tests.tolerances import SAME_NETWORK


TINY = {"channels": [8, 12, 16, 16, 12], "hidden_features": 20}
# Layer -> shape of its weight in the authors' checkpoints ("big").
PUBLISHED = {
    "features.0": (96, 3, 11, 11),
    "features.4": (256, 96, 5, 5),
    "features.8": (384, 256, 3, 3),
    "features.11": (384, 384, 3, 3),
    "features.14": (256, 384, 3, 3),
    "classifier.1": (4096, 9216),
    "classifier.4": (4096, 4096),
}


def test_layers_are_those_of_the_published_checkpoints():
    with torch.device("meta"):
        model = create_backbone("alexnet_bn")
    weights = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    expected = {}
    for name, shape in PUBLISHED.items():
        expected |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for number, width in zip((1, 5, 9, 12, 15), (96, 256, 384, 384, 256), strict=True):
        for part in ("weight", "bias", "running_mean", "running_var"):
            expected[f"features.{number}.{part}"] = (width,)
        expected[f"features.{number}.num_batches_tracked"] = ()
    assert weights == expected


def test_timm_knows_it_when_the_backbones_are_imported():
    assert timm.is_model("alexnet_bn")
    assert timm.list_models("alexnet*") == ["alexnet_bn"]
    config = timm.get_pretrained_cfg("alexnet_bn")
    assert config.input_size == (3, 224, 224)
    assert (config.first_conv, config.classifier) == ("features.0", "head")


def test_embeddings_are_the_second_hidden_layer_without_pooling_at_224_pixels():
    model = create_backbone("alexnet_bn", model_args=TINY).eval()
    images = torch.randn(2, 3, 224, 224)
    features, embeddings = pooled_features(model, images)
    assert features.shape == (2, 12, 6, 6)
    layers = model.classifier
    by_hand = torch.relu(layers[4](torch.relu(layers[1](features.flatten(1)))))
    torch.testing.assert_close(embeddings, by_hand, **SAME_NETWORK)
    assert embeddings.shape == (2, model.num_features) == (2, 20)
    assert torch.equal(model(images), embeddings)


def test_classifier_can_be_replaced():
    model = timm.create_model(
        "alexnet_bn", num_classes=5, global_pool="avg", in_chans=1, drop_rate=0.0, **TINY
    ).train()
    images = torch.randn(3, 1, 64, 64)
    assert model(images).shape == (3, 5)
    assert torch.equal(model.get_classifier()(model.forward_head(model.forward_features(images), True)), model(images))
    model.reset_classifier(7, "max")
    assert (model(images).shape, model.num_classes) == ((3, 7), 7)
    model.reset_classifier(0)
    assert model(images).shape == (3, 20)


def test_feature_maps_by_stage():
    model = timm.create_model("alexnet_bn", features_only=True, **TINY).eval()
    maps = model(torch.randn(1, 3, 224, 224))
    assert [tuple(stage.shape[1:]) for stage in maps] == [
        (8, 55, 55),
        (12, 27, 27),
        (16, 13, 13),
        (16, 13, 13),
        (12, 13, 13),
    ]
    assert model.feature_info.reduction() == [4, 8, 16, 16, 16]


def test_initialisation_is_the_authors():
    torch.manual_seed(0)
    model = create_backbone("alexnet_bn", model_args={"channels": [96, 64, 64, 64, 32], "hidden_features": 256})
    first = model.features[0]
    assert first.weight.std().item() == pytest.approx((2 / (11 * 11 * 96)) ** 0.5, rel=0.05)
    assert model.classifier[1].weight.std().item() == pytest.approx(0.01, rel=0.05)
    assert not first.bias.any()
    assert not model.classifier[4].bias.any()


def test_dropout_acts_in_training_mode_only():
    model = create_backbone("alexnet_bn", model_args=TINY)
    images = torch.randn(4, 3, 64, 64)
    model.eval()
    assert torch.equal(model(images), model(images))
    features = model.forward_features(images)
    model.train()
    assert not torch.equal(model.forward_head(features), model.forward_head(features))


def test_misuse_is_refused():
    with pytest.raises(ValueError, match=r"5 convolutions, got \[8, 8\]"):
        AlexNet(channels=[8, 8])
    with pytest.raises(ValueError, match="no gradient checkpointing"):
        create_backbone("alexnet_bn", model_args=TINY).set_grad_checkpointing()


def test_a_model_with_it_survives_save_and_load(tmp_path):
    config = ssl_zoo.SelaConfig(architecture="alexnet_bn", model_args=TINY, num_clusters=4, num_heads=2, num_samples=9)
    model = ssl_zoo.SelaForPreTraining(config).eval()
    model.save_pretrained(tmp_path)
    images = torch.randn(2, 3, 64, 64)
    again = ssl_zoo.SelaModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(images).pooler_output, model.timm_model(images), **SAME_NETWORK)
    assert again.config.num_features == 20


def test_exported_code_registers_it_without_the_package_and_beside_it(tmp_path):
    files = flatten(["ssl_zoo.models.sela.modeling_sela"])
    package = tmp_path / "exported"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, source in files.items():
        (package / name).write_text(source)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch, warnings; warnings.simplefilter('error')\n"
        "from exported.modeling_sela import SelaModel\n"
        "from exported.configuration_sela import SelaConfig\n"
        f"model = SelaModel(SelaConfig(architecture='alexnet_bn', model_args={TINY}))\n"
        "print(model(torch.randn(1, 3, 64, 64)).pooler_output.shape[1], 'ssl_zoo' in sys.modules)\n"
        "import ssl_zoo.nn.backbone\n"
    )
    result = forked.run("-c", code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["20", "False"]
