"""Put the measured numbers of runs into their recipe, draw their curves, and write docs/results.md anew.

python recipes/record.py RECIPE.yaml RUN_DIR [RUN_DIR ...]
python recipes/record.py                                     # only docs/results.md, from the recipes as they are
"""

import argparse
import sys
from pathlib import Path

from ssl_zoo.evaluation.curves import save_curves_picture
from ssl_zoo.training.config import RecipeError
from ssl_zoo.training.record import record_results, render_results


ROOT = Path(__file__).resolve().parents[1]


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
        files = sorted((ROOT / "recipes").glob("*/*.yaml"))
        page = render_results([file for file in files if file.parent.name != "accelerate"])
    except (RecipeError, OSError) as error:
        sys.exit(f"Not recorded. {error}")
    (ROOT / "docs" / "results.md").write_text(page, encoding="utf-8")
    print("Written to docs/results.md")


if __name__ == "__main__":
    main()
