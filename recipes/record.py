"""Put the measured numbers of runs into their recipe, draw their curves, and write docs/results.md anew.

python recipes/record.py RECIPE.yaml RUN_DIR [RUN_DIR ...]
python recipes/record.py                                     # only docs/results.md, from the recipes as they are
"""

import argparse
import sys
from pathlib import Path

from ssl_zoo.evaluation.pictures.comparison import Dot, save_comparison_picture
from ssl_zoo.evaluation.pictures.curves import save_curves_picture
from ssl_zoo.training.config import RecipeError
from ssl_zoo.training.record import record_results
from ssl_zoo.training.results_page import COLUMNS, Column, Entry, read_entries, render_page


ROOT = Path(__file__).resolve().parents[1]


def write_page() -> None:
    """Write docs/results.md and its picture from the recipes and benchmarks/rivals.json."""
    files = sorted((ROOT / "recipes").glob("*/*_small_cpu*.yaml"))
    entries = read_entries(files, ROOT / "benchmarks" / "rivals.json")
    notes = (ROOT / "docs" / "results_notes.md").read_text(encoding="utf-8")
    (ROOT / "docs" / "results.md").write_text(render_page(notes, entries, files), encoding="utf-8")
    rows = [(entry.title.partition("]")[0].strip("["), entry.kind) for entry in entries]
    shown = [column for column in COLUMNS if column.metric in ("knn_top1", "linear_top1", "finetune_top1")]
    panels = [(f"{column.title}, %", [dot(entry, column) for entry in entries]) for column in shown]
    title = "CIFAR-10 (JPEG), 0.5 M parameters, 200,000 images seen"
    save_comparison_picture(ROOT / "docs" / "images" / "results.png", rows, panels, title=title)


def dot(entry: Entry, column: Column) -> Dot | None:
    """What the picture shows of an entry."""
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
            names = [f"seed {number}" for number in range(len(arguments.runs))]
            logs = [run / "metrics.jsonl" for run in arguments.runs]
            save_curves_picture(picture, dict(zip(names, logs, strict=True)))
        write_page()
    except (RecipeError, OSError) as error:
        sys.exit(f"Not recorded. {error}")
    print("Written to docs/results.md and docs/images/results.png")


if __name__ == "__main__":
    main()
