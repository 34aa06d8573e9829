"""Label the images of a split with a model's clusters, and write the labels as a data set.

accelerate launch recipes/label.py RUN_DIR_OR_REPO --out labels.parquet [--data PATH] [--split train] [--soft 10]

Writes a folder that `datasets.load_dataset` reads: for each image its sample id and, per head, the pseudo-label, its
confidence and, with --soft, the most likely clusters with their probabilities. The same command continues an
interrupted run. recipes/train.py learns from the labels by data.label_table=labels.parquet.
"""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers.utils.logging import disable_progress_bar

from ssl_zoo.data.label_table import data_name, describe_data
from ssl_zoo.data.source import DataConfig, DataError, open_source
from ssl_zoo.labels.heads import LabelError
from ssl_zoo.labels.push import push_labels
from ssl_zoo.labels.writer import Labelling, label_images
from ssl_zoo.loading.fingerprint import weights_sha256
from ssl_zoo.loading.models import ModelLoadError, find_file, load_pretraining_model
from ssl_zoo.loading.view import model_view
from ssl_zoo.training.config import RecipeError
from ssl_zoo.training.processes import create_accelerator
from ssl_zoo.training.recipe import load_recipe


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "model", metavar="RUN_DIR_OR_REPO", help="a run's folder, a checkpoint, or org/name on the Hub"
    )
    parser.add_argument("--revision", help="commit, branch or tag of the model on the Hub")
    parser.add_argument("--data", metavar="PATH", help="data set: org/name, a local folder or 'embedded'")
    parser.add_argument("--data-revision", metavar="REVISION", help="commit, branch or tag of the data on the Hub")
    parser.add_argument("--split", default="train", help="split to label (default: train)")
    parser.add_argument("--image-column", metavar="NAME", help="column of the images; found by its type by default")
    parser.add_argument("--limit", type=int, metavar="N", help="label only the first N rows")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder to write: labels.parquet")
    parser.add_argument(
        "--soft", default=0, type=soft, metavar="K|all", help="keep the K most likely clusters of an image, or all"
    )
    parser.add_argument("--batch-size", type=int, default=256, help="images per forward pass (default: 256)")
    parser.add_argument("--num-workers", type=int, help="processes that read images; the recipe's by default")
    parser.add_argument(
        "--max-corrupt-share", type=float, metavar="SHARE", help="share of unreadable images to put up with"
    )
    parser.add_argument("--overwrite", action="store_true", help="forget other labels that are there")
    parser.add_argument("--push", metavar="org/name", help="upload the labels to this data set repository on the Hub")
    parser.add_argument("--private", action="store_true", help="make that repository private")
    arguments = parser.parse_args()
    for name, least in (("limit", 1), ("batch_size", 1), ("num_workers", 0)):
        if (value := getattr(arguments, name)) is not None and value < least:
            parser.error(f"--{name.replace('_', '-')} must be at least {least}, got {value}")
    if arguments.private and not arguments.push:
        parser.error("--private says how to --push, which is not given")
    return arguments


def soft(word: str) -> int | str:
    """Read the argument of --soft."""
    return word if word == "all" else int(word)


def read_data(arguments: argparse.Namespace) -> DataConfig:
    """The recipe's data beside the model, with what the command line says instead."""
    path = find_file(arguments.model, "recipe.yaml", revision=arguments.revision)
    recipe = load_recipe(path) if path else None
    if recipe is None and arguments.data is None:
        raise ModelLoadError(f"'{arguments.model}' has no recipe.yaml that would name the data: add --data PATH")
    data = recipe.data if recipe else DataConfig()
    if arguments.data is not None and arguments.data != data.path:
        # Columns, subset and revision belong to the data set that is replaced.
        data = DataConfig(path=arguments.data, streaming=data.streaming, num_workers=data.num_workers)
    said = {
        "revision": arguments.data_revision,
        "image_column": arguments.image_column,
        "num_workers": arguments.num_workers,
        "max_corrupt_share": arguments.max_corrupt_share,
    }
    said = {name: value for name, value in said.items() if value is not None}
    return replace(data, split=arguments.split, max_rows=arguments.limit, **said)


def label(arguments: argparse.Namespace, accelerator: Accelerator) -> dict[str, Any]:
    """Label the images on all processes."""
    model = load_pretraining_model(arguments.model, revision=arguments.revision)
    if model is None:
        raise LabelError(
            f"'{arguments.model}' is a backbone without clusters. Give the folder of a run, or a repository with the "
            "full model of a method that has clusters, such as MIRA, SeLa or CMSF"
        )
    data = read_data(arguments)
    with accelerator.main_process_first():  # the first process downloads, renders and counts
        source = open_source(data)
    about = {
        "model": {
            "name": data_name(arguments.model),
            "revision": getattr(model.config, "_commit_hash", None),
            "method": model.config.model_type,
            "architecture": model.config.architecture,
            "weights_sha256": weights_sha256(model),
        },
        "data": describe_data(source, data),
    }
    view = model_view(model)
    return label_images(
        Labelling(model.to(accelerator.device), source, view, arguments.out, about, arguments.soft),
        batch_size=arguments.batch_size,
        num_workers=data.num_workers,
        max_corrupt_share=data.max_corrupt_share,
        device=accelerator.device,
        overwrite=arguments.overwrite,
    )


def main() -> None:
    """Label, or say why not."""
    # Python puts this folder first on the path, where `import evaluate` would find evaluate.py instead of the library.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]
    arguments = parse_arguments()
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("ssl_zoo").setLevel(logging.INFO)
    disable_progress_bar()  # transformers' own, of reading a file
    accelerator = create_accelerator()
    try:
        about = label(arguments, accelerator)
        url = None
        if arguments.push and accelerator.is_main_process:
            url = push_labels(arguments.out, arguments.push, private=arguments.private)
    except (DataError, LabelError, ModelLoadError, RecipeError, OSError) as error:
        sys.exit(f"Not labelled. {error}")
    except KeyboardInterrupt:
        sys.exit("Interrupted. The same command goes on where this one was.")
    if accelerator.is_main_process:
        used = ", ".join(f"{head['num_used']} of {head['num_clusters']}" for head in about["heads"])
        print(f"{about['num_labels']} labels, {len(about['skipped'])} corrupt rows left out; clusters used: {used}")
        print(f"Written to {arguments.out}/" + (f", sent to {url}" if url else ""))
    accelerator.end_training()


if __name__ == "__main__":
    main()
