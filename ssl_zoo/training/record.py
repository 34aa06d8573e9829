"""Puts measured numbers into the recipe that made them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_zoo.evaluation.results import Result, read_results
from ssl_zoo.protocol import find_metric
from ssl_zoo.training.recipe import Recipe, RecipeError, load_recipe


__all__ = ["record_results", "recorded_lines"]

# What a run may have other than its recipe: none of it belongs to the recipe's claim, or the command shows it.
_FREE = {
    "data.path",
    "data.num_workers",
    "data.label_table",  # a place, too
    *(f"train.{name}" for name in ("seed", "output_dir", "resume", "keep_checkpoints", "log_every_steps")),
    *(f"train.{name}" for name in ("checkpoint_every_steps", "trackers", "num_processes", "trace")),
}
_SHOWN_IN_COMMAND = ("data.path", "train.seed")
_KEPT = ("metric", "subject", "value", "interval", "seed", "images_seen", "commit", "date")
_RECORDED = {"knn_top1", "linear_top1", "finetune_top1", "logistic_top1", "nmi", "ami", "ari", "hungarian_accuracy"}


def record_results(recipe_file: Path, runs: Sequence[Path]) -> None:
    """Replace a recipe file's `results` by those of its runs; comments and all else in the file stay as they are.

    Args:
        recipe_file (`Path`): The recipe.
        runs (sequence of `Path`): Finished runs of it with a `results.jsonl`, such as those of several seeds.

    Raises:
        RecipeError: if a run was made with other settings, or has not been evaluated.
    """
    recipe = load_recipe(recipe_file)
    lines = []
    for run in runs:
        other = load_recipe(run / "recipe.yaml")
        changed = _differences(recipe, other)
        if foreign := sorted(changed.keys() - _FREE):
            raise RecipeError(f"'{run}' is no run of {recipe_file.name}: it differs in {', '.join(foreign)}")
        results = read_results(run / "results.jsonl")
        if not results:
            raise RecipeError(f"'{run}' has no results: evaluate it with recipes/evaluate.py {run} --baselines")
        words = [f"{name}={_without_place(changed[name])}" for name in _SHOWN_IN_COMMAND if name in changed]
        command = " ".join(["accelerate launch recipes/train.py", _place(recipe_file), *words])
        lines += [json.dumps(line) for line in recorded_lines(results, recipe.evaluation.k, command)]
    unique = list(dict.fromkeys(lines))  # raw pixels are the same for every seed
    text = recipe_file.read_text(encoding="utf-8")
    head, _, _ = text.partition("\nresults:")
    recipe_file.write_text(f"{head}\nresults:\n" + "".join(f"  - {line}\n" for line in unique), encoding="utf-8")


def recorded_lines(results: Sequence[Result], k: int, command: str) -> list[dict[str, Any]]:
    """What is kept of results: the metrics of the table, of k-NN one k, with what is needed to measure them again.

    Args:
        results (`Sequence[Result]`): In the order in which they were measured; a later one replaces an equal one.
        k: Number of neighbours of the k-NN that is kept.
        command: What trained the model.
    """
    latest = {}
    for result in results:
        if result.metric in _RECORDED and result.protocol.get("k", k) == k:
            protocol = {"name": result.protocol["name"], **find_metric(result.metric).telling(result.protocol)}
            latest[result.subject, result.metric, json.dumps(protocol)] = (protocol, result)
    lines = []
    for protocol, result in latest.values():
        line = {name: value for name in _KEPT if (value := getattr(result, name)) is not None or name == "seed"}
        line["value"] = round(result.value, 4)
        line["protocol"] = protocol
        if result.interval is not None:
            line["interval"] = [round(bound, 4) for bound in result.interval]
        if result.subject == "trained":
            line["command"] = command
        lines.append(line)
    return lines


def _without_place(value: Any) -> Any:
    """Of a folder outside the working folder only the name: where it is means nothing elsewhere."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _place(recipe_file: Path) -> str:
    return "/".join(recipe_file.resolve().parts[-3:])


def _differences(recipe: Recipe, other: Recipe) -> dict[str, Any]:
    """Keys whose value differs -> the value in `other`, as it can be typed."""
    ours, theirs = recipe.to_dict(), other.to_dict()
    changed = {} if ours["method"] == theirs["method"] else {"method": theirs["method"]}
    for section in ("model", "data", "views", "optim", "train"):
        for name in ours[section].keys() | theirs[section].keys():
            if ours[section].get(name) != theirs[section].get(name):
                changed[f"{section}.{name}"] = theirs[section].get(name)
    return changed
