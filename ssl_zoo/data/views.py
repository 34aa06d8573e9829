"""The views a model sees of one image: multi-crop for pretraining, centre crop and raw pixels for evaluation.

An image is decoded once and every view is cut from it, on PIL images, which a CPU thread changes faster than tensors.
All randomness comes from a generator that is handed in; the global ones are left alone.
"""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from ssl_zoo.data import augment
from ssl_zoo.data.errors import DataError


Pixels = npt.NDArray[np.uint8]

_GLOBAL_1, _GLOBAL_2, _LOCAL = range(3)
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
_INTERPOLATIONS = {name: Image.Resampling[name.upper()] for name in ("nearest", "bilinear", "bicubic", "lanczos")}


@dataclass
class ViewsConfig:
    """The `views` section of a recipe: how many crops, how large, and how strongly they are changed.

    Lists of three probabilities are for the first global view, the second global view and the local views.
    """

    global_crops: int = field(default=2, metadata={"help": "number of global views"})
    global_size: int = field(default=224, metadata={"help": "side of a global view in pixels"})
    global_scale: list[float] = field(
        default_factory=lambda: [0.14, 1.0], metadata={"help": "share of the image's area a global view covers"}
    )
    local_crops: int = field(default=0, metadata={"help": "number of local views"})
    local_size: int = field(default=96, metadata={"help": "side of a local view in pixels"})
    local_scale: list[float] = field(
        default_factory=lambda: [0.05, 0.14], metadata={"help": "share of the image's area a local view covers"}
    )
    aspect_ratio: list[float] = field(
        default_factory=lambda: [3 / 4, 4 / 3], metadata={"help": "range of the width / height of a crop"}
    )
    interpolation: str = field(
        default="bicubic", metadata={"help": "resampling of the crops: nearest, bilinear, bicubic or lanczos"}
    )
    rotation_degrees: float = field(
        default=0.0, metadata={"help": "rotate by up to this many degrees either way, before the crop"}
    )
    translate: float = field(
        default=0.0, metadata={"help": "shift by up to this share of width and height, before the crop"}
    )
    affine_scale: list[float] = field(
        default_factory=lambda: [1.0, 1.0], metadata={"help": "range of a zoom before the crop; [1, 1] is none"}
    )
    flip_probability: float = field(default=0.5, metadata={"help": "probability of a horizontal flip"})
    color_jitter: list[float] = field(
        default_factory=lambda: [0.4, 0.4, 0.2, 0.1],
        metadata={"help": "largest change of brightness, contrast, saturation (shares) and hue (turns, <= 0.5)"},
    )
    color_jitter_probability: list[float] = field(
        default_factory=lambda: [0.8, 0.8, 0.8],
        metadata={"help": "probability of the colour jitter, per kind of view"},
    )
    gray_probability: list[float] = field(
        default_factory=lambda: [0.2, 0.2, 0.2],
        metadata={"help": "probability of losing all colour, per kind of view"},
    )
    blur_probability: list[float] = field(
        default_factory=lambda: [1.0, 0.1, 0.5], metadata={"help": "probability of a Gaussian blur, per kind of view"}
    )
    blur_sigma: list[float] = field(
        default_factory=lambda: [0.1, 2.0], metadata={"help": "range of the blur's sigma in pixels"}
    )
    solarize_probability: list[float] = field(
        default_factory=lambda: [0.0, 0.2, 0.0],
        metadata={"help": "probability of inverting all values above 128, per kind of view"},
    )
    mean: list[float] = field(
        default_factory=lambda: list(_IMAGENET_MEAN), metadata={"help": "per channel, subtracted; pixels are 0 to 1"}
    )
    std: list[float] = field(
        default_factory=lambda: list(_IMAGENET_STD), metadata={"help": "per channel, divided by; pixels are 0 to 1"}
    )

    def __post_init__(self) -> None:
        """Check every value; an error names the key, the value and what is expected."""
        for key, low in (("global_crops", 1), ("global_size", 1), ("local_crops", 0), ("local_size", 1)):
            _require(getattr(self, key) >= low, key, getattr(self, key), f"at least {low}")
        for key in ("global_scale", "local_scale"):
            _require_range(key, getattr(self, key), low=0.0, high=1.0)
        for key in ("aspect_ratio", "affine_scale"):
            _require_range(key, getattr(self, key), low=0.0, high=math.inf)
        _require_range("blur_sigma", self.blur_sigma, low=0.0, high=math.inf)
        _require(
            self.interpolation in _INTERPOLATIONS,
            "interpolation",
            self.interpolation,
            f"one of {list(_INTERPOLATIONS)}",
        )
        _require(0 <= self.rotation_degrees <= 180, "rotation_degrees", self.rotation_degrees, "0 to 180")
        _require(0 <= self.translate <= 1, "translate", self.translate, "a share, 0 to 1")
        _require(0 <= self.flip_probability <= 1, "flip_probability", self.flip_probability, "0 to 1")
        for key in ("color_jitter_probability", "gray_probability", "blur_probability", "solarize_probability"):
            ok = len(getattr(self, key)) == 3 and all(0 <= value <= 1 for value in getattr(self, key))
            _require(ok, key, getattr(self, key), "3 probabilities: global 1, global 2, local")
        ok = len(self.color_jitter) == 4 and min(self.color_jitter) >= 0 and self.color_jitter[3] <= 0.5
        _require(ok, "color_jitter", self.color_jitter, "4 numbers >= 0, the last (hue) at most 0.5")
        _require(len(self.mean) == 3, "mean", self.mean, "3 numbers")
        _require(len(self.std) == 3 and min(self.std) > 0, "std", self.std, "3 numbers > 0")


def _require(ok: bool, key: str, value: object, expected: str) -> None:
    if not ok:
        raise DataError(f"`views.{key}` must be {expected}, got {value!r}.")


def _require_range(key: str, value: Sequence[float], *, low: float, high: float) -> None:
    ok = len(value) == 2 and low < value[0] <= value[1] <= high
    _require(ok, key, value, f"[smallest, largest] with {low:g} < smallest <= largest <= {high:g}")


class ImageTransform(ABC):
    """Cuts views from a decoded image as 8-bit arrays, and turns batches of them into normalised tensors.

    The two steps are apart because one multiply-add over a stacked batch is much cheaper than one per view.

    Args:
        mean (`Sequence[float]` of length 3): Subtracted per channel, for pixels from 0 to 1.
        std (`Sequence[float]` of length 3): Divided by per channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._scale = 1 / (255 * torch.tensor(std).view(3, 1, 1))
        self._shift = -torch.tensor(mean).view(3, 1, 1) / torch.tensor(std).view(3, 1, 1)

    @abstractmethod
    def crop(self, image: Image.Image, rng: random.Random) -> list[Pixels]:
        """The views of one RGB image, each of shape `(height, width, 3)`; all random choices come from `rng`."""

    def stack(self, samples: Sequence[Sequence[Pixels]]) -> list[torch.Tensor]:
        """One normalised float32 tensor `(batch, 3, height, width)` per view, from the crops of each sample."""
        views = []
        for crops in zip(*samples, strict=True):
            pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2)
            floats = pixels.to(torch.float32, memory_format=torch.contiguous_format)
            views.append(floats.mul_(self._scale).add_(self._shift))
        return views

    def __call__(self, image: Image.Image, *, seed: int | str | None = None) -> list[torch.Tensor]:
        """The views of one image, each a normalised tensor `(3, height, width)`; the same for the same `seed`."""
        return [view[0] for view in self.stack([self.crop(image.convert("RGB"), random.Random(seed))])]


class MultiView(ImageTransform):
    """Multi-crop views in the order global 1, global 2, ..., local 1, ... (SwAV, https://huggingface.co/papers/2006.09882).

    A third and further global view is changed like the second.
    """

    def __init__(self, config: ViewsConfig) -> None:
        super().__init__(config.mean, config.std)
        self._config = config
        self._kinds = [_GLOBAL_1] + [_GLOBAL_2] * (config.global_crops - 1) + [_LOCAL] * config.local_crops

    def crop(self, image: Image.Image, rng: random.Random) -> list[Pixels]:
        """All views of one image; decoded once, so no view costs another decode."""
        return [np.array(self._view(image, rng, kind)) for kind in self._kinds]

    def _view(self, image: Image.Image, rng: random.Random, kind: int) -> Image.Image:
        """Affine, crop, flip, colour, grey, blur, solarise: the order of the reference code."""
        c = self._config
        if c.rotation_degrees or c.translate or list(c.affine_scale) != [1, 1]:
            image = augment.random_affine(
                image, rng, degrees=c.rotation_degrees, translate=c.translate, scale=c.affine_scale
            )
        size, scale = (c.local_size, c.local_scale) if kind == _LOCAL else (c.global_size, c.global_scale)
        box = augment.random_box(image.size, rng, scale=scale, aspect_ratio=c.aspect_ratio)
        image = image.crop(box).resize((size, size), _INTERPOLATIONS[c.interpolation])
        if rng.random() < c.flip_probability:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        if rng.random() < c.color_jitter_probability[kind]:
            image = augment.color_jitter(image, rng, strengths=c.color_jitter)
        if rng.random() < c.gray_probability[kind]:
            image = augment.grayscale(image)
        if rng.random() < c.blur_probability[kind]:
            image = augment.gaussian_blur(image, rng.uniform(*c.blur_sigma))
        if rng.random() < c.solarize_probability[kind]:
            image = augment.solarize(image)
        return image


class EvalView(ImageTransform):
    """The one fixed view of evaluation: the short side resized to `size / crop_pct`, then the centre square.

    Args:
        size (`int`): Side of the view in pixels.
        mean (`Sequence[float]`), std (`Sequence[float]`): Per channel, for pixels from 0 to 1.
        crop_pct (`float`): Share of the short side that the centre square covers.
        interpolation (`str`): `"nearest"`, `"bilinear"`, `"bicubic"` or `"lanczos"`.

    Attributes:
        size, mean, std, interpolation: As given.
        identity (`str`): A text that changes when the view does.
    """

    def __init__(
        self,
        size: int,
        *,
        mean: Sequence[float] = _IMAGENET_MEAN,
        std: Sequence[float] = _IMAGENET_STD,
        crop_pct: float = 0.875,
        interpolation: str = "bicubic",
    ) -> None:
        super().__init__(mean, std)
        self.size, self._short_side = size, math.floor(size / crop_pct)
        self.mean, self.std, self.interpolation = tuple(mean), tuple(std), interpolation
        self.identity = f"{size}/{self._short_side}/{interpolation}/{[float(value) for value in (*mean, *std)]}"

    def crop(self, image: Image.Image, rng: random.Random) -> list[Pixels]:
        """The one centre view; nothing is random."""
        short = min(image.size)
        width, height = (side * self._short_side // short for side in image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), _INTERPOLATIONS[self.interpolation])
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return [np.array(image.crop((left, top, left + self.size, top + self.size)))]


class RawPixels(EvalView):
    """The centre square as plain pixels from 0 to 1: the baseline that learned features have to beat."""

    def __init__(self, size: int) -> None:
        super().__init__(size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_pct=1.0)
