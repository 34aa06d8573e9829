"""How fast does one core make a model's views of encoded photographs?

    python benchmarks/input_pipeline.py [--quick] [--data FOLDER_OR_HUB_NAME] [--small-data FOLDER_OR_HUB_NAME]

Work: from the bytes of JPEGs to batches of normalised float32 tensors: MIRA's views of ImageNet photographs, two
global ones of 224 pixels, without and with six local ones of 96; and those of the small CIFAR-10 recipe, where
overhead counts. Ours is `MultiView` with the backend `fast`, from `read` to `to_device`.

Rivals, each with the same scales, probabilities and strengths (lightly's with its own defaults), one image at a time
and then stacked:
- torchvision: its v2 transforms on PIL images, and PIL's Gaussian blur, which the papers' code uses and which is the
  faster one (with torchvision's own GaussianBlur of 23 x 23 it takes five to ten times as long, and is not timed);
- lightly: DINOTransform and SwaVTransform.

Equality: all draw at random, so the batches are compared in shape, type and in the mean and spread of their values;
and for the same draws every view of ours must be within 2/255 of torchvision's on average. The limit is decoding and
resized crops alone, by the fastest functions that were found. All use one thread.
"""

import argparse
import functools
import io
import random
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from pairing import SHARED_DATA, Limit, Mismatch, Report, arguments, seconds
from PIL import Image, ImageFilter
from torchvision.transforms import v2

from ssl_zoo.data import DataConfig, DataError, MultiView, ViewsConfig, open_source
from ssl_zoo.data.augment_fast import cut_view
from ssl_zoo.data.decode_fast import decode_pixels
from ssl_zoo.data.view_parameters import draw_view
from ssl_zoo.training.processes import create_accelerator


BATCH = 24
TOLERANCE = 2.0  # mean absolute difference of a view, in units of 1/255
CIFAR_VIEWS = ViewsConfig(
    global_size=32,
    global_scale=[0.3, 1.0],
    blur_probability=[0.0] * 3,
    mean=[0.4914, 0.4822, 0.4465],
    std=[0.247, 0.2435, 0.2616],
)
Views = list[torch.Tensor]


def options() -> argparse.Namespace:
    """The command line."""

    def add(parser: argparse.ArgumentParser) -> None:
        for name, folder in (("--data", "imagenet-sample-240"), ("--small-data", "cifar10-jpeg")):
            found = SHARED_DATA / folder
            parser.add_argument(
                name,
                default=str(found) if found.is_dir() else None,
                help=f"data set of {'photographs' if name == '--data' else '32-pixel JPEGs'} (default: {folder} in "
                "../shared/data, where it is)",
            )

    found = arguments(__doc__, add)
    create_accelerator()  # as in training: memory that a batch has freed is kept for the next one
    found.threads = 1
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    return found


def encoded_images(path: str | None, number: int, *, flag: str) -> list[bytes]:
    """The bytes of a number of images, repeated in turn if there are fewer."""
    if path is None:
        raise SystemExit(f"There are no images to measure with: name a data set of JPEGs with {flag}")
    try:
        source = open_source(DataConfig(path=path))
    except DataError as error:
        raise SystemExit(f"{flag}: {error}") from error
    rows: list[bytes] = []
    reader = source.reader()
    for shard, length in enumerate(source.shard_lengths):
        wanted = min(int(length), number - len(rows))
        rows += [Path(row.image["path"]).read_bytes() if row.image["bytes"] is None else row.image["bytes"]
                 for row in reader.read(shard, 0, wanted)]  # fmt: skip
    return [rows[index % len(rows)] for index in range(number)]


def batches(images: list[bytes]) -> Iterator[list[bytes]]:
    """The images in batches."""
    return (images[start : start + BATCH] for start in range(0, len(images), BATCH))


def ours(images: list[bytes], transform: MultiView) -> Views:
    """What a worker and `Session.to_device` do; as in training, a batch is freed before the next one comes."""
    made: Views = []
    for number, batch in enumerate(batches(images)):
        samples = [transform.read(image, random.Random(f"{number}/{index}")) for index, image in enumerate(batch)]
        views, _ = transform.stack(samples)
        made = [transform.normalise(view, torch.channels_last) for view in views]
    return made


class PilBlur:
    """SwAV's and MIRA's blur: PIL's, with a radius drawn uniformly."""

    def __init__(self, probability: float, sigma: list[float]) -> None:
        self._probability, self._sigma = probability, sigma

    def __call__(self, image: Image.Image) -> Image.Image:
        """The image, blurred or not."""
        if random.random() >= self._probability:
            return image
        return image.filter(ImageFilter.GaussianBlur(random.uniform(*self._sigma)))


def by_torchvision(config: ViewsConfig) -> Callable[[Image.Image], Views]:
    """The same views by torchvision's transforms."""

    def chain(kind: int) -> Any:
        local = kind == 2
        blur: Any = PilBlur(config.blur_probability[kind], config.blur_sigma)
        return v2.Compose(
            [
                v2.RandomResizedCrop(
                    config.local_size if local else config.global_size,
                    tuple(config.local_scale if local else config.global_scale),
                    tuple(config.aspect_ratio),
                    interpolation=v2.InterpolationMode.BICUBIC,
                ),
                v2.RandomHorizontalFlip(config.flip_probability),
                v2.RandomApply([v2.ColorJitter(*config.color_jitter)], p=config.color_jitter_probability[kind]),
                v2.RandomGrayscale(config.gray_probability[kind]),
                blur,
                v2.RandomSolarize(128, p=config.solarize_probability[kind]),
                v2.PILToTensor(),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(config.mean, config.std),
            ]
        )

    chains = [chain(0), chain(1), *[chain(2)] * config.local_crops]
    return lambda image: [each(image) for each in chains]


def one_by_one(images: list[bytes], transform: Callable[[Image.Image], Views]) -> Views:
    """A rival: PIL decodes, its transform makes the views, a batch is stacked."""
    made: Views = []
    for batch in batches(images):
        samples = [transform(Image.open(io.BytesIO(image)).convert("RGB")) for image in batch]
        made = [torch.stack(views) for views in zip(*samples, strict=True)]
    return made


def lightly_rivals(config: ViewsConfig, images: list[bytes]) -> dict[str, Callable[[], Any]]:
    """Lightly's transforms of the same numbers and sizes of views, if it is installed."""
    try:
        from lightly.transforms import DINOTransform, SwaVTransform
    except ImportError:
        return {}
    dino = DINOTransform(n_local_views=config.local_crops)
    counts = (2, config.local_crops) if config.local_crops else (2,)
    swav = SwaVTransform(
        crop_sizes=(224, 96)[: len(counts)],
        crop_counts=counts,
        crop_min_scales=(0.14, 0.05)[: len(counts)],
        crop_max_scales=(1.0, 0.14)[: len(counts)],
    )
    return {
        "lightly DINO": functools.partial(one_by_one, images, dino),
        "lightly SwAV": functools.partial(one_by_one, images, swav),
    }


def decode_and_crop(images: list[bytes], config: ViewsConfig) -> None:
    """The limit."""
    rng, kinds = random.Random(0), [0, 1] + [2] * config.local_crops
    for image in images:
        pixels = decode_pixels(image)
        size = (pixels.shape[1], pixels.shape[0])
        for kind in kinds:
            cut_view(pixels, draw_view(config, size, rng, kind), interpolation=config.interpolation)


def largest_difference_of_a_view(images: list[bytes], config: ViewsConfig) -> tuple[float, float]:
    """Mean and maximum over the views of the mean difference from torchvision's for the same draws, of 255."""
    fast = MultiView(config)
    reference = MultiView(ViewsConfig(**{**vars(config), "backend": "reference"}))
    differences = []
    for number, image in enumerate(images):
        pair = [transform.read(image, random.Random(number)).crops for transform in (fast, reference)]
        differences += [float(np.abs(one.astype(int) - other).mean()) for one, other in zip(*pair, strict=True)]
    return statistics.mean(differences), max(differences)


def check(own: Views, theirs: dict[str, Views], *, images: list[bytes], config: ViewsConfig) -> str:
    """Check that all made the same kind of batches, and that ours has the same views as torchvision."""
    mean, most = largest_difference_of_a_view(images, config)
    if mean > TOLERANCE:
        raise Mismatch(f"for the same draws our views differ from torchvision's by {mean:.2f}/255 on average")
    for name, made in theirs.items():
        for view, (first, other) in enumerate(zip(own, made, strict=True)):
            if first.shape != other.shape or first.dtype != other.dtype:
                raise Mismatch(f"view {view} is {tuple(first.shape)} {first.dtype}, {name}'s {tuple(other.shape)}")
        values, others = (torch.cat([view.flatten() for view in views]) for views in (own, made))
        # Other crops and colours of the same images: alike, not equal.
        if abs(values.mean() - others.mean()) > 0.25 or not 0.7 < values.std() / others.std() < 1.4:
            raise Mismatch(
                f"our values have mean {values.mean():.2f} and spread {values.std():.2f}, {name}'s "
                f"{others.mean():.2f} and {others.std():.2f}"
            )
    return f"for the same draws {mean:.2f}/255 from torchvision on average, at most {most:.2f} in a view"


def main() -> None:
    """Measure the three kinds of views."""
    found = options()
    question = "How many images per second does one core turn from JPEG bytes into normalised batches of views?"
    report = Report("input_pipeline", question=question, options=found)
    photographs = encoded_images(found.data, BATCH if found.quick else 2 * BATCH, flag="--data")
    small = encoded_images(found.small_data, (5 if found.quick else 40) * BATCH, flag="--small-data")
    rows = [
        ("2 x 224", ViewsConfig(), photographs),
        ("2 x 224 + 6 x 96", ViewsConfig(local_crops=6), photographs),
        ("2 x 32, small images", CIFAR_VIEWS, small),
    ]
    for work, config, images in rows:
        transform, theirs = MultiView(config), by_torchvision(config)
        rivals: dict[str, Callable[[], Any]] = {"torchvision": functools.partial(one_by_one, images, theirs)}
        if images is photographs:
            rivals |= lightly_rivals(config, images)
        decode_and_crop(images, config)
        times = [seconds(lambda: decode_and_crop(images, config)) for _ in range(3 if found.quick else 7)]  # noqa: B023
        report.pair(
            work,
            ours=functools.partial(ours, images, transform),
            rivals=rivals,
            check=functools.partial(check, images=images, config=config),
            aims={name: 4.0 for name in rivals if images is photographs},
            limit=Limit(statistics.median(times), "decoding and resized crops alone, measured"),
            count=len(images),
            unit="images",
            repeats=7,
        )
    report.note(
        "Both torchvision rows draw from the same distributions as ours; lightly's transforms keep their own "
        "strengths, probabilities and blur; the numbers and sizes of their views are the same."
    )
    report.note(
        "Two views of 224 pixels miss the aim by a little. Two thirds to three quarters of our time are "
        "decoding and crops, and most of decoding is Huffman's, which no decoder can leave out; what else "
        "was tried is in docs/views.md."
    )
    report.finish()


if __name__ == "__main__":
    main()
