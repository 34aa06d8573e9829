"""Any timm architecture by name, as a feature extractor without a classifier."""

from typing import Any

import timm
import torch
from timm.models.resnet import ResNet
from torch import nn

from ssl_zoo.nearest import did_you_mean
from ssl_zoo.nn.alexnet import register_alexnet
from ssl_zoo.nn.preact_resnet import register_preact_resnet


__all__ = ["create_backbone", "loads_in_timm", "multi_crop_embeddings", "pooled_features"]


register_alexnet()
register_preact_resnet()


def create_backbone(
    architecture: str, *, model_args: dict[str, Any] | None = None, small_image_stem: bool = False
) -> nn.Module:
    """Build a timm backbone with timm's own initialisation and no classifier.

    Args:
        architecture (`str`): A name known to `timm.list_models()`, without a pretrained tag.
        model_args (`dict`, *optional*): Keyword arguments for the timm model, such as `{"img_size": 64}`.
        small_image_stem (`bool`): Replace the 7x7 stride-2 convolution and the max-pool of a ResNet by one 3x3
            convolution, the usual stem for 32-pixel images. timm has no switch for it, so weights with this stem load
            through `ssl_zoo` only.

    Returns:
        `torch.nn.Module`: a timm model with `forward_features`, `forward_head` and `num_features`.

    Raises:
        ValueError: for a name timm doesn't know, or a small-image stem on anything but a plain-stem ResNet.
    """
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture, timm.list_models(), most=3) or "; `timm.list_models()` lists them all"
        raise ValueError(f"`architecture` must be a timm model name, got '{architecture}'{hint}")
    backbone: nn.Module = timm.create_model(architecture, pretrained=False, num_classes=0, **(model_args or {}))
    if small_image_stem:
        _use_small_image_stem(backbone, architecture)
    return backbone


def loads_in_timm(architecture: str, *, small_image_stem: bool) -> bool:
    """Whether timm alone, without this package, builds the same network."""
    return not small_image_stem and timm.model_entrypoint(architecture).__module__.startswith("timm.")


def _use_small_image_stem(backbone: nn.Module, architecture: str) -> None:
    if not isinstance(backbone, ResNet) or not isinstance(backbone.conv1, nn.Conv2d):
        raise ValueError(
            f"`small_image_stem` needs a ResNet with a single-convolution stem (resnet18, resnet50, ...), "
            f"got '{architecture}'; most other families take a smaller `patch_size` through `model_args`"
        )
    old = backbone.conv1
    stem = nn.Conv2d(old.in_channels, old.out_channels, kernel_size=3, stride=1, padding=1, bias=False)
    if not stem.weight.is_meta:
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as timm's ResNet does
    backbone.add_module("conv1", stem)
    backbone.add_module("maxpool", nn.Identity())


def pooled_features(backbone: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Run a timm backbone.

    Args:
        backbone (`torch.nn.Module`): A timm model.
        images (`torch.Tensor` of shape `(batch, 3, height, width)`): Normalised images, of any floating-point type: a
            model in half precision takes them as they come from the image processor.

    Returns:
        The unpooled features, `(batch, channels, h, w)` or `(batch, tokens, channels)` as the family has them, and the
        pooled embeddings `(batch, num_features)`.
    """
    dtypes = (tensor.dtype for tensor in backbone.parameters() if tensor.is_floating_point())
    images = images.to(next(dtypes, images.dtype))
    features = backbone.forward_features(images)  # type: ignore[operator]  # timm's protocol, not nn.Module's
    return features, backbone.forward_head(features, pre_logits=True)  # type: ignore[operator]


def multi_crop_embeddings(backbone: nn.Module, views: list[torch.Tensor]) -> torch.Tensor:
    """Pooled embeddings of views of several sizes; neighbours of one size go through the backbone together.

    Args:
        backbone (`torch.nn.Module`): A timm model.
        views (list of `torch.Tensor` of shape `(batch, 3, height, width)`): Any sizes; batches may differ.

    Returns:
        `torch.Tensor` of shape `(rows of all views, num_features)`: in the order of the views.
    """
    embeddings, start = [], 0
    for stop in range(1, len(views) + 1):
        if stop == len(views) or views[stop].shape[-2:] != views[start].shape[-2:]:
            embeddings.append(pooled_features(backbone, torch.cat(views[start:stop]))[1])
            start = stop
    return torch.cat(embeddings)
