"""The `views` section of a recipe."""

import math
from dataclasses import dataclass

from ssl_zoo.data.errors import DataError
from ssl_zoo.settings.declare import setting


__all__ = ["BACKENDS", "IMAGENET_MEAN", "IMAGENET_STD", "INTERPOLATIONS", "ViewsConfig"]

BACKENDS = ("fast", "reference", "device")
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass
class ViewsConfig:
    """The `views` section of a recipe: how many crops, how large, and how strongly they are changed.

    Lists of three probabilities are for the first global view, the second global view and the local views.
    """

    global_crops: int = setting(2, "number of global views")
    global_size: int = setting(224, "side of a global view in pixels")
    global_scale: list[float] = setting([0.14, 1.0], "share of the image's area a global view covers")
    local_crops: int = setting(0, "number of local views", off=True)
    local_size: int = setting(96, "side of a local view in pixels")
    local_scale: list[float] = setting([0.05, 0.14], "share of the image's area a local view covers")
    aspect_ratio: list[float] = setting([3 / 4, 4 / 3], "range of the width / height of a crop")
    interpolation: str = setting("bicubic", "resampling of the crops: nearest, bilinear, bicubic or lanczos")
    rotation_degrees: float = setting(0.0, "rotate by up to this many degrees either way, before the crop", off=True)
    translate: float = setting(0.0, "shift by up to this share of width and height, before the crop", off=True)
    affine_scale: list[float] = setting([1.0, 1.0], "range of a zoom before the crop; [1, 1] is none")
    flip_probability: float = setting(0.5, "probability of a horizontal flip")
    color_jitter: list[float] = setting(
        [0.4, 0.4, 0.2, 0.1], "largest change of brightness, contrast, saturation (shares) and hue (turns, <= 0.5)"
    )
    color_jitter_probability: list[float] = setting(
        [0.8, 0.8, 0.8], "probability of the colour jitter, per kind of view"
    )
    gray_probability: list[float] = setting([0.2, 0.2, 0.2], "probability of losing all colour, per kind of view")
    blur_probability: list[float] = setting([1.0, 0.1, 0.5], "probability of a Gaussian blur, per kind of view")
    blur_sigma: list[float] = setting([0.1, 2.0], "range of the blur's sigma in pixels")
    solarize_probability: list[float] = setting(
        [0.0, 0.2, 0.0], "probability of inverting all values above 128, per kind of view"
    )
    backend: str = setting(
        "fast",
        "who makes the views: fast (within 2/255 of torchvision), reference (torchvision itself) or device (crops by "
        "the workers, the rest for whole batches on the GPU)",
    )
    mean: list[float] = setting([*IMAGENET_MEAN], "per channel, subtracted; pixels are 0 to 1")
    std: list[float] = setting([*IMAGENET_STD], "per channel, divided by; pixels are 0 to 1")

    def __post_init__(self) -> None:
        """Check every value; an error names the key, the value and what is expected."""
        for key, low in (("global_crops", 1), ("global_size", 1), ("local_crops", 0), ("local_size", 1)):
            _require(getattr(self, key) >= low, key, getattr(self, key), f"at least {low}")
        highest = {"global_scale": 1.0, "local_scale": 1.0}
        for key in ("global_scale", "local_scale", "aspect_ratio", "affine_scale", "blur_sigma"):
            value, high = getattr(self, key), highest.get(key, math.inf)
            ok = len(value) == 2 and 0 < value[0] <= value[1] <= high
            _require(ok, key, value, f"[smallest, largest] with 0 < smallest <= largest <= {high:g}")
        ok = self.interpolation in INTERPOLATIONS
        _require(ok, "interpolation", self.interpolation, f"one of {list(INTERPOLATIONS)}")
        _require(self.backend in BACKENDS, "backend", self.backend, f"one of {list(BACKENDS)}")
        _require(0 <= self.rotation_degrees <= 180, "rotation_degrees", self.rotation_degrees, "0 to 180")
        _require(0 <= self.translate <= 1, "translate", self.translate, "a share, 0 to 1")
        _require(0 <= self.flip_probability <= 1, "flip_probability", self.flip_probability, "0 to 1")
        for key, value in vars(self).items():
            if key.endswith("_probability") and key != "flip_probability":
                ok = len(value) == 3 and all(0 <= probability <= 1 for probability in value)
                _require(ok, key, value, "3 probabilities: global 1, global 2, local")
        ok = len(self.color_jitter) == 4 and min(self.color_jitter) >= 0 and self.color_jitter[3] <= 0.5
        _require(ok, "color_jitter", self.color_jitter, "4 numbers >= 0, the last (hue) at most 0.5")
        _require(len(self.mean) == 3, "mean", self.mean, "3 numbers")
        _require(len(self.std) == 3 and min(self.std) > 0, "std", self.std, "3 numbers > 0")


def _require(ok: bool, key: str, value: object, expected: str) -> None:
    if not ok:
        raise DataError(f"`views.{key}` must be {expected}, got {value!r}")
