"""Diagnostics of features without labels: effective rank, eigenvalue decay, alignment, uniformity."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from ssl_zoo.evaluation.metrics.cluster_sizes import ClusterSizes, cluster_sizes
from ssl_zoo.functional.distributed import rank
from ssl_zoo.functional.information import effective_rank


__all__ = ["Spectrum", "measure_spectrum"]

Array = npt.NDArray[np.float64]

# Fixed, so that sums are added up in one order: 64 MB of float64 for 2048 features, 32 MB for pairs with 16,384 rows.
_BLOCK_ROWS, _PAIR_BLOCK_ROWS = 4096, 256
_HISTOGRAM_BINS = 100


@dataclass(frozen=True)
class Spectrum:
    """Diagnostics of a table of features.

    Attributes:
        num_rows: Rows of the features.
        num_features: Their width.
        rankme: Effective rank in [1, features]: exp of the entropy of the singular values of the features (not
            centred), scaled to sum 1; 0 if all features are 0.
        participation_ratio: (sum of eigenvalues)^2 / sum of their squares, in [1, features]; 0 if all rows are equal.
        alpha: Exponent of the decay eigenvalue_i ~ i^-alpha; `None` if fewer than 3 eigenvalues are to be fitted.
        alpha_range: First and last number i (from 1) of the fitted eigenvalues: from 1/50 to 1/2 of the positive ones.
        alpha_offset: Logarithm of the fitted line at i = 1.
        uniformity: log of the mean of exp(-2 |x - y|^2) over pairs of different rows of unit length; 0 if all are
            equal, near -4 if they fill a sphere of many dimensions.
        mean_cosine: Mean cosine of those pairs.
        num_pair_rows: Rows that the pairs were made of; a random subset where there are more.
        alignment: Mean squared distance of the two views of an image, of unit length; `None` without second views.
        eigenvalues (`numpy.ndarray` of shape `(features,)`): Of the covariance, decreasing; rounding errors are 0.
        singular_values (`numpy.ndarray` of shape `(features,)`): Of the features, decreasing; rounding errors are 0.
        cosine_counts (`numpy.ndarray` of shape `(100,)`): Pairs by their cosine, in equal bins from -1 to 1.
        clusters ([`ClusterSizes`], *optional*): Where pseudo-labels were given.
    """

    num_rows: int
    num_features: int
    rankme: float
    participation_ratio: float
    alpha: float | None
    alpha_range: tuple[int, int]
    alpha_offset: float | None
    uniformity: float
    mean_cosine: float
    num_pair_rows: int
    alignment: float | None
    eigenvalues: Array
    singular_values: Array
    cosine_counts: npt.NDArray[np.int64]
    clusters: ClusterSizes | None

    def numbers(self) -> dict[str, float]:
        """The single numbers that were measured, by name; those of the clusters begin with `cluster_`."""
        names = ("rankme", "participation_ratio", "alpha", "uniformity", "mean_cosine", "alignment")
        numbers: dict[str, float | None] = {name: getattr(self, name) for name in names}
        if self.clusters is not None:
            numbers |= {
                "cluster_entropy": self.clusters.normalized_entropy,
                "cluster_num_empty": self.clusters.num_empty,
                "cluster_num_overfull": self.clusters.num_overfull,
                "cluster_largest_share": self.clusters.largest_share,
            }
        return {name: float(value) for name, value in numbers.items() if value is not None}


@torch.no_grad()
def measure_spectrum(
    features: torch.Tensor,
    second_view: torch.Tensor | None = None,
    *,
    pseudo_labels: npt.ArrayLike | None = None,
    num_clusters: int | None = None,
    seed: int = 0,
    max_pair_rows: int = 16384,
    device: torch.device | str | None = None,
) -> Spectrum:
    """Measure rank, eigenvalue decay, alignment and uniformity of features, and the sizes of clusters.

    RankMe: https://huggingface.co/papers/2210.02885. Alignment (power 2) and uniformity (t = 2):
    https://huggingface.co/papers/2005.10242. The features are read in blocks, twice; sums and products of their
    columns are float64, (features x features). Pairs are taken of all rows, or of `max_pair_rows` drawn by `seed`.

    Args:
        features (`torch.Tensor` of shape `(rows, features)`): Any float type, on the CPU (memory-mapped too) or a GPU.
        second_view (`torch.Tensor` of shape `(rows, features)`, *optional*): Of other views of the same images.
        pseudo_labels (array of shape `(samples,)`, *optional*): Clusters of images, not necessarily of the same.
        num_clusters (*optional*): How many clusters there are, empty ones too; goes with `pseudo_labels`.
        seed: Draws the rows that pairs are made of.
        max_pair_rows: Rows at most that pairs are made of.
        device: Where to compute, the features' device by default.

    Returns:
        [`Spectrum`]: the same bits for the same arguments, on one machine.

    Raises:
        ValueError: If shapes or values don't fit, or features are NaN or infinite.
    """
    _check(features, second_view, max_pair_rows)
    if (pseudo_labels is None) != (num_clusters is None):
        raise ValueError("give `pseudo_labels` and `num_clusters` both, or neither")
    clusters = None
    if pseudo_labels is not None and num_clusters is not None:
        clusters = cluster_sizes(pseudo_labels, num_clusters)
    where = torch.device(device) if device is not None else features.device
    mean, scatter = _moments(features, where)
    # What the rounding of the mean alone may leave of rows that are all equal.
    rounding = float(mean.square().sum()) * len(features) * np.finfo(np.float64).eps ** 2
    eigenvalues = _eigenvalues(scatter / len(features), rounding)
    singular_values = np.sqrt(_eigenvalues(scatter + len(features) * torch.outer(mean, mean)))
    alpha, alpha_offset, alpha_range = _fit_decay(eigenvalues)
    uniformity, mean_cosine, counts, num_pair_rows = _pairs(features, seed, max_pair_rows, where)
    return Spectrum(
        num_rows=len(features),
        num_features=features.shape[1],
        rankme=float(effective_rank(torch.from_numpy(singular_values))),
        participation_ratio=float(eigenvalues.sum() ** 2 / (eigenvalues**2).sum()) if eigenvalues[0] > 0 else 0.0,
        alpha=alpha,
        alpha_range=alpha_range,
        alpha_offset=alpha_offset,
        uniformity=uniformity,
        mean_cosine=mean_cosine,
        num_pair_rows=num_pair_rows,
        alignment=None if second_view is None else _alignment(features, second_view, where),
        eigenvalues=eigenvalues,
        singular_values=singular_values,
        cosine_counts=counts,
        clusters=clusters,
    )


def _blocks(features: torch.Tensor, device: torch.device, description: str) -> Iterator[torch.Tensor]:
    """Blocks of rows in float64 on the device; NaN and infinity are refused."""
    starts = range(0, len(features), _BLOCK_ROWS)
    for start in tqdm(starts, desc=description, unit="block", disable=rank() != 0, leave=False):
        block = features[start : start + _BLOCK_ROWS].to(device).double()
        if not bool(block.isfinite().all()):
            row = start + int((~block.isfinite()).any(dim=1).nonzero()[0])
            raise ValueError(f"`features` hold infinite or NaN values, first in row {row}: the model has diverged")
        yield block


def _moments(features: torch.Tensor, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean (features,) and sum of the outer products of the rows minus the mean (features, features), float64.

    Two passes: the difference of two large sums would lose a small covariance far from 0.
    """
    width = features.shape[1]
    total = torch.zeros(width, dtype=torch.float64, device=device)
    for block in _blocks(features, device, "mean of the features"):
        total += block.sum(dim=0)
    mean = total / len(features)
    scatter = torch.zeros(width, width, dtype=torch.float64, device=device)
    for block in _blocks(features, device, "covariance"):
        centred = block - mean
        scatter += centred.T @ centred
    return mean, scatter


def _eigenvalues(matrix: torch.Tensor, rounding: float = 0.0) -> Array:
    """Decreasing; what may be error of the solver (as in numpy's `matrix_rank`) or at most `rounding` is 0."""
    values: Array = torch.linalg.eigvalsh(matrix).flip(0).cpu().numpy()
    tolerance = max(float(values[0]) * len(values) * np.finfo(np.float64).eps, rounding)
    return np.where(values > tolerance, values, 0.0)


def _fit_decay(eigenvalues: Array) -> tuple[float | None, float | None, tuple[int, int]]:
    """Exponent, offset and range of the power law: least squares on logarithms, every eigenvalue with equal weight.

    The first few are single directions, the last are noise of the sample and of rounding: both bend the line.
    """
    positive = int((eigenvalues > 0).sum())
    first, last = max(1, math.ceil(positive / 50)), positive // 2
    if last - first + 1 < 3:
        return None, None, (first, last)
    numbers = np.log(np.arange(first, last + 1))
    slope, offset = np.polyfit(numbers, np.log(eigenvalues[first - 1 : last]), 1)
    return -float(slope), float(offset), (first, last)


def _alignment(features: torch.Tensor, second_view: torch.Tensor, device: torch.device) -> float:
    pairs = zip(_blocks(features, device, "alignment"), _blocks(second_view, device, "second view"), strict=True)
    distances = (F.normalize(first, dim=1) - F.normalize(second, dim=1) for first, second in pairs)
    return sum(float(distance.square().sum()) for distance in distances) / len(features)


def _pairs(
    features: torch.Tensor, seed: int, max_rows: int, device: torch.device
) -> tuple[float, float, npt.NDArray[np.int64], int]:
    """Uniformity, mean cosine, histogram of the cosines, and number of rows, over pairs of different rows."""
    rows = features
    if len(rows) > max_rows:
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:max_rows].sort().values
        rows = features[chosen.to(features.device)]
    rows = F.normalize(rows.to(device).float(), dim=1)
    lengths = rows.square().sum(dim=1)  # 1, or 0 of a row of zeros, which has no direction
    potential = cosines = 0.0
    counts = torch.zeros(_HISTOGRAM_BINS, dtype=torch.int64)
    starts = range(0, len(rows), _PAIR_BLOCK_ROWS)
    for start in tqdm(starts, desc="pairs", unit="block", disable=rank() != 0, leave=False):
        block = rows[start : start + _PAIR_BLOCK_ROWS]
        products = block @ rows[start:].T
        later = torch.ones_like(products, dtype=torch.bool).triu_(diagonal=1)
        products = products[later].double()
        squared = (lengths[start : start + len(block), None] + lengths[start:])[later] - 2 * products
        potential += float(torch.exp(-2 * squared.clamp_(min=0)).sum())
        cosines += float(products.sum())
        bins = ((products.clamp_(-1, 1) + 1) * (_HISTOGRAM_BINS / 2)).long().clamp_(max=_HISTOGRAM_BINS - 1)
        counts += torch.bincount(bins, minlength=_HISTOGRAM_BINS).cpu()
    num_pairs = len(rows) * (len(rows) - 1) // 2
    return math.log(potential / num_pairs), cosines / num_pairs, counts.numpy(), len(rows)


def _check(features: torch.Tensor, second_view: torch.Tensor | None, max_pair_rows: int) -> None:
    if features.ndim != 2 or features.shape[1] == 0 or len(features) < 2 or not features.is_floating_point():
        raise ValueError(
            "`features` must be floating-point numbers of shape (rows, features), with 2 rows or more; "
            f"got {features.dtype} of shape {tuple(features.shape)}"
        )
    if second_view is not None and second_view.shape != features.shape:
        raise ValueError(
            f"`second_view` must have the features' shape {tuple(features.shape)}, got {tuple(second_view.shape)}"
        )
    if max_pair_rows < 2:
        raise ValueError(f"`max_pair_rows` must be >= 2, got {max_pair_rows}")
