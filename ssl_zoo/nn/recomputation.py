"""Gradient checkpointing: activations are recomputed in the backward pass instead of being kept."""

from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint


__all__ = ["recompute_activations", "refuse_options"]


_DEFAULTS = {"use_reentrant": False, "every_n_layers": 1, "offload": False}


def recompute_activations(backbone: nn.Module, *, enable: bool) -> None:
    """Make a backbone keep the inputs of its blocks alone, and compute the rest again in the backward pass.

    Loss, gradients and running statistics stay as they were: batch norm sees a batch twice, but counts it once.

    Args:
        backbone (`torch.nn.Module`): A timm model. If its batch norms are to be synchronised, convert them first.
        enable (`bool`): Whether to, from here on.

    Raises:
        ValueError: if timm can't do it with this architecture.
    """
    try:
        backbone.set_grad_checkpointing(enable)  # type: ignore[operator]  # timm's protocol, not nn.Module's
    except (AssertionError, AttributeError) as error:  # how timm's models say that they can't
        raise ValueError(
            f"gradient checkpointing is not possible with a {type(backbone).__name__}: timm has none for this "
            f"architecture; leave it out and take a smaller `micro_batch_size`"
        ) from error
    norms: list[Any] = [module for module in backbone.modules() if isinstance(module, _BatchNorm)]
    for module in norms:
        if enable and not hasattr(module, "_held"):
            module._held = None
            module.register_forward_pre_hook(_hold_statistics)
            # Always called: recomputing stops by an exception as soon as the last tensor it's for is there.
            module.register_forward_hook(_release_statistics, always_call=True)


def refuse_options(function: Any, every_n_layers: int) -> None:
    """Refuse what transformers' gradient checkpointing has and timm's hasn't.

    Args:
        function (callable): What transformers would checkpoint with: torch's `checkpoint`, or a partial of it.
        every_n_layers (`int`): Which layers transformers would checkpoint.

    Raises:
        ValueError: for anything but transformers' defaults.
    """
    offload = getattr(function, "func", checkpoint) is not checkpoint
    given = {"use_reentrant": False, **getattr(function, "keywords", {})}
    given |= {"every_n_layers": every_n_layers, "offload": offload}
    changed = [f"{name}={value}" for name, value in given.items() if _DEFAULTS.get(name) != value]
    if changed:
        raise ValueError(
            f"timm recomputes all blocks alike, so gradient checkpointing takes no options here, got "
            f"{', '.join(changed)}; leave them out"
        )


def _hold_statistics(module: Any, inputs: Any) -> None:
    """Keep batch norm from counting a batch again; a forward pass within a backward pass is one that is repeated."""
    if module.training and torch._C._current_graph_task_id() != -1:
        module._held = module.momentum, module.num_batches_tracked.clone()
        module.momentum = 0.0


def _release_statistics(module: Any, inputs: Any, output: Any) -> None:
    if module._held is not None:
        module.momentum, num_batches = module._held
        module.num_batches_tracked.copy_(num_batches)
        module._held = None
