"""What defines a fine-tuning run for detection, and the published settings as presets."""

from dataclasses import dataclass
from typing import Literal

from ssl_zoo.protocol import Metric
from ssl_zoo.settings.declare import plain, require, require_choices, setting


__all__ = ["METRICS", "PRESETS", "DetectionConfig"]


@dataclass(frozen=True)
class DetectionConfig:
    """Every value that changes the result, with those of MoCo's VOC07+12 experiment as defaults.

    Source: https://github.com/facebookresearch/moco/tree/main/detection/configs, and detectron2's defaults.
    """

    architecture: Literal["c4", "fpn"] = setting(
        "c4", "c4: boxes are found on layer3, layer4 classifies them; fpn: a feature pyramid"
    )
    steps: int = setting(24_000, "steps of the optimiser")
    batch_size: int = setting(16, "images per step, over all processes")
    learning_rate: float = setting(0.02, "peak learning rate; it is not scaled with the batch")
    momentum: float = setting(0.9, "momentum of SGD")
    weight_decay: float = setting(1e-4, "weight decay, of all but the scales and shifts of normalisation")
    warmup_steps: int = setting(100, "steps of the linear warm-up")
    warmup_factor: float = setting(1e-3, "share of the peak at which the warm-up starts")
    decay_steps: tuple[int, ...] = setting((18_000, 22_000), "steps after which the rate is multiplied")
    decay_factor: float = setting(0.1, "what the rate is multiplied by at decay_steps")
    min_sizes: tuple[int, ...] = setting(
        (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800),
        "shorter sides in pixels that training images are resized to, by chance; the last is used in tests",
    )
    max_size: int = setting(1333, "the longer side is at most this, in pixels")
    norm: Literal["sync", "frozen"] = setting(
        "sync",
        "sync trains batch norm, over all processes on GPUs, and adds it to the new layers, as MoCo does; "
        "frozen leaves the backbone's as it is and adds none",
    )
    anchor_sizes: tuple[int, ...] = setting(
        (32, 64, 128, 256, 512), "sides of the anchors in pixels; for fpn one for each of its five levels"
    )
    rois_per_image: int = setting(512, "boxes sampled for the loss of the second stage")
    train_on_empty: bool = setting(False, "train on images without a box; detectron2 leaves them out")
    seed: int = setting(0, "seed of the new layers, the order of the images, flips, sizes and samples")

    def __post_init__(self) -> None:
        """Raise a `ValueError` that names the value and what is expected unless every value makes sense."""
        require_choices(self)
        for name in ("steps", "batch_size", "max_size", "rois_per_image"):
            require(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("learning_rate", "warmup_factor", "decay_factor"):
            require(getattr(self, name) > 0, name, "> 0", getattr(self, name))
        for name in ("min_sizes", "anchor_sizes"):
            sizes = getattr(self, name)
            require(bool(sizes) and min(sizes) >= 1, name, "at least one size in pixels", sizes)
        increasing = self.decay_steps == tuple(sorted(set(self.decay_steps)))
        require(increasing, "decay_steps", "increasing", self.decay_steps)
        fits = self.architecture != "fpn" or len(self.anchor_sizes) == 5
        require(fits, "anchor_sizes", "five for 'fpn', one a level", self.anchor_sizes)

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of the step after `step` others: linear warm-up, then steps down."""
        rate = self.learning_rate * self.decay_factor ** sum(step >= decay for decay in self.decay_steps)
        if step < self.warmup_steps:
            done = step / self.warmup_steps
            rate *= self.warmup_factor * (1 - done) + done
        return rate

    def to_dict(self) -> dict[str, object]:
        """As plain data, as JSON would give it back."""
        values: dict[str, object] = plain(self)
        return values


PRESETS: dict[str, DetectionConfig] = {
    # pascal_voc_R_50_C4_24k.yaml of MoCo: VOC 2007 trainval and 2012 trainval -> VOC 2007 test.
    "voc": DetectionConfig(),
    # detectron2's 1x schedule with the image sizes of MoCo's coco_R_50_C4_2x.yaml: train2017 -> val2017.
    "coco": DetectionConfig(
        steps=90_000, decay_steps=(60_000, 80_000), warmup_steps=1_000, min_sizes=(640, 672, 704, 736, 768, 800)
    ),
}

METRICS = (
    Metric("detection_ap", "AP"),
    Metric("detection_ap50", "AP50"),
    Metric("detection_ap75", "AP75"),
    *(Metric(f"detection_ap_{size}", f"AP, {size} objects") for size in ("small", "medium", "large")),
    *(Metric(f"detection_voc_{name}", f"VOC07 {name.upper()}") for name in ("ap", "ap50", "ap75")),
)
