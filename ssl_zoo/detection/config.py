"""What defines a fine-tuning run for detection, and the published settings as presets."""

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args


__all__ = ["PRESETS", "DetectionConfig"]

Architecture = Literal["c4", "fpn"]
Norm = Literal["sync", "frozen"]


@dataclass(frozen=True)
class DetectionConfig:
    """Every value that changes the result, with those of MoCo's VOC07+12 experiment as defaults.

    Source: https://github.com/facebookresearch/moco/tree/main/detection/configs, and detectron2's defaults.

    Attributes:
        architecture: `"c4"` (boxes are found on layer3, layer4 classifies them) or `"fpn"` (a feature pyramid).
        steps: Steps of the optimiser.
        batch_size: Images per step, over all processes.
        learning_rate: Peak; it is not scaled with the batch.
        momentum: Of SGD.
        weight_decay: Not applied to the scales and shifts of normalisation.
        warmup_steps: Steps of the linear warm-up.
        warmup_factor: Share of the peak at which the warm-up starts.
        decay_steps: Steps after which the rate is multiplied by `decay_factor`.
        decay_factor: See `decay_steps`.
        min_sizes: Shorter sides in pixels that training images are resized to, by chance; the last is used in tests.
        max_size: The longer side is at most this, in pixels.
        norm: `"sync"` trains batch norm (over all processes on GPUs; on a CPU each process has its own) and adds it to
            the new layers, as MoCo does. `"frozen"` leaves the backbone's as it is and adds none.
        anchor_sizes: Sides of the anchors in pixels; for `"fpn"` one for each of its five levels.
        rois_per_image: Boxes sampled for the loss of the second stage.
        train_on_empty: Whether images without a box are trained on; detectron2 leaves them out.
        seed: Of the new layers, the order of the images, flips, sizes and samples.
    """

    architecture: Architecture = "c4"
    steps: int = 24_000
    batch_size: int = 16
    learning_rate: float = 0.02
    momentum: float = 0.9
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    warmup_factor: float = 1e-3
    decay_steps: tuple[int, ...] = (18_000, 22_000)
    decay_factor: float = 0.1
    min_sizes: tuple[int, ...] = (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800)
    max_size: int = 1333
    norm: Norm = "sync"
    anchor_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    rois_per_image: int = 512
    train_on_empty: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: Names the value and what is expected.
        """
        for name, choices in (("architecture", get_args(Architecture)), ("norm", get_args(Norm))):
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {getattr(self, name)!r}")
        for name in ("steps", "batch_size", "max_size", "rois_per_image"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")
        for name in ("learning_rate", "warmup_factor", "decay_factor"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be > 0, got {getattr(self, name)}")
        for name in ("min_sizes", "anchor_sizes"):
            if not getattr(self, name) or min(getattr(self, name)) < 1:
                raise ValueError(f"`{name}` must name at least one size in pixels, got {getattr(self, name)}")
        if list(self.decay_steps) != sorted(set(self.decay_steps)):
            raise ValueError(f"`decay_steps` must increase, got {self.decay_steps}")
        if self.architecture == "fpn" and len(self.anchor_sizes) != 5:
            raise ValueError(f"`anchor_sizes` must be five for 'fpn', one a level, got {self.anchor_sizes}")

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of one step: linear warm-up, then steps down.

        Args:
            step: Steps done before this one.
        """
        rate = self.learning_rate * self.decay_factor ** sum(step >= decay for decay in self.decay_steps)
        if step < self.warmup_steps:
            done = step / self.warmup_steps
            rate *= self.warmup_factor * (1 - done) + done
        return rate

    def to_dict(self) -> dict[str, object]:
        """As plain data, as JSON would give it back."""
        values = dataclasses.asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


PRESETS: dict[str, DetectionConfig] = {
    # pascal_voc_R_50_C4_24k.yaml of MoCo: VOC 2007 trainval and 2012 trainval -> VOC 2007 test.
    "voc": DetectionConfig(),
    # detectron2's 1x schedule with the image sizes of MoCo's coco_R_50_C4_2x.yaml: train2017 -> val2017.
    "coco": DetectionConfig(
        steps=90_000,
        decay_steps=(60_000, 80_000),
        warmup_steps=1_000,
        min_sizes=(640, 672, 704, 736, 768, 800),
    ),
}
