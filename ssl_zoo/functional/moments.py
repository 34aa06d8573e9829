"""Mean and covariance over the batch of all processes, and rows of unit length."""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ssl_zoo.functional.distributed import all_reduce_sum_


__all__ = ["Moments", "batch_moments", "combine_moments", "unit_rows"]

# Parts of the columns in the product of a matrix with itself: of 8 x 8 blocks the 36 in and below the diagonal.
_PARTS = 8
# Unused numbers behind each row: of rows that begin 4 KB apart few fit into the cache at once.
_PADDING = 8


class Moments(NamedTuple):
    """First two moments of a set of vectors.

    Attributes:
        mean (`torch.Tensor` of shape `(..., features)`): Their mean.
        covariance (`torch.Tensor` of shape `(..., features, features)`): Mean outer product of what is left when
            their own mean is taken off (divided by their number, not by one less).
    """

    mean: torch.Tensor
    covariance: torch.Tensor


@torch.no_grad()
def batch_moments(rows: torch.Tensor, *, dtype: torch.dtype | None = None) -> tuple[Moments, torch.Tensor]:
    """Mean and covariance over the rows of all processes, and how many they are; without gradient.

    The second moment is summed about the mean of all processes, so that nothing cancels when the mean is large.
    Two all-reduces, of `features + 1` and of `features ** 2` numbers for each leading index.

    Args:
        rows (`torch.Tensor` of shape `(..., batch, features)`): Local to this process; leading dimensions are
            independent sets. Batches may differ between processes.
        dtype (`torch.dtype`, *optional*): What to compute in; that of `rows` by default.

    Returns:
        [`Moments`] in `dtype` and the number of rows `(..., 1)`, equal on every process.

    Raises:
        ValueError: If `rows` has fewer than two dimensions.
    """
    if rows.ndim < 2:
        raise ValueError(f"`rows` must have shape (..., batch, features), got {tuple(rows.shape)}")
    *sets, batch, width = rows.shape
    centred = rows.new_empty(*sets, batch, width + _PADDING, dtype=dtype or rows.dtype)[..., :width].copy_(rows)
    local = centred.new_full((*sets, 1), batch)
    sums = all_reduce_sum_(torch.cat([centred.sum(dim=-2), local], dim=-1))
    count = sums[..., -1:]
    mean = sums[..., :-1] / count
    centred -= mean.unsqueeze(-2)
    return Moments(mean, all_reduce_sum_(_scatter(centred)).div_(count.unsqueeze(-1))), count


def _scatter(rows: torch.Tensor) -> torch.Tensor:
    """`rows.mT @ rows`, of which only the blocks in and below the diagonal are computed."""
    width = rows.shape[-1]
    size = -(-width // _PARTS)
    products = rows.new_empty(*rows.shape[:-2], width, width)
    for matrix, product in zip(rows.view(-1, *rows.shape[-2:]), products.view(-1, width, width), strict=True):
        for start in range(0, width, size):
            block, so_far = slice(start, start + size), slice(start + size)
            torch.mm(matrix[:, block].T, matrix[:, so_far], out=product[block, so_far])
            product[:start, block] = product[block, :start].T
    return products


def unit_rows(rows: torch.Tensor) -> torch.Tensor:
    """Each row divided by its length: `F.normalize(rows, dim=-1)` with a gradient that takes a third of the time.

    Args:
        rows (`torch.Tensor` of shape `(..., features)`): Of any length; rows of zeros stay zeros.

    Returns:
        `torch.Tensor` of shape `(..., features)`.
    """
    unit: torch.Tensor = _UnitRows.apply(rows)
    return unit


class _UnitRows(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: torch.Tensor) -> torch.Tensor:
        lengths = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp_min_(1e-12)
        unit: torch.Tensor = rows / lengths
        context.save_for_backward(unit, lengths)
        return unit

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: torch.Tensor) -> torch.Tensor:
        unit, lengths = context.saved_tensors
        along = torch.linalg.vecdot(gradient, unit).unsqueeze(-1)
        of_rows: torch.Tensor = torch.addcmul(gradient, unit, along, value=-1).div_(lengths)
        return of_rows


def combine_moments(parts: list[Moments]) -> Moments:
    """Moments of the union of equally many vectors, from the moments of the parts.

    Args:
        parts (list of [`Moments`]): At least one; all of sets of the same size.
    """
    if len(parts) == 1:
        return parts[0]
    means = torch.stack([part.mean for part in parts])
    mean = means.mean(dim=0)
    between = means - mean
    scatter = (between.unsqueeze(-1) * between.unsqueeze(-2)).mean(dim=0)
    return Moments(mean, torch.stack([part.covariance for part in parts]).mean(dim=0) + scatter)
