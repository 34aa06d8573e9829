"""Faster R-CNN (https://huggingface.co/papers/1506.01497) of torchvision on a timm ResNet, in two layouts."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from timm.models.resnet import ResNet
from torch import nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from ssl_zoo.detection.config import DetectionConfig


__all__ = ["C4Features", "C4Head", "build_detector"]

_RATIOS = (0.5, 1.0, 2.0)
_FPN_CHANNELS = 256


class C4Features(nn.Module):
    """A ResNet up to layer3, stride 16; its modules are used, not copied."""

    def __init__(self, resnet: ResNet) -> None:
        super().__init__()
        names = ("conv1", "bn1", "act1", "maxpool", "layer1", "layer2", "layer3")
        self.body = nn.Sequential(OrderedDict((name, getattr(resnet, name)) for name in names))
        self.out_channels = _channels(resnet)[2]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images `(batch, 3, height, width)` -> `(batch, channels, height / 16, width / 16)`."""
        features: torch.Tensor = self.body(images)
        return features


class C4Head(nn.Module):
    """A ResNet's layer4 on each box, batch norm, and the mean over the places.

    The extra norm is MoCo's: features of self-supervised networks have other magnitudes than the learning rates of
    detectors were made for.

    Args:
        resnet (`ResNet`): Its layer4 is used, not copied.
        extra_norm: Whether to add the norm.
    """

    def __init__(self, resnet: ResNet, *, extra_norm: bool) -> None:
        super().__init__()
        self.layer4: nn.Module = resnet.get_submodule("layer4")
        self.out_channels = _channels(resnet)[3]
        self.norm: nn.Module = nn.BatchNorm2d(self.out_channels) if extra_norm else nn.Identity()

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Features of boxes `(boxes, channels, 14, 14)` -> `(boxes, channels of layer4)`."""
        embeddings: torch.Tensor = self.norm(self.layer4(crops)).mean(dim=(2, 3))
        return embeddings


def build_detector(
    resnet: ResNet, config: DetectionConfig, *, num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> FasterRCNN:
    """Put a detector around a backbone.

    Args:
        resnet (`ResNet`): Pretrained; becomes part of the detector, all of it trained.
        config ([`DetectionConfig`]): Layout, norm, sizes, and the seed of the new layers.
        num_classes: Without background, which becomes class 0.
        mean: Of the pixels from 0 to 1, by channel.
        std: Of the pixels, by channel.
    """
    if config.norm == "frozen":
        _freeze_norms(resnet)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        layout = _c4 if config.architecture == "c4" else _fpn
        return layout(resnet, config, num_classes + 1, list(mean), list(std))


def _c4(resnet: ResNet, config: DetectionConfig, classes: int, mean: list[float], std: list[float]) -> FasterRCNN:
    """detectron2's Base-RCNN-C4, with MoCo's extra norm: RPN and boxes on layer3, layer4 as the head of a box."""
    head = C4Head(resnet, extra_norm=config.norm == "sync")
    return FasterRCNN(
        C4Features(resnet),
        min_size=config.min_sizes,
        max_size=config.max_size,
        image_mean=mean,
        image_std=std,
        rpn_anchor_generator=AnchorGenerator((config.anchor_sizes,), (_RATIOS,)),
        rpn_pre_nms_top_n_train=12_000,
        rpn_pre_nms_top_n_test=6_000,
        rpn_post_nms_top_n_train=2_000,
        rpn_post_nms_top_n_test=1_000,
        # 14 x 14 places, that layer4 halves; a sampling ratio of 0 takes as many points as the box is large.
        box_roi_pool=MultiScaleRoIAlign(["0"], output_size=14, sampling_ratio=0),
        box_head=head,
        box_predictor=_predictor(head.out_channels, classes),
        box_batch_size_per_image=config.rois_per_image,
    )


def _fpn(resnet: ResNet, config: DetectionConfig, classes: int, mean: list[float], std: list[float]) -> FasterRCNN:
    """detectron2's Base-RCNN-FPN, with batch norm in the pyramid as MoCo has it, and a head of two layers."""
    norm = nn.BatchNorm2d if config.norm == "sync" else None
    levels = {f"layer{number + 1}": str(number) for number in range(4)}
    backbone = BackboneWithFPN(resnet, levels, _channels(resnet), _FPN_CHANNELS, norm_layer=norm)
    detector = FasterRCNN(
        backbone,
        classes,
        min_size=config.min_sizes,
        max_size=config.max_size,
        image_mean=mean,
        image_std=std,
        rpn_anchor_generator=AnchorGenerator(tuple((size,) for size in config.anchor_sizes), (_RATIOS,) * 5),
        rpn_post_nms_top_n_train=1_000,
        box_roi_pool=MultiScaleRoIAlign(["0", "1", "2", "3"], output_size=7, sampling_ratio=0),
        box_batch_size_per_image=config.rois_per_image,
    )
    detector.roi_heads.box_predictor = _predictor(1024, classes)
    return detector


def _channels(resnet: ResNet) -> list[int]:
    """Channels of layer1 to layer4."""
    stages: Any = resnet.feature_info
    channels = {info["module"]: int(info["num_chs"]) for info in stages}
    return [channels[f"layer{number}"] for number in range(1, 5)]


def _predictor(channels: int, classes: int) -> FastRCNNPredictor:
    predictor = FastRCNNPredictor(channels, classes)
    # As detectron2 has it; torch's default would move boxes before anything is learnt.
    for layer, std in ((predictor.cls_score, 0.01), (predictor.bbox_pred, 0.001)):
        nn.init.normal_(layer.weight, std=std)
        nn.init.zeros_(layer.bias)
    return predictor


def _freeze_norms(module: nn.Module) -> None:
    """Replace batch norms by constants with their statistics, scale and shift, in place."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d):
            frozen = FrozenBatchNorm2d(child.num_features, eps=child.eps)
            state = child.state_dict()
            state.pop("num_batches_tracked", None)
            frozen.load_state_dict(state)
            setattr(module, name, frozen)
        else:
            _freeze_norms(child)
