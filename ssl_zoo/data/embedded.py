"""The embedded data set: colour pictures of handwritten digits that the package renders itself, no network needed.

A picture is a cloth printed with one handwritten digit, over and over. What the label says is the digit; everything
else varies by chance: where the print begins, its pitch and its slant; turn, shear, size and colour of every copy;
the ground, the light and the noise. The handwriting is that of scikit-learn's digits (1,797 scans of 8 x 8 pixels), and
train and test are printed from different scans, which are mostly of different writers.
"""

import colorsys
import io
import os
import shutil
import tempfile
from pathlib import Path

import datasets
import numpy as np
import numpy.typing as npt
from filelock import FileLock
from PIL import Image
from tqdm import tqdm

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.locate import EMBEDDED_NAME


__all__ = ["EMBEDDED_NAME", "embedded_dataset_dir"]

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float64]

_VERSION = 1  # part of the folder's name: raise it with any change to what is rendered
_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_FIRST_TEST_SCAN = 1437  # of 1,797: the scans are in the order of their writers
_NUM_SHARDS = {"train": 8, "test": 2}
_SIZE = 48
_MARGIN = 2  # empty pixels around a scan, so that smooth resampling ends in black
_PITCH = (13.0, 17.0)  # pixels from copy to copy; a view's crop can be shifted by a whole pitch
_SLANT_DEGREES = 20.0
_COPY_TURN_DEGREES = 12.0
_COPY_SHEAR = 0.2
_COPY_STRETCH = 0.15
_COPY_SHARE = (0.85, 1.0)  # side of a copy as a share of the pitch
_COPY_SHIFT = 0.08  # share of the pitch
_SATURATION = (0.1, 0.5)
_VALUE = (0.85, 1.0)
_GROUND_VALUE = (0.0, 0.04)
_EXPOSURE = (0.85, 1.0)
_LIGHT_SLOPE = 0.25  # largest change of brightness from the middle to an edge
_NOISE = 0.02


def embedded_dataset_dir(
    *, seed: int = 0, num_train: int = 8000, num_test: int = 2000, cache_dir: str | Path | None = None
) -> Path:
    """The folder of the embedded data set, rendered at the first call and found again at every later one.

    The folder appears whole or not at all; of several processes that ask at once, one renders and the others wait.

    Args:
        seed (`int`): What chance decides; the same seed gives the same bytes with the same versions of the libraries.
        num_train (`int`), num_test (`int`): Pictures per split, the ten classes as equally often as divisible.
        cache_dir (`str` or `Path`, *optional*): Where the folder is kept; by default `$SSL_ZOO_CACHE`, or `ssl_zoo` in
            `$XDG_CACHE_HOME` or `~/.cache`.

    Returns:
        `Path`: for `datasets.load_dataset(str(path), split="train", streaming=True)`; columns `image` and `label`.

    Raises:
        DataError: if the seed is negative, or a split would be smaller than its number of files.
    """
    sizes = {"train": num_train, "test": num_test}
    if seed < 0:
        raise DataError(f"`seed` must be at least 0, got {seed!r}.")
    for split, size in sizes.items():
        if size < _NUM_SHARDS[split]:
            raise DataError(f"`num_{split}` must be at least {_NUM_SHARDS[split]}, got {size!r}.")
    parent = _default_cache() if cache_dir is None else Path(cache_dir).expanduser()
    folder = parent / f"{EMBEDDED_NAME}-v{_VERSION}-seed{seed}-{num_train}-{num_test}"
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    with FileLock(parent / f".{folder.name}.lock"):
        if folder.is_dir():
            return folder
        unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=parent))
        try:
            for split, size in sizes.items():
                _write_split(unfinished / "data", split, seed=seed, size=size)
            unfinished.chmod(0o755)  # a temporary folder is its owner's only
            os.replace(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
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
    folder.mkdir(exist_ok=True)
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
            data = datasets.Dataset.from_dict(columns, features=features)
            data.to_parquet(folder / f"{split}-{shard:05d}-of-{num_shards:05d}.parquet")


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
    picture[:] = _color(rng, saturation=(0.3, 0.9), value=_GROUND_VALUE)
    pitch = rng.uniform(*_PITCH)
    for center in _lattice(pitch, rng):
        _print_copy(picture, scan, center, side=pitch * rng.uniform(*_COPY_SHARE), rng=rng)
    angle, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, _LIGHT_SLOPE)
    y, x = np.mgrid[-1 : 1 : _SIZE * 1j, -1 : 1 : _SIZE * 1j]
    light = rng.uniform(*_EXPOSURE) * (1 + slope * (np.cos(angle) * x + np.sin(angle) * y))
    picture = picture * light[..., None] + rng.normal(0, _NOISE, picture.shape)
    return (picture.clip(0, 1) * 255).astype(np.uint8)


def _lattice(pitch: float, rng: np.random.Generator) -> Floats:
    """Centres `(copies, 2)` as x, y: a slanted lattice, every other row moved by half a pitch, that begins anywhere."""
    reach = int(_SIZE / pitch) + 3
    grid = np.stack(np.meshgrid(np.arange(-reach, reach + 1.0), np.arange(-reach, reach + 1.0)), axis=-1).reshape(-1, 2)
    grid[:, 0] += 0.5 * (grid[:, 1] % 2)
    grid += rng.uniform(0, 1, 2) + rng.uniform(-_COPY_SHIFT, _COPY_SHIFT, grid.shape)
    centers = pitch * grid @ _rotation(rng.uniform(-_SLANT_DEGREES, _SLANT_DEGREES)).T + _SIZE / 2
    return centers[((centers > -0.6 * pitch) & (centers < _SIZE + 0.6 * pitch)).all(axis=1)]


def _print_copy(picture: Floats, scan: Image.Image, center: Floats, *, side: float, rng: np.random.Generator) -> None:
    """Blend one copy of the scan into the picture, in place."""
    stretch = np.exp(rng.uniform(-_COPY_STRETCH, _COPY_STRETCH))
    shear = np.array([[1, rng.uniform(-_COPY_SHEAR, _COPY_SHEAR)], [0, 1]])
    turn = _rotation(rng.uniform(-_COPY_TURN_DEGREES, _COPY_TURN_DEGREES))
    color = _color(rng, saturation=_SATURATION, value=_VALUE)
    to_scan = np.linalg.inv(turn @ shear @ np.diag([stretch, 1 / stretch]) * side / (scan.width - 2 * _MARGIN))
    # Only the box that the copy can reach is resampled.
    low = np.clip(np.floor(center - side).astype(int), 0, _SIZE)
    high = np.clip(np.ceil(center + side).astype(int), 0, _SIZE)
    if (high <= low).any():
        return
    offset = scan.width / 2 + to_scan @ (low - center)
    coefficients = (*to_scan[0], offset[0], *to_scan[1], offset[1])
    box_size = (int(high[0] - low[0]), int(high[1] - low[1]))
    ink = scan.transform(box_size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    cover = np.minimum(np.asarray(ink) * (1.15 / 255), 1)[..., None]
    box = picture[low[1] : high[1], low[0] : high[0]]
    box += (color - box) * cover


def _rotation(degrees: float) -> Floats:
    radians = np.deg2rad(degrees)
    return np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])


def _color(rng: np.random.Generator, *, saturation: tuple[float, float], value: tuple[float, float]) -> Floats:
    """A colour of any hue, red, green and blue from 0 to 1."""
    return np.array(colorsys.hsv_to_rgb(rng.random(), rng.uniform(*saturation), rng.uniform(*value)))


def _png(pixels: Pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
