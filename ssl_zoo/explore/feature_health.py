"""Health of features apart from clusters: their spectrum, and how well neighbours predict the classes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.evaluation.metrics.spectrum import measure_spectrum
from ssl_zoo.explore.preparation import Explained
from ssl_zoo.functional.neighbors import nearest_neighbors


__all__ = ["NEIGHBORS", "Confusion", "FeatureHealth", "Mistaken", "feature_health"]

NEIGHBORS = 20
"""Neighbours that vote."""

# DINO's temperature of the votes (https://huggingface.co/papers/2104.14294).
_VOTE_TEMPERATURE = 0.07
# At most so many images are asked for their neighbours, and as many make pairs for the mean cosine: with 2,500 the
# accuracy is known to 1 % (one standard error), and 10,000 images take a quarter of the time.
_MAX_QUERIES, _MAX_PAIR_ROWS = 2500, 1024
_BLOCK_ROWS = 256

Numbers = npt.NDArray[np.int64]


class Mistaken(NamedTuple):
    """Two classes, and the share of their images that are predicted as the other one."""

    first: int
    second: int
    share: float


@dataclass(frozen=True)
class Confusion:
    """Classes predicted by the nearest neighbours of images; no image votes for itself.

    Attributes:
        classes (`numpy.ndarray` of shape `(images,)`): True classes of the images.
        votes (`numpy.ndarray` of shape `(images,)`): Classes that their neighbours vote for.
        neighbors (`int`): Number of neighbours that vote.
    """

    classes: Numbers
    votes: Numbers
    neighbors: int

    @property
    def accuracy(self) -> float:
        """Share of the images whose class is predicted."""
        return float((self.classes == self.votes).mean())

    @property
    def chance(self) -> float:
        """Share of the most frequent class: the accuracy of a constant prediction."""
        return float(np.unique(self.classes, return_counts=True)[1].max() / len(self.classes))

    def table(self, *, limit: int = 60) -> tuple[Numbers, list[int | None]]:
        """True classes by predicted ones, for a figure.

        Args:
            limit: Classes at most, >= 2; of more, those with the most mistakes are shown, and all others together.

        Returns:
            `tuple` of counts `(shown, shown)`, rows = true, and the class numbers; `None`, the last, is all others.
        """
        if limit < 2:
            raise ValueError(f"`limit` must be >= 2, got {limit}")
        present, inverse = np.unique(np.concatenate([self.classes, self.votes]), return_inverse=True)
        true, voted = np.split(inverse, 2)
        shown = np.arange(len(present))
        if len(present) > limit:
            wrong = np.concatenate([part[true != voted] for part in (true, voted)])
            mistakes = np.bincount(wrong, minlength=len(present))
            shown = np.sort(np.lexsort((shown, -mistakes))[: limit - 1])
        places = np.full(len(present), len(shown))
        places[shown] = np.arange(len(shown))
        size = len(shown) + (len(shown) < len(present))
        counts = np.bincount(places[true] * size + places[voted], minlength=size * size).reshape(size, size)
        names: list[int | None] = [*present[shown].tolist(), *[None] * (size - len(shown))]
        return counts, names

    def mistaken(self, *, limit: int = 5) -> list[Mistaken]:
        """Pairs of classes that are confused most, in either direction."""
        wrong = self.classes != self.votes
        low = np.minimum(self.classes[wrong], self.votes[wrong])
        high = np.maximum(self.classes[wrong], self.votes[wrong])
        sizes = np.bincount(self.classes, minlength=int(max(self.classes.max(), self.votes.max())) + 1)
        pairs, counts = np.unique(np.stack([low, high]), axis=1, return_counts=True)
        shares = counts / np.maximum(sizes[pairs[0]] + sizes[pairs[1]], 1)
        order = np.lexsort((pairs[1], pairs[0], -shares))[:limit]
        return [Mistaken(int(pairs[0, row]), int(pairs[1, row]), float(shares[row])) for row in order]


@dataclass(frozen=True)
class FeatureHealth:
    """Measurements of features.

    Attributes:
        num_images, width (`int`): Shape of the features.
        effective_rank (`float`): RankMe, see `measure_spectrum`.
        decay (`float`, *optional*): alpha of eigenvalue_i ~ i^-alpha; `None` when there are too few to fit.
        mean_cosine (`float`): Of pairs of different images; 1 = all features point the same way.
        eigenvalues (`numpy.ndarray` of shape `(width,)`): Of the covariance, decreasing.
        confusion ([`Confusion`], *optional*): Where the images have classes.
    """

    num_images: int
    width: int
    effective_rank: float
    decay: float | None
    mean_cosine: float
    eigenvalues: npt.NDArray[np.float64]
    confusion: Confusion | None

    @property
    def rank_share(self) -> float:
        """Effective rank over the largest there can be, min(images, width)."""
        return self.effective_rank / min(self.num_images, self.width)


def feature_health(explained: Explained) -> FeatureHealth:
    """Measure features, or read the measurements from the cache.

    Of more than 2,500 images with classes, a random sample of this size is predicted; the neighbours come from all.

    Raises:
        ValueError: There is only one image.
    """
    file = explained.folder / "feature-health.npz"
    if not file.is_file():
        _measure(explained, file)
    with np.load(file) as kept:
        about: dict[str, Any] = json.loads(str(kept["about"]))
        neighbors = about.pop("neighbors")
        confusion = Confusion(kept["classes"], kept["votes"], neighbors) if neighbors else None
        return FeatureHealth(**about, eigenvalues=kept["eigenvalues"], confusion=confusion)


def _measure(explained: Explained, file: Path) -> None:
    features = torch.from_numpy(np.array(explained.features))
    spectrum = measure_spectrum(features, max_pair_rows=_MAX_PAIR_ROWS)
    confusion = _confusion(torch.from_numpy(explained.unit_features), explained.gallery.labels)
    about = {
        "num_images": spectrum.num_rows,
        "width": spectrum.num_features,
        "effective_rank": spectrum.rankme,
        "decay": spectrum.alpha,
        "mean_cosine": spectrum.mean_cosine,
        "neighbors": confusion.neighbors if confusion else 0,
    }
    arrays = {"eigenvalues": spectrum.eigenvalues, "about": np.array(json.dumps(about))}
    if confusion is not None:
        arrays |= {"classes": confusion.classes, "votes": confusion.votes}
    with replace_atomically(file, concurrent=True) as partial:
        np.savez(partial, **arrays)  # type: ignore[arg-type]  # it sees `allow_pickle` in them


def _confusion(features: torch.Tensor, classes: Numbers) -> Confusion | None:
    """k-NN among the images that have a class, each left out of its own vote; `None` where fewer than two have."""
    labelled = np.flatnonzero(classes >= 0)
    if len(labelled) < 2:
        return None
    names, labels = np.unique(classes[labelled], return_inverse=True)
    bank, bank_labels = features[torch.from_numpy(labelled)], torch.from_numpy(labels)
    asked = np.arange(len(labelled))
    if len(asked) > _MAX_QUERIES:
        asked = np.sort(np.random.default_rng(0).choice(len(asked), _MAX_QUERIES, replace=False))
    k = min(NEIGHBORS, len(labelled) - 1)
    votes = []
    for rows in torch.from_numpy(asked).split(_BLOCK_ROWS):
        neighbors = nearest_neighbors(bank[rows], bank, k=k + 1, chunk_size=max(len(bank), 1))
        # The image itself need not come first: others may be the same. It counts nothing, nor does the last of k + 1
        # where it isn't among them.
        others = neighbors.rows != rows.unsqueeze(1)
        others &= others.cumsum(dim=1) <= k
        weights = torch.exp((neighbors.similarities - 1) / _VOTE_TEMPERATURE) * others
        sums = torch.zeros(len(rows), len(names)).scatter_add_(1, bank_labels[neighbors.rows], weights)
        votes.append(sums.argmax(dim=1))
    return Confusion(names[labels[asked]], names[torch.cat(votes).numpy()], k)
