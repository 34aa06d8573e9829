"""Derives batch sizes and numbers of steps from the recipe, the size of the data and the number of processes."""

from dataclasses import dataclass

from ssl_zoo.training.recipe import Recipe, RecipeError


__all__ = ["Plan", "derive_plan"]


@dataclass(frozen=True)
class Plan:
    """Batch sizes and numbers of steps of a run.

    Args:
        num_processes (`int`): processes that train together.
        micro_batch_size (`int`): images per process and forward pass.
        accumulation_steps (`int`): forward passes per optimiser step.
        steps_per_epoch (`float`): optimiser steps in one pass over the data; mostly no whole number.
        total_steps (`int`): optimiser steps that the schedules span.
        stop_step (`int`): optimiser steps until the run stops: `train.max_steps` if it is lower.
        warmup_steps (`float`): optimiser steps of warm-up.
        peak_learning_rate (`float`): learning rate at the end of the warm-up.
    """

    num_processes: int
    micro_batch_size: int
    accumulation_steps: int
    steps_per_epoch: float
    total_steps: int
    stop_step: int
    warmup_steps: float
    peak_learning_rate: float

    def describe(self) -> str:
        """Describe the plan in four lines of text."""
        return (
            f"processes          {self.num_processes}\n"
            f"batch per process  {self.micro_batch_size} images x {self.accumulation_steps} accumulation step(s)\n"
            f"steps              {self.stop_step} of {self.total_steps} ({self.steps_per_epoch:g} an epoch)\n"
            f"warm-up            {self.warmup_steps:g} steps to a learning rate of {self.peak_learning_rate:g}"
        )


def derive_plan(recipe: Recipe, *, num_rows: int, num_processes: int) -> Plan:
    """Compute the plan of a run.

    `micro_batch_size * accumulation_steps * num_processes == train.global_batch_size`.

    Args:
        recipe (`Recipe`): complete.
        num_rows (`int`): images in the training split.
        num_processes (`int`): processes that train together.

    Raises:
        RecipeError: when the batch can't be split evenly, or another number of processes runs than was asked for.
    """
    train = recipe.train
    if train.num_processes not in (None, num_processes):
        raise RecipeError(
            f"train.num_processes asks for {train.num_processes}, but {num_processes} run(s). On a CPU, "
            "`accelerate launch --cpu --num_processes 2` starts one: use --config_file "
            "recipes/accelerate/cpu_2_processes.yaml"
        )
    micro = train.micro_batch_size or max(train.global_batch_size // num_processes, 1)
    if train.global_batch_size % (micro * num_processes):
        raise RecipeError(
            f"train.global_batch_size = {train.global_batch_size} can't be split evenly over {num_processes} "
            f"process(es) with {micro} images each; choose a multiple of {micro * num_processes}"
        )
    steps_per_epoch = num_rows / train.global_batch_size
    total = max(round(train.epochs * steps_per_epoch), 1)
    return Plan(
        num_processes=num_processes,
        micro_batch_size=micro,
        accumulation_steps=train.global_batch_size // (micro * num_processes),
        steps_per_epoch=steps_per_epoch,
        total_steps=total,
        stop_step=total if train.max_steps is None else min(total, train.max_steps),
        warmup_steps=min(recipe.optim.warmup_epochs * steps_per_epoch, total),
        peak_learning_rate=recipe.optim.peak_learning_rate(train.global_batch_size),
    )
