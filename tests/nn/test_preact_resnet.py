"""Pre-activation ResNet-50 without a final norm: the authors' layers by hand, timm's protocol, the exported code."""

import pytest
import timm
import torch
import torch.nn.functional as F

import ssl_zoo
from ssl_zoo.hub.remote_code import flatten
from ssl_zoo.nn.backbone import pooled_features
from ssl_zoo.nn.preact_resnet import register_preact_resnet
from tests import forked
from tests.tolerances import SAME_NETWORK


TINY = {"layers": [1, 2, 1, 1], "width_factor": 0.125}


def tiny(**arguments):
    """A narrow network without a neutral norm or neutral statistics."""
    torch.manual_seed(0)
    model = timm.create_model("preact_resnet50", **{"num_classes": 0} | TINY | arguments)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "norm" in name and tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) + 0.5)
                if name.endswith(("bias", "running_mean")):
                    tensor.sub_(1.0)
    return model.eval()


def by_hand(weights, images, layers):
    """The network of He et al., section 4, with the stride in the 3x3; the shortcut sees the activated input."""

    def activated(x, name):
        statistics = weights[f"{name}.running_mean"], weights[f"{name}.running_var"]
        return F.relu(F.batch_norm(x, *statistics, weights[f"{name}.weight"], weights[f"{name}.bias"]))

    x = F.max_pool2d(F.conv2d(images, weights["stem.conv.weight"], stride=2, padding=3), 3, 2, 1)
    for stage, depth in enumerate(layers):
        for number in range(depth):
            block = f"stages.{stage}.blocks.{number}"
            stride = 2 if stage > 0 and number == 0 else 1
            inside = activated(x, f"{block}.norm1")
            if number == 0:
                x = F.conv2d(inside, weights[f"{block}.downsample.conv.weight"], stride=stride)
            inside = F.conv2d(inside, weights[f"{block}.conv1.weight"])
            inside = activated(inside, f"{block}.norm2")
            inside = F.conv2d(inside, weights[f"{block}.conv2.weight"], stride=stride, padding=1)
            inside = activated(inside, f"{block}.norm3")
            x = x + F.conv2d(inside, weights[f"{block}.conv3.weight"])
    return x


def test_it_computes_what_the_paper_describes_and_pools_the_sums_as_they_are():
    model = tiny()
    images = torch.randn(2, 3, 75, 64)
    features, embeddings = pooled_features(model, images)
    expected = by_hand(model.state_dict(), images, TINY["layers"])
    torch.testing.assert_close(features, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(embeddings, expected.mean(dim=(2, 3)), rtol=0, atol=1e-5)
    assert (embeddings < 0).any()  # no ReLU behind the last stage


def test_names_and_shapes_are_timms_resnetv2_50_without_its_last_norm():
    with torch.device("meta"):
        ours = timm.create_model("preact_resnet50").state_dict()
        theirs = timm.create_model("resnetv2_50").state_dict()
    gone = {f"norm.{part}" for part in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert {name: tensor.shape for name, tensor in ours.items()} == {
        name: tensor.shape for name, tensor in theirs.items() if name not in gone
    }


def test_every_other_value_is_resnetv2_50s():
    """With a norm that changes no sign, and after a ReLU of ours, the two agree."""
    model = tiny()
    reference = timm.create_model("resnetv2_50", num_classes=0, **TINY).eval()
    missing, unexpected = reference.load_state_dict(model.state_dict(), strict=False)
    assert {name.partition(".")[0] for name in missing} == {"norm"}
    assert unexpected == []
    torch.nn.init.constant_(reference.norm.weight, (1 + reference.norm.eps) ** 0.5)  # fresh statistics: mean 0, var 1
    images = torch.randn(2, 3, 64, 64)
    expected = reference.forward_features(images)
    torch.testing.assert_close(model.forward_features(images).relu(), expected, rtol=0, atol=1e-5)


def test_timm_knows_it_by_its_own_preparation_of_images():
    register_preact_resnet()  # once more, as exported code beside the package would
    assert timm.list_models("preact*") == ["preact_resnet50"]
    config = timm.get_pretrained_cfg("preact_resnet50")
    assert (config.input_size, config.mean[0], config.crop_pct) == ((3, 224, 224), 0.485, 0.875)
    assert (config.first_conv, config.classifier) == ("stem.conv", "head.fc")


def test_timms_protocol():
    model = tiny(num_classes=5)
    images = torch.randn(3, 3, 64, 64)
    before = model.forward_head(model.forward_features(images), pre_logits=True)
    assert (model(images).shape, before.shape) == ((3, 5), (3, model.num_features))
    torch.testing.assert_close(model(images), before @ model.get_classifier().weight.flatten(1).T)  # its bias is 0
    model.reset_classifier(0)
    assert torch.equal(model(images), before)
    model.train().set_grad_checkpointing()
    again = tiny().train()
    again.load_state_dict(model.state_dict())
    model(images).square().sum().backward()
    again(images).square().sum().backward()
    for (name, ours), theirs in zip(model.named_parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)


def test_feature_maps_by_stage():
    maps = timm.create_model("preact_resnet50", features_only=True, **TINY)(torch.randn(1, 3, 64, 64))
    assert [tuple(stage.shape[1:]) for stage in maps] == [
        (8, 32, 32),
        (32, 16, 16),
        (64, 8, 8),
        (128, 4, 4),
        (256, 2, 2),
    ]


def test_a_model_with_it_survives_save_and_load(tmp_path):
    config = ssl_zoo.SelaConfig(
        architecture="preact_resnet50", model_args=TINY, num_clusters=4, num_heads=2, num_samples=9
    )
    model = ssl_zoo.SelaForPreTraining(config).eval()
    model.save_pretrained(tmp_path)
    images = torch.randn(2, 3, 64, 64)
    again = ssl_zoo.SelaModel.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(images).pooler_output, model.timm_model(images), **SAME_NETWORK)
    assert again.config.num_features == 256


def run_python(code, *arguments):
    result = forked.run("-c", code, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


@pytest.mark.parametrize("module", ["ssl_zoo.nn.backbone", "ssl_zoo.models.sela.modeling_sela"])
def test_whoever_builds_backbones_knows_it(module):
    assert run_python(f"import timm, {module}; print(timm.is_model('preact_resnet50'))") == ["True"]


def test_exported_code_registers_it_without_the_package_and_beside_it(tmp_path):
    package = tmp_path / "exported"
    package.mkdir()
    (package / "__init__.py").touch()
    for name, source in flatten(["ssl_zoo.models.sela.modeling_sela"]).items():
        (package / name).write_text(source)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import torch, warnings; warnings.simplefilter('error')\n"
        "from exported.modeling_sela import SelaModel\n"
        "from exported.configuration_sela import SelaConfig\n"
        f"model = SelaModel(SelaConfig(architecture='preact_resnet50', model_args={TINY}))\n"
        "print(model(torch.randn(2, 3, 64, 64)).pooler_output.shape[1], 'ssl_zoo' in sys.modules)\n"
        "import ssl_zoo.nn.backbone\n"
    )
    assert run_python(code, str(tmp_path)) == ["256", "False"]
