"""All random parameters of a view, drawn before any pixel is changed, so that all backends make the same views.

The distributions are those of torchvision's v2 transforms (the tests compare them).
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ssl_zoo.data.view_switches import SWITCHES
from ssl_zoo.data.views_config import ViewsConfig


__all__ = [
    "BRIGHTNESS",
    "CONTRAST",
    "GLOBAL_1",
    "GLOBAL_2",
    "HUE",
    "LOCAL",
    "SATURATION",
    "Affine",
    "ViewParameters",
    "draw_box",
    "draw_jitter",
    "draw_view",
    "view_kinds",
]

GLOBAL_1, GLOBAL_2, LOCAL = range(3)
BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

_CROP_ATTEMPTS = 10
_ALWAYS_DRAWN = "solarize"  # draws a number at probability 0, too: all runs so far did


class Affine(NamedTuple):
    """A rotation about the centre, a shift and a zoom; black outside the image.

    Attributes:
        angle (`float`): Degrees, clockwise.
        shift (`tuple[int, int]`): Pixels to the right and down.
        zoom (`float`): Factor; above 1 enlarges.
    """

    angle: float
    shift: tuple[int, int]
    zoom: float


@dataclass(frozen=True, slots=True)
class ViewParameters:
    """Parameters of one view of one image, in the order in which they are applied.

    Attributes:
        affine (`Affine`, *optional*): Of the whole image, before the crop.
        box (`tuple[int, int, int, int]`): `(left, top, right, bottom)` of the crop in pixels, exclusive at the end.
        size (`int`): Side of the view in pixels; the box is resized to it.
        flip (`bool`): Whether left and right are swapped.
        jitter (`tuple[tuple[int, float], ...]`): `(step, factor)` of the colour jitter, in order. Steps are
            `BRIGHTNESS`, `CONTRAST`, `SATURATION` (factors, 1 changes nothing) and `HUE` (turns of the colour circle).
        gray (`bool`): Whether the view is converted to grey.
        blur_sigma (`float`, *optional*): Of the Gaussian, in pixels of the view.
        switches (`tuple[str, ...]`): Names of the `SWITCHES` that are applied, in order.
    """

    affine: Affine | None
    box: tuple[int, int, int, int]
    size: int
    flip: bool = False
    jitter: tuple[tuple[int, float], ...] = ()
    gray: bool = False
    blur_sigma: float | None = None
    switches: tuple[str, ...] = ()


def view_kinds(config: ViewsConfig) -> list[int]:
    """The kind of each view: global ones after the second are augmented like the second."""
    return [GLOBAL_1] + [GLOBAL_2] * (config.global_crops - 1) + [LOCAL] * config.local_crops


def draw_view(config: ViewsConfig, image_size: tuple[int, int], rng: random.Random, kind: int) -> ViewParameters:
    """Draw one view of an image.

    Args:
        config (`ViewsConfig`): Ranges and probabilities.
        image_size (`tuple[int, int]`): Width and height of the whole image in pixels.
        rng (`random.Random`): The only source of randomness. What is drawn, and in which order, depends only on
            `config`, `image_size` and `kind`: changing that changes every run.
        kind (`int`): `GLOBAL_1`, `GLOBAL_2` or `LOCAL`.
    """
    c, affine = config, None
    if c.rotation_degrees or c.translate or list(c.affine_scale) != [1, 1]:
        affine = _draw_affine(c, image_size, rng)
    size, scale = (c.local_size, c.local_scale) if kind == LOCAL else (c.global_size, c.global_scale)
    box = draw_box(image_size, rng, scale=scale, aspect_ratio=c.aspect_ratio)
    flip = rng.random() < c.flip_probability
    jitter = draw_jitter(rng, c.color_jitter) if rng.random() < c.color_jitter_probability[kind] else ()
    gray = rng.random() < c.gray_probability[kind]
    blur_sigma = rng.uniform(*c.blur_sigma) if rng.random() < c.blur_probability[kind] else None
    switches = tuple(name for name in SWITCHES if _is_on(name, c, kind, rng))
    return ViewParameters(affine, box, size, flip, jitter, gray, blur_sigma, switches)


def _is_on(name: str, config: ViewsConfig, kind: int, rng: random.Random) -> bool:
    """Draw a switch. One that is off draws nothing, so that a new one leaves the views of old runs as they are."""
    probability: float = getattr(config, f"{name}_probability")[kind]
    return (probability > 0 or name == _ALWAYS_DRAWN) and rng.random() < probability


def _draw_affine(config: ViewsConfig, image_size: tuple[int, int], rng: random.Random) -> Affine:
    angle = rng.uniform(-config.rotation_degrees, config.rotation_degrees)
    width, height = image_size
    right = round(rng.uniform(-config.translate, config.translate) * width)
    down = round(rng.uniform(-config.translate, config.translate) * height)
    return Affine(angle, (right, down), rng.uniform(*config.affine_scale))


def draw_box(
    size: tuple[int, int], rng: random.Random, *, scale: Sequence[float], aspect_ratio: Sequence[float]
) -> tuple[int, int, int, int]:
    """A box `(left, top, right, bottom)` of random area and shape in an image of `size` `(width, height)`.

    Args:
        size (`tuple[int, int]`): Width and height of the image.
        rng (`random.Random`): Generator.
        scale (`Sequence[float]`): Smallest and largest share of the area, drawn uniformly.
        aspect_ratio (`Sequence[float]`): Smallest and largest width / height, drawn uniformly in the logarithm.
    """
    width, height = size
    shapes = [math.log(ratio) for ratio in aspect_ratio]
    for _ in range(_CROP_ATTEMPTS):
        area = rng.uniform(*scale) * width * height
        shape = math.exp(rng.uniform(*shapes))
        w, h = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < w <= width and 0 < h <= height:
            left, top = rng.randint(0, width - w), rng.randint(0, height - h)
            return left, top, left + w, top + h
    # No box fits into a very long image: take the largest centred one of an allowed shape.
    shape = min(max(width / height, aspect_ratio[0]), aspect_ratio[1])
    w, h = min(width, max(1, round(height * shape))), min(height, max(1, round(width / shape)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def draw_jitter(rng: random.Random, strengths: Sequence[float]) -> tuple[tuple[int, float], ...]:
    """The four steps of the colour jitter in random order, without those of strength 0.

    Args:
        rng (`random.Random`): Generator.
        strengths (`Sequence[float]` of length 4): The first three factors are drawn from `1 - strength` (at least 0)
            to `1 + strength`, the hue's turn from `-strength` to `strength`.
    """
    *shares, turn = strengths
    ranges = [(max(0.0, 1 - strength), 1 + strength) for strength in shares] + [(-turn, turn)]
    return tuple((step, rng.uniform(*ranges[step])) for step in rng.sample(range(4), 4) if strengths[step])
