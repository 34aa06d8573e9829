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
    """List the models of a training run, oldest first, given its folder, its `model/` or one of its checkpoints.

    They are the `checkpoints/step-*` that can be loaded, then `model/`; none if `name` isn't a folder of a run. A
    checkpoint of the same step as the final model is left out: they are the same.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return []
    run = next((place for place in (folder, *folder.parents[:2]) if _is_run(place, folder)), None)
    if run is None:
        return []
    last, per_step = _read_log(run / "metrics.jsonl")
    final = run / "model"
    steps = [(place, place.name.removeprefix("step-")) for place in sorted(run.glob("checkpoints/step-*"))]
    models: list[tuple[Path, int | None]] = [
        (place, int(step)) for place, step in steps if step.isdecimal() and (place / "config.json").is_file()
    ]
    if (final / "config.json").is_file():
        models = [*(model for model in models if model[1] != last), (final, last)]
    return [
        RunCheckpoint(str(place), step, step * per_step if step and per_step else None, place == final)
        for place, step in models
    ]


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
