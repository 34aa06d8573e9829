"""The embedded data set: colour pictures of handwritten digits that the package renders itself, no network needed.

A picture is a cloth printed with one handwritten digit, over and over. What the label says is the digit; everything
else varies by chance: where the print begins, its pitch and its slant; turn, shear, size and colour of every copy;
the ground, the light and the noise. The handwriting is that of scikit-learn's digits (1,797 scans of 8 x 8 pixels);
train and test are printed from different scans.
"""

import colorsys
import io
import os
from pathlib import Path

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.data.errors import DataError


__all__ = ["EMBEDDED_NAME", "embedded_dataset_dir"]

EMBEDDED_NAME = "embedded"
"""What `data.path` calls this data set."""

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

_VERSION = 2  # part of the folder's name: raise it with any change to what is rendered
_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_FIRST_TEST_SCAN = 1437  # of 1,797
_NUM_SHARDS = {"train": 8, "test": 2}
_ROWS_PER_GROUP = 100
_SIZE = 48
_MARGIN = 2  # empty pixels around a scan, so that smooth resampling ends in black
_PITCH = (13.0, 17.0)  # pixels from copy to copy; a view's crop can be shifted by a whole pitch
_SLANT_DEGREES = 20.0
_COPY_TURN_DEGREES = 12.0
_COPY_SHEAR = 0.2
_COPY_STRETCH = 0.15
_COPY_SHARE = (0.85, 1.0)  # side of a copy as a share of the pitch
_COPY_SHIFT = 0.08  # share of the pitch
_INK = 1.15  # pen strokes a little bolder than scanned
_SATURATION = (0.1, 0.5)
_VALUE = (0.85, 1.0)
_GROUND_SATURATION = (0.3, 0.9)
_GROUND_VALUE = (0.0, 0.04)
_EXPOSURE = (0.85, 1.0)
_LIGHT_SLOPE = 0.25  # largest change of brightness from the middle to an edge
_NOISE = 0.02


def embedded_dataset_dir(
    *, seed: int = 0, num_train: int = 6000, num_test: int = 1000, cache_dir: str | Path | None = None
) -> Path:
    """The folder of the embedded data set, rendered at the first call and found again at every later one.

    The folder appears whole or not at all; of several processes that ask at once, one renders and the others wait.

    Args:
        seed (`int`): What chance decides; the same seed gives the same bytes with the same versions of the libraries.
        num_train (`int`): Pictures to train on; the ten classes are equally frequent, up to one picture.
        num_test (`int`): Pictures to test with, of handwriting that `num_train` does not show.
        cache_dir (`str` or `Path`, *optional*): Where the folder is kept; by default `$SSL_ZOO_CACHE`, or `ssl_zoo` in
            `$XDG_CACHE_HOME` or `~/.cache`.

    Returns:
        `Path`: for `datasets.load_dataset(str(path), split="train", streaming=True)`; columns `image` and `label`.

    Raises:
        DataError: if the seed is negative, or a split would be smaller than its number of files.
    """
    sizes = {"train": num_train, "test": num_test}
    if seed < 0:
        raise DataError(f"`seed` must be at least 0, got {seed!r}")
    for split, size in sizes.items():
        if size < _NUM_SHARDS[split]:
            raise DataError(f"`num_{split}` must be at least {_NUM_SHARDS[split]}, got {size!r}")
    parent = _default_cache() if cache_dir is None else Path(cache_dir).expanduser()
    folder = parent / f"{EMBEDDED_NAME}-v{_VERSION}-seed{seed}-{num_train}-{num_test}"
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(parent / f".{folder.name}.lock"):
        if folder.is_dir():
            return folder
        with replace_atomically(folder) as partial:
            (partial / "data").mkdir(parents=True)
            for split, size in sizes.items():
                _write_split(partial / "data", split, seed=seed, size=size)
    return folder


def _default_cache() -> Path:
    if chosen := os.environ.get("SSL_ZOO_CACHE"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "ssl_zoo"


def _write_split(folder: Path, split: str, *, seed: int, size: int) -> None:
    """Render one split into its shards."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(_NAMES))})
    stream = ("train", "test").index(split)
    labels = np.random.default_rng([seed, stream]).permutation(np.arange(size) % len(_NAMES))
    scans = _scans(split)
    turns = [0] * len(_NAMES)  # the scans of a class take turns
    num_shards = _NUM_SHARDS[split]
    with tqdm(total=size, desc=f"rendering {EMBEDDED_NAME} {split}", unit="image", delay=2, disable=None) as progress:
        for shard, rows in enumerate(np.array_split(np.arange(size), num_shards)):
            images = []
            for row in rows.tolist():
                label = int(labels[row])
                scan = scans[label][turns[label] % len(scans[label])]
                turns[label] += 1
                pixels = _render(scan, np.random.default_rng([seed, stream, row]))
                images.append({"bytes": _png(pixels), "path": None})
                progress.update()
            columns = {"image": images, "label": labels[rows].tolist()}
            # Not through `datasets`, which would show a progress bar for every file.
            table = pa.table(columns, schema=features.arrow_schema)
            name = f"{split}-{shard:05d}-of-{num_shards:05d}.parquet"
            pq.write_table(table, folder / name, row_group_size=_ROWS_PER_GROUP)


def _scans(split: str) -> list[list[Image.Image]]:
    """The handwriting of a split, per class, as ink from 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    chosen = slice(None, _FIRST_TEST_SCAN) if split == "train" else slice(_FIRST_TEST_SCAN, None)
    ink = np.pad((digits.images[chosen] * (255 / 16)).astype(np.uint8), ((0, 0), (_MARGIN,) * 2, (_MARGIN,) * 2))
    targets = digits.target[chosen]
    return [[Image.fromarray(scan) for scan in ink[targets == label]] for label in range(len(_NAMES))]


def _render(scan: Image.Image, rng: np.random.Generator) -> Pixels:
    """One picture, `(48, 48, 3)`."""
    picture = np.empty((_SIZE, _SIZE, 3))
    picture[:] = _colors(rng, 1, saturation=_GROUND_SATURATION, value=_GROUND_VALUE)
    _print_copies(picture, scan, rng)
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, _LIGHT_SLOPE)
    y, x = np.mgrid[-1 : 1 : _SIZE * 1j, -1 : 1 : _SIZE * 1j]
    light = rng.uniform(*_EXPOSURE) * (1 + slope * (np.cos(angle) * x + np.sin(angle) * y))
    picture = picture * light[..., None] + rng.normal(0, _NOISE, picture.shape)
    pixels: Pixels = (picture.clip(0, 1) * 255).astype(np.uint8)
    return pixels


def _print_copies(picture: Floats, scan: Image.Image, rng: np.random.Generator) -> None:
    """Blend copies of the scan into the picture, in place, each over those before it."""
    pitch = rng.uniform(*_PITCH)
    centers = _lattice(pitch, rng)
    count = len(centers)
    sides = pitch * rng.uniform(*_COPY_SHARE, count)
    stretch = np.exp(rng.uniform(-_COPY_STRETCH, _COPY_STRETCH, count))
    turn = np.deg2rad(rng.uniform(-_COPY_TURN_DEGREES, _COPY_TURN_DEGREES, count))
    shear = rng.uniform(-_COPY_SHEAR, _COPY_SHEAR, count)
    colors = _colors(rng, count, saturation=_SATURATION, value=_VALUE)
    # picture -> scan: turned back, sheared back, then scaled.
    zoom = (scan.width - 2 * _MARGIN) / sides
    cos, sin = np.cos(turn), np.sin(turn)
    a, b = (cos + shear * sin) * zoom / stretch, (sin - shear * cos) * zoom / stretch
    c, d = -sin * zoom * stretch, cos * zoom * stretch
    # Only the box that a copy can reach is resampled.
    low = np.clip(np.floor(centers - sides[:, None]), 0, _SIZE)
    high = np.clip(np.ceil(centers + sides[:, None]), 0, _SIZE)
    x, y = (low - centers).T
    affine = np.stack([a, b, scan.width / 2 + a * x + b * y, c, d, scan.width / 2 + c * x + d * y], axis=1)
    boxes = np.concatenate([low, high], axis=1).astype(int)
    for (left, top, right, bottom), coefficients, color in zip(boxes.tolist(), affine.tolist(), colors, strict=True):
        size = (right - left, bottom - top)
        ink = np.asarray(scan.transform(size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC))
        cover = np.minimum(ink * (_INK / 255), 1)[..., None]
        box = picture[top:bottom, left:right]
        box += (color - box) * cover


def _lattice(pitch: float, rng: np.random.Generator) -> Floats:
    """Centres `(copies, 2)` as x, y: a slanted lattice that begins anywhere, every other row moved by half a pitch."""
    reach = int(_SIZE / pitch) + 3
    grid = np.mgrid[-reach : reach + 1, -reach : reach + 1].reshape(2, -1).T.astype(float)
    grid[:, 0] += 0.5 * (grid[:, 1] % 2)
    grid += rng.uniform(0, 1, 2) + rng.uniform(-_COPY_SHIFT, _COPY_SHIFT, grid.shape)
    slant = np.deg2rad(rng.uniform(-_SLANT_DEGREES, _SLANT_DEGREES))
    rotation = np.array([[np.cos(slant), -np.sin(slant)], [np.sin(slant), np.cos(slant)]])
    centers = pitch * grid @ rotation.T + _SIZE / 2
    near = ((centers > -0.6 * pitch) & (centers < _SIZE + 0.6 * pitch)).all(axis=1)
    kept: Floats = centers[near]
    return kept


def _colors(
    rng: np.random.Generator, count: int, *, saturation: tuple[float, float], value: tuple[float, float]
) -> Floats:
    """Colours of any hue, `(count, 3)` from 0 to 1."""
    hsv = zip(rng.random(count), rng.uniform(*saturation, count), rng.uniform(*value, count), strict=True)
    return np.array([colorsys.hsv_to_rgb(*color) for color in hsv])


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
