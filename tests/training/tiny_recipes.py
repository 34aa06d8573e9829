"""Tiny recipes: the fixtures of the methods as they are written, and any other recipe with narrow layers.

The fixtures are the files `tests/methods/<method>.yaml`, and `<method>-<variant>.yaml` for other variants of a method.
All tests of every method run on all of them. Data, number of steps and batch size are filled in by the tests.
"""

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image

from ssl_zoo.training.recipe import Recipe, load_recipe, recipe_from_dict


ROOT = Path(__file__).resolve().parents[2]
METHODS = ROOT / "tests" / "methods"
FIXTURES = sorted(METHODS.glob("*.yaml"), key=lambda path: path.stem)
NUM_CLASSES = 3
SHARDS = (37, 5, 61, 29)
NUM_ROWS = sum(SHARDS)
_WIDEST, _LARGEST_BANK = 8, 40


def fixture_name(path: Path) -> str:
    """Name of a fixture, for ids of tests and names of files."""
    return path.stem


def method_of(path: Path) -> str:
    """The method that a fixture is for."""
    return path.stem.partition("-")[0]


def write_noise(folder: Path) -> Path:
    """Uneven parquet shards of noisy images of three classes, two rows of them corrupt."""
    generator = np.random.default_rng(0)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(NUM_CLASSES)})
    folder.mkdir(parents=True, exist_ok=True)
    first = 0
    for shard, length in enumerate(SHARDS):
        images, labels = [], []
        for row in range(first, first + length):
            pixels = generator.integers(0, 160, (20, 20, 3), dtype=np.uint8) + np.uint8(40 * (row % NUM_CLASSES))
            buffer = io.BytesIO()
            Image.fromarray(pixels).save(buffer, "png")
            images.append({"bytes": b"no image" if row in (3, 92) else buffer.getvalue(), "path": None})
            labels.append(row % NUM_CLASSES)
        table = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        table.to_parquet(folder / f"train-{shard:05d}-of-{len(SHARDS):05d}.parquet")
        first += length
    return folder


def tiny(fixture: Path, *, images: Path, steps: int, num_workers: int = 0) -> Recipe:
    """A method's fixture for `steps` steps of 16 images."""
    return _shorten(load_recipe(fixture).to_dict(), images=images, steps=steps, num_workers=num_workers)


def shrink(path: Path, *, images: Path, steps: int, num_workers: int = 0) -> Recipe:
    """A recipe with every width clipped, for `steps` steps of 16 images."""
    recipe = load_recipe(path).to_dict()
    backbone = recipe["model"]["architecture"]
    recipe["model"] = {name: _clip(name, value) for name, value in recipe["model"].items()}
    recipe["model"]["model_args"] = {}
    if backbone.startswith("resnet"):
        recipe["model"]["model_args"] = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]}
    if backbone.startswith("alexnet"):
        recipe["model"]["model_args"] = {"channels": [8, 8, 8, 8, 8], "hidden_features": 16}
    recipe["data"]["labelled_share"] = max(0.5, recipe["data"]["labelled_share"])
    # AlexNet pools by a fixed grid and fits no smaller image.
    size = recipe["views"]["global_size"] if backbone.startswith("alexnet") else 16
    recipe["views"] |= {"global_size": size, "local_size": 12, "local_crops": min(recipe["views"]["local_crops"], 1)}
    recipe["optim"] |= {"learning_rate_per": None, "learning_rate": min(recipe["optim"]["learning_rate"], 0.05)}
    return _shorten(recipe, images=images, steps=steps, num_workers=num_workers)


def _shorten(recipe: dict[str, Any], *, images: Path, steps: int, num_workers: int) -> Recipe:
    recipe["data"] = {
        "path": str(images),
        "num_workers": num_workers,
        "shuffle_buffer": 16,
        "max_corrupt_share": 0.1,
        "labelled_share": recipe["data"]["labelled_share"],
    }
    epochs = steps * 16 / NUM_ROWS
    shorter = epochs / recipe["train"]["epochs"]
    recipe["optim"]["warmup_epochs"] *= shorter
    recipe["optim"]["decay_epochs"] = [epoch * shorter for epoch in recipe["optim"]["decay_epochs"]]
    recipe["train"] = {
        "epochs": epochs,
        "global_batch_size": 16,
        "micro_batch_size": 8,
        "log_every_steps": 4,
        "checkpoint_every_steps": 5,
        "trackers": [],
        "trace": True,
    }
    recipe["evaluation"] = {"k": 3, "batch_size": 8, "crop_pct": 1.0}
    return recipe_from_dict(recipe)


def _clip(name: str, value: object) -> object:
    if isinstance(value, list) and all(isinstance(width, int) for width in value):
        return [min(width, _WIDEST) for width in value]
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    if "iters" in name:
        return value
    if "class" in name:
        return min(value, NUM_CLASSES - NUM_CLASSES % 2)  # dealt to two processes
    return min(value, _LARGEST_BANK if "bank" in name else _WIDEST)
