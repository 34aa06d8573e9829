"""Exponential moving averages of networks."""

import torch
from torch import nn


__all__ = ["update_ema_"]


@torch.no_grad()
def update_ema_(average: nn.Module, online: nn.Module, momentum: float) -> None:
    """Move `average` towards `online` in place: `average <- momentum * average + (1 - momentum) * online`.

    Parameters only. Buffers (running statistics of batch norm) stay the averaged network's own: it runs in training
    mode and keeps them itself.

    Args:
        average (`torch.nn.Module`): The teacher or target network.
        online (`torch.nn.Module`): The network that is trained, of the same architecture.
        momentum (`float`): Share of the past kept, in [0, 1].

    Raises:
        ValueError: if `momentum` is outside [0, 1].
    """
    if not 0.0 <= momentum <= 1.0:
        raise ValueError(f"`momentum` must be in [0, 1], got {momentum}")
    averages, values = ([parameter.detach() for parameter in module.parameters()] for module in (average, online))
    torch._foreach_lerp_(averages, values, 1.0 - momentum)
