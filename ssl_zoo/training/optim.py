"""Optimisers and the learning-rate schedule of a recipe."""

from typing import Any

import torch
from timm.optim.lars import Lars
from torch import nn

from ssl_zoo.functional.schedules import warmup_cosine
from ssl_zoo.training.config import OptimConfig
from ssl_zoo.training.plan import Plan


__all__ = ["create_optimizer", "lay_out_state_", "learning_rate", "set_learning_rate"]


def create_optimizer(model: nn.Module, config: OptimConfig, *, fused: bool = True) -> torch.optim.Optimizer:
    """Build the optimiser over the parameters that are trained.

    Tensors with one dimension (biases, norm weights) get no LARS trust ratio, as in MIRA and BYOL, and no weight decay
    unless `decay_norms_and_biases` says so.

    Args:
        model (`torch.nn.Module`): Frozen parameters are left out.
        config (`OptimConfig`): The recipe's section.
        fused (`bool`): Let SGD do its step in one pass over the memory instead of four; the result is the same, to
            rounding. Not with a `GradScaler`: Accelerate then can't tell which steps were skipped.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    decay = config.weight_decay
    groups: list[dict[str, Any]] = [
        {"params": [parameter for parameter in trained if parameter.ndim > 1], "weight_decay": decay},
        {
            "params": [parameter for parameter in trained if parameter.ndim <= 1],
            "weight_decay": decay if config.decay_norms_and_biases else 0.0,
        },
    ]
    if config.name == "lars":
        groups[0]["always_adapt"] = True
        return Lars(
            groups, lr=0.0, momentum=config.momentum, nesterov=config.nesterov, trust_coeff=config.trust_coefficient
        )
    return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum, nesterov=config.nesterov, fused=fused)


@torch.no_grad()
def lay_out_state_(optimizer: torch.optim.Optimizer) -> None:
    """Give the optimiser's state the memory format of its parameters, after it was loaded.

    The fused kernels pair numbers by where they lie in memory, and don't check that these places agree: a checkpoint
    from a GPU, where weights are channels last, would have the wrong momentum on a CPU.
    """
    for parameter, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def learning_rate(config: OptimConfig, plan: Plan, step: int) -> float:
    """Learning rate of the step after `step` others: linear warm-up, then half a cosine or steps down."""
    peak = plan.peak_learning_rate
    if config.schedule == "step" and step >= plan.warmup_steps:
        reached = sum(step >= epoch * plan.steps_per_epoch for epoch in config.decay_epochs)
        return peak * config.decay_factor**reached
    return peak * warmup_cosine(
        step,
        total_steps=plan.total_steps,
        warmup_steps=plan.warmup_steps,
        start_factor=config.warmup_learning_rate / peak,
        end_factor=config.final_learning_rate / peak,
    )


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Give every parameter group this learning rate."""
    for group in optimizer.param_groups:
        group["lr"] = value
