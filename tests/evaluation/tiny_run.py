"""The folder of a finished run, without the training."""

import json
from pathlib import Path

import torch

from ssl_zoo.training.build import build_model
from ssl_zoo.training.recipe import recipe_from_dict


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
