"""Collective operations over the processes of a run; without `torch.distributed` they return their argument.

Only `all_reduce_sum` and `all_gather_rows_with_gradient` are differentiable; the others are for `torch.no_grad()`.
"""

from typing import Any, TypeVar

import torch
import torch.distributed as dist


__all__ = [
    "all_gather_objects",
    "all_gather_rows",
    "all_gather_rows_with_gradient",
    "all_reduce_max_",
    "all_reduce_sum",
    "all_reduce_sum_",
    "broadcast_",
    "broadcast_running_statistics_",
    "is_distributed",
    "rank",
    "wait_for_all",
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
    """Replace `tensor` by its elementwise maximum over processes, in place; see `all_reduce_sum_`."""
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
    return _gather_rows(tensor)[0] if is_distributed() else tensor


def _gather_rows(tensor: torch.Tensor) -> tuple[torch.Tensor, list[int]]:
    """The rows of all processes, and how many each of them had; one look at the device."""
    count = torch.full((), len(tensor), device=tensor.device)
    counts = count.new_empty(world_size())
    dist.all_gather(list(counts.unbind()), count)
    lengths: list[int] = counts.tolist()
    longest, even = max(lengths), len(set(lengths)) == 1
    padded = tensor.contiguous() if even else tensor.new_zeros((longest, *tensor.shape[1:]))
    if not even:
        padded[: len(tensor)] = tensor
    gathered = padded.new_empty((len(lengths), *padded.shape))
    dist.all_gather(list(gathered.unbind()), padded)
    if even:
        return gathered.flatten(end_dim=1), lengths
    return torch.cat([rows[:length] for rows, length in zip(gathered, lengths, strict=True)]), lengths


def all_gather_objects(value: T) -> list[T]:
    """Collect a small picklable value of every process, in their order, on all of them."""
    if not is_distributed():
        return [value]
    values: list[T] = [value] * world_size()
    dist.all_gather_object(values, value)
    return values


def wait_for_all() -> None:
    """Wait until every process has reached this call."""
    all_gather_objects(None)


def broadcast_running_statistics_(module: torch.nn.Module) -> None:
    """Give every process the main one's running statistics of batch norm, in place; they drift apart in training.

    Other buffers stay as they are.
    """
    for name, buffer in module.named_buffers():
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            broadcast_(buffer)


def _contiguous_copy(tensor: torch.Tensor) -> torch.Tensor:
    """A copy to sum into. A gradient may come transposed; `clone` alone keeps that, and NCCL refuses such tensors."""
    return tensor.clone(memory_format=torch.contiguous_format)


class _AllReduceSum(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        return all_reduce_sum_(_contiguous_copy(tensor))

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return all_reduce_sum_(_contiguous_copy(gradients[0]))


class _AllGatherRows(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: torch.Tensor) -> torch.Tensor:
        gathered, lengths = _gather_rows(tensor)
        context.own = slice(sum(lengths[: rank()]), sum(lengths[: rank() + 1]))
        return gathered

    @staticmethod
    def backward(context: Any, *gradients: torch.Tensor) -> torch.Tensor:
        return all_reduce_sum_(_contiguous_copy(gradients[0]))[context.own]


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Differentiable sum over processes, for a loss that every process computes in full from global sums.

    The gradient is summed over the processes as well. DistributedDataParallel then averages over them, so that with
    such a loss the parameters get exactly the gradient of one process with the whole batch.

    Args:
        tensor (`torch.Tensor` of any shape): The same shape and dtype on every process; it is left as it is.

    Returns:
        `torch.Tensor`: the sum, on every process.
    """
    if not is_distributed():
        return tensor
    reduced: torch.Tensor = _AllReduceSum.apply(tensor)
    return reduced


def all_gather_rows_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """Differentiable `all_gather_rows`: each process gets the sum of all processes' gradients of its own rows.

    Args:
        tensor (`torch.Tensor` of shape `(rows, ...)`): Same dtype and trailing shape on every process.

    Returns:
        `torch.Tensor` of shape `(rows of all processes, ...)`: in the order of the processes.
    """
    if not is_distributed():
        return tensor
    gathered: torch.Tensor = _AllGatherRows.apply(tensor)
    return gathered


def broadcast_(tensor: torch.Tensor) -> torch.Tensor:
    """Replace `tensor` by that of process 0, in place, and return it."""
    if is_distributed():
        dist.broadcast(tensor, src=0)
    return tensor
