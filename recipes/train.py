"""Train a model from a recipe.

accelerate launch recipes/train.py [RECIPE.yaml] [dotted.key=value ...] [--dry-run]

Without a recipe: recipes/mira/embedded.yaml, which trains MIRA on images that the package makes itself.
`--help` beside a recipe describes the keys of its method alone.
"""

import argparse
import logging
import os
import re
import sys
from pathlib import Path


# Read when torch is imported. By default its threads spin while they wait for one another, on the cores that the
# workers need: where other processes run, too, a step then takes 5 to 25 times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from ssl_zoo.data.source import DataError, open_source
from ssl_zoo.models.registry import method_names
from ssl_zoo.training.checkpoint import CheckpointError
from ssl_zoo.training.loop import StoppedError, train
from ssl_zoo.training.plan import derive_plan
from ssl_zoo.training.recipe import Recipe, RecipeError, describe_keys, load_recipe


OVERRIDE = re.compile(r"[\w.]+=")
DEFAULT_RECIPE = Path(__file__).parent / "mira" / "embedded.yaml"


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Split the command line into a recipe and its overrides."""
    # `--help` beside a recipe describes its method alone.
    named = [method for method in method_names() if any(method in Path(word).parts for word in arguments)]
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"The keys of a recipe; key=value overrides one:\n\n{describe_keys(named)}",
    )
    parser.add_argument("words", nargs="*", metavar="WORD", help="a recipe file, or dotted.key=value")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and its numbers, and stop")
    return parser.parse_intermixed_args(arguments)


def resolve(words: list[str]) -> Recipe:
    """Read the recipe that the words of the command line name, with their overrides."""
    files = [word for word in words if word.endswith((".yaml", ".yml")) and not OVERRIDE.match(word)]
    if len(files) > 1:
        raise RecipeError(f"one recipe at a time, got {', '.join(files)}")
    return load_recipe(files[0] if files else DEFAULT_RECIPE, [word for word in words if word not in files])


def main() -> None:
    """Train, or say why not."""
    arguments = parse_arguments(sys.argv[1:])
    is_main_process = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for noisy in ("httpx", "datasets", "fsspec"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        recipe = resolve(arguments.words)
        if arguments.dry_run:
            num_processes = recipe.train.num_processes or int(os.environ.get("WORLD_SIZE", "1"))
            plan = derive_plan(recipe, num_rows=open_source(recipe.data).num_rows, num_processes=num_processes)
            message = f"{recipe.to_yaml()}\n{plan.describe()}"
        else:
            message = f"finished: {train(recipe)}"
    except (RecipeError, DataError, CheckpointError, ArithmeticError, StoppedError) as error:  # a diverged run, too
        sys.exit(f"{type(error).__name__}: {error}")
    if is_main_process:
        print(message)


if __name__ == "__main__":
    main()
