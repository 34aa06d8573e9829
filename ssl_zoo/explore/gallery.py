"""The images of the Space: the first rows of a split, kept on this machine with a thumbnail of each."""

import hashlib
import io
import json
import shutil
from collections.abc import Generator, Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageOps

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.data.decode import CorruptImageError, decode_image
from ssl_zoo.data.source import DataConfig, DataError, ImageSource, open_source


__all__ = ["THUMBNAIL", "Gallery", "Step", "check_image_place", "open_gallery"]

THUMBNAIL = 96
"""Side of a thumbnail in pixels."""

_PART_ROWS, _STEP_ROWS = 256, 16
_QUALITY = 82
_SCHEMA = pa.schema([("sample_id", pa.int64()), ("label", pa.int64()), ("image", pa.binary()), ("small", pa.binary())])


class Step(NamedTuple):
    """Progress of long work: images (or iterations) that are done, how many there are, and what is being done."""

    done: int
    total: int
    task: str


class Gallery:
    """Images on this machine; the files are read when they are needed.

    Attributes:
        folder (`Path`), identity (`str`): Folder of the files, and its name, which changes when the images do.
        about (`dict`): The data set, its revision on the Hub, class names, number of corrupt rows.
        class_names (`list[str]` or `None`): Names of the classes, if the data set has them.
        sample_ids (`numpy.ndarray` of shape `(images,)`): Row numbers in the split, increasing.
        labels (`numpy.ndarray` of shape `(images,)`): Classes; -1 for images without one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.identity = folder, folder.name
        self.about: dict[str, Any] = json.loads((folder / "gallery.json").read_text(encoding="utf-8"))
        self.class_names: list[str] | None = self.about["class_names"]
        self._parts = sorted(folder.glob("part-*.parquet"))
        table = pa.concat_tables([pq.read_table(part, columns=["sample_id", "label"]) for part in self._parts])
        self.sample_ids: npt.NDArray[np.int64] = table["sample_id"].to_numpy()
        self.labels: npt.NDArray[np.int64] = table["label"].to_numpy()

    def __len__(self) -> int:
        return len(self.sample_ids)

    def class_name(self, label: int) -> str:
        """Name of a class for readers."""
        if label < 0:
            return "no label"
        return self.class_names[label] if self.class_names else f"class {label}"

    def class_of(self, number: int) -> str:
        """Name of an image's class; empty when it has none."""
        return self.class_name(int(self.labels[number])) if self.labels[number] >= 0 else ""

    @cached_property
    def small_images(self) -> list[bytes]:
        """JPEG files of `THUMBNAIL` pixels, in memory: about 3 kB each."""
        return [value.as_py() for part in self._parts for value in pq.read_table(part, columns=["small"])["small"]]

    def images(self, start: int = 0) -> Iterator[Image.Image]:
        """Images as they are in the data set, decoded, from number `start` on."""
        for part in self._parts:
            rows = pq.read_metadata(part).num_rows
            if start >= rows:
                start -= rows
                continue
            for value in pq.read_table(part, columns=["image"])["image"][start:]:
                yield decode_image(value.as_py())
            start = 0

    def image(self, number: int) -> Image.Image:
        """One image as it is in the data set."""
        return next(self.images(number))


def open_gallery(data: DataConfig, cache: Path) -> Generator[Step, None, Gallery]:
    """Fetch the first images of a split, or read them from the cache; continues where it was stopped.

    Args:
        data ([`DataConfig`]): Which images; `max_rows` is how many of the first rows.
        cache (`Path`): Folder of the cache.

    Yields:
        [`Step`]: Closing the generator loses at most the part that isn't finished, up to 256 rows.

    Raises:
        DataError: The images can't be found or read, none is readable, or a row names a file outside the data set.
    """
    yield Step(0, data.max_rows or 0, "opening the data set")
    source = open_source(data)
    key = json.dumps([source.identity, source.image_column, source.label_column, THUMBNAIL])
    folder = cache / "galleries" / hashlib.sha256(key.encode()).hexdigest()[:24]
    if not (folder / "gallery.json").is_file():
        yield from _fetch(data, source, folder)
    return Gallery(folder)


def _fetch(data: DataConfig, source: ImageSource, folder: Path) -> Generator[Step, None, None]:
    folder.mkdir(parents=True, exist_ok=True)
    reader, corrupt, total = source.reader(), 0, source.num_rows
    ends = source.offsets + source.shard_lengths
    for part, start in enumerate(range(0, total, _PART_ROWS)):
        file, stop = folder / f"part-{part:05d}.parquet", min(start + _PART_ROWS, total)
        if file.is_file():
            corrupt += stop - start - pq.read_metadata(file).num_rows
            continue
        rows: list[dict[str, Any]] = []
        for shard in np.flatnonzero((source.offsets < stop) & (ends > start)).tolist():
            offset = int(source.offsets[shard])
            first, last = max(start - offset, 0), min(stop - offset, int(source.shard_lengths[shard]))
            for row in reader.read(shard, first, last):
                check_image_place(row.image, data.path)
                try:
                    small = _small(decode_image(row.image))
                except CorruptImageError:
                    corrupt += 1
                    continue
                content = _bytes(row.image)
                rows.append({"sample_id": row.sample_id, "label": row.label, "image": content, "small": small})
                if len(rows) % _STEP_ROWS == 0:  # where the work can be stopped: large images take a while
                    yield Step(start + len(rows), total, "fetching images")
        with replace_atomically(file, concurrent=True) as partial:
            pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMA), partial)
        yield Step(stop, total, "fetching images")
    if corrupt == total:
        shutil.rmtree(folder)
        raise DataError(f"None of the first {total} rows of {data.path!r} holds a readable image")
    about = {**asdict(data), "revision": source.revision, "class_names": source.class_names, "corrupt": corrupt}
    about |= {"image_column": source.image_column, "label_column": source.label_column}
    with replace_atomically(folder / "gallery.json", concurrent=True) as partial:
        partial.write_text(json.dumps(about, indent=2), encoding="utf-8")


def check_image_place(value: Any, data: str) -> None:
    """Refuse a row of a data set that names a file or an address outside the data set.

    A row may hold the bytes of an image, or only name a file: a table from the Hub could name any file of this server.

    Args:
        value (`dict`, `bytes` or `None`): Undecoded image, see `decode_image`.
        data (`str`): The data set, as `check_data_name` returned it.

    Raises:
        DataError: The row names a file outside the data set.
    """
    path = value.get("path") if isinstance(value, dict) and value.get("bytes") is None else None
    if path is None:
        return
    outermost = str(path).rpartition("::")[2]  # zip://picture.png::hf://datasets/org/name@main/pictures.zip
    on_hub = outermost.startswith((f"hf://datasets/{data}@", f"hf://datasets/{data}/")) and ".." not in outermost
    is_local = Path(data).is_absolute() and "://" not in outermost
    if not on_hub and not (is_local and Path(outermost).resolve().is_relative_to(Path(data).resolve())):
        raise DataError(f"A row of {data!r} names a file outside the data set, so the set isn't opened")


def _bytes(value: Any) -> bytes:
    """The file of an undecoded image; when only its pixels are known, a PNG of them."""
    if isinstance(value, dict) and value.get("bytes"):
        return bytes(value["bytes"])
    if isinstance(value, bytes):
        return value
    buffer = io.BytesIO()
    decode_image(value).save(buffer, "PNG")
    return buffer.getvalue()


def _small(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    ImageOps.fit(image, (THUMBNAIL, THUMBNAIL), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=_QUALITY)
    return buffer.getvalue()
