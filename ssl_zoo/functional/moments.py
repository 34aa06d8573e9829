"""Mean and covariance over the batch of all processes, differentiable."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ssl_zoo.functional.distributed import all_reduce_sum


__all__ = ["Moments", "batch_moments", "combine_moments"]


class Moments(NamedTuple):
    """First two moments of a set of vectors.

    Attributes:
        mean (`torch.Tensor` of shape `(..., features)`): Their mean.
        covariance (`torch.Tensor` of shape `(..., features, features)`): Mean outer product of what is left when
            their own mean is taken off (divided by their number, not by one less).
    """

    mean: torch.Tensor
    covariance: torch.Tensor


def batch_moments(rows: torch.Tensor) -> Moments:
    """Mean and covariance over the rows of all processes.

    The second moment is summed about the mean of all processes, so that nothing cancels when the mean is large.
    Two all-reduces, of `features + 1` and of `features ** 2` numbers for each leading index; gradients flow through
    both, as for a loss that every process computes in full (see [`all_reduce_sum`]).

    Args:
        rows (`torch.Tensor` of shape `(..., batch, features)`): Local to this process; leading dimensions are
            independent sets. Batches may differ between processes.

    Returns:
        [`Moments`]: in the dtype of `rows`, equal on every process.

    Raises:
        ValueError: If `rows` has fewer than two dimensions.
    """
    if rows.ndim < 2:
        raise ValueError(f"`rows` must have shape (..., batch, features), got {tuple(rows.shape)}")
    local = rows.new_full((*rows.shape[:-2], 1), rows.shape[-2])
    sums = all_reduce_sum(torch.cat([rows.sum(dim=-2), local], dim=-1))
    count = sums[..., -1:]
    mean = sums[..., :-1] / count
    centred = rows - mean.unsqueeze(-2)
    return Moments(mean, all_reduce_sum(centred.mT @ centred) / count.unsqueeze(-1))


def combine_moments(parts: list[Moments]) -> Moments:
    """Moments of the union of equally many vectors, from the moments of the parts.

    Args:
        parts (list of [`Moments`]): At least one; all of sets of the same size.
    """
    means = torch.stack([part.mean for part in parts])
    mean = means.mean(dim=0)
    between = means - mean
    scatter = (between.unsqueeze(-1) * between.unsqueeze(-2)).mean(dim=0)
    return Moments(mean, torch.stack([part.covariance for part in parts]).mean(dim=0) + scatter)
