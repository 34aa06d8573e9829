"""The views a model sees of one image: multi-crop for pretraining, centre crop and raw pixels for evaluation.

An image is decoded once, and all its views are cut from it in 8 bits. Batches are sent in 8 bits, a quarter of the
size, and normalised to float32 on the device of the model. All randomness comes from a generator that is passed in;
the global generators are not used.
"""

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from ssl_zoo.data import augment_reference
from ssl_zoo.data.augment_device import DeviceAugment, device_augments, pack_parameters
from ssl_zoo.data.batch import Batch
from ssl_zoo.data.decode import Pixels, decode_image
from ssl_zoo.data.errors import DataError
from ssl_zoo.data.view_parameters import ViewParameters, draw_view, view_kinds
from ssl_zoo.data.views_config import IMAGENET_MEAN, IMAGENET_STD, ViewsConfig


__all__ = ["EvalView", "ImageTransform", "MultiView", "RawPixels", "Sample", "ViewsConfig"]

_CACHED_VALUES = 2**18  # float32 values that fit into the cache of a core while they are normalised


class Sample(NamedTuple):
    """The views of one image, each `(height, width, 3)`; their parameters, if the device augments them, else none."""

    crops: list[Pixels]
    parameters: list[ViewParameters]


class ImageTransform(ABC):
    """Cuts views from an image as 8-bit arrays, and turns batches of them into the inputs of a model.

    Args:
        mean (`Sequence[float]` of length 3): Subtracted per channel, for pixels from 0 to 1.
        std (`Sequence[float]` of length 3): Divided by per channel.
    """

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self._scale = 1 / (255 * torch.tensor(std))
        self._shift = -torch.tensor(mean) / torch.tensor(std)

    @abstractmethod
    def crop(self, image: Image.Image, rng: random.Random) -> list[Pixels]:
        """The views of one RGB image, each of shape `(height, width, 3)`; all random choices come from `rng`."""

    def read(self, value: Any, rng: random.Random) -> Sample:
        """Decode one image value of a row (see `decode_image`) and cut its views.

        Raises:
            CorruptImageError: The value is no image, or the image is damaged.
        """
        return Sample(self.crop(decode_image(value), rng), [])

    def stack(self, samples: Sequence[Sample]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """The `views` and `parameters` of a `Batch`, from its samples."""
        crops, parameters = zip(*samples, strict=True)
        views = [torch.from_numpy(np.stack(of_view)).permute(0, 3, 1, 2) for of_view in zip(*crops, strict=True)]
        return views, [pack_parameters(of_view) for of_view in zip(*parameters, strict=True)]

    def to_device(
        self, batch: Batch, device: torch.device | str, *, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Batch:
        """A batch of 8-bit views on a device, with views and support in normalised float32 of this memory format.

        The copy of a pinned batch doesn't block the host.
        """
        placed = batch.to(device)
        support = placed.support and (self.normalise(placed.support[0], memory_format), placed.support[1])
        return replace(placed, views=self._finish(placed, memory_format), parameters=[], support=support)

    def _finish(self, batch: Batch, memory_format: torch.memory_format) -> list[torch.Tensor]:
        return [self.normalise(view, memory_format) for view in batch.views]

    def normalise(
        self, pixels: torch.Tensor, memory_format: torch.memory_format = torch.contiguous_format
    ) -> torch.Tensor:
        """From uint8 `(batch, 3, height, width)` to float32 of this memory format, on the device of the pixels."""
        scale, shift = (values.to(pixels.device, non_blocking=True) for values in (self._scale, self._shift))
        normalised = torch.empty(pixels.shape, dtype=torch.float32, device=pixels.device, memory_format=memory_format)
        rows, part = normalised, max(1, len(normalised))
        if memory_format == torch.channels_last:  # rows of interleaved channels are long enough to be vectorised
            rows = normalised.permute(0, 2, 3, 1).flatten(2)
            scale, shift = scale.repeat(pixels.shape[3]), shift.repeat(pixels.shape[3])
        else:
            scale, shift = scale.view(3, 1, 1), shift.view(3, 1, 1)
        if pixels.device.type == "cpu":
            part = max(1, _CACHED_VALUES // pixels.shape[1:].numel())
        for target, source, values in zip(normalised.split(part), pixels.split(part), rows.split(part), strict=True):
            target.copy_(source)
            torch.addcmul(shift, values, scale, out=values)
        return normalised

    def __call__(self, image: Image.Image, *, seed: int | str | None = None) -> list[torch.Tensor]:
        """The views of one image, each a normalised tensor `(3, height, width)`; the same for the same `seed`."""
        crops = self.crop(image.convert("RGB"), random.Random(seed))
        views, _ = self.stack([Sample(crops, [])])
        return [self.normalise(view)[0] for view in views]


class MultiView(ImageTransform):
    """Multi-crop views in the order global 1, global 2, ..., local 1, ... (SwAV, https://huggingface.co/papers/2006.09882).

    Global views after the second are augmented like the second. All parameters of the views are drawn before any pixel
    is changed, so they are the same for every backend (`views.backend`): `reference` is torchvision on PIL images;
    `fast` is within 2/255 of it; `device` cuts the crops like `fast`, and `to_device` does the rest for whole batches.

    Raises:
        DataError: The backend isn't installed.
    """

    def __init__(self, config: ViewsConfig) -> None:
        super().__init__(config.mean, config.std)
        backend = _import_backend(config.backend)
        self._config, self._make_views, self._read_views = config, backend.make_views, backend.read_views
        self._on_device = config.backend == "device"
        self._device_steps: list[DeviceAugment] | None = None

    def crop(self, image: Image.Image, rng: random.Random) -> list[Pixels]:
        """All views of one image, complete also with the backend `device`."""
        views = self._draw(image.size, rng)
        crops: list[Pixels] = self._make_views(image, views, interpolation=self._config.interpolation)
        return crops

    def read(self, value: Any, rng: random.Random) -> Sample:
        """Decode one image value once, and cut its views."""
        crops, views = self._read_views(
            value,
            lambda image_size: self._draw(image_size, rng),
            interpolation=self._config.interpolation,
            only_cut=self._on_device,
        )
        return Sample(crops, views if self._on_device else [])

    def _draw(self, image_size: tuple[int, int], rng: random.Random) -> list[ViewParameters]:
        return [draw_view(self._config, image_size, rng, kind) for kind in view_kinds(self._config)]

    def _finish(self, batch: Batch, memory_format: torch.memory_format) -> list[torch.Tensor]:
        if not self._on_device:
            return super()._finish(batch, memory_format)
        if self._device_steps is None:
            self._device_steps = [step.to(batch.views[0].device) for step in device_augments(self._config)]
        steps = zip(self._device_steps, batch.views, batch.parameters, strict=True)
        return [step(crops, drawn).contiguous(memory_format=memory_format) for step, crops, drawn in steps]


def _import_backend(name: str) -> ModuleType:
    """The module that makes views on the host; without OpenCV, only the backend `reference` and evaluation work."""
    if name == "reference":
        return augment_reference
    try:
        from ssl_zoo.data import augment_fast
    except ModuleNotFoundError as error:
        raise DataError(
            f"`views.backend` {name!r} needs {error.name}, which is not installed: `pip install simplejpeg "
            "opencv-python-headless`, or choose views.backend=reference"
        ) from error
    return augment_fast


class EvalView(ImageTransform):
    """The fixed view of evaluation: the short side resized to `size / crop_pct`, then the centre square.

    Args:
        size (`int`): Side of the view in pixels.
        mean (`Sequence[float]`), std (`Sequence[float]`): Per channel, for pixels from 0 to 1.
        crop_pct (`float`): Share of the short side that the centre square covers.
        interpolation (`str`): `"nearest"`, `"bilinear"`, `"bicubic"` or `"lanczos"`.

    Attributes:
        identity (`str`): A text that changes when the view does.
    """

    def __init__(
        self,
        size: int,
        *,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
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
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        left, top = round((width - self.size) / 2), round((height - self.size) / 2)
        return [np.array(image.crop((left, top, left + self.size, top + self.size)))]


class RawPixels(EvalView):
    """The centre square as pixels from 0 to 1: the baseline for learned features."""

    def __init__(self, size: int) -> None:
        super().__init__(size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_pct=1.0)
