"""ResNets by the names of torchvision, which timm's are too: which one it is, and how its images are prepared."""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch

from ssl_zoo.conversion.layout import ConversionError


__all__ = ["IMAGENET", "is_resnet", "linear_widths", "resnet_settings"]


IMAGENET: dict[str, Any] = {
    "input_size": [3, 224, 224],
    "mean": [0.485, 0.456, 0.406],
    "std": [0.229, 0.224, 0.225],
    "interpolation": "bilinear",  # torchvision's default, in all of the authors' evaluations
    "crop_pct": 0.875,  # resize to 256, centre crop of 224
    "crop_mode": "center",
    "first_conv": "conv1",
    "classifier": "fc",
}

# Blocks in each of the four stages, whether they are bottlenecks, and the inner width of the first -> timm's name.
_ARCHITECTURES = {
    ((2, 2, 2, 2), False, 64): "resnet18",
    ((3, 4, 6, 3), False, 64): "resnet34",
    ((3, 4, 6, 3), True, 64): "resnet50",
    ((3, 4, 23, 3), True, 64): "resnet101",
    ((3, 8, 36, 3), True, 64): "resnet152",
    ((3, 4, 6, 3), True, 128): "wide_resnet50_2",
    ((3, 4, 23, 3), True, 128): "wide_resnet101_2",
}
_BLOCK = re.compile(r"layer([1-4])\.(\d+)\.")


def is_resnet(keys: Collection[str], prefix: str = "") -> bool:
    """Whether there is a ResNet of torchvision under a prefix (`""` for none; else with its final dot)."""
    return all(f"{prefix}{name}" in keys for name in ("conv1.weight", "bn1.running_mean", "layer4.0.conv1.weight"))


def resnet_settings(state: Mapping[str, torch.Tensor], prefix: str) -> dict[str, Any]:
    """Read off names and shapes which ResNet it is.

    Args:
        state (mapping of `str` to `torch.Tensor`): The checkpoint's tensors.
        prefix (`str`): What stands before `conv1.weight`, with its final dot.

    Returns:
        `dict`: the fields `architecture` and `small_image_stem` of a configuration.

    Raises:
        ConversionError: for a ResNet that is none of torchvision's.
    """
    names = [name.removeprefix(prefix) for name in state if name.startswith(prefix)]
    blocks = {match.groups() for name in names if (match := _BLOCK.match(name))}
    depths = tuple(sum(stage == str(number) for stage, _ in blocks) for number in range(1, 5))
    bottleneck = any(name.endswith(".conv3.weight") for name in names)
    first, stem = (_tensor(state, prefix + name) for name in ("layer1.0.conv1.weight", "conv1.weight"))
    key = (depths, bottleneck, first.shape[0])
    if key not in _ARCHITECTURES:
        raise ConversionError(
            f"under '{prefix}' there is a ResNet with {depths} {'bottleneck' if bottleneck else 'basic'} blocks of "
            f"width {first.shape[0]}; known are {', '.join(_ARCHITECTURES.values())}"
        )
    kernel = stem.shape[-1] if stem.ndim == 4 else None
    if kernel not in (3, 7):
        raise ConversionError(
            f"{prefix}conv1.weight has the shape {list(stem.shape)}: expected a first convolution of 7x7, or of 3x3 "
            f"for small images"
        )
    return {"architecture": _ARCHITECTURES[key], "small_image_stem": kernel == 3}


def linear_widths(state: Mapping[str, torch.Tensor], prefix: str) -> tuple[int, list[int], int]:
    """Read the widths of a chain of linear layers off their weights, whatever stands between them.

    Args:
        state (mapping of `str` to `torch.Tensor`): The checkpoint's tensors.
        prefix (`str`): What stands before the layers' numbers, with its final dot, such as `"projector."`.

    Returns:
        Width of the input, widths of the hidden layers, width of the output.

    Raises:
        ConversionError: if there is no linear layer.
    """
    weights = {
        int(match[1]): tensor
        for name, tensor in state.items()
        if (match := re.fullmatch(rf"{re.escape(prefix)}(\d+)\.weight", name)) and tensor.ndim == 2
    }
    if not weights:
        raise ConversionError(f"there is no linear layer under '{prefix}': expected names such as {prefix}0.weight")
    widths = [weights[number].shape[0] for number in sorted(weights)]
    return weights[min(weights)].shape[1], widths[:-1], widths[-1]


def _tensor(state: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in state:
        raise ConversionError(f"1 missing: {name}, by which the architecture is told; nothing was converted")
    return state[name]
