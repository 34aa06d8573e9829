"""A bank of past embeddings, first in first out."""

import math
import mmap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn


__all__ = ["Column", "MemoryBank", "UpdatedColumn", "empty_column"]


_LARGE = 2**20  # bytes: what is smaller isn't worth pages of its own


class Column(NamedTuple):
    """A column of a bank beside the embeddings.

    Attributes:
        shape (`tuple`): Shape of one entry, `()` for a number.
        dtype (`torch.dtype`): What it is stored as.
        empty (`float` or `int`): What an entry holds before the first row is written to it.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    empty: float | int


@dataclass(frozen=True)
class UpdatedColumn:
    """A column as it'll be once some rows are written to the bank, while the bank stays as it is.

    Only the chunks that are asked for are copied, and only if they hold pending rows. `len()` counts the entries that
    are filled; they are the first ones. Indexed by a tensor of numbers it gives what `take` gives.

    Args:
        stored (`torch.Tensor` of shape `(size, ...)`): The bank's column.
        pending (`torch.Tensor` of shape `(rows, ...)`): What is going to be written, at most `size` rows.
        position (`int`): Where the first pending row goes; the others follow, round the end of the bank.
        num_filled (`int`): Entries that are filled, the pending ones included.
    """

    stored: torch.Tensor
    pending: torch.Tensor
    position: int
    num_filled: int

    def __len__(self) -> int:
        return self.num_filled

    def __getitem__(self, rows: slice | torch.Tensor) -> torch.Tensor:
        if isinstance(rows, torch.Tensor):
            return self.take(rows)
        start, stop, _ = rows.indices(self.num_filled)
        part, copied = self.stored[start:stop], False
        for first, last, offset in _pieces(len(self.stored), self.position, len(self.pending)):
            low, high = max(start, first), min(stop, last)
            if low < high:
                part, copied = part if copied else part.clone(), True
                part[low - start : high - start] = self.pending[offset + low - first : offset + high - first]
        return part

    def take(self, rows: torch.Tensor) -> torch.Tensor:
        """Entries by number, of shape `(*rows.shape, ...)`."""
        taken = self.stored[rows]
        number = (rows - self.position) % len(self.stored)
        is_pending = number < len(self.pending)
        taken[is_pending] = self.pending[number[is_pending]]
        return taken

    def age(self, rows: torch.Tensor) -> torch.Tensor:
        """How many rows were written after these entries, of the shape of `rows`; 0 for the newest."""
        return (self.position + len(self.pending) - 1 - rows) % len(self.stored)


def _pieces(size: int, position: int, count: int) -> Iterator[tuple[int, int, int]]:
    """Slots of `count` rows, round the end of a bank, as (first, last + 1, number of the row in `first`)."""
    before_end = min(count, size - position)
    yield position, position + before_end, 0
    yield 0, count - before_end, before_end


def empty_column(size: int, column: Column) -> torch.Tensor:
    """A column of a bank without rows, `(size, *column.shape)`; one of zeros takes memory as rows are written to it.

    `torch.zeros` writes its zeros, and a bank of a million embeddings is 2 GB that a loaded model may never use. Fresh
    pages of the system are zero as well, and exist from the first write to them.
    """
    shape = (size, *column.shape)
    num_bytes = math.prod(shape) * column.dtype.itemsize
    if column.empty != 0 or num_bytes < _LARGE or torch.get_default_device().type != "cpu":
        return torch.full(shape, column.empty, dtype=column.dtype)
    # Private: processes that are forked get copies, as of any other memory. Windows maps so by default.
    flags = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
    return torch.frombuffer(mmap.mmap(-1, num_bytes, **flags), dtype=column.dtype).view(shape)


class MemoryBank(nn.Module):
    """A ring of embeddings with a class, a sample id and possibly more for each.

    It learns nothing and decides nothing. All is in persistent buffers, so it is part of a checkpoint. Every process
    must write the same rows, those gathered from all processes: then all banks are the same.

    Args:
        size (`int`): How many entries.
        num_features (`int`): Width of the embeddings.
        columns (mapping of `str` to [`Column`], *optional*): Further columns by name, besides `embeddings` (float32),
            `labels` and `sample_ids` (int64, -1 for none).

    Raises:
        ValueError: if `size` is below 1.
    """

    embeddings: torch.Tensor
    labels: torch.Tensor
    sample_ids: torch.Tensor
    position: torch.Tensor
    num_filled: torch.Tensor

    def __init__(self, size: int, num_features: int, *, columns: Mapping[str, Column] | None = None) -> None:
        super().__init__()
        if size < 1:
            raise ValueError(f"`size` of a memory bank must be at least 1, got {size}")
        self.size = size
        self.columns: dict[str, Column] = {
            "embeddings": Column((num_features,), torch.float32, 0.0),
            "labels": Column((), torch.int64, -1),
            "sample_ids": Column((), torch.int64, -1),
            **(columns or {}),
        }
        for name, column in self.columns.items():
            self.register_buffer(name, empty_column(size, column))
        self.register_buffer("position", torch.zeros((), dtype=torch.int64))
        self.register_buffer("num_filled", torch.zeros((), dtype=torch.int64))

    def preview(self, **rows: torch.Tensor) -> dict[str, UpdatedColumn]:
        """Show every column as `write_` with the same rows would leave it, bit for bit; errors as for `write_`."""
        kept, start, num_filled = self._place(rows)
        return {name: UpdatedColumn(getattr(self, name), kept[name], start, num_filled) for name in self.columns}

    @torch.no_grad()
    def write_(self, **rows: torch.Tensor) -> None:
        """Write rows over the oldest entries, in order; of more rows than entries, the last stay.

        Args:
            rows (`torch.Tensor` of shape `(rows, ...)`): One for every column, by its name; the same on all processes.

        Raises:
            ValueError: if a column is missing, unknown or of another length than the others.
        """
        kept, start, num_filled = self._place(rows)
        count = len(kept["embeddings"])
        for first, last, offset in _pieces(self.size, start, count):
            for name in self.columns:
                getattr(self, name)[first:last] = kept[name][offset : offset + last - first]
        self.position.fill_((start + count) % self.size)
        self.num_filled.fill_(num_filled)

    def _place(self, rows: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], int, int]:
        """The rows that stay, as they are stored; the slot of the first; and how many entries will be filled."""
        lengths = {name: len(values) for name, values in rows.items()}
        if lengths.keys() != self.columns.keys() or len(set(lengths.values())) > 1:
            raise ValueError(
                f"a write to this bank needs rows of equal length for each of {sorted(self.columns)}, got {lengths}"
            )
        position, num_filled = torch.stack([self.position, self.num_filled]).tolist()
        count = lengths["embeddings"]
        dropped = max(count - self.size, 0)
        kept = {name: values[dropped:].detach().to(getattr(self, name).dtype) for name, values in rows.items()}
        return kept, (position + dropped) % self.size, min(num_filled + count, self.size)

    @torch.no_grad()
    def reset_(self) -> None:
        """Empty the bank."""
        for name, column in self.columns.items():
            getattr(self, name).fill_(column.empty)
        self.position.zero_()
        self.num_filled.zero_()
