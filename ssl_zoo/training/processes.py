"""Joins the processes that `accelerate launch` started, and makes sure that they really are joined."""

import os
from typing import Any

import torch
from accelerate import Accelerator

from ssl_zoo.training.config import RecipeError


def create_accelerator(**options: Any) -> Accelerator:
    """Create the `Accelerator` of a run.

    On a machine without a GPU, a plain `Accelerator()` in one of two launched processes takes itself for the only one:
    both train on their own, without a word, and write to the same folder. `cpu=True` joins them by gloo.

    Args:
        options (`Any`): passed on to `accelerate.Accelerator`.

    Returns:
        `accelerate.Accelerator`: knows as many processes as were started.

    Raises:
        RecipeError: when it doesn't.
    """
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), **options)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:
        raise RecipeError(
            f"{started} processes were started, but each sees {accelerator.num_processes}: they would train apart and "
            "overwrite each other. Launch with one of recipes/accelerate/*.yaml"
        )
    return accelerator


__all__ = ["create_accelerator"]
