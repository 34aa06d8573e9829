"""Pseudo-label clusters of a gallery: who is in them, how sure the model is, and what they say of the classes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch

from ssl_zoo.evaluation.metrics.cluster_sizes import ClusterSizes, cluster_sizes
from ssl_zoo.evaluation.metrics.clustering import normalized_mutual_information
from ssl_zoo.explore.class_table import ClassTable
from ssl_zoo.explore.distributions import Mode, check_settings, distributions, modes, probabilities
from ssl_zoo.explore.preparation import Explained
from ssl_zoo.explore.recent import Recent
from ssl_zoo.explore.workbench import ExploreError


__all__ = ["ClassCount", "Cluster", "Clustering", "Mode", "Near", "Sort", "clustering", "modes"]

Sort = Literal["size", "purity", "confidence", "entropy", "uncertainty", "number"]
Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.int64]

_HELD_SHARE = 0.1


@dataclass(frozen=True)
class Cluster:
    """One cluster.

    Attributes:
        number, size (`int`): Its number, and its images.
        share (`float`): Of all images.
        confidence (`float`, *optional*): Mean probability of the cluster over its images; `None` when it is empty.
        uncertainty (`float`, *optional*): Mean entropy of its images' own distributions over clusters, in nats.
        entropy (`float`, *optional*): Entropy of the classes inside, in nats; 0 = one class. `None` without labels.
        purity (`float`, *optional*): Share of the most frequent class among its images with a label.
        majority (`int`, *optional*), majority_name (`str`, *optional*): That class; the lower number on a tie.
        is_dead (`bool`): No image is in it.
        is_overfull (`bool`): More than four times an equal share of the images are.
    """

    number: int
    size: int
    share: float
    confidence: float | None
    uncertainty: float | None
    entropy: float | None
    purity: float | None
    majority: int | None
    majority_name: str | None
    is_dead: bool
    is_overfull: bool


class ClassCount(NamedTuple):
    """Images of a class in a cluster; `share` is of the cluster's images that have a label."""

    label: int
    name: str
    size: int
    share: float


class Near(NamedTuple):
    """A cluster and the cosine of its centre to another's."""

    number: int
    cosine: float


class Clustering:
    """A gallery by cluster.

    Attributes:
        explained ([`Explained`]): What it was made of.
        head (`int`), mode (`str`), temperature (`float`): As asked for.
        labels (`numpy.ndarray` of shape `(images,)`): Cluster of each image, int64.
        confidence (`numpy.ndarray` of shape `(images,)`): Its probability, float32.
        entropy (`numpy.ndarray` of shape `(images,)`): Of each image's distribution over clusters, in nats, float32.
        marginal (`numpy.ndarray` of shape `(clusters,)`): Mean distribution over the images, float64.
        sizes ([`ClusterSizes`]): Images in each cluster, with what counts as over-full.
        classes ([`ClassTable`]): Which classes are in which clusters; its length is the number of images with a class.
    """

    def __init__(self, explained: Explained, head: int, mode: Mode, temperature: float) -> None:
        self.explained, self.head, self.mode, self.temperature = explained, head, mode, temperature
        self.labels, self.confidence, self.entropy, self.marginal = distributions(
            explained, head=head, mode=mode, temperature=temperature
        )
        self.sizes: ClusterSizes = cluster_sizes(self.labels, explained.num_clusters)
        self.classes = ClassTable(self.labels, explained.gallery.labels, explained.num_clusters)
        # Images sorted by cluster, the most confident first; of equals, the earlier.
        self._order = np.lexsort((np.arange(len(self.labels)), -self.confidence, self.labels))
        self._ends = np.concatenate([[0], np.cumsum(self.sizes.sizes)])

    def __len__(self) -> int:
        return self.explained.num_clusters

    def __getitem__(self, number: int) -> Cluster:
        """A cluster by its number.

        Raises:
            ExploreError: There is none of this number.
        """
        if not 0 <= number < len(self):
            raise ExploreError(f"There is no cluster {number}: their numbers go from 0 to {len(self) - 1}.")
        return self.clusters[number]

    @cached_property
    def clusters(self) -> list[Cluster]:
        """All of them, empty ones too, by number."""
        sizes, gallery = self.sizes.sizes, self.explained.gallery
        filled = np.maximum(sizes, 1)
        confidence = np.bincount(self.labels, weights=self.confidence, minlength=len(self)) / filled
        uncertainty = np.bincount(self.labels, weights=self.entropy, minlength=len(self)) / filled
        found: list[Cluster] = []
        for number, size in enumerate(sizes.tolist()):
            _, counts = self.classes.of(number)
            shares = counts / counts.sum() if len(counts) else counts
            majority = self.classes.majority(number)
            found.append(
                Cluster(
                    number=number,
                    size=size,
                    share=size / len(self.labels),
                    confidence=float(confidence[number]) if size else None,
                    uncertainty=float(uncertainty[number]) if size else None,
                    entropy=abs(float((shares * np.log(shares)).sum())) if len(counts) else None,
                    purity=float(shares.max()) if len(counts) else None,
                    majority=majority,
                    majority_name=None if majority is None else gallery.class_name(majority),
                    is_dead=size == 0,
                    is_overfull=size > self.sizes.overfull,
                )
            )
        return found

    @cached_property
    def nmi(self) -> float | None:
        """Normalised mutual information with the classes, over the images that have one; `None` where none has."""
        known = self.explained.gallery.labels >= 0
        classes, labels = self.explained.gallery.labels[known], self.labels[known]
        return normalized_mutual_information(classes, labels) if known.any() else None

    def ordered(self, sort: Sort = "size", *, descending: bool = True, text: str = "") -> list[Cluster]:
        """Clusters that `text` finds, sorted. Those without the number that is sorted by come last either way.

        Args:
            sort: `size`, `purity`, `confidence`, `entropy` (of classes), `uncertainty` (of images) or `number`.
            descending: Largest first.
            text: As for `find`.

        Raises:
            ExploreError: There is no such order, or it needs labels and there are none.
        """
        if sort not in get_args(Sort):
            raise ExploreError(f"Clusters can't be sorted by '{sort}': choose one of {', '.join(get_args(Sort))}.")
        if sort in ("purity", "entropy") and not len(self.classes):
            raise ExploreError(f"These images have no labels, so clusters can't be sorted by {sort}.")
        sign = -1 if descending else 1

        def key(cluster: Cluster) -> tuple[bool, float, int]:
            value: float | None = getattr(cluster, sort)
            return value is None, 0.0 if value is None else sign * value, cluster.number

        return sorted(self.find(text), key=key)

    def find(self, text: str) -> list[Cluster]:
        """Clusters that a visitor may mean, by number.

        Args:
            text: Number of a cluster (`12` or `#12`), or a class or part of its name: clusters where it is the most
                frequent, or that hold a tenth of its images. A class of exactly this name hides those that contain
                it, and a number is only looked for as a whole name. Nothing finds all.

        Returns:
            `list` of [`Cluster`]: empty when nothing is found.
        """
        text = text.strip().casefold()
        if not text:
            return list(self.clusters)
        digits = text.removeprefix("#").strip()
        number = int(digits) if digits.isdecimal() and len(digits) < 10 else -1
        found = {number} if 0 <= number < len(self) else set()
        if not text.startswith("#"):
            found |= self.classes.holding(self._called(text), share=_HELD_SHARE)
        return [self.clusters[number] for number in sorted(found)]

    def members(self, number: int) -> Numbers:
        """Numbers of the images in a cluster, from the most to the least confident."""
        number = self[number].number
        members: Numbers = self._order[self._ends[number] : self._ends[number + 1]]
        return members

    def class_histogram(self, number: int) -> list[ClassCount]:
        """Classes in a cluster, the most frequent first; empty without labels."""
        classes, counts = self.classes.of(self[number].number)
        name = self.explained.gallery.class_name
        return [
            ClassCount(int(classes[row]), name(int(classes[row])), int(counts[row]), float(counts[row] / counts.sum()))
            for row in np.lexsort((classes, -counts)).tolist()
        ]

    def confidence_histogram(self, number: int, *, bins: int = 20) -> tuple[Numbers, npt.NDArray[np.float64]]:
        """Images of a cluster by confidence: counts, and the `bins + 1` edges, which are the same for all clusters."""
        values = self.confidence.astype(np.float64)
        low, high = float(values.min()), float(values.max())
        counts, edges = np.histogram(values[self.members(number)], bins=bins, range=(low, max(high, low + 1e-6)))
        return counts.astype(np.int64), edges

    def nearest(self, number: int, *, limit: int = 8) -> list[Near]:
        """Other clusters by the cosine of their centres, the means of their images' unit features, nearest first.

        An empty cluster has no centre: it is near none, and has none near.
        """
        if self[number].is_dead:
            return []
        filled = np.flatnonzero(self.sizes.sizes)
        others = filled[filled != number]
        cosines = self.centers[others] @ self.centers[number]
        order = np.lexsort((others, -cosines))[:limit]
        return [Near(int(others[row]), float(cosines[row])) for row in order]

    @cached_property
    def centers(self) -> Floats:
        """Means of the unit features of each cluster, scaled to length 1, `(clusters, width)`; 0 for empty ones."""
        features = self.explained.unit_features
        sums = np.zeros((len(self), features.shape[1]), dtype=np.float32)
        for number in np.flatnonzero(self.sizes.sizes).tolist():
            sums[number] = features[self._order[self._ends[number] : self._ends[number + 1]]].sum(axis=0)
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        return np.asarray(sums / np.maximum(lengths, np.finfo(np.float32).tiny), dtype=np.float32)

    def probabilities(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        """Distribution over clusters of any image, as this head, mode and temperature see it.

        Args:
            log_probabilities (`torch.Tensor` of shape `(..., clusters)`): What the model says of it.

        Returns:
            `torch.Tensor` of shape `(..., clusters)`: float32, sums to 1.
        """
        return probabilities(
            self.explained, log_probabilities, mode=self.mode, temperature=self.temperature, marginal=self.marginal
        )

    def _called(self, text: str) -> Numbers:
        names = [self.explained.gallery.class_name(label).casefold() for label in self.classes.present.tolist()]
        exact = [name == text for name in names]
        partly = [text in name and not text.isdecimal() for name in names]
        return np.compress(exact if any(exact) else partly, self.classes.present)


_recent = Recent[Clustering](16)


def clustering(explained: Explained, *, head: int = 0, mode: Mode = "softmax", temperature: float = 1.0) -> Clustering:
    """Put the images of a gallery into clusters. The last few clusterings stay in memory.

    Args:
        explained ([`Explained`]): What the model says of the images.
        head: Which of the model's clusterings.
        mode: `softmax` for the model's own probabilities p; `assignment` for MIRA's mutual information regularised
            assignment of the whole gallery, see `mira_assignment`.
        temperature: The logarithms of p are divided by it: 1 = the model's own, in [0.01, 100]. Alone, it changes
            confidence and entropy, not the clusters; in an assignment it changes both.

    Returns:
        [`Clustering`].

    Raises:
        ExploreError: There is no such head, mode or temperature.
    """
    check_settings(explained, head, mode, temperature)
    temperature = float(f"{temperature:.3g}")
    key = str(explained.folder), head, mode, temperature
    return _recent.get_or_make(key, lambda: Clustering(explained, head, mode, temperature))
