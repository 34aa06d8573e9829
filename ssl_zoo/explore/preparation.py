"""What a model computes for a gallery, once, cached: features, and scores of the clusters of each head."""

import hashlib
import json
from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.data.views import EvalView
from ssl_zoo.evaluation.frozen.kmeans import kmeans
from ssl_zoo.explore.gallery import Gallery, Step
from ssl_zoo.loading.fingerprint import fingerprint
from ssl_zoo.loading.models import Backbone, load_backbone, load_pretraining_model
from ssl_zoo.loading.view import model_view
from ssl_zoo.models.registry import display_name, method_names


__all__ = ["Explained", "Explorer", "load_explorer", "prepare"]

_BATCH = 64
_PART_BATCHES = 4
# Cosines to the centers of k-means become probabilities at this temperature, DINO's for k-NN votes.
_KMEANS_TEMPERATURE = 0.07


@dataclass(frozen=True)
class Explorer:
    """A model that visitors look at.

    Attributes:
        name (`str`), revision (`str` or `None`): Where it was loaded from.
        backbone (`Backbone`): Images to features.
        full (`PreTrainedModel` or `None`): The pretraining model, if it has clusters of its own.
        view (`EvalView`): Preparation of its images.
        fingerprint (`str`): Changes when the model does.
    """

    name: str
    revision: str | None
    backbone: Backbone
    full: Any
    view: EvalView
    fingerprint: str

    @property
    def method(self) -> str | None:
        """The method of this package that trained it."""
        kind = self.backbone.model.config.model_type
        return kind if kind in method_names() else None

    @property
    def title(self) -> str:
        """Name for headings."""
        name = self.name.rstrip("/").rsplit("/", 1)[-1]
        return f"{name} ({display_name(self.method)})" if self.method else name

    @torch.no_grad()
    def look(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Features `(batch, width)` and log-probabilities `(batch, heads, clusters)` or `None`, both float32."""
        features = self.backbone(images).float()
        if self.full is None:
            return features, None
        tiny = torch.finfo(torch.float32).tiny
        return features, self.full.cluster_probabilities(images).float().clamp_min(tiny).log()


def load_explorer(name: str, *, revision: str | None = None, remote_code: bool = False) -> Explorer:
    """Load a model to look at, see `load_backbone` for what `name` may be.

    Raises:
        ModelLoadError: There is no such model, or it can't be read.
    """
    model = load_backbone(name, revision=revision, remote_code=remote_code)
    view = model_view(model, name, revision=revision)
    full = load_pretraining_model(name, revision=revision) if model.config.model_type in method_names() else None
    if full is not None and not hasattr(full, "cluster_probabilities"):
        full = None
    backbone = Backbone(model).eval()
    identity = fingerprint(backbone, configuration=backbone.configuration)
    if full is not None:
        identity += fingerprint(full, configuration=json.dumps(full.config.to_dict(), sort_keys=True, default=str))
    return Explorer(name, revision, backbone, full, view, hashlib.sha256(identity.encode()).hexdigest())


class Explained:
    """A gallery with what a model computed for it.

    Attributes:
        gallery ([`Gallery`]): The images.
        folder (`Path`): Folder of the results; others may be cached beside them.
        about (`dict`): Name and title of the model, whether the clusters are of k-means, and how they were computed.
        num_heads, num_clusters (`int`): Number of clusterings, and clusters of each.
        features (`numpy.ndarray` of shape `(images, width)`): float32, memory-mapped.
    """

    def __init__(self, gallery: Gallery, folder: Path, features: Path) -> None:
        self.gallery, self.folder = gallery, folder
        self.about: dict[str, Any] = json.loads((folder / "about.json").read_text(encoding="utf-8"))
        self.num_heads, self.num_clusters = int(self.about["num_heads"]), int(self.about["num_clusters"])
        self.features: npt.NDArray[np.float32] = np.load(features, mmap_mode="r")

    def log_probabilities(self, head: int = 0) -> npt.NDArray[np.float16]:
        """Log-probability of each cluster, `(images, clusters)`, float16, memory-mapped.

        They are shifted so that the largest of each image is 0, which changes no softmax.
        """
        scores: npt.NDArray[np.float16] = np.load(self.folder / "scores.npy", mmap_mode="r")[:, head]
        return scores

    @cached_property
    def unit_features(self) -> npt.NDArray[np.float32]:
        """Features of unit length, in memory."""
        return np.asarray(F.normalize(torch.from_numpy(np.array(self.features)), dim=1).numpy())


def prepare(
    explorer: Explorer, gallery: Gallery, cache: Path, *, num_clusters: int = 20
) -> Generator[Step, None, Explained]:
    """Compute features and scores of a gallery, or read them from the cache; continues where it was stopped.

    A model without clusters of its own gets `num_clusters` clusters of k-means.

    Yields:
        [`Step`]: After each batch; closing the generator in between loses at most one part.

    Raises:
        ValueError: Features or probabilities of the model aren't finite, or there are too few images.
    """
    key = json.dumps([explorer.fingerprint, explorer.view.identity, gallery.identity])
    shared = cache / "models" / hashlib.sha256(key.encode()).hexdigest()[:24]
    folder = shared if explorer.full is not None else shared / f"kmeans-{num_clusters}"
    if (folder / "about.json").is_file():
        return Explained(gallery, folder, shared / "features.npy")
    if not (shared / "features.npy").is_file():
        yield from _compute_all(explorer, gallery, shared)
    about: dict[str, Any] = {"model": explorer.name, "revision": explorer.revision, "title": explorer.title}
    about |= {"method": explorer.method, "temperature": 1.0, "kmeans": explorer.full is None}
    if explorer.full is None:
        yield Step(len(gallery), len(gallery), f"k-means with {num_clusters} clusters")
        folder.mkdir(exist_ok=True)
        _cluster(shared, folder, num_clusters)
        about |= {"temperature": _KMEANS_TEMPERATURE}
    else:
        about |= explorer.full.config.cluster_assignment or {}
    _, heads, clusters = np.load(folder / "scores.npy", mmap_mode="r").shape
    about |= {"num_heads": heads, "num_clusters": clusters}
    with replace_atomically(folder / "about.json", concurrent=True) as partial:
        partial.write_text(json.dumps(about, indent=2), encoding="utf-8")
    return Explained(gallery, folder, shared / "features.npy")


def _compute_all(explorer: Explorer, gallery: Gallery, folder: Path) -> Generator[Step, None, None]:
    """Write features and scores part by part, then join them; finished parts stay when the work is stopped."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = _BATCH * _PART_BATCHES
    parts = [folder / f"part-{start:07d}.npz" for start in range(0, len(gallery), rows)]
    first = next((number for number, part in enumerate(parts) if not part.is_file()), len(parts))
    images, task = gallery.images(first * rows), f"looking at the images with {explorer.title}"
    for number in range(first, len(parts)):
        batches: list[dict[str, npt.NDArray[np.generic]]] = []
        while len(batches) < _PART_BATCHES and (batch := list(islice(images, _BATCH))):
            batches.append(_compute(explorer, batch))
            yield Step(number * rows + sum(len(part["features"]) for part in batches), len(gallery), task)
        joined = {name: np.concatenate([part[name] for part in batches]) for name in batches[0]}
        with replace_atomically(parts[number], concurrent=True) as partial:
            np.savez(partial, **joined)  # type: ignore[arg-type]  # it sees `allow_pickle` in them
    for name in ("scores", "features"):  # features last: they say that all is done
        if values := [array[name] for array in map(np.load, parts) if name in array]:
            _save(folder / f"{name}.npy", np.concatenate(values))
    for part in parts:
        part.unlink()


def _compute(explorer: Explorer, images: list[Image.Image]) -> dict[str, npt.NDArray[np.generic]]:
    features, scores = explorer.look(torch.stack([explorer.view(image)[0] for image in images]))
    for values in (features, scores):
        if values is not None and not bool(values.isfinite().all()):
            raise ValueError(f"'{explorer.name}' gives infinite or NaN values: it has diverged, or is damaged")
    return {"features": features.numpy(), **({} if scores is None else {"scores": _shifted(scores)})}


def _cluster(shared: Path, folder: Path, num_clusters: int) -> None:
    features = torch.from_numpy(np.load(shared / "features.npy"))
    if num_clusters > len(features):
        raise ValueError(f"{num_clusters} clusters need as many images, got {len(features)}: ask for fewer")
    centers = kmeans(features, num_clusters=num_clusters, seed=0).centers
    cosines = F.normalize(features, dim=1) @ centers.T
    scores = F.log_softmax(cosines / _KMEANS_TEMPERATURE, dim=1).unsqueeze(1)
    _save(folder / "centers.npy", centers.numpy())
    _save(folder / "scores.npy", _shifted(scores))


def _shifted(scores: torch.Tensor) -> npt.NDArray[np.float16]:
    """Log-probabilities minus the largest of each image: near 0, half precision keeps their order."""
    shifted: npt.NDArray[np.float16] = (scores - scores.amax(dim=-1, keepdim=True)).half().numpy()
    return shifted


def _save(file: Path, values: npt.NDArray[np.generic]) -> None:
    with replace_atomically(file, concurrent=True) as partial:
        np.save(partial, values)
