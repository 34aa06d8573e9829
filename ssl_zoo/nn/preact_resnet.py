"""Pre-activation ResNet-50 without a final norm, which timm doesn't have, registered as `preact_resnet50`.

It is the network of SeLa's original ResNet release (https://huggingface.co/papers/1911.05371). It differs from timm's
`resnetv2_50` in one thing: the sums of the last stage are pooled as they are, with no batch norm and no ReLU behind
them. No argument of timm's switches that norm off, and a ReLU can't be undone by any weights. All names are timm's.
"""

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.create_conv2d import create_conv2d
from timm.layers.norm_act import BatchNormAct2d
from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model
from timm.models.resnetv2 import ResNetV2
from torch import nn


__all__ = ["PreActResNet", "default_cfgs", "preact_resnet50", "register_preact_resnet"]


default_cfgs = generate_default_cfgs(
    {
        "preact_resnet50.untrained": {
            "url": "",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": IMAGENET_DEFAULT_MEAN,
            "std": IMAGENET_DEFAULT_STD,
            "first_conv": "stem.conv",
            "classifier": "head.fc",
        }
    }
)


class PreActResNet(ResNetV2):
    """timm's pre-activation ResNet with batch norm, and nothing between the last stage and the pooling.

    Args:
        kwargs: Those of timm's `ResNetV2`, such as `layers`, `width_factor`, `num_classes` and `global_pool`.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(norm_layer=BatchNormAct2d, conv_layer=create_conv2d, **kwargs)
        self.norm = nn.Identity()


def preact_resnet50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build a pre-activation ResNet-50 without a final norm; timm has no weights of it.

    Args:
        pretrained (`bool`): timm's; there is nothing that it could load.
        kwargs: Those of `PreActResNet`. `layers` changes the depth, `width_factor` the width.
    """
    arguments = {"layers": [3, 4, 6, 3], **kwargs}
    model: nn.Module = build_model_with_cfg(
        PreActResNet, "preact_resnet50", pretrained, feature_cfg={"flatten_sequential": True}, **arguments
    )
    return model


def register_preact_resnet() -> None:
    """Make `preact_resnet50` known to timm, once: exported remote code may meet the installed package."""
    if not is_model("preact_resnet50"):
        register_model(preact_resnet50)
