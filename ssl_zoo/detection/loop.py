"""Fine-tunes a detector; a stopped run goes on where it was."""

import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn
from torchvision.models.detection import FasterRCNN

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.data.batch import CorruptCounter, ReadPosition
from ssl_zoo.detection.config import DetectionConfig
from ssl_zoo.detection.source import DetectionSource
from ssl_zoo.detection.stream import BoxCounter, DetectionBatch, DetectionStream
from ssl_zoo.functional.distributed import broadcast_running_statistics_
from ssl_zoo.settings.compare import differences
from ssl_zoo.settings.declare import setting
from ssl_zoo.training.checkpoint import find_checkpoint, load_checkpoint, save_checkpoint
from ssl_zoo.training.log import RunLog
from ssl_zoo.training.stop import StopSignals


__all__ = ["LoopOptions", "TrainingStopped", "create_optimizer", "prepare_folder", "take_step", "train_detector"]

_SETTINGS = "detection.json"


class TrainingStopped(Exception):
    """The run was asked to stop; a checkpoint of the last step is written."""


@dataclass(frozen=True)
class LoopOptions:
    """Options that change the speed or the files of a run, not its result."""

    micro_batch_size: int | None = setting(
        None, "images that a device holds at once; null = its share. Without SyncBatchNorm batch norm sees so many"
    )
    num_workers: int = setting(2, "loader processes of each process; a continued run needs as many as before")
    checkpoint_every: int = setting(1000, "steps between two checkpoints")
    log_every: int = setting(20, "steps between two lines of metrics.jsonl")
    max_corrupt_share: float = setting(0.01, "largest share of rows without a readable image")
    max_steps: int | None = setting(None, "stop after this step as if asked to")


def train_detector(
    detector: FasterRCNN,
    source: DetectionSource,
    config: DetectionConfig,
    *,
    accelerator: Accelerator,
    run: Path,
    options: LoopOptions | None = None,
) -> FasterRCNN:
    """Train all layers, from the run's last checkpoint if it has one; the detector ends the same on all processes.

    Args:
        detector (`FasterRCNN`): From `build_detector`.
        source ([`DetectionSource`]): Training images.
        config ([`DetectionConfig`]): All that defines the result.
        accelerator (`Accelerator`): Of this process.
        run (`Path`): The run's folder: `metrics.jsonl`, `checkpoints/`.
        options ([`LoopOptions`], *optional*): Speed and files.

    Raises:
        ValueError: The batch can't be split over the processes, or the loss became NaN.
        TrainingStopped: On SIGTERM or SIGINT, after a checkpoint was written.
    """
    options = options or LoopOptions()
    micro, accumulation = _split_batch(config.batch_size, accelerator.num_processes, options.micro_batch_size)
    core: nn.Module = detector
    if accelerator.device.type == "cuda" and accelerator.num_processes > 1 and config.norm == "sync":
        core = nn.SyncBatchNorm.convert_sync_batchnorm(core)  # noqa: TID251  # on GPUs only, where it works
    model, optimizer = accelerator.prepare(core, create_optimizer(core, config))
    set_seed(config.seed, device_specific=True)
    step, position = 0, ReadPosition.start(options.num_workers)
    corrupt = CorruptCounter(source, max_share=options.max_corrupt_share)
    counter = BoxCounter(source)
    checkpoint = find_checkpoint(run / "checkpoints", "auto")
    if checkpoint is not None:
        state = load_checkpoint(accelerator, checkpoint)
        step = state.step
        position.load_state_dict(state.processes[accelerator.process_index])
    stream = DetectionStream(
        source,
        batch_size=micro,
        seed=config.seed,
        train_on_empty=config.train_on_empty,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        num_workers=options.num_workers,
        start=position,
    )
    # A run that is complete needs no workers.
    batches: Iterator[DetectionBatch] = iter(stream.loader()) if step < config.steps else iter(())
    log = RunLog(
        accelerator,
        run,
        step=step,
        last_step=config.steps,
        images_per_step=config.batch_size,
        settings=None,
        trace=False,
    )
    with log, StopSignals() as signals:
        model.train()
        while step < config.steps:
            taken = [next(batches) for _ in range(accumulation)]
            rate = config.learning_rate_at(step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            counter.update(taken)
            losses = take_step(accelerator, model, optimizer, taken)
            step += 1
            for batch in taken:
                position.advance(batch)
                corrupt.update(batch)
            if not math.isfinite(losses["loss"]):
                raise ValueError(
                    f"the loss is {losses['loss']} at step {step}: try a lower --learning-rate or a longer warm-up; "
                    f"the last checkpoint in '{run.name}/checkpoints' is from before"
                )
            log.advance()
            if step % options.log_every == 0 or step == config.steps:
                boxes = {"boxes_left_out": counter.num_dropped, "images_skipped": corrupt.num_corrupt}
                log.metrics(step, {**losses, "learning_rate": rate, **boxes})
            # All processes have to agree on when to stop, or the others would wait for this one.
            asked = torch.tensor([float(signals.received is not None)], device=accelerator.device)
            stop = bool(accelerator.reduce(asked, "sum") > 0) or step == options.max_steps
            if stop or step % options.checkpoint_every == 0 or step == config.steps:
                broadcast_running_statistics_(core)
                save_checkpoint(accelerator, run / "checkpoints", step, position.state_dict(), extra={}, keep=2)
            if stop and step < config.steps:
                raise TrainingStopped(
                    f"stopped after step {step} of {config.steps}; the same command goes on from there"
                )
    broadcast_running_statistics_(core)
    return cast(FasterRCNN, core)


def create_optimizer(detector: nn.Module, config: DetectionConfig) -> torch.optim.Optimizer:
    """SGD over all parameters that are trained; scales and shifts of norms get no weight decay, biases do."""
    norms = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.GroupNorm)
    kept = {id(p) for module in detector.modules() if isinstance(module, norms) for p in module.parameters()}
    trained = [parameter for parameter in detector.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if id(p) not in kept], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if id(p) in kept], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=0.0, momentum=config.momentum)


def prepare_folder(run: Path, settings: dict[str, Any], *, create: bool) -> None:
    """Create a run's folder, if this process may, or raise a `ValueError` if a run with other settings is there."""
    path = run / _SETTINGS
    if path.exists():
        changed = differences(json.loads(path.read_text(encoding="utf-8")), settings)
        if changed:
            raise ValueError(
                f"'{run.name}' holds a run with other settings: {'; '.join(changed.values())}. Choose another "
                "--output, or delete the folder to start anew"
            )
    elif create:
        run.mkdir(parents=True, exist_ok=True)
        with replace_atomically(path) as partial:
            partial.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def _split_batch(batch_size: int, num_processes: int, micro_batch_size: int | None) -> tuple[int, int]:
    """Images of a process at once, and how many times in a step."""
    share, rest = divmod(batch_size, num_processes)
    micro = micro_batch_size or share
    if rest or share == 0 or share % micro:
        raise ValueError(
            f"a batch of {batch_size} images can't be split over {num_processes} process(es) in pieces of {micro}: "
            "choose --batch-size, --micro-batch-size and the number of processes so that they divide it"
        )
    return micro, share // micro


def take_step(
    accelerator: Accelerator, model: nn.Module, optimizer: Any, batches: list[DetectionBatch]
) -> dict[str, float]:
    """One step of the optimiser on this process's pieces, of equal size, of the step's batch.

    Returns:
        `dict`: the four losses and their sum, `loss`: means over all pieces and processes.
    """
    optimizer.zero_grad()
    total: dict[str, torch.Tensor] = {}
    for number, batch in enumerate(batches, start=1):
        # Gradients travel between processes once a step.
        with accelerator.no_sync(model) if number < len(batches) else contextlib.nullcontext():
            losses = model(*_to_device(batch, accelerator.device))
            loss = torch.stack(list(losses.values())).sum() / len(batches)
            accelerator.backward(loss)
        for name, value in {**losses, "loss": loss * len(batches)}.items():
            total[name] = total.get(name, torch.zeros_like(value)) + value.detach() / len(batches)
    optimizer.step()
    means = accelerator.reduce(torch.stack(list(total.values())), "mean")
    return dict(zip(total, cast(torch.Tensor, means).tolist(), strict=True))


def _to_device(
    batch: DetectionBatch, device: torch.device
) -> tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]:
    """A batch as torchvision's detectors take it: pixels from 0 to 1, class 0 for the background."""
    images = [image.to(device, non_blocking=True).float() / 255 for image in batch.images]
    targets = [{"boxes": boxes.boxes.to(device), "labels": boxes.labels.to(device) + 1} for boxes in batch.boxes]
    return images, targets
