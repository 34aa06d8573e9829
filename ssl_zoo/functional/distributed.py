"""Sums, maxima and rows over the processes of a run; without `torch.distributed` the argument is the answer.

None of these is differentiable: call them under `torch.no_grad()`, never inside a loss.
"""

from __future__ import annotations

from typing import TypeVar

import torch
import torch.distributed as dist


__all__ = [
    "all_gather_objects",
    "all_gather_rows",
    "all_reduce_max_",
    "all_reduce_sum_",
    "is_distributed",
    "rank",
    "world_size",
]

T = TypeVar("T")


def is_distributed() -> bool:
    """Whether a process group exists, however many processes it has."""
    return dist.is_available() and dist.is_initialized()


def world_size() -> int:
    """Number of processes of the run, 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def rank() -> int:
    """Number of this process, 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def all_reduce_sum_(tensor: torch.Tensor) -> torch.Tensor:
    """Replace `tensor` by its sum over processes, in place.

    Args:
        tensor (`torch.Tensor` of any shape): The same shape and dtype on every process.

    Returns:
        `torch.Tensor`: `tensor` itself, bit-equal on every process.
    """
    if is_distributed():
        dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def all_reduce_max_(tensor: torch.Tensor) -> torch.Tensor:
    """Replace `tensor` by its elementwise maximum over processes, in place.

    Args:
        tensor (`torch.Tensor` of any shape): The same shape and dtype on every process.

    Returns:
        `torch.Tensor`: `tensor` itself, bit-equal on every process.
    """
    if is_distributed():
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def all_gather_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Concatenate the rows of all processes, which may have different numbers of them.

    Args:
        tensor (`torch.Tensor` of shape `(rows, ...)`): Same dtype and trailing shape on every process; rows may be 0.

    Returns:
        `torch.Tensor` of shape `(rows of all processes, ...)`: in the order of the processes, the same on all of them.
    """
    if not is_distributed():
        return tensor
    count = torch.tensor([len(tensor)], device=tensor.device)
    counts = [torch.zeros_like(count) for _ in range(world_size())]
    dist.all_gather(counts, count)
    lengths = [int(length) for length in counts]
    padded = tensor.new_zeros((max(lengths), *tensor.shape[1:]))
    padded[: len(tensor)] = tensor
    gathered = [torch.empty_like(padded) for _ in lengths]
    dist.all_gather(gathered, padded)
    return torch.cat([rows[:length] for rows, length in zip(gathered, lengths, strict=True)])


def all_gather_objects(value: T) -> list[T]:
    """Collect a small picklable value of every process, in their order, on all of them."""
    if not is_distributed():
        return [value]
    values: list[T] = [value] * world_size()
    dist.all_gather_object(values, value)
    return values
