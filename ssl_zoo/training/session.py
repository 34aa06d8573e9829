"""Sets up a run: folder, processes, data, model, optimiser, and the last checkpoint if there is one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, set_seed
from torch import nn
from torch.utils.data import DataLoader

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.data.labelled import LabelledSubset
from ssl_zoo.data.source import open_source
from ssl_zoo.data.stream import Batch, CorruptCounter, ReadPosition, ViewStream
from ssl_zoo.data.views import MultiView
from ssl_zoo.functional.distributed import broadcast_running_statistics_
from ssl_zoo.models.modeling_base import SSLForPreTraining
from ssl_zoo.nn.layout import use_channels_last
from ssl_zoo.settings.compare import differences, flatten
from ssl_zoo.training.build import create_support, fit_model
from ssl_zoo.training.checkpoint import find_checkpoint, list_checkpoints, load_checkpoint, save_checkpoint
from ssl_zoo.training.config import RecipeError
from ssl_zoo.training.log import RunLog
from ssl_zoo.training.optim import create_optimizer, lay_out_state_
from ssl_zoo.training.passes import TrainingPasses
from ssl_zoo.training.plan import Plan, derive_plan
from ssl_zoo.training.processes import create_accelerator
from ssl_zoo.training.recipe import Recipe, load_recipe


__all__ = ["Session", "open_session"]


# Keys of `train` that may change between a run and its continuation: none of them changes the result.
_FREE_TO_CHANGE = {"output_dir", "resume", "checkpoint_every_steps", "keep_checkpoints", "log_every_steps"}
_FREE_TO_CHANGE |= {"trackers", "trace", "num_processes", "max_steps"}


@dataclass
class Session:
    """A run in progress. `core` is the bare model, `model` what Accelerate made of it.

    Args:
        step: Optimiser steps done.
        position: Where this process stands in the data.
        labelled: The images whose label may be learned from; `None` for a method without supervision.
        passes: The training images, for what a method does between steps.
    """

    recipe: Recipe
    run: Path
    plan: Plan
    accelerator: Accelerator
    core: SSLForPreTraining
    model: nn.Module
    optimizer: Any
    transform: MultiView
    loader: DataLoader[Batch]
    position: ReadPosition
    corrupt: CorruptCounter
    log: RunLog
    memory_format: torch.memory_format
    labelled: LabelledSubset | None
    passes: TrainingPasses
    step: int

    def to_device(self, batch: Batch) -> dict[str, Any]:
        """Move a batch to this process's device, as keyword arguments of `SSLForPreTraining.forward`."""
        device = self.accelerator.device
        placed = self.transform.to_device(batch, device, memory_format=self.memory_format)
        values: dict[str, Any] = {"views": placed.views, "sample_ids": placed.sample_ids, "labels": placed.labels}
        if self.labelled is not None:
            values["known_labels"] = self.labelled.known_labels[batch.sample_ids].to(device, non_blocking=True)
        if placed.support is not None:
            values["support_views"], values["support_labels"] = placed.support
        return values

    def now(self) -> dict[str, float]:
        """How far the training is: `epoch`, passes over the data done, and `progress`, share of the steps done."""
        plan = self.plan
        return {"epoch": self.step / plan.steps_per_epoch, "progress": self.step / plan.total_steps}

    def consume(self, batches: list[Batch]) -> None:
        """Note that these batches were trained on: a continued run starts after them.

        Raises:
            DataError: if too many rows are corrupt.
        """
        for batch in batches:
            self.position.advance(batch)
            self.corrupt.update(batch)

    def crosses_epoch(self, every: float) -> bool:
        """Whether the step just done ended another `every` epochs."""
        done, before = (int(step / (every * self.plan.steps_per_epoch)) for step in (self.step, self.step - 1))
        return done > before

    def share_buffers(self) -> None:
        """Give every process the main one's running statistics of batch norm, which drift apart between calls.

        Only evaluation reads them, and only the main process's are saved. Other state (banks) is the same anyway.
        """
        broadcast_running_statistics_(self.core)

    def save_checkpoint(self) -> Path:
        """Write a checkpoint of the current step on all processes; loads as a pretrained model, too."""
        folder = self.run / "checkpoints"
        done = list_checkpoints(folder)
        if done and done[-1].name == f"step-{self.step:08d}":
            return done[-1]
        counted = {"num_rows": self.corrupt.num_rows, "num_corrupt": self.corrupt.num_corrupt}
        return save_checkpoint(
            self.accelerator,
            folder,
            self.step,
            {"data": self.position.state_dict(), "counted": counted},
            extra={"config.json": self.core.config.to_json_string()},
            keep=self.recipe.train.keep_checkpoints,
        )

    def save_model(self) -> None:
        """Write the trained model to `model/`, whole or not at all."""
        if self.accelerator.is_main_process:
            with replace_atomically(self.run / "model") as partial:
                self.core.save_pretrained(partial)
        self.accelerator.wait_for_everyone()


def open_session(recipe: Recipe) -> Session:
    """Set a run up, and load its last checkpoint when it has one.

    Raises:
        RecipeError: if recipe, processes and the run's folder don't fit together.
        DataError: if the data can't be read.
        CheckpointError: if the checkpoint can't be continued by this launch.
    """
    train = recipe.train
    run = Path(train.output_dir or f"runs/{recipe.method}")
    accelerator = create_accelerator(
        log_with=train.trackers or None,
        project_dir=str(run),
        # Each process keeps its own buffers; see `Session.share_buffers`.
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    with accelerator.main_process_first():  # the first process renders, downloads and counts, the others find it done
        source = open_source(recipe.data)
        plan = derive_plan(recipe, num_rows=source.num_rows, num_processes=accelerator.num_processes)
        core, labelled = fit_model(recipe, source)
        support = create_support(recipe, core, source, labelled, accelerator)
        _prepare_folder(recipe, run, create=accelerator.is_main_process)
    accelerator.gradient_accumulation_steps = plan.accumulation_steps

    on_gpu = accelerator.device.type == "cuda"
    memory_format = torch.contiguous_format
    if train.channels_last is not False:
        memory_format = torch.channels_last
        small_maps_apart = not on_gpu and train.channels_last is None
        for backbone in (module for module in core.children() if hasattr(module, "forward_features")):
            use_channels_last(backbone, image_size=recipe.views.global_size if small_maps_apart else None)
    if on_gpu and accelerator.num_processes > 1:
        core = nn.SyncBatchNorm.convert_sync_batchnorm(core)
    if train.compile:
        core.compile()
    fused = accelerator.scaler is None
    model, optimizer = accelerator.prepare(core, create_optimizer(core, recipe.optim, fused=fused))
    set_seed(train.seed, device_specific=True)

    step, position = 0, ReadPosition.start(recipe.data.num_workers)
    corrupt = CorruptCounter(source, max_share=recipe.data.max_corrupt_share)
    checkpoint = find_checkpoint(run / "checkpoints", train.resume)
    if checkpoint is not None:
        state = load_checkpoint(accelerator, checkpoint)
        lay_out_state_(optimizer)
        step, process = state.step, state.processes[accelerator.process_index]
        position.load_state_dict(process["data"])
        corrupt.num_rows, corrupt.num_corrupt = process["counted"]["num_rows"], process["counted"]["num_corrupt"]
    transform = MultiView(recipe.views)
    loader = ViewStream(
        source,
        transform,
        batch_size=plan.micro_batch_size,
        seed=train.seed,
        shuffle_buffer=recipe.data.shuffle_buffer,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        num_workers=recipe.data.num_workers,
        start=position,
        support=support,
        first_batch=step * plan.accumulation_steps,
    ).loader()
    passes = TrainingPasses(
        source, recipe, batch_size=plan.micro_batch_size, device=accelerator.device, memory_format=memory_format
    )
    settings = {
        name: value for name, value in flatten(recipe.to_dict()).items() if isinstance(value, int | float | str)
    }
    log = RunLog(
        accelerator,
        run,
        step=step,
        last_step=plan.stop_step,
        images_per_step=train.global_batch_size,
        settings=settings if train.trackers else None,
        trace=train.trace,
    )
    log.say(
        f"{recipe.method} on {source.num_rows} images, {plan.total_steps} steps of {train.global_batch_size} "
        f"({plan.num_processes} process(es) x {plan.micro_batch_size} x {plan.accumulation_steps}) on "
        f"{accelerator.device.type}, {f'from {checkpoint.name}' if checkpoint else 'from the start'}, in {run}"
    )
    return Session(
        recipe=recipe,
        run=run,
        plan=plan,
        accelerator=accelerator,
        core=core,
        model=model,
        optimizer=optimizer,
        transform=transform,
        loader=loader,
        position=position,
        corrupt=corrupt,
        log=log,
        memory_format=memory_format,
        labelled=labelled,
        passes=passes,
        step=step,
    )


def _prepare_folder(recipe: Recipe, run: Path, *, create: bool) -> None:
    """Create the run's folder, or check that it holds the same run."""
    path = run / "recipe.yaml"
    if not path.exists():
        if create:
            run.mkdir(parents=True, exist_ok=True)
            recipe.save(path)
        return
    differing = [
        text
        for name, text in differences(load_recipe(path).to_dict(), recipe.to_dict()).items()
        if name.removeprefix("train.") not in _FREE_TO_CHANGE and not name.startswith("evaluation.")
    ]
    if differing:
        raise RecipeError(
            f"'{run}' holds a run with another recipe: {'; '.join(differing)}. "
            f"Choose another `train.output_dir`, or delete the folder to start anew"
        )
