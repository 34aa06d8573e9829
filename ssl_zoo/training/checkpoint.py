"""Checkpoints for an exact resume, written atomically."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import gather_object

from ssl_zoo.atomic import replace_atomically


__all__ = [
    "CheckpointError",
    "TrainingState",
    "find_checkpoint",
    "list_checkpoints",
    "load_checkpoint",
    "save_checkpoint",
    "truncate_log",
]


_STATE = "training_state.json"


class CheckpointError(ValueError):
    """A checkpoint can't be used; the message says why and what to do."""


@dataclass
class TrainingState:
    """State that `Accelerator.save_state` doesn't hold.

    Args:
        step: Optimiser steps done.
        processes: By rank, where the process stands in the data and what it counted, as plain data.
    """

    step: int
    processes: list[dict[str, Any]]


def save_checkpoint(
    accelerator: Accelerator, folder: Path, step: int, process: dict[str, Any], *, extra: dict[str, str], keep: int
) -> Path:
    """Write the checkpoint `folder/step-XXXXXXXX`, whole or not at all. Call it on every process.

    Args:
        accelerator (`Accelerator`): Holds the prepared model and optimiser.
        folder (`Path`): The run's folder of checkpoints.
        step (`int`): Optimiser steps done.
        process (`dict`): State of this process alone, as plain data.
        extra (`dict`): File name -> text, stored alongside.
        keep (`int`): How many checkpoints stay; older ones are deleted after the new one is complete.
    """
    target = folder / f"step-{step:08d}"
    with replace_atomically(target, is_main=accelerator.is_main_process) as partial:
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        processes = gather_object([process])
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            (partial / _STATE).write_text(json.dumps({"step": step, "processes": processes}))
            for name, text in extra.items():
                (partial / name).write_text(text)
    if accelerator.is_main_process:
        for old in list_checkpoints(folder)[:-keep]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()
    return target


def load_checkpoint(accelerator: Accelerator, checkpoint: Path) -> TrainingState:
    """Restore the prepared model, optimiser and random states, and return the rest. Call it on every process.

    Raises:
        CheckpointError: if the folder is no checkpoint, or the run had another number of processes.
    """
    try:
        stored: dict[str, Any] = json.loads((checkpoint / _STATE).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{checkpoint}' is not a checkpoint of ssl_zoo ({error})") from error
    state = TrainingState(stored["step"], stored["processes"])
    if len(state.processes) != accelerator.num_processes:
        raise CheckpointError(
            f"'{checkpoint.name}' was written by {len(state.processes)} processes, this launch has "
            f"{accelerator.num_processes}. To continue exactly, launch as many as before"
        )
    accelerator.load_state(str(checkpoint))
    return state


def list_checkpoints(folder: Path) -> list[Path]:
    """List the complete checkpoints in a run's folder, oldest first."""
    return sorted(folder.glob("step-*"))


def find_checkpoint(folder: Path, resume: str) -> Path | None:
    """Choose the checkpoint to resume from.

    Args:
        folder (`Path`): The run's folder of checkpoints.
        resume (`str`): `auto` for the newest checkpoint, if any; `never` for a fresh run; or the path of a checkpoint.

    Raises:
        CheckpointError: if the run was to start afresh but has checkpoints: they would be lost.
    """
    if resume not in ("auto", "never"):
        return Path(resume)
    done = list_checkpoints(folder)
    if done and resume == "never":
        raise CheckpointError(
            f"`train.resume` is never, but '{folder}' holds {done[-1].name}: choose another `train.output_dir`, "
            f"delete the folder, or continue with train.resume=auto"
        )
    return done[-1] if done else None


def truncate_log(path: Path, step: int) -> None:
    """Drop the lines of a log (one JSON object a line with a `step`) that lie beyond `step`, and a torn last line."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] > step:
                break
        except (ValueError, KeyError):
            break
        kept.append(line + "\n")
    with replace_atomically(path) as partial:
        partial.write_text("".join(kept))
