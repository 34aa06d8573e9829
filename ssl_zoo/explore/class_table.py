"""Which classes are in which clusters, by the pairs that occur: no table of all pairs, which could be huge."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt


__all__ = ["ClassTable"]

Numbers = npt.NDArray[np.int64]


class ClassTable:
    """Images by cluster and class. Images without a class don't count.

    Args:
        labels (`numpy.ndarray` of shape `(images,)`): Cluster of each image.
        classes (`numpy.ndarray` of shape `(images,)`): Class of each image, -1 where there is none.
        num_clusters: How many clusters there are, empty ones too.
    """

    def __init__(self, labels: Numbers, classes: Numbers, num_clusters: int) -> None:
        known = classes >= 0
        factor = int(classes.max(initial=0)) + 1
        pairs, counts = np.unique(labels[known] * factor + classes[known], return_counts=True)
        self._clusters, self._classes, self._counts = pairs // factor, pairs % factor, counts.astype(np.int64)
        self._spans = list(pairwise(np.searchsorted(self._clusters, np.arange(num_clusters + 1)).tolist()))
        self._totals = np.bincount(classes[known], minlength=factor)

    def __len__(self) -> int:
        """Images that have a class."""
        return int(self._counts.sum())

    @property
    def present(self) -> Numbers:
        """Classes that any image has, increasing."""
        return np.flatnonzero(self._totals)

    def of(self, cluster: int) -> tuple[Numbers, Numbers]:
        """Classes in a cluster, increasing, and how many images of each."""
        span = slice(*self._spans[cluster])
        return self._classes[span], self._counts[span]

    def majority(self, cluster: int) -> int | None:
        """The most frequent class of a cluster, the lower number on a tie."""
        classes, counts = self.of(cluster)
        return int(classes[counts.argmax()]) if len(counts) else None

    def holding(self, classes: Numbers, *, share: float) -> set[int]:
        """Clusters where one of `classes` is the most frequent, or that hold this share of one's images, or more."""
        wanted = np.isin(self._classes, classes)
        found = set(self._clusters[wanted & (self._counts >= share * self._totals[self._classes])].tolist())
        candidates = np.unique(self._clusters[wanted]).tolist()
        return found | {each for each in candidates if self.majority(each) in classes}
