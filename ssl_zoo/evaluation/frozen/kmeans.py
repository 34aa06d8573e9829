"""k-means on features that need not fit in memory: Lloyd's iterations over blocks of rows, on any device."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from ssl_zoo.functional.distributed import rank


__all__ = ["KMeans", "kmeans"]

# Products of one block have one shape, whatever there is memory for, and sums are exact: nothing depends on the block.
_BLOCK_ROWS = 2048
_SEEDING_BYTES = 2**28
# Features are summed as whole numbers of this share of the largest: exact, so in any order, on any device.
_UNITS = 2.0**38
_MAX_ROWS = 2**24
# Distances below this share of the largest squared length are rounding errors of float32.
_SAME = 1e-10


@dataclass(frozen=True)
class KMeans:
    """Clusters of the rows.

    Attributes:
        centers (`torch.Tensor` of shape `(clusters, features)`): float32, on the CPU; of unit length if spherical.
        assignments (`torch.Tensor` of shape `(rows,)`): Nearest center of each row, int64, on the CPU.
        inertia: Sum of the squared distances of the rows to their centers, at each iteration; never rises.
        spherical: Whether rows are brought to unit length first.
        converged: Whether the assignments stood still before the iterations were used up.
    """

    centers: torch.Tensor
    assignments: torch.Tensor
    inertia: tuple[float, ...]
    spherical: bool
    converged: bool

    @torch.no_grad()
    def assign(
        self, features: torch.Tensor, *, device: torch.device | str | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Nearest center of other rows, such as those of the test split; the lower number on a tie.

        Args:
            features (`torch.Tensor` of shape `(rows, features)`): Any float type, also memory-mapped.
            device: Where to compute, the features' device by default.

        Returns:
            `tuple` of `torch.Tensor` of shape `(rows,)`: assignments, int64, and confidence, float32: the cosine to
            the center if spherical, minus the squared distance to it otherwise. Both on the CPU.

        Raises:
            ValueError: If shapes don't fit, or features are NaN or infinite.
        """
        _check(features)
        if self.centers.shape[1] != features.shape[1]:
            raise ValueError(f"the centers have {self.centers.shape[1]} features, the rows {features.shape[1]}")
        rows = _Rows(features, spherical=self.spherical, device=device)
        assignments, distances = _nearest(rows, self.centers.to(rows.device) - rows.shift)
        return assignments.cpu(), (1 - distances / 2 if self.spherical else -distances).cpu()


@torch.no_grad()
def kmeans(
    features: torch.Tensor,
    *,
    num_clusters: int,
    seed: int,
    num_iters: int = 100,
    num_init: int = 1,
    spherical: bool = True,
    device: torch.device | str | None = None,
) -> KMeans:
    r"""Centers c and assignments a that make sum_i |x_i - c_{a_i}|^2 small, by Lloyd's iterations from k-means++.

    With `spherical`, rows and centers have unit length, so the nearest center is that of the highest cosine. The
    first centers are drawn by greedy k-means++ (as in scikit-learn) from a random subset of at most 256 MB of float32
    (or `num_clusters` rows, if those are more). A cluster that loses all its rows is given the row that is farthest
    from its own center, of those left. Ends when no row changes its cluster.

    Memory besides the features: 2048 rows x (features + clusters), the subset, and 12 bytes for each row.

    Args:
        features (`torch.Tensor` of shape `(rows, features)`): Any float type, also memory-mapped; read in blocks.
        num_clusters: Number of clusters, in [1, rows].
        seed: Seed of the first centers; the same seed gives the same bits again on one machine.
        num_iters: Iterations at most, each an assignment of all rows.
        num_init: Runs from different first centers; the one with the lowest inertia is returned.
        spherical: Whether to bring rows and centers to unit length.
        device: Where to compute, the features' device by default.

    Returns:
        [`KMeans`].

    Raises:
        ValueError: If shapes or settings don't fit, or features are NaN or infinite.
    """
    _check(features, num_clusters=num_clusters, num_iters=num_iters, num_init=num_init)
    rows = _Rows(features, spherical=spherical, device=device)
    generator = torch.Generator().manual_seed(seed)
    runs = (
        _lloyd(rows, _first_centers(rows, num_clusters, generator), num_iters, f"k-means, run {run} of {num_init}")
        for run in range(1, num_init + 1)
    )
    return min(runs, key=lambda run: run.inertia[-1])


class _Rows:
    """The rows as they are clustered: float32 on the device, of unit length or around their mean, block by block."""

    def __init__(self, features: torch.Tensor, *, spherical: bool, device: torch.device | str | None) -> None:
        self._features, self.spherical = features, spherical
        self.device = torch.device(device) if device is not None else features.device
        self.shift = torch.zeros(features.shape[1], device=self.device)
        total, largest = torch.zeros(features.shape[1], dtype=torch.float64, device=self.device), 0.0
        for start, block in self:
            if not bool(block.isfinite().all()):
                row = start + int((~block.isfinite()).any(dim=1).nonzero()[0])
                raise ValueError(f"`features` hold infinite or NaN values, first in row {row}: the model has diverged")
            total += block.double().sum(dim=0)
            largest = max(largest, float(block.abs().max()))
        if not spherical:
            # Distances don't change, and products of rows far from 0 would lose them in rounding.
            self.shift, largest = (total / len(features)).float(), 2 * largest
        self.scale = largest or 1.0

    def __len__(self) -> int:
        return len(self._features)

    def __iter__(self) -> Iterator[tuple[int, torch.Tensor]]:
        for start in range(0, len(self), _BLOCK_ROWS):
            yield start, self._prepare(self._features[start : start + _BLOCK_ROWS])

    def __getitem__(self, index: torch.Tensor) -> torch.Tensor:
        return self._prepare(self._features[index.to(self._features.device)])

    def _prepare(self, rows: torch.Tensor) -> torch.Tensor:
        rows = rows.to(self.device).float()
        return F.normalize(rows, dim=1) if self.spherical else rows - self.shift

    def whole(self, values: torch.Tensor) -> torch.Tensor:
        """As whole numbers whose sums are exact."""
        return torch.round(values.double() * (_UNITS / self.scale)).to(torch.int64)


def _first_centers(rows: _Rows, num_clusters: int, generator: torch.Generator) -> torch.Tensor:
    """Greedy k-means++: each next center is the best of a few rows drawn by their squared distance to the nearest."""
    num_features = rows.shift.numel()
    size = min(len(rows), max(num_clusters, _SEEDING_BYTES // (4 * num_features)), max(8192, 10 * num_clusters))
    subset = rows[torch.randperm(len(rows), generator=generator)[:size].sort().values]
    lengths = subset.square().sum(dim=1)
    tries = 2 + int(math.log(num_clusters))
    chosen = int(torch.randint(size, (1,), generator=generator))
    centers = [subset[chosen]]
    nearest = (subset - subset[chosen]).square().sum(dim=1)
    for _ in range(1, num_clusters):
        # Drawn on the CPU: the generator's numbers and a sum in float64 are the same wherever the rows are.
        cumulated = nearest.cpu().double().cumsum(dim=0)
        drawn = torch.rand(tries, dtype=torch.float64, generator=generator) * cumulated[-1]
        candidates = torch.searchsorted(cumulated, drawn, right=True).clamp_(max=size - 1).to(rows.device)
        products = subset[candidates] @ subset.T
        distances = (lengths[candidates, None] + lengths - 2 * products).clamp_(min=0)
        distances[torch.arange(tries, device=rows.device), candidates] = 0
        closer = torch.minimum(distances, nearest)
        best = int(closer.double().sum(dim=1).argmin())
        nearest = closer[best]
        centers.append(subset[candidates[best]])
    return torch.stack(centers)


def _lloyd(rows: _Rows, centers: torch.Tensor, num_iters: int, description: str) -> KMeans:
    inertia: list[float] = []
    assignments = members = torch.full((len(rows),), -1, device=rows.device)
    sums = torch.zeros(centers.shape, dtype=torch.int64, device=rows.device)
    with tqdm(total=num_iters, desc=description, unit="it", disable=rank() != 0, leave=False) as bar:
        while True:
            previous = assignments
            assignments, distances = _nearest(rows, centers, members, sums)
            inertia.append(float(distances.double().sum()))
            bar.update()
            members = assignments.clone()
            moved = _fill_empty_clusters(rows, members, distances, sums)
            converged = torch.equal(assignments, previous) and not moved
            if converged or len(inertia) == num_iters:
                break
            centers = _means(rows, members, sums, centers)
    return KMeans((centers + rows.shift).cpu(), assignments.cpu(), tuple(inertia), rows.spherical, converged)


def _nearest(
    rows: _Rows, centers: torch.Tensor, members: torch.Tensor | None = None, sums: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Nearest center of each row, and the squared distance to it (float32).

    `sums`, those of the clusters that `members` says (-1 = none), become those of the nearest centers, in place: rows
    that stay, after a few iterations nearly all, cost nothing, and whole numbers keep no trace of what came and went.
    """
    assignments = torch.empty(len(rows), dtype=torch.int64, device=rows.device)
    distances = torch.empty(len(rows), device=rows.device)
    half_lengths = centers.square().sum(dim=1) / 2
    for start, block in rows:
        span = slice(start, start + len(block))
        nearest = (block @ centers.T - half_lengths).argmax(dim=1)
        assignments[span] = nearest
        # From the difference, as |x|^2 + |c|^2 - 2 xc loses short distances in rounding.
        distances[span] = (block - centers[nearest]).square().sum(dim=1)
        if members is not None and sums is not None:
            left = members[span]
            changed = nearest != left
            whole = rows.whole(block[changed])
            sums.index_add_(0, nearest[changed], whole)
            had_cluster = left[changed] >= 0
            sums.index_add_(0, left[changed][had_cluster], whole[had_cluster], alpha=-1)
    return assignments, distances


def _fill_empty_clusters(rows: _Rows, members: torch.Tensor, distances: torch.Tensor, sums: torch.Tensor) -> bool:
    """Move the rows farthest from their centers, but no cluster's only one, to the empty clusters, in place."""
    counts = torch.bincount(members, minlength=len(sums)).tolist()
    empty = [cluster for cluster, count in enumerate(counts) if count == 0]
    if not empty:
        return False
    farthest = distances.sort(descending=True, stable=True).indices
    farthest = farthest[: int((distances > _SAME * rows.scale**2).sum())].cpu()
    moved = False
    for row in farthest:
        if not empty:
            break
        source = int(members[row])
        if counts[source] > 1:
            target = empty.pop(0)
            counts[source] -= 1
            members[row] = target
            whole = rows.whole(rows[row[None]])[0]
            sums[source] -= whole
            sums[target] += whole
            moved = True
    return moved


def _means(rows: _Rows, members: torch.Tensor, sums: torch.Tensor, centers: torch.Tensor) -> torch.Tensor:
    """Centers of the clusters; where there is none (no rows, or spherical ones that cancel out) the old one stays."""
    counts = torch.bincount(members, minlength=len(sums))[:, None]
    means = sums.double() / counts.clamp(min=1) * (rows.scale / _UNITS)
    has_mean = counts > 0
    if rows.spherical:
        has_mean = has_mean & (means.norm(dim=1, keepdim=True) > 0)
        means = F.normalize(means, dim=1)
    return torch.where(has_mean, means.float(), centers)


def _check(features: torch.Tensor, *, num_clusters: int = 1, num_iters: int = 1, num_init: int = 1) -> None:
    if features.ndim != 2 or features.numel() == 0 or not features.is_floating_point():
        raise ValueError(
            "`features` must be floating-point numbers of shape (rows, features), with rows > 0; "
            f"got {features.dtype} of shape {tuple(features.shape)}"
        )
    if len(features) > _MAX_ROWS:
        raise ValueError(f"`features` must have at most {_MAX_ROWS:,} rows, got {len(features):,}: cluster a subset")
    if not 1 <= num_clusters <= len(features):
        raise ValueError(f"`num_clusters` must lie in [1, {len(features)}], the number of rows; got {num_clusters}")
    for name, value in (("num_iters", num_iters), ("num_init", num_init)):
        if value < 1:
            raise ValueError(f"`{name}` must be >= 1, got {value}")
