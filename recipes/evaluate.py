"""Evaluate a backbone: of a run, of a repository on the Hub, or any vision model of timm or transformers.

accelerate launch recipes/evaluate.py MODEL [--data PATH] [--protocol NAME ...] [protocol.setting=value ...]

MODEL is a run's folder, a checkpoint, org/name on the Hub, or a name of timm (resnet50.a1_in1k). For a run, the data
and the k-NN parameters are its recipe's. Features are computed once and stored on disk. Prints a table and appends to
results.jsonl; draws clusters.png and, for a run, curves.png.
"""

import argparse
import json
import logging
import re
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from transformers.utils.logging import disable_progress_bar

from ssl_zoo.data.source import DataConfig, DataError, open_source
from ssl_zoo.evaluation.evaluation import Evaluation
from ssl_zoo.evaluation.pictures.curves import save_curves_picture
from ssl_zoo.evaluation.protocols.knn import KnnSettings
from ssl_zoo.evaluation.results import Result, append_results, render_results
from ssl_zoo.evaluation.subject import Subject, load_subjects
from ssl_zoo.evaluation.transfer import evaluate_suite
from ssl_zoo.features.extract import Reading
from ssl_zoo.features.store import FeatureStore
from ssl_zoo.loading.models import ModelLoadError, find_file
from ssl_zoo.models.registry import display_name, method_names
from ssl_zoo.protocol import describe_protocols, protocol_names, read_protocol_settings
from ssl_zoo.training.config import EvaluationConfig, RecipeError
from ssl_zoo.training.processes import create_accelerator
from ssl_zoo.training.recipe import Recipe, load_recipe


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"protocols and their settings:\n\n{describe_protocols()}",
    )
    parser.add_argument("model", metavar="MODEL", help="a run's folder, a checkpoint, org/name or a name of timm")
    parser.add_argument("overrides", nargs="*", metavar="protocol.setting=value", help="such as knn.k=1,20")
    parser.add_argument(
        "--protocol",
        nargs="+",
        default=["knn", "clusters"],
        metavar="NAME",
        help=f"what to measure: {', '.join(protocol_names())}, all; knn and clusters by default",
    )
    parser.add_argument("--suite", choices=["transfer"], help="logistic regression on the data sets of the papers")
    parser.add_argument("--revision", help="commit, branch or tag of the model on the Hub")
    parser.add_argument("--baselines", action="store_true", help="measure raw pixels and the untrained backbone, too")
    data = parser.add_argument_group("data")
    data.add_argument("--data", metavar="PATH", help="data set: org/name, a local folder or 'embedded'")
    data.add_argument("--data-name", metavar="NAME", help="configuration (subset) of the data set, if it has any")
    data.add_argument("--data-revision", metavar="COMMIT", help="commit, branch or tag of the data set on the Hub")
    data.add_argument("--train-split", help="labelled split that is learned from")
    data.add_argument("--test-split", help="labelled split that is tested on")
    data.add_argument(
        "--validation-split", help="split that parameters are chosen by; a share of the train split otherwise"
    )
    data.add_argument("--image-column", help="column of the images; found by its type otherwise")
    data.add_argument("--label-column", help="column of the classes; found by its type otherwise")
    data.add_argument("--max-rows", type=int, metavar="N", help="use the first N rows of each split only")
    speed = parser.add_argument_group("speed and files", "these don't change the result")
    speed.add_argument("--batch-size", type=int, help="images per forward pass")
    speed.add_argument("--num-workers", type=int, help="processes that read and decode, for each device")
    speed.add_argument("--cache-dir", type=Path, metavar="DIR", help="where features are kept")
    speed.add_argument("--output", metavar="DIR", type=Path, help="where to write; the run's folder by default")
    parser.add_argument(
        "--feature-dtype", choices=["float32", "float16"], default="float32", help="how features are kept"
    )
    arguments = parser.parse_intermixed_args()
    # Parameters may follow the names of the protocols.
    arguments.overrides += [word for word in arguments.protocol if "=" in word]
    arguments.protocol = [word for word in arguments.protocol if "=" not in word]
    if unknown := set(arguments.protocol) - {*protocol_names(), "all"}:
        parser.error(f"--protocol knows {', '.join(protocol_names())} and all, not {', '.join(sorted(unknown))}")
    return arguments


def read_recipe(arguments: argparse.Namespace) -> Recipe | None:
    """The recipe beside the model."""
    path = find_file(arguments.model, "recipe.yaml", revision=arguments.revision)
    recipe = load_recipe(path) if path else None
    if recipe is None and arguments.data is None and arguments.suite is None:
        raise ModelLoadError(f"'{arguments.model}' has no recipe.yaml that would name the data: add --data PATH")
    return recipe


def read_data(arguments: argparse.Namespace, recipe: Recipe | None) -> DataConfig:
    """The recipe's data, with the values of the command line."""
    data = recipe.data if recipe else DataConfig()
    if arguments.data is not None and arguments.data != data.path:
        # Columns, subset and revision belong to the data set that is replaced.
        data = DataConfig(path=arguments.data, streaming=data.streaming, num_workers=data.num_workers)
    given = {
        "name": arguments.data_name,
        "revision": arguments.data_revision,
        "image_column": arguments.image_column,
        "label_column": arguments.label_column,
        "num_workers": arguments.num_workers,
        "max_rows": arguments.max_rows,
    }
    # Which labels the method learned from doesn't concern its evaluation.
    whole = replace(data, max_rows=None, labelled_share=1.0, labelled_ids=None, label_table=None)
    return replace(whole, **{name: value for name, value in given.items() if value is not None})


def read_settings(arguments: argparse.Namespace, recipe: Recipe | None, num_rows: int) -> dict[str, Any]:
    """Settings: the recipe's k and temperature, numbers of neighbours that the bank has, and the overrides."""
    usual = KnnSettings(temperature=(recipe.evaluation if recipe else EvaluationConfig()).temperature)
    wanted = {*usual.k, recipe.evaluation.k} if recipe else set(usual.k)
    k = tuple(sorted(size for size in wanted if size <= num_rows)) or (1,)
    return read_protocol_settings(arguments.overrides, {"knn": replace(usual, k=k)})


def images_seen(arguments: argparse.Namespace) -> int | None:
    """How many images the model was trained on, by the run's log."""
    path = find_file(arguments.model, "metrics.jsonl", revision=arguments.revision)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path else []
    step = re.fullmatch(r"step-(\d+)", Path(arguments.model).name)  # a checkpoint
    seen = [line["images_seen"] for line in lines if step is None or line["step"] == int(step[1])]
    return seen[-1] if seen else None


def output_folder(arguments: argparse.Namespace) -> Path:
    """Where results go: the folder of a finished run, or a new one for any other model."""
    folder = Path(arguments.model)
    is_run = (folder / "model" / "config.json").is_file()
    return arguments.output or (folder if is_run else Path("runs") / f"evaluation-{folder.name}")


def load(arguments: argparse.Namespace, recipe: Recipe | None, device: torch.device) -> list[Subject]:
    """The model and, if wanted, its baselines."""
    method = recipe.method if recipe else None
    return load_subjects(
        arguments.model,
        revision=arguments.revision,
        device=device,
        seed=recipe.train.seed if recipe else None,
        images_seen=images_seen(arguments),
        baselines=arguments.baselines,
        display_name=display_name(method) if method in method_names() else method,
    )


def evaluate(arguments: argparse.Namespace, accelerator: Accelerator, output: Path) -> list[Result]:
    """Measure all subjects by all protocols, on all processes. Results are written as they come."""
    declared = read_protocol_settings(arguments.overrides)  # refuses a misspelt one before anything is loaded
    recipe = read_recipe(arguments)
    subjects = load(arguments, recipe, accelerator.device)
    defaults = recipe.evaluation if recipe else EvaluationConfig()
    data = read_data(arguments, recipe)
    reading = Reading(
        arguments.batch_size or defaults.batch_size, data.num_workers, data.max_corrupt_share, accelerator.device
    )
    store = FeatureStore(arguments.cache_dir, dtype=arguments.feature_dtype)
    results: list[Result] = []

    def keep(measured: list[Result]) -> None:
        results.extend(measured)
        if accelerator.is_main_process:
            append_results(output / "results.jsonl", measured)

    if arguments.suite:
        logistic = declared["logistic"]
        missing = evaluate_suite(subjects[-1], store=store, reading=reading, settings=logistic, keep=keep)
        if accelerator.is_main_process:
            print("".join(f"\nNot measured: {name}. {reason}" for name, reason in missing.items()))
        return results
    with accelerator.main_process_first():  # the first process downloads, renders and counts
        rows = arguments.max_rows or defaults.max_bank_rows
        train = open_source(replace(data, split=arguments.train_split or defaults.train_split, max_rows=rows))
        test = open_source(replace(data, split=arguments.test_split or defaults.test_split))
        validation = (
            open_source(replace(data, split=arguments.validation_split)) if arguments.validation_split else None
        )
    settings = read_settings(arguments, recipe, train.num_rows)
    protocols = protocol_names() if "all" in arguments.protocol else arguments.protocol
    for subject in subjects:
        evaluation = Evaluation(
            subject,
            data=data,
            train=train,
            test=test,
            validation=validation,
            store=store,
            reading=reading,
            output=output,
        )
        for protocol in protocols:
            keep(evaluation.measure(protocol, settings[protocol]))
    return results


def main() -> None:
    """Evaluate, or say why not."""
    # Python puts this folder first on the path, where `import evaluate` would find this file instead of the library.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    disable_progress_bar()  # transformers' own, of reading a file
    # What only the main process computes may take hours.
    accelerator = create_accelerator(kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(days=1))])
    output = output_folder(arguments)
    output.mkdir(parents=True, exist_ok=True)
    try:
        results = evaluate(arguments, accelerator, output)
    except (DataError, ModelLoadError, RecipeError, ValueError) as error:
        sys.exit(f"Not evaluated. {error}")
    if accelerator.is_main_process:
        print(f"\n{render_results(results)}\n\nWritten to {output}/")
        if (output / "metrics.jsonl").is_file():
            save_curves_picture(output / "curves.png", {output.name: output / "metrics.jsonl"})
    accelerator.end_training()


if __name__ == "__main__":
    main()
