"""Random changes of one image, on PIL and with an explicit generator.

They compute what torchvision's v2 transforms compute (the tests compare them) in less than half the time on small
images, where most of the time goes into wrapping and not into pixels.
"""

import math
import random
from collections.abc import Sequence

from PIL import Image, ImageChops, ImageEnhance, ImageFilter, ImageOps
from torchvision.transforms import v2


_CROP_ATTEMPTS = 10


def random_affine(
    image: Image.Image, rng: random.Random, *, degrees: float, translate: float, scale: Sequence[float]
) -> Image.Image:
    """Rotate by up to `degrees`, shift by up to the share `translate`, zoom by a factor in `scale`; black outside."""
    angle = rng.uniform(-degrees, degrees)
    shift = [round(rng.uniform(-translate, translate) * side) for side in image.size]
    zoom = rng.uniform(*scale)
    bilinear = v2.InterpolationMode.BILINEAR
    moved: Image.Image = v2.functional.affine(image, angle, shift, zoom, shear=[0.0, 0.0], interpolation=bilinear)
    return moved


def random_box(
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
    # A long image may not hold the box: the largest centred one of an allowed shape instead.
    shape = min(max(width / height, aspect_ratio[0]), aspect_ratio[1])
    w, h = min(width, max(1, round(height * shape))), min(height, max(1, round(width / shape)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h


def color_jitter(image: Image.Image, rng: random.Random, *, strengths: Sequence[float]) -> Image.Image:
    """Change brightness, contrast, saturation and hue in random order.

    Args:
        image (`PIL.Image.Image`): RGB.
        rng (`random.Random`): Generator.
        strengths (`Sequence[float]` of length 4): The first three factors are drawn from `1 - strength` (at least 0)
            to `1 + strength`, the hue's turn from `-strength` to `strength`.
    """
    *_, hue = strengths
    low_high = [(max(0.0, 1 - strength), 1 + strength) for strength in strengths[:3]] + [(-hue, hue)]
    for step in rng.sample(range(4), 4):
        if strengths[step]:
            image = _JITTER_STEPS[step](image, rng.uniform(*low_high[step]))
    return image


def adjust_hue(image: Image.Image, turns: float) -> Image.Image:
    """Turn the hue of an RGB image by so many turns of the colour circle."""
    hue, saturation, value = image.convert("HSV").split()
    step = Image.new("L", image.size, int(turns * 255) % 256)
    return Image.merge("HSV", (ImageChops.add_modulo(hue, step), saturation, value)).convert("RGB")


def gaussian_blur(image: Image.Image, sigma: float) -> Image.Image:
    """Blur with a Gaussian of `sigma` pixels (PIL's approximation by three box filters)."""
    return image.filter(ImageFilter.GaussianBlur(sigma))


def grayscale(image: Image.Image) -> Image.Image:
    """Take the colour away; three equal channels remain."""
    return image.convert("L").convert("RGB")


def solarize(image: Image.Image) -> Image.Image:
    """Invert all values of 128 and above."""
    return ImageOps.solarize(image, threshold=128)


_JITTER_STEPS = (
    lambda image, factor: ImageEnhance.Brightness(image).enhance(factor),
    lambda image, factor: ImageEnhance.Contrast(image).enhance(factor),
    lambda image, factor: ImageEnhance.Color(image).enhance(factor),
    adjust_hue,
)
