"""Any recipe made tiny: the same method, settings and schedule, with narrow layers and few images."""

import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

from ssl_zoo.models.registry import method_names
from ssl_zoo.training.recipe import Recipe, load_recipe, recipe_from_dict


ROOT = Path(__file__).resolve().parents[2]
SMALL_RECIPES = sorted(
    path for method in method_names() for path in (ROOT / "recipes" / method).glob("cifar10_small_cpu*.yaml")
)
NUM_CLASSES = 3
SHARDS = (37, 5, 61, 29)
NUM_ROWS = sum(SHARDS)
_WIDEST, _LARGEST_BANK = 8, 40


def recipe_name(path: Path) -> str:
    """Short name of a recipe, for ids of tests and names of files."""
    return f"{path.parent.name}-{path.stem}"


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


def shrink(path: Path, *, images: Path, steps: int, num_workers: int = 0) -> Recipe:
    """The recipe with every width clipped, 16 images a step and `steps` steps."""
    recipe = load_recipe(path).to_dict()
    backbone = recipe["model"]["architecture"]
    recipe["model"] = {name: _clip(name, value) for name, value in recipe["model"].items()}
    recipe["model"]["model_args"] = {}
    if backbone.startswith("resnet"):
        recipe["model"]["model_args"] = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]}
    share = min(1.0, max(0.5, recipe["data"]["labelled_share"]))
    recipe["data"] = {
        "path": str(images),
        "num_workers": num_workers,
        "shuffle_buffer": 16,
        "max_corrupt_share": 0.1,
        "labelled_share": 1.0 if recipe["data"]["labelled_share"] == 1 else share,
    }
    # AlexNet pools by a fixed grid and fits no smaller image.
    size = recipe["views"]["global_size"] if backbone.startswith("alexnet") else 16
    recipe["views"] |= {"global_size": size, "local_size": 12, "local_crops": min(recipe["views"]["local_crops"], 1)}
    epochs = steps * 16 / NUM_ROWS
    shorter = epochs / recipe["train"]["epochs"]
    recipe["optim"]["warmup_epochs"] *= shorter
    recipe["optim"]["decay_epochs"] = [epoch * shorter for epoch in recipe["optim"]["decay_epochs"]]
    recipe["optim"] |= {"learning_rate_per": None, "learning_rate": min(recipe["optim"]["learning_rate"], 0.05)}
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
