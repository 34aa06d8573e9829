"""Hard labels under the constraint that all clusters get equally many samples, over the samples of all processes."""

import math
import warnings
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from ssl_zoo.functional.distributed import broadcast_
from ssl_zoo.functional.exponents import LARGEST_RANGE
from ssl_zoo.functional.sinkhorn_kernel import ScaledKernel


__all__ = ["SinkhornSolution", "sinkhorn_labels", "sinkhorn_solve"]

# Sums in float32 know how many of a million samples a cluster has to this many.
_FLOAT32_ERROR = 3e-6
# Anderson's extrapolation from so many changes, in every so many iterations. In each one it is slower and may not
# converge at large strengths: a plain step in between evens out what was far from linear.
_DEPTH, _EXTRAPOLATE_EVERY = 8, 2
# Above this strength the solve is warmed up at lower ones, doubling. Plain iterations crawl: with 20,000 x 128 at
# strength 1000, 2,000 of them left the largest cluster 2.4 times the smallest; warmed up, 1.03 times.
_DIRECT_STRENGTH = 25.0
_WARM_UP_TOLERANCE, _WARM_UP_ITERS = 1e-2, 200  # the tolerance is per sample
# A solve for every 16th row, then every 4th, makes the start when they leave so many rows a cluster.
_COARSE_STEPS, _COARSE_ROWS = (16, 4), 20


class SinkhornSolution(NamedTuple):
    """Labels, and how they were found.

    Attributes:
        labels (`torch.Tensor` of shape `(rows,)`): int64, on the device of the scores; of this process's rows.
        column_potentials (`torch.Tensor` of shape `(num_clusters,)`): float64, log r of the docstring below up to a
            constant; -inf for a cluster that is impossible for every sample. The same on every process.
        num_iters (`int`): Iterations done, those for the start included.
        error (`float`): Samples that are in the wrong cluster, see below, counted before the last iteration.
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
    max_iters: int = 5000,
    chunk_rows: int | None = None,
    max_kernel_bytes: int = 2**29,
) -> torch.Tensor:
    """Equipartitioned labels `(rows,)`, int64, of this process's rows; see `sinkhorn_solve`, of which it is a part."""
    return sinkhorn_solve(
        log_probabilities,
        strength=strength,
        tolerance=tolerance,
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
    max_iters: int = 5000,
    chunk_rows: int | None = None,
    max_kernel_bytes: int = 2**29,
    device: torch.device | None = None,
) -> SinkhornSolution:
    r"""Optimal transport of samples to clusters of equal size (SeLa, https://huggingface.co/papers/1911.05371).

    With p_i the softmax of a head for sample i, finds Q (N x K, entries >= 0) that minimises

        - sum_ij Q_ij log p_ij - (1 / strength) H(Q)      with      sum_j Q_ij = 1/N,      sum_i Q_ij = 1/K

    over the rows of all processes. Its form is Q = diag(c) P diag(r) with P_ij = p_ij^strength, and Sinkhorn-Knopp
    finds the scalings: repeat r_j = (1/K) / sum_i P_ij c_i and c_i = (1/N) / sum_j P_ij r_j. The authors stop when
    sum_i |c_i / c_i,new - 1| < 0.1 (1e-2 on CIFAR), looked at in every 10th iteration. Here the error is how many
    samples each cluster has too many or too few, sum_j |N sum_i Q_ij - N/K|, after the rows have been scaled: it is
    never below the authors' (c_i / c_i,new is a mean over j of r_j,new / r_j with weights N Q_ij), needs no more than
    the iteration computes, and is looked at in each. The label is argmax_j Q_ij; as the strength grows, Q goes to a
    vertex of the transport polytope.

    Plain iterations crawl when probabilities are peaked. So every other r is extrapolated (Anderson: the combination
    of the last few iterates whose changes cancel best): a hundred iterations instead of thousands.

    P underflows float32 at strength 25. Here a kernel with rows and columns scaled so that each holds a 1 stands in
    for it, the scalings are kept as logarithms in float64, and the kernel is scaled anew when they have come e^40
    apart: nothing under- or overflows at any strength. An iteration is one pass over the rows in chunks, with two
    matrix-vector products a chunk, and one all-reduce of num_clusters numbers. Products are float32 until float64 is
    needed to see the error (in float32 the rounding of a million rows alone is above the tolerance). The kernel
    (float32) is kept when it fits `max_kernel_bytes`; else exponentials are taken in every iteration and memory is
    bounded by a few chunks plus a float64 number a row, so that a memory-mapped tensor larger than the memory can be
    solved.

    The start is r = 1 (so constants added to rows change nothing); with many rows a cluster, the scalings of a part of
    the rows; above strength 25, those of half the strength, found in the same way to a looser tolerance.

    Ties: entries of a row of log Q within 1e-7 of its largest count as equal, and the sample takes the t-th of them, t
    being its row number (over all processes, in their order) modulo their count. So clusters or samples that can't be
    told apart are dealt out evenly, and always in the same way.

    Args:
        log_probabilities (`torch.Tensor` of shape `(rows, num_clusters)`): This process's rows; a constant may be
            added to each. Any floating dtype, -inf allowed where a sample can't be in a cluster. The number of rows
            may differ between processes (0 is allowed), `num_clusters` may not. On the CPU it may be memory-mapped (a
            NumPy memory map is taken as it is); it is only read, chunk by chunk.
        strength: Exponent lambda, > 0 (authors: 25 on ImageNet, 10 on CIFAR). Also the inverse weight of the entropy.
        tolerance: Largest error, in samples, > 0. It is a sum over all clusters: 0.1 is strict for a million.
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
    counts = {"max_iters": max_iters, "chunk_rows": 1 if chunk_rows is None else chunk_rows}
    _check(log_probabilities, strength, tolerance, **counts)
    device = log_probabilities.device if device is None else torch.device(device)
    with torch.autocast(device_type=device.type, enabled=False):
        make = partial(ScaledKernel, device=device, chunk_rows=chunk_rows, max_kernel_bytes=max_kernel_bytes)
        return _solve(make, log_probabilities, strength, tolerance, max_iters)


def _solve(
    make: Callable[[torch.Tensor], ScaledKernel],
    log_p: torch.Tensor,
    strength: float,
    tolerance: float,
    max_iters: int,
) -> SinkhornSolution:
    rows = make(log_p)
    doublings = max(0, math.ceil(math.log2(strength / _DIRECT_STRENGTH)))
    stages = [(step, doublings) for step in _COARSE_STEPS if rows.num_rows >= step * _COARSE_ROWS * rows.num_clusters]
    stages += [(1, halvings) for halvings in range(doublings, 0, -1)]
    log_r, before = torch.zeros(rows.num_clusters, dtype=torch.float64, device=rows.device), 0
    # The potentials divided by the strength, the prices of the clusters, hardly change from stage to stage.
    for step, halvings in stages:
        part = rows if step == 1 else make(log_p[::step])
        part.strength = strength / 2**halvings
        prices, done, _ = _iterate(part, log_r * part.strength, _WARM_UP_TOLERANCE * part.num_rows, _WARM_UP_ITERS)
        log_r, before = prices / part.strength, before + done
        del part  # and its kernel
    rows.strength = strength
    log_r, done, error = _iterate(rows, log_r * strength, tolerance, max_iters)
    log_r = log_r.masked_fill(~rows.possible, -math.inf)
    if not error < tolerance:
        warnings.warn(
            f"sinkhorn did not converge in `max_iters` = {max_iters} iterations: error {error:.3g}, `tolerance` "
            f"{tolerance:g}, `strength` {strength:g}. The clusters' sizes are less equal than they could be: raise "
            f"`max_iters` or `tolerance`, or lower `strength`",
            stacklevel=4,
        )
    return SinkhornSolution(rows.labels(log_r), log_r, before + done, error, error < tolerance)


def _iterate(
    rows: ScaledKernel, log_r: torch.Tensor, tolerance: float, max_iters: int
) -> tuple[torch.Tensor, int, float]:
    """Iterate from `log_r` at one strength; returns the last `log_r`, the iterations done and the last error."""
    rows.rescale(log_r)
    scaled_at, samples_per_cluster = log_r, rows.num_rows / int(rows.possible.sum())
    visible = _FLOAT32_ERROR * rows.num_rows
    precise, fallback = False, log_r
    images, steps, lowest = list[torch.Tensor](), list[torch.Tensor](), math.inf
    for iteration in range(1, max_iters + 1):
        log_column_sums, log_row_sums = rows.log_sums(log_r, precise)
        image = torch.where(rows.possible, math.log(samples_per_cluster) - log_column_sums, log_r)
        # A cluster has r_j / r_j,new times the samples that it should have.
        error = samples_per_cluster * float(torch.expm1(log_r - image).abs().sum())
        if error < max(tolerance, 0.0 if precise else visible):
            if precise or tolerance >= visible:
                break
            # What float32 has seen differs by its rounding from what float64 will see: nothing to extrapolate from.
            precise, lowest, log_r, images, steps = True, math.inf, image, [], []
            continue
        # What Sinkhorn steps minimise, and lower each time; an extrapolation that doesn't is taken back.
        value = float(log_row_sums - samples_per_cluster * log_r[rows.possible].sum())
        if value > lowest + visible:
            log_r, images, steps = fallback, [], []
        else:
            images, steps = [*images[-_DEPTH:], image], [*steps[-_DEPTH:], image - log_r]
            lowest, log_r, fallback = value, image, image
            if iteration % _EXTRAPOLATE_EVERY == 0 and len(steps) > 1:
                log_r = broadcast_(_extrapolated(images, steps))
        moved = log_r - scaled_at
        if float(moved.max() - moved.min()) > LARGEST_RANGE:
            rows.rescale(log_r)
            scaled_at = log_r
    return image, iteration, error


def _extrapolated(images: list[torch.Tensor], steps: list[torch.Tensor]) -> torch.Tensor:
    """Where the fixed point is if each change of the last `images` came with its change of `steps`, linearly."""
    changes, moves = torch.stack(steps).diff(dim=0), torch.stack(images).diff(dim=0)
    # Of rank below its size when nothing changes any more; only this driver, on the CPU, allows for that.
    shares: torch.Tensor = torch.linalg.lstsq(changes.T.cpu(), steps[-1].unsqueeze(1).cpu(), driver="gelsd").solution
    return images[-1] - moves.T @ shares.squeeze(1).to(moves.device)


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
