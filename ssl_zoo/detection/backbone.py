"""Loads the ResNet that detection is measured with: of a run, from the Hub, of timm, or untrained."""

from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from timm.models.resnet import ResNet

from ssl_zoo.loading.models import ModelLoadError, create_untrained, load_backbone
from ssl_zoo.nn.backbone import create_backbone


__all__ = ["DetectionBackbone", "load_detection_backbone"]

_UNTRAINED = "none"
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class DetectionBackbone:
    """A ResNet on the CPU, `mean` and `std` by channel of its pixels from 0 to 1, and whether it is pretrained."""

    resnet: ResNet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    trained: bool


def load_detection_backbone(
    name: str, *, revision: str | None = None, random_init: bool = False, seed: int = 0
) -> DetectionBackbone:
    """Load a ResNet.

    Args:
        name: Folder of a run or of a model, `org/name` on the Hub, a name of timm such as `resnet50.tv_in1k` (with
            timm's weights), or `none` for a ResNet-50 with random ones.
        revision: Commit, branch or tag on the Hub.
        random_init: Take the architecture with fresh weights, as a baseline.
        seed: Of fresh weights.

    Raises:
        ModelLoadError: There is no such model, or its backbone is no ResNet.
    """
    trained = not random_init and name != _UNTRAINED
    architecture = "resnet50" if name == _UNTRAINED else name.partition(".")[0]
    if not trained and not Path(name).expanduser().exists() and timm.is_model(architecture):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            backbone = create_backbone(architecture)
        pretrained = timm.get_pretrained_cfg(architecture)
        settings = pretrained.to_dict() if pretrained else {}
    else:
        model = load_backbone(name, revision=revision)
        if not trained:
            model = create_untrained(model, seed=seed)
        backbone = getattr(model, "timm_model", model)
        settings = getattr(model.config, "pretrained_cfg", None) or {}
    if not isinstance(backbone, ResNet):
        raise ModelLoadError(
            f"The backbone of '{name}' is a {type(backbone).__name__}; detection is built for timm's ResNets "
            "(docs/detection.md says what others would need)"
        )
    mean, std = settings.get("mean") or _IMAGENET_MEAN, settings.get("std") or _IMAGENET_STD
    return DetectionBackbone(backbone, tuple(mean), tuple(std), trained)
