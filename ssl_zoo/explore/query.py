"""One image against a gallery: its clusters, the most similar images, and the clusters of augmented views."""

import random
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
import yaml
from PIL import Image

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.views import EvalView, MultiView, ViewsConfig
from ssl_zoo.explore.clusters import Clustering
from ssl_zoo.explore.preparation import Explorer
from ssl_zoo.loading.models import ModelLoadError, find_file


__all__ = [
    "MAX_VIEWS",
    "AugmentedViews",
    "Hit",
    "ImageReport",
    "Landing",
    "Neighbor",
    "augmented",
    "look_at",
    "model_picture",
]

Floats = npt.NDArray[np.float32]

MAX_VIEWS = 12
_SMALLEST_BLURRED = 64


class Hit(NamedTuple):
    """A cluster that the image may belong to, and its probability."""

    number: int
    probability: float


class Neighbor(NamedTuple):
    """An image of the gallery, its cosine similarity and its cluster."""

    image: int
    similarity: float
    cluster: int


class Landing(NamedTuple):
    """An augmented view: its pixels, its cluster with the probability, and its similarity to the image."""

    picture: Image.Image
    cluster: int
    probability: float
    similarity: float


@dataclass(frozen=True)
class ImageReport:
    """Where an image lies among the clusters and the images of a gallery.

    Attributes:
        features (`numpy.ndarray` of shape `(width,)`): float32, of unit length.
        probabilities (`numpy.ndarray` of shape `(clusters,)`): float32, sum to 1.
        hits (`list` of [`Hit`]): The most probable clusters, the most probable first.
        neighbors (`list` of [`Neighbor`]): The most similar images of the gallery, the most similar first.
        entropy (`float`): Of `probabilities`, in nats.
    """

    features: Floats
    probabilities: Floats
    hits: list[Hit]
    neighbors: list[Neighbor]
    entropy: float


@dataclass(frozen=True)
class AugmentedViews:
    """The clusters of augmented views of an image.

    Attributes:
        landings (`list` of [`Landing`]): One per view.
        cluster (`int`): Cluster of the image itself.
        stay (`int`): Number of views in that cluster.
        of_recipe (`bool`): Whether the augmentation is that of the model's own recipe; else it is SimCLR's.
    """

    landings: list[Landing]
    cluster: int
    stay: int
    of_recipe: bool


def look_at(
    image: Image.Image,
    explorer: Explorer,
    clustering: Clustering,
    *,
    num_clusters: int = 10,
    num_neighbors: int = 12,
    gallery_number: int | None = None,
) -> ImageReport:
    """Find the clusters of an image and the most similar images of the gallery.

    Args:
        image (`PIL.Image.Image`): RGB.
        explorer ([`Explorer`]): The model that the gallery was prepared with.
        clustering ([`Clustering`]): Of the gallery: head, mode and temperature are its.
        num_clusters: Clusters to return.
        num_neighbors: Neighbours to return.
        gallery_number: Number of the image in the gallery, if it is one of it: it is no neighbour of its own.
    """
    features, scores = _look(explorer.view(image)[0].unsqueeze(0), explorer, clustering)
    probabilities = clustering.probabilities(scores)[0].numpy()
    hits = [Hit(number, float(probabilities[number])) for number in _largest(probabilities, num_clusters)]
    similarities = clustering.explained.unit_features @ features[0]
    if gallery_number is not None:
        similarities[gallery_number] = -np.inf
        num_neighbors = min(num_neighbors, len(similarities) - 1)
    neighbors = [
        Neighbor(number, float(similarities[number]), int(clustering.pseudo_labels[number]))
        for number in _largest(similarities, num_neighbors)
    ]
    positive = probabilities[probabilities > 0].astype(np.float64)
    entropy = abs(float((positive * np.log(positive)).sum()))
    return ImageReport(features[0], probabilities, hits, neighbors, entropy)


def augmented(
    image: Image.Image, explorer: Explorer, clustering: Clustering, *, num_views: int = 6, seed: int = 0
) -> AugmentedViews:
    """Augment an image several times as in training, and find the cluster of each view.

    The views are the global ones of the model's recipe where it has one (of multi-crop, the local ones are left out),
    else SimCLR's (https://huggingface.co/papers/2002.05709); all at the size that the model wants its images in.

    The image, model and clustering are those of [`look_at`]; the same seed gives the same views.

    Raises:
        ValueError: `num_views` isn't from 1 to `MAX_VIEWS`.
    """
    if not 1 <= num_views <= MAX_VIEWS:
        raise ValueError(f"`num_views` must be from 1 to {MAX_VIEWS}, got {num_views}")
    recipe_views = _recipe_views(explorer.name, explorer.revision, explorer.fingerprint)
    transform = MultiView(_adapted(recipe_views or _simclr_views(explorer.view.size), explorer.view, num_views))
    crops = transform.crop(image.convert("RGB"), random.Random(seed))
    batch = torch.stack([explorer.view(image)[0], *transform(image, seed=seed)])
    features, scores = _look(batch, explorer, clustering)
    best = clustering.probabilities(scores).max(dim=1)
    cluster, *clusters = best.indices.tolist()
    similarities = np.minimum(features @ features[0], 1.0)[1:].tolist()
    landed = zip(crops, clusters, best.values[1:].tolist(), similarities, strict=True)
    landings = [Landing(Image.fromarray(crop), *values) for crop, *values in landed]
    return AugmentedViews(landings, cluster, clusters.count(cluster), of_recipe=recipe_views is not None)


def model_picture(image: Image.Image, explorer: Explorer) -> Image.Image:
    """What the model sees of an image, before the pixels are normalised."""
    return Image.fromarray(explorer.view.crop(image.convert("RGB"), random.Random(0))[0])


def _look(batch: torch.Tensor, explorer: Explorer, clustering: Clustering) -> tuple[Floats, torch.Tensor]:
    """Unit features `(batch, width)`, and log-probabilities `(batch, clusters)` of the clustering's head."""
    features, scores = explorer.look(batch)
    unit, explained = F.normalize(features, dim=1), clustering.explained
    if scores is not None:
        chosen = scores[:, clustering.head]
    else:  # of k-means, as `prepare` gives them to the gallery
        centers = torch.from_numpy(np.load(explained.folder / "centers.npy"))
        chosen = F.log_softmax(unit @ centers.T / float(explained.about["temperature"]), dim=1)
    return np.asarray(unit.numpy(), dtype=np.float32), chosen


def _largest(values: Floats, count: int) -> list[int]:
    """Places of the largest values, the largest first; of equals, the earlier first."""
    return [int(place) for place in np.argsort(-values, kind="stable")[:count]]


def _adapted(config: ViewsConfig, view: EvalView, num_views: int) -> ViewsConfig:
    """As many global views, of the size and with the normalisation that the model wants its images in."""
    return replace(
        config, global_crops=num_views, local_crops=0, global_size=view.size, mean=list(view.mean), std=list(view.std)
    )


def _simclr_views(size: int) -> ViewsConfig:
    """Views of SimCLR; like its authors on CIFAR, without blur where the images are small."""
    blurred = 0.5 if size >= _SMALLEST_BLURRED else 0.0
    return ViewsConfig(
        global_scale=[0.08, 1.0],
        color_jitter=[0.8, 0.8, 0.8, 0.2],
        blur_probability=[blurred] * 3,
        solarize_probability=[0.0] * 3,
    )


@lru_cache(maxsize=16)
def _recipe_views(name: str, revision: str | None, fingerprint: str) -> ViewsConfig | None:
    """The views that the model was trained with; `None` where there is no recipe, or none that is understood."""
    try:
        file = find_file(name, "recipe.yaml", revision=revision)
        return ViewsConfig(**yaml.safe_load(file.read_text(encoding="utf-8"))["views"]) if file else None
    except (ModelLoadError, DataError, OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        return None  # a recipe of another version, or of another library; the page names the fallback
