"""The `reference` backend: torchvision on PIL images, and PIL's own Gaussian blur, as in the papers' code."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageFilter
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from ssl_zoo.data.decode import Pixels, decode_image
from ssl_zoo.data.view_parameters import Affine, ViewParameters
from ssl_zoo.data.view_switches import apply_switches


__all__ = ["apply_affine", "make_views", "read_views"]


# In the order of BRIGHTNESS, CONTRAST, SATURATION, HUE.
_JITTER_STEPS: tuple[Callable[[Any, float], Any], ...] = (
    tv.adjust_brightness,
    tv.adjust_contrast,
    tv.adjust_saturation,
    tv.adjust_hue,
)


def make_views(image: Image.Image, views: Sequence[ViewParameters], *, interpolation: str) -> list[Pixels]:
    """The views of one RGB image, each of shape `(size, size, 3)`; see `ViewsConfig` for `interpolation`."""
    return [_make_view(image, view, interpolation) for view in views]


def read_views(
    value: Any, draw: Callable[[tuple[int, int]], list[ViewParameters]], *, interpolation: str, only_cut: bool
) -> tuple[list[Pixels], list[ViewParameters]]:
    """As `augment_fast.read_views`, but `only_cut` is ignored: this backend always makes complete views."""
    image = decode_image(value)
    views = draw(image.size)
    return make_views(image, views, interpolation=interpolation), views


def _make_view(image: Image.Image, view: ViewParameters, interpolation: str) -> Pixels:
    """Affine, crop, flip, colour, grey, blur, solarise: the order of the papers' code."""
    made: Any = image if view.affine is None else apply_affine(image, view.affine)
    left, top, right, bottom = view.box
    size, mode = [view.size, view.size], InterpolationMode(interpolation)
    made = tv.resized_crop(made, top, left, bottom - top, right - left, size, interpolation=mode)
    if view.flip:
        made = tv.horizontal_flip(made)
    for step, factor in view.jitter:
        made = _JITTER_STEPS[step](made, factor)
    if view.gray:
        made = tv.to_grayscale(made, num_output_channels=3)
    if view.blur_sigma is not None:
        made = made.filter(ImageFilter.GaussianBlur(view.blur_sigma))
    return apply_switches(np.array(made), view.switches)


def apply_affine(image: Image.Image, affine: Affine) -> Any:
    """Rotate, shift and zoom about the centre; black outside the image."""
    angle, shift, zoom = affine
    return tv.affine(image, angle, list(shift), zoom, shear=[0.0, 0.0], interpolation=InterpolationMode.BILINEAR)
