"""AlexNet with batch norm, which timm doesn't have, registered as timm's architecture `alexnet_bn`.

Layers and their names are those of the networks that DeepCluster and SeLa trained ("big": 96-256-384-384-256 channels,
https://huggingface.co/papers/1911.05371), so that `features.N` and `classifier.N` of their checkpoints fit.
"""

from collections.abc import Sequence
from typing import Any

import torch
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model
from torch import nn


__all__ = ["AlexNet", "alexnet_bn", "default_cfgs", "register_alexnet"]


default_cfgs = generate_default_cfgs(
    {
        "alexnet_bn.untrained": {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (6, 6),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "features.0",
            "classifier": "head",
        }
    }
)


class AlexNet(nn.Module):
    """Five convolutions with batch norm, two hidden linear layers with dropout; timm's protocol.

    The embeddings (`forward_head(..., pre_logits=True)`) are the second hidden layer after its ReLU.

    Args:
        num_classes (`int`): Classes; 0 for no classifier.
        in_chans (`int`): Channels of the images.
        global_pool (`str`): Taken and ignored, as other timm models take it: the linear layers see all positions.
        drop_rate (`float`): Dropout before each hidden linear layer.
        channels (sequence of `int`): Widths of the five convolutions.
        hidden_features (`int`): Width of the linear layers.
    """

    def __init__(
        self,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "",
        drop_rate: float = 0.5,
        channels: Sequence[int] = (96, 256, 384, 384, 256),
        hidden_features: int = 4096,
    ) -> None:
        super().__init__()
        if len(channels) != 5:
            raise ValueError(f"`channels` must name the widths of 5 convolutions, got {list(channels)}")
        self.num_classes, self.in_chans, self.grad_checkpointing = num_classes, in_chans, False
        self.num_features = self.head_hidden_size = hidden_features
        # kernel, stride, padding, and whether a max-pool follows
        shapes = ((11, 4, 2, True), (5, 1, 2, True), (3, 1, 1, False), (3, 1, 1, False), (3, 1, 1, True))
        layers: list[nn.Module] = []
        self.feature_info: list[dict[str, Any]] = []
        width, reduction = in_chans, 1
        for (kernel, stride, padding, pooled), next_width in zip(shapes, channels, strict=True):
            layers += [nn.Conv2d(width, next_width, kernel, stride, padding), nn.BatchNorm2d(next_width)]
            layers.append(nn.ReLU(inplace=True))
            width, reduction = next_width, reduction * stride
            where = f"features.{len(layers) - 1}"
            self.feature_info.append({"num_chs": width, "reduction": reduction, "module": where})
            if pooled:
                layers.append(nn.MaxPool2d(kernel_size=3, stride=2))
                reduction *= 2
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(6)  # changes nothing at 224 pixels, and admits other sizes
        self.classifier = nn.Sequential(
            nn.Dropout(drop_rate),
            nn.Linear(width * 36, hidden_features),
            nn.ReLU(inplace=True),
            nn.Dropout(drop_rate),
            nn.Linear(hidden_features, hidden_features),
            nn.ReLU(inplace=True),
        )
        self.head: nn.Module = nn.Linear(hidden_features, num_classes) if num_classes else nn.Identity()
        for module in self.modules():
            _initialize(module)

    def get_classifier(self) -> nn.Module:
        """Return the last layer, which maps embeddings to classes."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer; `global_pool` is ignored, as in the constructor."""
        self.num_classes = num_classes
        weight = self.classifier[1].weight
        self.head = nn.Identity()
        if num_classes:
            self.head = nn.Linear(self.num_features, num_classes, device=weight.device, dtype=weight.dtype)
        _initialize(self.head)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Refuse, by a `ValueError`, to recompute activations in the backward pass."""
        if enable:
            raise ValueError("`alexnet_bn` has no gradient checkpointing: its activations are small")

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Group parameters by depth, for layer-wise learning rates."""
        return {"stem": r"^features\.[01]\.", "blocks": [(r"^features\.(\d+)", None), (r"^classifier\.(\d+)", (99,))]}

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Compute feature maps `(batch, channels, 6, 6)` (at 224 pixels) from images `(batch, in_chans, h, w)`."""
        features: torch.Tensor = self.features(x)
        return features

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Compute logits `(batch, num_classes)` or, before them, embeddings `(batch, num_features)`."""
        embeddings: torch.Tensor = self.classifier(self.pool(x).flatten(1))
        return embeddings if pre_logits else self.head(embeddings)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Compute logits, or embeddings without a classifier."""
        return self.forward_head(self.forward_features(x))


def _initialize(module: nn.Module) -> None:
    """Initialise as the authors do: He's normal (fan-out) for convolutions, N(0, 0.01^2) for linear layers."""
    if isinstance(module, nn.Conv2d | nn.Linear) and not module.weight.is_meta:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        else:
            nn.init.normal_(module.weight, std=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def alexnet_bn(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build AlexNet with batch norm; keyword arguments are those of `AlexNet`. There are no weights of timm's."""
    model: nn.Module = build_model_with_cfg(
        AlexNet, "alexnet_bn", pretrained, feature_cfg={"flatten_sequential": True}, **kwargs
    )
    return model


def register_alexnet() -> None:
    """Make `alexnet_bn` known to timm, once: exported remote code may meet the installed package."""
    if not is_model("alexnet_bn"):
        register_model(alexnet_bn)
