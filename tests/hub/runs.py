"""A run's folder as recipes/train.py writes it, with a tiny model and paths of this machine in every file."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from PIL import Image

import ssl_zoo


TINY = {"channels": [8, 16, 24, 32], "layers": [1, 1, 1, 1]}


def result(**changes: Any) -> dict[str, Any]:
    """A line of results.jsonl."""
    line = {
        "metric": "knn_top1",
        "value": 0.4375,
        "subject": "trained",
        "protocol": {"name": "knn", "k": 20, "temperature": 0.07},
        "data": {
            "path": "uoft-cs/cifar10",
            "revision": "0b2714987fa478483af9968de7c934580d0bb9a2",
            "train_split": "train",
            "test_split": "test",
            "num_train": 50000,
            "num_test": 10000,
        },
        "seed": 0,
        "images_seen": 128,
        "commit": "1234567",
        "versions": {"torch": "2.14.1", "timm": "1.0.31"},
        "wall_seconds": 1.5,
        "command": "python recipes/evaluate.py runs/x",
        "date": "2026-01-01",
    }
    return {**line, **changes}


def make_run(folder: Path, *, small_image_stem: bool = False, evaluated: bool = True, seed: int = 0) -> Path:
    """Write a finished run; the images it names are a folder of this machine."""
    run = folder / "run"
    (run / "tensorboard").mkdir(parents=True)
    images = folder / "pets"
    images.mkdir(exist_ok=True)
    torch.manual_seed(seed)
    config = ssl_zoo.MiraConfig(
        architecture="resnet18",
        model_args=TINY,
        small_image_stem=small_image_stem,
        projector_hidden_features=[16],
        projection_features=8,
        num_prototypes=10,
    )
    model = ssl_zoo.MiraForPreTraining(config)
    views = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "interpolation": "bilinear"}
    model.config.pretrained_cfg = {**config.pretrained_cfg, **views, "input_size": [3, 64, 64], "crop_pct": 1.0}
    model.train()([torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32)])  # batch-norm statistics that aren't trivial
    with torch.no_grad():
        for parameter in model.student_backbone.parameters():
            parameter.add_(0.01)  # the student is ahead of the teacher, as after training
    model.save_pretrained(run / "model")
    recipe = {
        "method": "mira",
        "model": {"architecture": "resnet18", "model_args": TINY},
        "data": {"path": str(images), "revision": None, "split": "train"},
        "views": {"global_size": 64, **views},
        "train": {"epochs": 2, "global_batch_size": 64, "seed": 0, "output_dir": str(run)},
        "evaluation": {"crop_pct": 1.0},
        "results": [{"metric": "knn_top1", "value": 0.99}],  # in the recipe, as in runs of earlier versions
    }
    (run / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    lines = [{"step": n, "images_seen": 64 * n, "loss": 2.0, "images_per_second": 32.0} for n in (1, 2)]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 3, "im')
    if evaluated:
        data = {**result()["data"], "path": str(images), "revision": None}
        command = f"{folder}/bin/python {folder}/recipes/evaluate.py {run} data.path={images}"
        (run / "results.jsonl").write_text(json.dumps(result(data=data, command=command)) + "\n")
        Image.new("RGB", (4, 4), "white").save(run / "clusters.png")
    return run


CHECKPOINT_SHA256 = "5e" * 32


def make_conversion(
    folder: Path, *, license_id: str | None = "mit", backbone_only: bool = False, seed: int = 0
) -> Path:
    """Write what a conversion hands to `export_repo`: `model/` and `conversion.json`."""
    made = folder / "conversion"
    made.mkdir(parents=True)
    torch.manual_seed(seed)
    config = ssl_zoo.MiraConfig(
        architecture="resnet18",
        model_args=TINY,
        projector_hidden_features=[16],
        projection_features=8,
        num_prototypes=10,
    )
    model = ssl_zoo.MiraModel(config) if backbone_only else ssl_zoo.MiraForPreTraining(config)
    model.save_pretrained(made / "model")
    conversion = {
        "entry": "mira-resnet50.imagenet1k-800ep",
        "method": "mira",
        "layout": "mira",
        "branch": "student" if backbone_only else "teacher",
        "source": {
            "file": "mira.pth",
            "bytes": 1,
            "sha256": CHECKPOINT_SHA256,
            "url": "https://example.org/mira.pth",
            "epoch": 800,
        },
        "license": {
            "id": license_id,
            "name": license_id and license_id.upper(),
            "where": "https://example.org/mira/LICENSE",
        },
        "paper": "https://huggingface.co/papers/2211.02284",
        "dataset": "imagenet-1k",
        "reported": [
            {
                "metric": "linear_top1",
                "value": 75.6,
                "dataset": "imagenet-1k",
                "protocol": "linear probe",
                "where": "the test that made this up",
            }
        ],
        "notes": "",
        "left_out": {"optimizer": "training state"},
        "versions": {"torch": "2.14.1"},
        "commit": "1234567",
        "command": f"python recipes/convert.py mira {folder}/mira.pth out",
        "date": "2026-01-01",
    }
    (made / "conversion.json").write_text(json.dumps(conversion))
    return made
