"""Puts measured numbers where readers find them: into the recipe that made them, and into one table of all recipes."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ssl_zoo.evaluation.results import Result, read_results
from ssl_zoo.models.registry import display_name
from ssl_zoo.training.recipe import Recipe, RecipeError, load_recipe


# What a run may have other than its recipe: none of it belongs to the recipe's claim, or the command shows it.
_FREE = {
    "data.path",
    "data.num_workers",
    *(f"train.{name}" for name in ("seed", "output_dir", "resume", "keep_checkpoints", "log_every_steps")),
    *(f"train.{name}" for name in ("checkpoint_every_steps", "trackers", "num_processes", "trace")),
}
_SHOWN_IN_COMMAND = ("data.path", "train.seed")
_KEPT = ("metric", "subject", "value", "seed", "images_seen", "protocol", "commit", "date")

_PREAMBLE = """# Measured results

Every number here was measured with this library and stands, with its seed, commit and command, in the
`results` of its recipe; this file is made from there by `python recipes/record.py`. An empty cell was not
measured. What the papers report for their own, much longer runs stands in the headers of the recipes.

The small runs below share one backbone (a ResNet of 0.5 million parameters), one data set (CIFAR-10 from a
JPEG copy of its images) and a budget of about ten minutes on two CPU cores that nothing else uses; some methods
see more images in that time than others. They show that a method learns, not how good it can get; nor do they
rank the methods: each was tuned only until it clearly beat its own random initialisation. k-NN is top-1
accuracy in per cent on the 10,000 test images with all training images as neighbours (k = 20, weighted); methods
that learned from labels are marked with the share of labels they saw. Differences of a point or two between rows
mean nothing: most are of one seed.
"""


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
        words = [f"{name}={changed[name]}" for name in _SHOWN_IN_COMMAND if name in changed]
        command = " ".join(["accelerate launch recipes/train.py", _place(recipe_file), *words])
        latest = {(result.subject, result.metric): result for result in results}
        lines += [_line(result, command) for result in latest.values()]
    unique = list(dict.fromkeys(lines))  # raw pixels are the same for every seed
    text = recipe_file.read_text(encoding="utf-8")
    head, _, _ = text.partition("\nresults:")
    recipe_file.write_text(f"{head}\nresults:\n" + "".join(f"  - {line}\n" for line in unique), encoding="utf-8")


def _place(recipe_file: Path) -> str:
    return "/".join(recipe_file.resolve().parts[-3:])


def _line(result: Result, command: str) -> str:
    values = {name: getattr(result, name) for name in _KEPT}
    values["value"] = round(result.value, 4)
    if result.subject == "trained":
        values["command"] = command
    return json.dumps(values)


def _differences(recipe: Recipe, other: Recipe) -> dict[str, Any]:
    """Keys whose value differs -> the value in `other`, as it can be typed."""
    ours, theirs = recipe.to_dict(), other.to_dict()
    changed = {} if ours["method"] == theirs["method"] else {"method": theirs["method"]}
    for section in ("model", "data", "views", "optim", "train"):
        for name in ours[section].keys() | theirs[section].keys():
            if ours[section].get(name) != theirs[section].get(name):
                changed[f"{section}.{name}"] = theirs[section].get(name)
    return changed


def render_results(recipe_files: Sequence[Path]) -> str:
    """Render the table of all recipes that have results, as a Markdown page.

    Args:
        recipe_files (sequence of `Path`): In the order of the rows.

    Returns:
        `str`: the page, with the loss curves that `recipes/record.py` draws.
    """
    rows, pictures = [], []
    for file in recipe_files:
        recipe = load_recipe(file)
        if not recipe.results:
            continue
        rows.append(_row(file, recipe))
        if picture := curves_picture(file):
            pictures.append(f"### {_title(file, recipe)}\n\n![Curves of its training]({picture})\n")
    header = (
        "| recipe | labels | images seen | seeds | raw pixels | random init | **trained** | gain | NMI |\n"
        "|---|---|---|---|---|---|---|---|---|\n"
    )
    return "\n".join([_PREAMBLE, header + "".join(rows), "## How the runs went\n", *pictures])


def curves_picture(recipe_file: Path) -> str | None:
    """Where the curves of a recipe's runs are, relative to `docs/`; `None` for none."""
    picture = f"images/{recipe_file.parent.name}-{recipe_file.stem}.png"
    return picture if (recipe_file.resolve().parents[2] / "docs" / picture).is_file() else None


def _title(file: Path, recipe: Recipe) -> str:
    return f"{display_name(recipe.method)}, `{file.parent.name}/{file.name}`"


def _row(file: Path, recipe: Recipe) -> str:
    def values(subject: str, metric: str) -> list[float]:
        found = {
            line["seed"]: line for line in recipe.results if (line["subject"], line["metric"]) == (subject, metric)
        }
        return [line["value"] for line in found.values()]

    trained, untrained = values("trained", "knn_top1"), values("random_init", "knn_top1")
    seen = {line["images_seen"] for line in recipe.results if line["subject"] == "trained"}
    learns = recipe.model_config().learns_from_labels
    cells = [
        f"[{file.parent.name}/{file.name}](../recipes/{file.parent.name}/{file.name})",
        f"{recipe.data.labelled_share:.0%}" if learns else "none",
        ", ".join(f"{number:,}" for number in sorted(seen)),
        str(len(trained)),
        _percent(values("raw_pixels", "knn_top1")),
        _percent(untrained),
        f"**{_percent(trained)}**",
        f"{100 * (statistics.mean(trained) - statistics.mean(untrained)):+.1f}" if trained and untrained else "",
        _spread(values("trained", "nmi"), 2),
    ]
    return f"| {' | '.join(cells)} |\n"


def _percent(values: list[float]) -> str:
    return _spread([100 * value for value in values], 1)


def _spread(values: list[float], digits: int) -> str:
    """Mean, and the standard deviation where there are several values."""
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(set(values)) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{spread}"


__all__ = ["curves_picture", "record_results", "render_results"]
