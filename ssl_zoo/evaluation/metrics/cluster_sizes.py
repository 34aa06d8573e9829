"""How images spread over clusters: empty clusters, and over-full ones."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


__all__ = ["ClusterSizes", "cluster_sizes"]


@dataclass(frozen=True)
class ClusterSizes:
    """Sizes of clusters.

    Attributes:
        sizes (`numpy.ndarray` of shape `(clusters,)`): Images in each cluster, by its number.
        num_empty: Clusters without an image.
        num_overfull: Clusters with more than `overfull` images.
        overfull: Four times an equal share, images / clusters.
        largest_share: Share of the images that are in the largest cluster.
        normalized_entropy: Entropy of the sizes over that of equal sizes: 1 = all equal, 0 = all in one.
    """

    sizes: npt.NDArray[np.int64]
    num_empty: int
    num_overfull: int
    overfull: float
    largest_share: float
    normalized_entropy: float


def cluster_sizes(pseudo_labels: npt.ArrayLike, num_clusters: int) -> ClusterSizes:
    """Count the images of each cluster, empty ones included.

    Args:
        pseudo_labels (array of shape `(samples,)`): Clusters of images, in [0, num_clusters).
        num_clusters: How many clusters there are.

    Returns:
        [`ClusterSizes`].

    Raises:
        ValueError: If there are no samples or a pseudo-label is out of range.
    """
    labels = np.asarray(pseudo_labels)
    if labels.ndim != 1 or labels.size == 0:
        raise ValueError(f"`pseudo_labels` must be a vector of length > 0, got shape {labels.shape}")
    if labels.min() < 0 or labels.max() >= num_clusters:
        raise ValueError(
            f"`pseudo_labels` must lie in [0, {num_clusters}), got {labels.min()} to {labels.max()}: "
            "leave images without one out, and count empty clusters in `num_clusters`"
        )
    sizes = np.bincount(labels, minlength=num_clusters)
    shares = sizes[sizes > 0] / labels.size
    overfull = 4 * labels.size / num_clusters
    entropy = float(-(shares * np.log(shares)).sum())
    return ClusterSizes(
        sizes=sizes,
        num_empty=int((sizes == 0).sum()),
        num_overfull=int((sizes > overfull).sum()),
        overfull=overfull,
        largest_share=float(shares.max()),
        normalized_entropy=abs(entropy) / math.log(num_clusters) if num_clusters > 1 else 1.0,
    )
