"""Measure what a trained backbone is worth: k-NN accuracy, NMI of its pseudo-labels, a picture of its clusters.

accelerate launch recipes/evaluate.py RUN_DIR_OR_REPO [--data PATH] [--k 20] [--baselines]

Of a run the data and the protocol are its recipe's. Prints a table, appends to results.jsonl, draws clusters.png
and, of a run, curves.png.
"""

import argparse
import json
import logging
import re
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from transformers.utils.logging import disable_progress_bar

from ssl_zoo.data.source import DataConfig, DataError, open_source
from ssl_zoo.data.views import RawPixels
from ssl_zoo.evaluation.curves import save_curves_picture
from ssl_zoo.evaluation.load import (
    ModelLoadError,
    create_untrained,
    encoder,
    find_file,
    load_backbone,
    load_pretraining_model,
    model_view,
    view_size,
)
from ssl_zoo.evaluation.protocol import Reading
from ssl_zoo.evaluation.report import Subject, measure_clusters, measure_knn
from ssl_zoo.evaluation.results import Result, append_results, render_results
from ssl_zoo.models.registry import display_name
from ssl_zoo.training.config import EvaluationConfig, RecipeError
from ssl_zoo.training.processes import create_accelerator
from ssl_zoo.training.recipe import load_recipe


LARGEST_RAW_SIDE = 64  # of larger images, raw pixels are compared at this size


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", metavar="RUN_DIR_OR_REPO", help="a run's folder, a checkpoint, or org/name on the Hub"
    )
    parser.add_argument("--revision", help="commit, branch or tag of the model on the Hub")
    parser.add_argument("--data", metavar="PATH", help="data set: org/name, a local folder or 'embedded'")
    parser.add_argument("--train-split", help="labelled split that the neighbours come from")
    parser.add_argument("--test-split", help="labelled split that is classified")
    parser.add_argument("--k", type=int, nargs="+", metavar="K", help="number(s) of neighbours")
    parser.add_argument("--temperature", type=float, help="temperature of the neighbours' weights")
    parser.add_argument("--batch-size", type=int, help="images per forward pass; changes no result")
    parser.add_argument("--baselines", action="store_true", help="measure raw pixels and the untrained backbone, too")
    parser.add_argument("--output", metavar="DIR", type=Path, help="where to write; the run's folder by default")
    return parser.parse_args()


def read_settings(arguments: argparse.Namespace) -> tuple[DataConfig, EvaluationConfig, int | None]:
    """Data, protocol and seed: the recipe's beside the model, with what the command line says instead."""
    path = find_file(arguments.model, "recipe.yaml", revision=arguments.revision)
    recipe = load_recipe(path) if path else None
    if recipe is None and arguments.data is None:
        raise ModelLoadError(f"'{arguments.model}' has no recipe.yaml that would name the data: add --data PATH")
    data = recipe.data if recipe else DataConfig()
    if arguments.data is not None and arguments.data != data.path:
        # Columns, subset and revision belong to the data set that is replaced.
        data = DataConfig(path=arguments.data, streaming=data.streaming, num_workers=data.num_workers)
    protocol = recipe.evaluation if recipe else EvaluationConfig()
    said = {name: getattr(arguments, name) for name in ("train_split", "test_split", "temperature", "batch_size")}
    protocol = replace(protocol, **{name: value for name, value in said.items() if value is not None})
    return data, protocol, recipe.train.seed if recipe else None


def images_seen(arguments: argparse.Namespace) -> int | None:
    """How many images the model was trained on, by the run's log."""
    path = find_file(arguments.model, "metrics.jsonl", revision=arguments.revision)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path else []
    step = re.fullmatch(r"step-(\d+)", Path(arguments.model).name)  # a checkpoint
    seen = [line["images_seen"] for line in lines if step is None or line["step"] == int(step[1])]
    return seen[-1] if seen else None


def output_folder(arguments: argparse.Namespace) -> Path:
    """Where results go: the folder of a finished run, else one of their own."""
    folder = Path(arguments.model)
    is_run = (folder / "model" / "config.json").is_file()
    return arguments.output or (folder if is_run else Path("runs") / f"evaluation-{folder.name}")


def evaluate(arguments: argparse.Namespace, accelerator: Accelerator) -> list[Result]:
    """Measure all subjects on all processes and draw the clusters."""
    backbone = load_backbone(arguments.model, revision=arguments.revision)
    data, protocol, seed = read_settings(arguments)
    with accelerator.main_process_first():  # the first process downloads, renders and counts
        bank = open_source(replace(data, split=protocol.train_split, max_rows=protocol.max_bank_rows))
        test = open_source(replace(data, split=protocol.test_split, max_rows=None))
    device, view = accelerator.device, model_view(backbone)
    reading = Reading(protocol.batch_size, data.num_workers, data.max_corrupt_share, device)
    trained = Subject("trained", view, seed, images_seen(arguments))
    subjects = [(trained, encoder(backbone.to(device)))]
    if arguments.baselines:
        untrained = create_untrained(backbone, seed=seed or 0).to(device)
        pixels = RawPixels(min(view_size(backbone), LARGEST_RAW_SIDE))
        subjects.insert(0, (Subject("random_init", view, seed or 0, 0), encoder(untrained)))
        subjects.insert(0, (Subject("raw_pixels", pixels), partial(torch.flatten, start_dim=1)))
    results = []
    for subject, encode in subjects:
        results += measure_knn(
            subject,
            encode,
            bank=bank,
            test=test,
            k=tuple(arguments.k or [protocol.k]),
            temperature=protocol.temperature,
            reading=reading,
        )
    pretraining = load_pretraining_model(arguments.model, revision=arguments.revision)
    assign = getattr(pretraining, "pseudo_labels", None)
    if pretraining is not None and assign is not None:
        pretraining.to(device)
        picture = output_folder(arguments) / "clusters.png"
        config = pretraining.config
        found = "from few labels" if config.learns_from_labels else "without labels"
        title = f"What {display_name(config.model_type)} found {found}"
        results += measure_clusters(trained, assign, test=test, reading=reading, picture=picture, title=title)
    return results


def main() -> None:
    """Evaluate, or say why not."""
    # Python puts this folder first on the path, where `import evaluate` would find this file instead of the library.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    disable_progress_bar()  # transformers' own, of reading a file
    accelerator = create_accelerator()
    output = output_folder(arguments)
    output.mkdir(parents=True, exist_ok=True)
    try:
        results = evaluate(arguments, accelerator)
    except (DataError, ModelLoadError, RecipeError, ValueError) as error:
        sys.exit(f"Not evaluated. {error}")
    if accelerator.is_main_process:
        append_results(output / "results.jsonl", results)
        print(f"\n{render_results(results)}\n\nWritten to {output}/")
        if (output / "metrics.jsonl").is_file():
            save_curves_picture(output / "curves.png", {output.name: output / "metrics.jsonl"})
    accelerator.end_training()


if __name__ == "__main__":
    main()
