"""Hard labels under the constraint that all clusters get equally many samples, over the samples of all processes."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from typing import NamedTuple

import torch

from ssl_zoo.functional.distributed import all_gather_rows, all_reduce_max_, all_reduce_sum_, rank


__all__ = ["SinkhornSolution", "sinkhorn_labels", "sinkhorn_solve"]

# Scaling factors of the columns may be e^40 apart before the kernel is rescaled: what float32 has flushed to 0 in the
# kernel (below 1e-38) could by then have reached 1e-20 of a sum. One iteration widens the range by at most ln(N K).
_LARGEST_RANGE = 40.0
# log Q_ij this close to the largest of its row count as equal to it: columns or rows that are equal in exact
# arithmetic differ by rounding alone, and Q itself is known to `tolerance` only.
_TIE = 1e-7
# Above this strength the solve is warmed up at lower ones, doubling. Plain iterations crawl: with 20,000 x 128 at
# strength 1000, 2,000 of them left the largest cluster 2.4 times the smallest; warmed up, 1.03 times.
_DIRECT_STRENGTH = 25.0
_WARM_UP_TOLERANCE, _WARM_UP_ITERS = 1e-2, 200  # the tolerance is per sample
_CHUNK_ELEMENTS = {"cpu": 2**19, "cuda": 2**24}  # a chunk in float64 fits a CPU's cache, and fills a GPU


class SinkhornSolution(NamedTuple):
    """Labels, and how they were found.

    Attributes:
        labels (`torch.Tensor` of shape `(rows,)`): int64, on the device of the scores; of this process's rows.
        column_potentials (`torch.Tensor` of shape `(num_clusters,)`): float64, log r of the docstring below up to a
            constant; -inf for a cluster that is impossible for every sample. The same on every process.
        num_iters (`int`): Iterations done, those at lower strengths included.
        error (`float`): sum_i |c_i / c_i,new - 1| where it was last checked.
        converged (`bool`): Whether that is below the tolerance.
    """

    labels: torch.Tensor
    column_potentials: torch.Tensor
    num_iters: int
    error: float
    converged: bool


def sinkhorn_labels(
    log_probabilities: torch.Tensor,
    *,
    strength: float,
    tolerance: float = 0.1,
    check_every: int = 10,
    max_iters: int = 5000,
    chunk_rows: int | None = None,
    max_kernel_bytes: int = 2**29,
) -> torch.Tensor:
    """Equipartitioned labels `(rows,)`, int64, of this process's rows; see `sinkhorn_solve`, of which it is a part."""
    return sinkhorn_solve(
        log_probabilities,
        strength=strength,
        tolerance=tolerance,
        check_every=check_every,
        max_iters=max_iters,
        chunk_rows=chunk_rows,
        max_kernel_bytes=max_kernel_bytes,
    ).labels


@torch.no_grad()
def sinkhorn_solve(
    log_probabilities: torch.Tensor,
    *,
    strength: float,
    tolerance: float = 0.1,
    check_every: int = 10,
    max_iters: int = 5000,
    chunk_rows: int | None = None,
    max_kernel_bytes: int = 2**29,
    device: torch.device | None = None,
) -> SinkhornSolution:
    r"""Optimal transport of samples to clusters of equal size (SeLa, https://huggingface.co/papers/1911.05371).

    With p_i the softmax of a head for sample i, finds Q (N x K, entries >= 0) that minimises

        - sum_ij Q_ij log p_ij - (1 / strength) H(Q)      with      sum_j Q_ij = 1/N,      sum_i Q_ij = 1/K

    over the rows of all processes. Its form is Q = diag(c) P diag(r) with P_ij = p_ij^strength, and Sinkhorn-Knopp
    finds the scalings: repeat r_j = (1/K) / sum_i P_ij c_i and c_i = (1/N) / sum_j P_ij r_j, until
    sum_i |c_i / c_i,new - 1| < `tolerance`, looked at in every `check_every`-th iteration (authors: 0.1, every 10th;
    1e-2 on CIFAR). The label is argmax_j Q_ij; as the strength grows, Q goes to a vertex of the transport polytope.

    P underflows float32 at strength 25. Here a kernel with rows and columns scaled so that each holds a 1 stands in
    for it, the scalings are kept as logarithms in float64, and the kernel is scaled anew when they have come e^40
    apart: nothing under- or overflows at any strength, and no iterate changes. An iteration is one pass over the rows
    in chunks, with two matrix-vector products a chunk, summed in float64 (in float32 the rounding of a million rows
    alone is above the tolerance), and one all-reduce of num_clusters numbers. The kernel (float32) is kept when it
    fits `max_kernel_bytes`; else exponentials are taken in every iteration and memory is bounded by a few chunks plus
    three float64 numbers a row, so that a memory-mapped tensor larger than the memory can be solved.

    The start is r = 1 (so constants added to rows change nothing) or, above strength 25, the scalings of half the
    strength, found in the same way to a looser tolerance.

    Ties: entries of a row of log Q within 1e-7 of its largest count as equal, and the sample takes the t-th of them, t
    being its row number (over all processes, in their order) modulo their count. So clusters or samples that can't be
    told apart are dealt out evenly, and always in the same way.

    Args:
        log_probabilities (`torch.Tensor` of shape `(rows, num_clusters)`): This process's rows; a constant may be
            added to each. Any floating dtype, -inf allowed where a sample can't be in a cluster. The number of rows
            may differ between processes (0 is allowed), `num_clusters` may not. On the CPU it may be memory-mapped (a
            NumPy memory map is taken as it is); it is only read, chunk by chunk.
        strength: Exponent lambda, > 0 (authors: 25 on ImageNet, 10 on CIFAR). Also the inverse weight of the entropy.
        tolerance: See above, > 0. It is a sum over all rows: 0.1 is strict for a million.
        check_every: Iterations between two checks, >= 1.
        max_iters: Iterations after which the labels of an unfinished solve are returned with a warning.
        chunk_rows: Rows at a time; `None` chooses.
        max_kernel_bytes: Keep the kernel if rows x num_clusters x 4 bytes are at most this, on each process.
        device: Where to compute and reduce, for rows kept beside a GPU; that of `log_probabilities` if `None`.

    Returns:
        [`SinkhornSolution`]: labels of this process's rows, scalings and iterations.

    Raises:
        ValueError: If an argument is out of its range, or a row has no finite entry, a NaN or a +inf.
    """
    log_probabilities = torch.as_tensor(log_probabilities)
    counts = {
        "check_every": check_every,
        "max_iters": max_iters,
        "chunk_rows": 1 if chunk_rows is None else chunk_rows,
    }
    _check(log_probabilities, strength, tolerance, **counts)
    device = log_probabilities.device if device is None else torch.device(device)
    with torch.autocast(device_type=device.type, enabled=False):
        rows = _Rows(log_probabilities, strength, device, chunk_rows, max_kernel_bytes)
        return _solve(rows, tolerance, check_every, max_iters)


def _solve(rows: _Rows, tolerance: float, check_every: int, max_iters: int) -> SinkhornSolution:
    strength, log_r = rows.strength, torch.zeros(rows.num_clusters, dtype=torch.float64, device=rows.device)
    warm_up_iters = 0
    for halvings in range(max(0, math.ceil(math.log2(strength / _DIRECT_STRENGTH))), 0, -1):
        rows.strength = strength / 2**halvings
        log_r, done, _ = _iterate(rows, log_r, _WARM_UP_TOLERANCE * rows.num_rows, check_every, _WARM_UP_ITERS)
        # The potentials divided by the strength, the prices of the clusters, hardly change from here on.
        log_r, warm_up_iters = 2.0 * log_r, warm_up_iters + done
    rows.strength = strength
    log_r, done, error = _iterate(rows, log_r, tolerance, check_every, max_iters)
    if not error < tolerance:
        warnings.warn(
            f"sinkhorn did not converge in `max_iters` = {max_iters} iterations: error {error:.3g}, `tolerance` "
            f"{tolerance:g}, `strength` {strength:g}. The clusters' sizes are less equal than they could be: raise "
            f"`max_iters` or `tolerance`, or lower `strength`",
            stacklevel=4,
        )
    return SinkhornSolution(rows.labels(log_r), log_r, warm_up_iters + done, error, error < tolerance)


def _iterate(
    rows: _Rows, log_r: torch.Tensor, tolerance: float, check_every: int, max_iters: int
) -> tuple[torch.Tensor, int, float]:
    """Iterate from `log_r` at one strength; returns the last `log_r`, the iterations done and the last error."""
    possible = rows.rescale(log_r)
    log_mean = math.log(rows.num_rows) - math.log(int(possible.sum()))  # log of the samples per cluster
    # sum_j P_ij r_j is, up to a factor of the row, sum_j kernel_ij w_j. An impossible cluster has a column of zeros.
    log_w = (log_r - rows.column_shift).masked_fill(~possible, -math.inf)
    log_sums, error = torch.zeros_like(rows.row_shift), math.inf
    for iteration in range(1, max_iters + 1):
        previous = log_sums
        column_sums, log_sums = rows.sweep(log_w.exp())
        log_w = torch.where(possible, log_mean - column_sums.log(), log_w)
        log_r = log_w + rows.column_shift
        if iteration % check_every == 0 and iteration > 1:  # c has no predecessor in the first
            # c_i / c_i,new, where log c_i = -log N - log_sums_i
            error = float(all_reduce_sum_(torch.expm1(log_sums - previous).abs().sum()))
            if error < tolerance:
                break
        if float(log_w[possible].max() - log_w[possible].min()) > _LARGEST_RANGE:
            rows.rescale(log_r)
            log_w = log_r - rows.column_shift
    return log_r, iteration, error


class _Rows:
    """This process's kernel_ij = exp(strength log p_ij + column_shift_j - row_shift_i); see `sinkhorn_solve`."""

    def __init__(
        self,
        log_probabilities: torch.Tensor,
        strength: float,
        device: torch.device,
        chunk_rows: int | None,
        max_kernel_bytes: int,
    ) -> None:
        self.strength, self.device = strength, device
        self._stored = log_probabilities
        count, self.num_clusters = log_probabilities.shape
        per_chunk = _CHUNK_ELEMENTS.get(device.type, _CHUNK_ELEMENTS["cuda"])
        size = chunk_rows or max(per_chunk // self.num_clusters, 1)
        self._slices = [slice(start, min(start + size, count)) for start in range(0, count, size)]
        self._dtype = torch.promote_types(log_probabilities.dtype, torch.float32)
        kept = count * self.num_clusters * self._dtype.itemsize <= max_kernel_bytes
        self._kernel = torch.empty(count, self.num_clusters, dtype=self._dtype, device=device) if kept else None
        self.row_shift = torch.zeros(count, dtype=torch.float64, device=device)
        self.column_shift = torch.zeros(self.num_clusters, dtype=torch.float64, device=device)
        self.num_rows = int(all_reduce_sum_(torch.tensor(count, device=device)))
        if not self.num_rows:
            raise ValueError("`log_probabilities` must have rows on some process, got none on any")

    def _powers(self) -> Iterator[tuple[slice, torch.Tensor]]:
        """Chunks of strength x log p in float64: the differences taken below would lose digits in float32."""
        for chunk in self._slices:
            yield chunk, self._stored[chunk].to(self.device, torch.float64) * self.strength

    def _kernels(self) -> Iterator[tuple[slice, torch.Tensor]]:
        if self._kernel is not None:
            yield from ((chunk, self._kernel[chunk]) for chunk in self._slices)
            return
        for chunk, powers in self._powers():
            yield chunk, self._scaled(chunk, powers)

    def _scaled(self, chunk: slice, powers: torch.Tensor) -> torch.Tensor:
        powers += self.column_shift
        powers -= self.row_shift[chunk].unsqueeze(1)
        return powers.to(self._dtype).exp_()

    def rescale(self, log_r: torch.Tensor) -> torch.Tensor:
        """Choose the shifts such that the largest P_ij r_j of each row, and then of each column, becomes a 1.

        Returns:
            `torch.Tensor` of shape `(num_clusters,)`: which clusters are possible for some sample.
        """
        column_maxima = torch.full_like(log_r, -math.inf)
        for chunk, powers in self._powers():
            powers += log_r
            self.row_shift[chunk] = powers.amax(dim=1)
            powers -= self.row_shift[chunk].unsqueeze(1)
            column_maxima = torch.maximum(column_maxima, powers.amax(dim=0))
        bad = int(all_reduce_sum_((~self.row_shift.isfinite()).sum()))
        if bad:
            raise ValueError(
                f"`log_probabilities` must be finite or -inf, with a finite entry in each row; {bad} of "
                f"{self.num_rows} rows are not. A NaN usually means that the training has diverged"
            )
        all_reduce_max_(column_maxima)
        possible = column_maxima.isfinite()
        self.column_shift = torch.where(possible, log_r - column_maxima, 0.0)
        if self._kernel is not None:
            for chunk, powers in self._powers():
                self._kernel[chunk] = self._scaled(chunk, powers)
        return possible

    def sweep(self, weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """One iteration's two matrix-vector products.

        Args:
            weights (`torch.Tensor` of shape `(num_clusters,)`): float64; r in the kernel's scale.

        Returns:
            Global sums_i kernel_ij / s_i with s_i = sum_j kernel_ij weights_j, `(num_clusters,)`, and the logarithm of
            sum_j P_ij r_j, `(rows,)`, which depends on no scale.
        """
        log_sums = torch.empty_like(self.row_shift)
        column_sums = torch.zeros_like(weights)
        for chunk, kernel in self._kernels():
            precise = kernel.to(torch.float64)
            sums = torch.mv(precise, weights)
            column_sums += torch.mv(precise.T, sums.reciprocal())
            torch.add(self.row_shift[chunk], sums.log(), out=log_sums[chunk])
        return all_reduce_sum_(column_sums), log_sums

    def labels(self, log_r: torch.Tensor) -> torch.Tensor:
        """Largest entry of each row of P diag(r), ties dealt out by row number."""
        count = torch.tensor([len(self._stored)], device=self.device)
        first = int(all_gather_rows(count)[: rank()].sum())
        labels = torch.empty(len(self._stored), dtype=torch.int64, device=self.device)
        for chunk, powers in self._powers():
            powers += log_r
            tied = powers >= powers.amax(dim=1, keepdim=True) - _TIE
            numbers = torch.arange(first + chunk.start, first + chunk.stop, device=self.device)
            wanted = numbers.remainder(tied.sum(dim=1)).unsqueeze(1)
            labels[chunk] = (tied & (tied.cumsum(dim=1) == wanted + 1)).int().argmax(dim=1)
        return labels.to(self._stored.device)


def _check(log_probabilities: torch.Tensor, strength: float, tolerance: float, **counts: int) -> None:
    if log_probabilities.ndim != 2 or log_probabilities.shape[1] == 0:
        shape = tuple(log_probabilities.shape)
        raise ValueError(f"`log_probabilities` must have shape (rows, num_clusters), got {shape}")
    if not log_probabilities.is_floating_point():
        raise ValueError(f"`log_probabilities` must be floating point, got {log_probabilities.dtype}")
    if not 0.0 < strength < math.inf:
        raise ValueError(f"`strength` must be > 0 and finite, got {strength}")
    if not tolerance > 0.0:
        raise ValueError(f"`tolerance` must be > 0, got {tolerance}")
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}")
