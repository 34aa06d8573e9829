"""Memory layout of convolutional networks: channels last, except where that is slower."""

from typing import Any

import torch
from torch import nn


__all__ = ["use_channels_last"]


# Measured with oneDNN 3.12: channels last, ResNet-18's max-pool takes a tenth of the time and its early convolutions
# and batch norms 0.7 to 0.95 of it, but a convolution of 512 channels at 2 x 2 pixels 1.7 times as long.
_FEW_PIXELS, _MANY_CHANNELS = 32, 256


def use_channels_last(backbone: nn.Module, *, image_size: int | None = None) -> None:
    """Lay a backbone's weights out channels last, and so the maps that it computes. The results stay, to rounding.

    Args:
        backbone (`torch.nn.Module`): A timm model; it takes images in either layout.
        image_size (`int`, *optional*): Side of the images that it'll mostly see. When given, wide convolutions whose
            maps have few pixels then keep torch's default layout, and bring what comes in into it: this suits CPUs.
    """
    backbone.to(memory_format=torch.channels_last)
    for convolution in _wide_and_small(backbone, image_size) if image_size else []:
        convolution.to(memory_format=torch.contiguous_format)
        convolution.register_forward_pre_hook(_lay_out_input)


@torch.no_grad()
def _wide_and_small(backbone: nn.Module, image_size: int) -> list[nn.Module]:
    slow: list[nn.Module] = []

    def look(module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if output.shape[-2:].numel() < _FEW_PIXELS:
            slow.append(module)

    convolutions = [module for module in backbone.modules() if isinstance(module, nn.Conv2d) and module.groups == 1]
    wide = [module for module in convolutions if module.out_channels >= _MANY_CHANNELS]
    handles = [module.register_forward_hook(look) for module in wide]
    was_training = backbone.training
    weight = next(backbone.parameters())
    backbone.eval()  # batch norm must not count this image
    backbone.forward_features(weight.new_zeros(1, 3, image_size, image_size))  # type: ignore[operator]
    backbone.train(was_training)
    for handle in handles:
        handle.remove()
    return slow


def _lay_out_input(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (inputs[0].contiguous(), *inputs[1:])
