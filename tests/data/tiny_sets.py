"""Image sets of a few rows, in every supported format; the colour of an image encodes its row number."""

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image


UNEVEN = (3, 11, 1, 20, 7)  # rows per shard
CLASSES = ("ant", "bee", "cat")


def row_image(row: int, *, size: int = 8) -> Image.Image:
    """A plain image that `row_of` reads back."""
    return Image.new("RGB", (size, size), (row % 256, row // 256, 77))


def row_of(pixels: Any) -> int:
    """The row number of one view `(3, H, W)`, of 8 bits or with pixels from 0 to 1."""
    values = np.asarray(pixels)[:, 0, 0]
    red, green, _ = (values if values.dtype == np.uint8 else np.rint(values * 255)).astype(int)
    return int(red + 256 * green)


def encoded(image: Image.Image, kind: str = "PNG") -> bytes:
    """The bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def write_parquet(
    folder: Path,
    lengths: Sequence[int] = UNEVEN,
    *,
    split: str = "train",
    replaced: Mapping[int, bytes | None] = {},
    sorted_by_class: bool = False,
) -> Path:
    """Shards of these lengths; the class of a row is its number modulo 3, and rows in `replaced` hold other bytes."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    folder.mkdir(parents=True, exist_ok=True)
    first, total = 0, sum(lengths)
    for shard, length in enumerate(lengths):
        rows = range(first, first + length)
        contents = [replaced.get(row, encoded(row_image(row))) for row in rows]
        columns = {
            "image": [None if content is None else {"bytes": content, "path": None} for content in contents],
            "label": [row * 3 // total if sorted_by_class else row % 3 for row in rows],
        }
        data = datasets.Dataset.from_dict(columns, features=features)
        data.to_parquet(folder / f"{split}-{shard:05d}-of-{len(lengths):05d}.parquet", batch_size=4)
        first += length
    return folder


def write_imagefolder(folder: Path, *, per_class: int = 14, split: str = "train") -> Path:
    """Three folders of PNG files, so that the class of a row is its number divided by `per_class`."""
    for number, name in enumerate(CLASSES):
        target = folder / split / name
        target.mkdir(parents=True)
        for index in range(per_class):
            row_image(number * per_class + index).save(target / f"{index:04d}.png")
    return folder


def write_webdataset(folder: Path, lengths: Sequence[int] = UNEVEN) -> Path:
    """Tars of these lengths; the class of a row is its number modulo 3."""
    folder.mkdir(parents=True)
    row = 0
    for shard, length in enumerate(lengths):
        with tarfile.open(folder / f"train-{shard:05d}.tar", "w") as tar:
            for _ in range(length):
                for ending, content in (("png", encoded(row_image(row))), ("cls", str(row % 3).encode())):
                    member = tarfile.TarInfo(f"{row:06d}.{ending}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
                row += 1
    return folder
