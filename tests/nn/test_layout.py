"""Memory formats change the layout of numbers in memory, and nothing else."""

import pytest
import torch

from ssl_zoo.nn.backbone import create_backbone
from ssl_zoo.nn.layout import use_channels_last


SIZE = 64


def _backbone(name: str, **arguments):
    torch.manual_seed(0)
    return create_backbone(name, model_args=arguments)


@pytest.mark.parametrize("image_size", [None, SIZE])
@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_features_and_gradients_stay(name, image_size):
    arguments = {"img_size": SIZE} if name.startswith("vit") else {}
    plain, laid_out = _backbone(name, **arguments).double(), _backbone(name, **arguments).double()
    before = {key: value.clone() for key, value in laid_out.state_dict().items()}
    use_channels_last(laid_out, image_size=image_size)
    assert laid_out.training
    assert all(torch.equal(before[key], value) for key, value in laid_out.state_dict().items())  # statistics, too

    images = torch.randn(4, 3, SIZE, SIZE, dtype=torch.float64)
    features = [module(images) for module in (plain, laid_out)]
    torch.testing.assert_close(*features, rtol=1e-9, atol=1e-9)
    for each in features:
        each.square().sum().backward()
    for own, other in zip(laid_out.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, rtol=1e-6, atol=1e-6)


def test_only_wide_layers_with_few_pixels_keep_the_default():
    backbone = _backbone("resnet18")
    use_channels_last(backbone, image_size=SIZE)
    seen = {}

    def look(name):
        return lambda module, inputs, output: seen.__setitem__(name, output)

    for name, module in backbone.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(look(name))
    backbone(torch.randn(2, 3, SIZE, SIZE))
    assert {name.split(".")[0] for name in seen} == {"conv1", "layer1", "layer2", "layer3", "layer4"}
    for name, output in seen.items():
        # 16 x 16 and 8 x 8 pixels up to the second stage, 4 x 4 and 2 x 2 after it.
        assert output.is_contiguous(memory_format=torch.channels_last) != name.startswith(("layer3", "layer4")), name


@pytest.mark.parametrize(
    ("name", "arguments"), [("resnet18", {"channels": [8, 16, 32, 64]}), ("mobilenetv3_small_050", {})]
)
def test_narrow_and_depthwise_layers_are_channels_last_with_few_pixels_too(name, arguments):
    backbone = _backbone(name, **arguments)
    use_channels_last(backbone, image_size=SIZE)
    kept = [module for module in backbone.modules() if isinstance(module, torch.nn.Conv2d) and _keeps_default(module)]
    assert all(module.groups == 1 and module.out_channels >= 256 for module in kept)
    assert bool(kept) == (name != "resnet18")


def _keeps_default(module: torch.nn.Module) -> bool:
    return bool(module._forward_pre_hooks)


def test_without_a_size_all_layers_are_channels_last():
    backbone = _backbone("resnet18")
    use_channels_last(backbone)
    assert backbone.forward_features(torch.randn(2, 3, SIZE, SIZE)).is_contiguous(memory_format=torch.channels_last)
