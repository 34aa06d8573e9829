"""Pseudo-label clusters of a gallery: their images, the model's confidence, and how they relate to the classes."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import csr_array

from ssl_zoo.evaluation.metrics.cluster_sizes import ClusterSizes, cluster_sizes
from ssl_zoo.evaluation.metrics.clustering import normalized_mutual_information
from ssl_zoo.explore.distributions import Mode, check_settings, distributions, modes, probabilities
from ssl_zoo.explore.preparation import Explained
from ssl_zoo.explore.recent import Recent
from ssl_zoo.explore.workbench import ExploreError


__all__ = ["ClassCount", "Cluster", "ClusterSimilarity", "Clustering", "Mode", "Sort", "clustering", "modes"]

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


class ClusterSimilarity(NamedTuple):
    """A cluster, and the cosine similarity of its centre to that of another."""

    number: int
    cosine: float


class Clustering:
    """A gallery by cluster.

    Attributes:
        explained ([`Explained`]): What the model computed for the images.
        head (`int`), mode (`str`), temperature (`float`): The settings.
        pseudo_labels (`numpy.ndarray` of shape `(images,)`): Cluster of each image, int64.
        confidence (`numpy.ndarray` of shape `(images,)`): Its probability, float32.
        entropy (`numpy.ndarray` of shape `(images,)`): Of each image's distribution over clusters, in nats, float32.
        marginal (`numpy.ndarray` of shape `(clusters,)`): Mean distribution over the images, float64.
        sizes ([`ClusterSizes`]): Images in each cluster, with what counts as over-full.
        class_counts (`scipy.sparse.csr_array` of shape `(clusters, classes)`): Images by cluster and class, without
            those that have no class. Sparse: the table of all pairs could be huge.
    """

    def __init__(self, explained: Explained, head: int, mode: Mode, temperature: float) -> None:
        self.explained, self.head, self.mode, self.temperature = explained, head, mode, temperature
        self.pseudo_labels, self.confidence, self.entropy, self.marginal = distributions(
            explained, head=head, mode=mode, temperature=temperature
        )
        self.sizes: ClusterSizes = cluster_sizes(self.pseudo_labels, explained.num_clusters)
        has_class = explained.gallery.labels >= 0
        pairs = self.pseudo_labels[has_class], explained.gallery.labels[has_class]
        shape = explained.num_clusters, int(explained.gallery.labels.max(initial=0)) + 1
        self.class_counts = csr_array((np.ones(len(pairs[0]), dtype=np.int64), pairs), shape=shape)
        # Images sorted by cluster, the most confident first; ties by number.
        self._order = np.lexsort((np.arange(len(self.pseudo_labels)), -self.confidence, self.pseudo_labels))
        self._ends = np.concatenate([[0], np.cumsum(self.sizes.sizes)])

    def __len__(self) -> int:
        return self.explained.num_clusters

    def __getitem__(self, number: int) -> Cluster:
        """A cluster by its number.

        Raises:
            ExploreError: There is none of this number.
        """
        if not 0 <= number < len(self):
            raise ExploreError(f"There is no cluster {number}: their numbers go from 0 to {len(self) - 1}")
        return self.clusters[number]

    @cached_property
    def clusters(self) -> list[Cluster]:
        """All clusters by number, empty ones included."""
        sizes, gallery = self.sizes.sizes, self.explained.gallery
        filled = np.maximum(sizes, 1)
        confidence = np.bincount(self.pseudo_labels, weights=self.confidence, minlength=len(self)) / filled
        uncertainty = np.bincount(self.pseudo_labels, weights=self.entropy, minlength=len(self)) / filled
        clusters: list[Cluster] = []
        for number, size in enumerate(sizes.tolist()):
            classes, counts = self._classes_in(number)
            shares = counts / counts.sum() if len(counts) else counts
            majority = int(classes[counts.argmax()]) if len(counts) else None
            clusters.append(
                Cluster(
                    number=number,
                    size=size,
                    share=size / len(self.pseudo_labels),
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
        return clusters

    @cached_property
    def nmi(self) -> float | None:
        """Normalised mutual information with the classes, over the images that have one; `None` if none has."""
        labels = self.explained.gallery.labels
        has_class = labels >= 0
        if not has_class.any():
            return None
        return normalized_mutual_information(labels[has_class], self.pseudo_labels[has_class])

    def ordered(self, sort: Sort = "size", *, descending: bool = True, text: str = "") -> list[Cluster]:
        """The clusters that `find(text)` returns, sorted; those without the value that is sorted by come last.

        Args:
            sort: `size`, `purity`, `confidence`, `entropy` (of classes), `uncertainty` (of images) or `number`.
            descending: Largest first.
            text: See `find`.

        Raises:
            ExploreError: There is no such order, or it needs labels and there are none.
        """
        if sort not in get_args(Sort):
            raise ExploreError(f"Clusters can't be sorted by '{sort}': choose one of {', '.join(get_args(Sort))}")
        if sort in ("purity", "entropy") and not self.class_counts.nnz:
            raise ExploreError(f"These images have no labels, so clusters can't be sorted by {sort}")
        sign = -1 if descending else 1

        def key(cluster: Cluster) -> tuple[bool, float, int]:
            value: float | None = getattr(cluster, sort)
            return value is None, 0.0 if value is None else sign * value, cluster.number

        return sorted(self.find(text), key=key)

    def find(self, text: str) -> list[Cluster]:
        """Search for clusters, which come by number; an empty text finds all.

        The text is the number of a cluster (`12` or `#12`), or the name of a class or a part of it: clusters where
        this class is the most frequent, or that hold a tenth of its images. Where a class has exactly this name,
        classes whose names contain it don't count; a number is compared with whole names only.
        """
        text = text.strip().casefold()
        if not text:
            return list(self.clusters)
        digits = text.removeprefix("#").strip()
        number = int(digits) if digits.isdecimal() and len(digits) < 10 else -1
        numbers = {number} if 0 <= number < len(self) else set()
        if not text.startswith("#"):
            wanted = self._classes_named(text)
            pairs, totals = self.class_counts.tocoo(), self.class_counts.sum(axis=0)
            is_held = np.isin(pairs.col, wanted) & (pairs.data >= _HELD_SHARE * totals[pairs.col])
            numbers |= set(pairs.row[is_held].tolist())
            numbers |= {cluster.number for cluster in self.clusters if cluster.majority in wanted}
        return [self.clusters[number] for number in sorted(numbers)]

    def members(self, number: int) -> Numbers:
        """Numbers of a cluster's images, the most confident first."""
        number = self[number].number
        members: Numbers = self._order[self._ends[number] : self._ends[number + 1]]
        return members

    def class_histogram(self, number: int) -> list[ClassCount]:
        """Classes in a cluster, the most frequent first; empty without labels."""
        classes, counts = self._classes_in(self[number].number)
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

    def nearest(self, number: int, *, limit: int = 8) -> list[ClusterSimilarity]:
        """Other clusters by the cosine of their centres, the largest first; an empty cluster has no centre."""
        if self[number].is_dead:
            return []
        filled = np.flatnonzero(self.sizes.sizes)
        others = filled[filled != number]
        cosines = self.centers[others] @ self.centers[number]
        order = np.lexsort((others, -cosines))[:limit]
        return [ClusterSimilarity(int(others[row]), float(cosines[row])) for row in order]

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
        """Distribution over clusters of any image for this mode and temperature, see `distributions.probabilities`.

        It has the shape `(..., clusters)` of the model's log-probabilities for this head; float32.
        """
        return probabilities(
            self.explained, log_probabilities, mode=self.mode, temperature=self.temperature, marginal=self.marginal
        )

    def _classes_in(self, number: int) -> tuple[Numbers, Numbers]:
        """Classes in a cluster, increasing, and how many images of each."""
        start, end = self.class_counts.indptr[number : number + 2]
        return self.class_counts.indices[start:end], self.class_counts.data[start:end]

    def _classes_named(self, text: str) -> list[int]:
        present = np.flatnonzero(self.class_counts.sum(axis=0)).tolist()
        names = {label: self.explained.gallery.class_name(label).casefold() for label in present}
        exact = [label for label in present if names[label] == text]
        return exact or [label for label in present if text in names[label] and not text.isdecimal()]


_recent = Recent[Clustering](16)


def clustering(explained: Explained, *, head: int = 0, mode: Mode = "softmax", temperature: float = 1.0) -> Clustering:
    """Put the images of a gallery into clusters. The last few clusterings stay in memory.

    Args:
        explained ([`Explained`]): What the model computed for the images.
        head: Which of the model's clusterings.
        mode: `softmax` for the model's own probabilities p; `assignment` for MIRA's mutual information regularised
            assignment of the whole gallery, see `mira_assignment`.
        temperature: The logarithms of p are divided by it: 1 = the model's own, in [0.01, 100]. With `softmax` it
            changes confidence and entropy, not the clusters; with `assignment` it changes both.

    Raises:
        ExploreError: There is no such head, mode or temperature.
    """
    check_settings(explained, head, mode, temperature)
    temperature = float(f"{temperature:.3g}")
    key = str(explained.folder), head, mode, temperature
    return _recent.get_or_make(key, lambda: Clustering(explained, head, mode, temperature))
