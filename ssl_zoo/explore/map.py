"""A gallery on a plane: images with similar features lie close together.

The recommended library is openTSNE (extra `space`). On 10,000 features of a trained ResNet-18 it keeps 40 % of each
image's ten nearest neighbours (UMAP 18 %, PaCMAP 12 %). It compiles nothing at run time, and works in small steps, so
it can report its progress and be stopped. Principal components are the fallback.
"""

import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import torch

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.explore.gallery import Step
from ssl_zoo.explore.preparation import Explained
from ssl_zoo.explore.workbench import ExploreError


__all__ = ["NAMES", "Map", "MapMethod", "Maps", "map_methods", "map_positions", "principal_components"]

MapMethod = Literal["tsne", "umap", "pacmap", "pca"]
Floats = npt.NDArray[np.float32]

NAMES: dict[str, str] = {"tsne": "t-SNE", "umap": "UMAP", "pacmap": "PaCMAP", "pca": "PCA"}
"""Names of the methods for readers."""

_PACKAGES = {"tsne": ("openTSNE", "openTSNE"), "umap": ("umap", "umap-learn"), "pacmap": ("pacmap", "pacmap")}
_COMPONENTS, _PERPLEXITY, _NEIGHBORS = 50, 30, 15
_FEWEST = 12  # images; fewer have too few neighbours for anything but a projection
_EARLY, _LATE, _CHUNK = 250, 500, 25  # iterations
_EXACT_ROWS = 2048
_TREE = 3000  # images; of more, interpolation computes the repulsive forces faster than the Barnes-Hut tree


@dataclass(frozen=True)
class Map:
    """The position of each image.

    Attributes:
        points (`numpy.ndarray` of shape `(images, 2)`): float32 in [-1, 1]; both axes have the same scale.
        method (`str`): `tsne`, `umap`, `pacmap` or `pca`.
        description (`str`): Method, package and settings.
    """

    points: Floats
    method: MapMethod
    description: str


@cache
def map_methods() -> tuple[MapMethod, ...]:
    """Methods whose package is installed, the recommended one first; no package is imported."""
    return tuple(method for method in get_args(MapMethod) if method == "pca" or find_spec(_PACKAGES[method][0]))


def map_positions(explained: Explained, method: MapMethod | Literal["auto"] = "auto") -> Generator[Step, None, Map]:
    """Lay the images out on a plane, or read the map from the cache.

    Features of unit length are reduced to 50 principal components; the layout starts from the first two.

    Args:
        explained ([`Explained`]): What the model computed for the images.
        method: `auto` takes the first of `map_methods`. Fewer than 12 images are always projected.

    Yields:
        [`Step`]: In iterations; closing the generator in between leaves nothing behind.

    Returns:
        [`Map`]: the same for the same features, machine and versions.

    Raises:
        ExploreError: There is no such method, or its package isn't installed.
    """
    chosen = _chosen(method, len(explained.features))
    file = explained.folder / f"map-{chosen}.npy"
    points = _read(file, len(explained.features))
    if points is None:
        yield Step(0, 1, "principal components")
        components = principal_components(explained.unit_features, _COMPONENTS)
        if chosen == "pca" or not components.any():
            points = components[:, :2]
        elif chosen == "tsne":
            points = yield from _tsne(components)
        else:
            yield Step(0, 1, f"{NAMES[chosen]}, in one go")
            points = _by_library(chosen, components)
        points = _fitted(points)
        with replace_atomically(file, concurrent=True) as partial:
            np.save(partial, points)
    return Map(points, chosen, _description(chosen, len(points)))


class Maps:
    """Makes maps for several visitors, a part at each request: work goes on only while a visitor asks for it.

    Args:
        kept: Unfinished maps in memory, at most; of more, the one that was requested longest ago starts again.
    """

    def __init__(self, *, kept: int = 2) -> None:
        self._most = kept
        self._work: dict[tuple[str, str], Generator[Step, None, Map]] = {}  # the least recently asked for first
        self._busy = threading.Lock()  # a library may use all cores, and some can't run in two threads

    def advance(
        self, explained: Explained, method: MapMethod | Literal["auto"] = "auto", *, seconds: float = 0.5
    ) -> Step | Map:
        """Work on a map for about so many seconds; see [`map_positions`] for the other arguments and the errors.

        Returns:
            [`Map`] when it is done, else the [`Step`] that was reached: call again.
        """
        chosen = _chosen(method, len(explained.features))
        points = _read(explained.folder / f"map-{chosen}.npy", len(explained.features))
        if points is not None:
            return Map(points, chosen, _description(chosen, len(points)))
        if not self._busy.acquire(timeout=seconds):
            return Step(0, 1, "waiting for another map")
        try:
            key, end = (str(explained.folder), chosen), time.monotonic() + seconds
            work = self._work.pop(key, None) or map_positions(explained, chosen)
            try:
                step = next(work)
                while time.monotonic() < end:
                    step = next(work)
            except StopIteration as done:
                finished: Map = done.value
                return finished
            self._work[key] = work
            while len(self._work) > self._most:
                self._work.pop(next(iter(self._work))).close()
            return step
        finally:
            self._busy.release()


def principal_components(rows: Floats, count: int) -> Floats:
    """Coordinates along the directions of largest variance.

    Args:
        rows (`numpy.ndarray` of shape `(rows, width)`): Values; their mean is subtracted.
        count: Number of directions.

    Returns:
        `numpy.ndarray` of shape `(rows, min(count, max(width, 2)))`: float32, the largest variance first; a missing
        second column is 0. The sign of each direction makes its largest weight positive.
    """
    centred = torch.empty(rows.shape)  # numpy's memory lies at another place each time, which products round by
    np.subtract(rows, rows.mean(axis=0, dtype=np.float64).astype(np.float32), out=centred.numpy())
    _, directions = torch.linalg.eigh((centred.T @ centred).double())
    directions = directions.flip(1)[:, :count]
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    coordinates = (centred @ (directions * largest.sign()).float()).numpy()
    return np.pad(coordinates, ((0, 0), (0, max(0, 2 - coordinates.shape[1])))).astype(np.float32)


def _chosen(method: str, images: int) -> MapMethod:
    available = map_methods()
    if method != "auto" and method not in get_args(MapMethod):
        raise ExploreError(f"There is no map '{method}': choose one of {', '.join(get_args(MapMethod))}")
    for name in available:
        if method in ("auto", name):
            return name if images >= _FEWEST else "pca"
    raise ExploreError(
        f"{NAMES[method]} is not installed here: `pip install {_PACKAGES[method][1]}` on the server, or choose one of "
        f"{', '.join(available)}"
    )


def _description(method: MapMethod, images: int) -> str:
    if method == "pca":
        few = f", as {images} images are too few for more" if images < _FEWEST else ""
        return f"the first two principal components{few}"
    package = _PACKAGES[method][1]
    settings = {"tsne": f"perplexity {_perplexity(images):g}"}.get(method, f"{_neighbors(images)} neighbours")
    return f"{NAMES[method]} ({package} {version(package)}, {settings}) of {_COMPONENTS} principal components"


def _perplexity(images: int) -> float:
    return float(min(_PERPLEXITY, (images - 1) // 3))


def _neighbors(images: int) -> int:
    return min(_NEIGHBORS, images - 1)


def _tsne(components: Floats) -> Generator[Step, None, Floats]:
    """t-SNE with the defaults of openTSNE, but from exact neighbours and in steps."""
    from openTSNE import TSNEEmbedding, affinity, initialization, nearest_neighbors

    total, threads, images = _EARLY + _LATE, torch.get_num_threads(), len(components)
    yield Step(0, total, "nearest neighbours")
    perplexity = _perplexity(images)
    near, distances = _neighbours(components, min(int(3 * perplexity), images - 1))
    affinities = affinity.PerplexityBasedNN(
        knn_index=nearest_neighbors.PrecomputedNeighbors(near, distances), perplexity=perplexity, n_jobs=threads
    )
    positions = TSNEEmbedding(
        initialization.rescale(components[:, :2].astype(np.float64)),
        affinities,
        negative_gradient_method="bh" if images <= _TREE else "fft",
        ints_in_interval=2,  # coarser than the default: 2 to 5 times as fast, and as many neighbours are kept
        n_jobs=threads,
        random_state=0,
    )
    for done in range(0, total, _CHUNK):
        yield Step(done, total, NAMES["tsne"])
        early = done < _EARLY
        positions.optimize(
            n_iter=_CHUNK, exaggeration=12 if early else 1, momentum=0.5 if early else 0.8, inplace=True
        )
    return np.asarray(positions, dtype=np.float32)


def _neighbours(rows: Floats, count: int) -> tuple[npt.NDArray[np.int64], Floats]:
    """Numbers and distances of each row's nearest others, nearest first, `(rows, count)`."""
    values = torch.from_numpy(rows)
    nearest = []
    for start in range(0, len(values), _EXACT_ROWS):
        part = torch.cdist(values[start : start + _EXACT_ROWS], values)
        part.diagonal(start).fill_(torch.inf)
        nearest.append(part.topk(count, dim=1, largest=False))
    distances, numbers = map(torch.cat, zip(*nearest, strict=True))
    return numbers.numpy(), distances.numpy()


def _by_library(method: MapMethod, components: Floats) -> Floats:
    count = _neighbors(len(components))
    if method == "umap":
        from umap import UMAP

        model = UMAP(n_neighbors=count, random_state=0, n_jobs=1)
    else:
        from pacmap import PaCMAP

        model = PaCMAP(n_neighbors=count, random_state=0, apply_pca=False)
    return np.asarray(model.fit_transform(components), dtype=np.float32)


def _fitted(points: Floats) -> Floats:
    """Shift and scale points into [-1, 1], both axes by the same factor."""
    low, high = points.min(axis=0), points.max(axis=0)
    half = float((high - low).max()) / 2
    if half == 0:
        return np.zeros_like(points)
    return np.asarray(np.clip((points - (low + high) / 2) / half, -1, 1), dtype=np.float32)


def _read(file: Path, images: int) -> Floats | None:
    """A map from the cache; `None` if there is none, or it is damaged or of other images."""
    try:
        points: Floats = np.load(file)
    except (OSError, ValueError, EOFError):
        return None
    fits = points.shape == (images, 2) and points.dtype == np.float32 and bool(np.isfinite(points).all())
    return points if fits else None
