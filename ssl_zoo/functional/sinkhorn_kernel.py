"""Sinkhorn's kernel p^strength, with rows and columns scaled so that nothing under- or overflows, chunk by chunk."""

import math
from collections.abc import Iterator

import torch

from ssl_zoo.functional.distributed import all_gather_rows, all_reduce_max_, all_reduce_sum_, rank
from ssl_zoo.functional.exponents import SMALLEST_POWER


__all__ = ["ScaledKernel"]

# log Q_ij this close to the largest of its row count as equal to it: columns or rows that are equal in exact
# arithmetic differ by rounding alone, and Q itself is known to `tolerance` only.
_TIE = 1e-7
_CHUNK_ELEMENTS = {"cpu": 2**18, "cuda": 2**24}  # a chunk fits a CPU's cache, and fills a GPU


class ScaledKernel:
    """kernel_ij = exp(strength log p_ij + column_shift_j - row_shift_i) of this process's rows, kept or made anew.

    Args:
        log_probabilities (`torch.Tensor` of shape `(rows, num_clusters)`): See `sinkhorn_solve`.
        device: Where to compute.
        chunk_rows: Rows at a time; `None` chooses.
        max_kernel_bytes: Keep the kernel if it has at most so many.
    """

    def __init__(
        self, log_probabilities: torch.Tensor, *, device: torch.device, chunk_rows: int | None, max_kernel_bytes: int
    ) -> None:
        self.strength, self.device = 1.0, device
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
        self.possible = torch.ones_like(self.column_shift, dtype=torch.bool)  # for some sample
        self.num_rows = int(all_reduce_sum_(torch.tensor(count, device=device)))
        if not self.num_rows:
            raise ValueError("`log_probabilities` must have rows on some process, got none on any")

    def _powers(self, dtype: torch.dtype = torch.float64) -> Iterator[tuple[slice, torch.Tensor]]:
        """Chunks of strength x log p; in float32, the differences taken below lose digits."""
        for chunk in self._slices:
            yield chunk, self._stored[chunk].to(self.device, dtype, copy=True).mul_(self.strength)

    def _kernels(self, precise: bool) -> Iterator[tuple[slice, torch.Tensor]]:
        if self._kernel is not None:
            yield from ((chunk, self._kernel[chunk]) for chunk in self._slices)
            return
        for chunk, powers in self._powers(torch.float64 if precise else self._dtype):
            yield chunk, self._scaled(chunk, powers)

    def _scaled(self, chunk: slice, powers: torch.Tensor) -> torch.Tensor:
        powers += self.column_shift.to(powers.dtype)
        powers -= self.row_shift[chunk].unsqueeze(1).to(powers.dtype)
        return powers.to(self._dtype).clamp_min_(SMALLEST_POWER).exp_()

    def rescale(self, log_r: torch.Tensor) -> None:
        """Choose the shifts such that the largest P_ij r_j of each row, and then of each column, becomes a 1."""
        column_maxima = torch.full_like(log_r, -math.inf)
        for chunk, powers in self._powers():
            powers += log_r
            self.row_shift[chunk] = powers.amax(dim=1)
            powers -= self.row_shift[chunk].unsqueeze(1)
            column_maxima = torch.maximum(column_maxima, powers.amax(dim=0))
        if bad := int(all_reduce_sum_((~self.row_shift.isfinite()).sum())):
            raise ValueError(
                f"`log_probabilities` must be finite or -inf, with a finite entry in each row; {bad} of "
                f"{self.num_rows} rows are not. A NaN usually means that the training has diverged"
            )
        all_reduce_max_(column_maxima)
        self.possible = column_maxima.isfinite()
        self.column_shift = torch.where(self.possible, log_r - column_maxima, 0.0)
        if self._kernel is not None:
            for chunk, powers in self._powers():
                self._kernel[chunk] = self._scaled(chunk, powers)

    def log_sums(self, log_r: torch.Tensor, precise: bool) -> tuple[torch.Tensor, torch.Tensor]:
        """What a Sinkhorn step sums, over the rows of all processes.

        Args:
            log_r (`torch.Tensor` of shape `(num_clusters,)`): float64.
            precise: Whether to multiply in float64.

        Returns:
            With s_i = sum_j P_ij r_j, in float64: log sum_i P_ij / s_i, `(num_clusters,)`, and sum_i log s_i, `()`.
        """
        # s_i is, up to a factor of the row, sum_j kernel_ij w_j.
        log_w = (log_r - self.column_shift).masked_fill(~self.possible, -math.inf)
        largest = log_w.max()
        weights = (log_w - largest).exp().to(torch.float64 if precise else self._dtype)
        sums = torch.zeros(self.num_clusters + 1, dtype=torch.float64, device=self.device)
        for chunk, kernel in self._kernels(precise):
            kernel = kernel.to(weights.dtype)
            row_sums = torch.mv(kernel, weights)
            sums[:-1] += torch.mv(kernel.T, row_sums.reciprocal())
            sums[-1] += (row_sums.double().log_() + self.row_shift[chunk]).sum()
        all_reduce_sum_(sums)
        return sums[:-1].log() - self.column_shift - largest, sums[-1] + self.num_rows * largest

    def labels(self, log_r: torch.Tensor) -> torch.Tensor:
        """Largest entry of each row of P diag(r), ties dealt out by row number."""
        count = torch.tensor([len(self._stored)], device=self.device)
        first = int(all_gather_rows(count)[: rank()].sum())
        labels = torch.empty(len(self._stored), dtype=torch.int64, device=self.device)
        for chunk, powers in self._powers():
            powers += log_r
            largest, labels[chunk] = powers.max(dim=1)
            tied = powers >= largest.unsqueeze(1) - _TIE
            several = (tied.sum(dim=1) > 1).nonzero().squeeze(1)
            if len(several):
                tied = tied[several]
                wanted = (first + chunk.start + several).remainder(tied.sum(dim=1)).unsqueeze(1)
                labels[chunk.start + several] = (tied & (tied.cumsum(dim=1) == wanted + 1)).int().argmax(dim=1)
        return labels.to(self._stored.device)
