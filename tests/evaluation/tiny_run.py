"""The folder of a finished run without training, and the input of a protocol without a model."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from ssl_zoo.data.source import DataConfig, open_source
from ssl_zoo.data.views import RawPixels
from ssl_zoo.evaluation.evaluation import Evaluation
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.features.extract import Encoder, Reading
from ssl_zoo.features.store import FeatureStore
from ssl_zoo.training.build import build_model
from ssl_zoo.training.recipe import recipe_from_dict
from tests.data.tiny_sets import write_parquet


def write_run(folder: Path, data: Path, *, seed: int = 5) -> Path:
    """A run on `data` (8 pixels, splits `train` and `test`) whose weights are not the initial ones."""
    recipe = recipe_from_dict(
        {
            "method": "mira",
            "model": {
                "architecture": "resnet18",
                "model_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]},
                "small_image_stem": True,
                "projector_hidden_features": [16],
                "projection_features": 8,
                "num_prototypes": 6,
            },
            "data": {"path": str(data), "num_workers": 1},
            "views": {"global_size": 8},
            "train": {"seed": seed},
            "evaluation": {"k": 3, "batch_size": 4, "crop_pct": 1.0},
        }
    )
    folder.mkdir(parents=True)
    recipe.save(folder / "recipe.yaml")
    model = build_model(recipe)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder / "model")
    lines = [{"step": step, "images_seen": 40 * step, "loss": 1.8 / step} for step in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return folder


def tiny_evaluation(folder: Path, encode: Encoder | None = None) -> Evaluation:
    """30 training and 15 test images of 3 classes, written below `folder`, and their features by `encode`: the pixels.

    Image `row` is of class `row % 3`, and its red is `row / 255`.
    """
    data = write_parquet(folder / "pets", (30,))
    write_parquet(data, (15,), split="test")
    config = DataConfig(path=str(data))
    return Evaluation(
        Subject("trained", RawPixels(8), encode or (lambda images: images.flatten(1)), seed=0),
        data=config,
        train=open_source(config),
        test=open_source(replace(config, split="test")),
        store=FeatureStore(folder / "features"),
        reading=Reading(batch_size=8, num_workers=0),
    )
