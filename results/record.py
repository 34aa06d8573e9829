"""Write the measured numbers of runs to the results file of their recipe, draw their curves, and make docs/results.md.

python results/record.py RECIPE.yaml RUN_DIR [RUN_DIR ...]
python results/record.py                                     # only docs/results.md, from the results that are there

A line of results/<method>/<recipe>.jsonl is one number with its seed, commit, date, protocol and training command.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from page import COLUMNS, Column, Entry, read_entries, render_page, results_file
from picture import Dot, save_comparison_picture

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.evaluation.pictures.curves import save_curves_picture
from ssl_zoo.evaluation.results import Result, read_results
from ssl_zoo.protocol import find_metric
from ssl_zoo.training.recipe import Recipe, RecipeError, load_recipe


ROOT = Path(__file__).resolve().parents[1]
RIVALS = ROOT / "results" / "rivals.json"
# What a run may have other than its recipe: none of it changes the numbers, or the command shows it.
_FREE = {
    "data.path",
    "data.num_workers",
    "data.label_table",  # the path of a file
    *(f"train.{name}" for name in ("seed", "output_dir", "resume", "keep_checkpoints", "log_every_steps")),
    *(f"train.{name}" for name in ("checkpoint_every_steps", "trackers", "num_processes", "trace")),
}
_SHOWN_IN_COMMAND = ("data.path", "train.seed")
_KEPT = ("metric", "subject", "value", "interval", "seed", "images_seen", "commit", "date")
_RECORDED = {"knn_top1", "linear_top1", "finetune_top1", "logistic_top1", "nmi", "ami", "ari", "hungarian_accuracy"}


def record_results(recipe_file: Path, runs: Sequence[Path]) -> None:
    """Replace the results file of a recipe by the numbers of its runs.

    Args:
        recipe_file (`Path`): The recipe.
        runs (sequence of `Path`): Finished runs of it with a `results.jsonl`, such as those of several seeds.

    Raises:
        RecipeError: if a run was made with other settings, or has not been evaluated.
    """
    recipe = load_recipe(recipe_file)
    lines = []
    for run in runs:
        changed = _differences(recipe, load_recipe(run / "recipe.yaml"))
        if foreign := sorted(changed.keys() - _FREE):
            raise RecipeError(f"'{run}' is not a run of {recipe_file.name}: it differs in {', '.join(foreign)}")
        results = read_results(run / "results.jsonl")
        if not results:
            raise RecipeError(f"'{run}' has no results: evaluate it with recipes/evaluate.py {run} --baselines")
        overrides = [f"{name}={_without_folder(changed[name])}" for name in _SHOWN_IN_COMMAND if name in changed]
        path = "/".join(recipe_file.resolve().parts[-3:])
        command = " ".join(["accelerate launch recipes/train.py", path, *overrides])
        lines += [json.dumps(line) for line in recorded_lines(results, recipe.evaluation.k, command)]
    file = results_file(recipe_file)
    file.parent.mkdir(parents=True, exist_ok=True)
    unique = dict.fromkeys(lines)  # raw pixels are the same for every seed
    with replace_atomically(file) as partial:
        partial.write_text("".join(f"{line}\n" for line in unique), encoding="utf-8")


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


def _without_folder(value: Any) -> Any:
    """The name alone of an absolute path: its folder means nothing on another machine."""
    return Path(value).name if isinstance(value, str) and Path(value).is_absolute() else value


def _differences(recipe: Recipe, other: Recipe) -> dict[str, Any]:
    """Keys whose value differs -> the value in `other`, as it can be typed."""
    before, after = recipe.to_dict(), other.to_dict()
    changed = {} if before["method"] == after["method"] else {"method": after["method"]}
    for section in ("model", "data", "views", "optim", "train"):
        for name in before[section].keys() | after[section].keys():
            if before[section].get(name) != after[section].get(name):
                changed[f"{section}.{name}"] = after[section].get(name)
    return changed


def read_page() -> tuple[str, list[Entry]]:
    """Render docs/results.md from results/ and docs/results_notes.md; its text and the rows of its table."""
    files = sorted((ROOT / "recipes").glob("*/*_small_cpu*.yaml"))
    entries = read_entries(files, RIVALS)
    notes = (ROOT / "docs" / "results_notes.md").read_text(encoding="utf-8")
    return render_page(notes, entries, files), entries


def write_page() -> None:
    """Write docs/results.md and its picture."""
    text, entries = read_page()
    (ROOT / "docs" / "results.md").write_text(text, encoding="utf-8")
    rows = [(entry.title.partition("]")[0].strip("["), entry.kind) for entry in entries]
    shown = [column for column in COLUMNS if column.metric in ("knn_top1", "linear_top1", "finetune_top1")]
    panels = [(f"{column.title}, %", [_dot(entry, column) for entry in entries]) for column in shown]
    title = "CIFAR-10 (JPEG), 0.5 M parameters, 200,000 images seen"
    save_comparison_picture(ROOT / "docs" / "images" / "results.png", rows, panels, title=title)


def _dot(entry: Entry, column: Column) -> Dot | None:
    value, spread = entry.mean(column), entry.spread(column)
    return None if value is None else Dot(value, *(spread or (value, value)))


def main() -> None:
    """Record, or say why not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", type=Path, metavar="RECIPE.yaml", help="the recipe that was run")
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN_DIR", help="its evaluated runs, one a seed")
    arguments = parser.parse_args()
    if arguments.recipe and not arguments.runs:
        parser.error("name the folders of the runs, too")
    try:
        if arguments.recipe:
            record_results(arguments.recipe, arguments.runs)
            picture = ROOT / "docs" / "images" / f"{arguments.recipe.parent.name}-{arguments.recipe.stem}.png"
            logs = {f"seed {number}": run / "metrics.jsonl" for number, run in enumerate(arguments.runs)}
            save_curves_picture(picture, logs)
        write_page()
    except (RecipeError, OSError) as error:
        sys.exit(f"Not recorded. {error}")
    print("Written to docs/results.md and docs/images/results.png")


if __name__ == "__main__":
    main()
