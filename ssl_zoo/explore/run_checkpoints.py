"""The models of a training run by step: its checkpoints and the final one."""

import json
from pathlib import Path
from typing import NamedTuple


__all__ = ["RunCheckpoint", "list_run_checkpoints"]


class RunCheckpoint(NamedTuple):
    """A model of a run.

    Attributes:
        name (`str`): The folder, as `load_explorer` takes it.
        step (`int`, *optional*): Optimiser steps done; `None` for a final model without a log.
        epoch (`float`, *optional*): Passes over the data done, if the run has a log.
        is_final (`bool`): Whether it is the final model.
    """

    name: str
    step: int | None
    epoch: float | None
    is_final: bool


def list_run_checkpoints(name: str) -> list[RunCheckpoint]:
    """List the models of a training run, oldest first, for a slider over epochs.

    Args:
        name: Folder of the run, its `model/`, or one of its checkpoints.

    Returns:
        `list` of [`RunCheckpoint`]: `checkpoints/step-*` that can be loaded, then `model/`; empty if `name` is no
        folder of a run. A checkpoint of the same step as the final model is left out: they are the same.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return []
    run = next((place for place in (folder, *folder.parents[:2]) if _is_run(place, folder)), None)
    if run is None:
        return []
    last, per_step = _read_log(run / "metrics.jsonl")
    final = run / "model"
    has_final = (final / "config.json").is_file()
    found: list[RunCheckpoint] = []
    for place in sorted(run.glob("checkpoints/step-*")):
        digits = place.name.removeprefix("step-")
        if not (place / "config.json").is_file() or not digits.isdecimal():
            continue
        step = int(digits)
        if not (has_final and step == last):
            found.append(RunCheckpoint(str(place), step, None if per_step is None else step * per_step, False))
    if has_final:
        found.append(
            RunCheckpoint(str(final), last, None if per_step is None or last is None else last * per_step, True)
        )
    return found


def _is_run(place: Path, inside: Path) -> bool:
    """Whether a folder is a run's and `inside` one of its models, or the run itself."""
    models = {place, place / "model", *place.glob("checkpoints/step-*")}
    return inside in models and ((place / "model" / "config.json").is_file() or any(place.glob("checkpoints/step-*")))


def _read_log(file: Path) -> tuple[int | None, float | None]:
    """Last step of a run, and epochs per step; `None` for what isn't known."""
    last, per_step = None, None
    if file.is_file():
        for line in file.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
                last = max(int(entry["step"]), last or 0)
                per_step = float(entry["epoch"]) / int(entry["step"]) if entry.get("epoch") else per_step
            except (ValueError, KeyError, TypeError, ZeroDivisionError):
                continue  # a line that was cut off
    return last, per_step
