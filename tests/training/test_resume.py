"""A killed and resumed run equals an uninterrupted run bit for bit."""

import io
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import Dataset, Features, Image, Value
from PIL import Image as PILImage
from safetensors.torch import load_file

from tests.forked import Forked, environments_of_two


ROOT = Path(__file__).resolve().parents[2]
ROWS_OF_SHARDS = (37, 5, 61, 29)
STEPS = 20
MODEL = {
    "architecture": "resnet18",
    "model_args": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1], "drop_path_rate": 0.3},  # draws random numbers
    "num_prototypes": 8,
    "projector_hidden_features": [16],
    "projection_features": 8,
    "freeze_prototypes_epochs": 0.5,
}


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """Uneven parquet shards, two rows of them corrupt."""
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for shard, rows in enumerate(ROWS_OF_SHARDS):
        values = []
        for row in range(rows):
            buffer = io.BytesIO()
            PILImage.fromarray(generator.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(buffer, "png")
            corrupt = (shard, row) in ((0, 3), (2, 50))
            values.append({"bytes": b"no image" if corrupt else buffer.getvalue(), "path": None})
        features = Features({"image": Image(decode=False), "label": Value("int64")})
        table = Dataset.from_dict({"image": values, "label": list(range(rows))}, features=features)
        table.cast_column("image", Image()).to_parquet(
            folder / f"train-{shard:05d}-of-{len(ROWS_OF_SHARDS):05d}.parquet"
        )
    return folder


def _recipe(folder: Path, images: Path, **train: object) -> Path:
    recipe = {
        "method": "mira",
        "model": MODEL,
        "data": {"path": str(images), "num_workers": 2, "shuffle_buffer": 16, "max_corrupt_share": 0.1},
        "views": {"global_size": 16, "local_crops": 1, "local_size": 12},
        "optim": {"name": "lars", "learning_rate": 1.0, "warmup_epochs": 0.2, "weight_decay": 1e-4},
        "train": {
            "epochs": STEPS * 16 / sum(ROWS_OF_SHARDS),
            "global_batch_size": 16,
            "micro_batch_size": 8,
            "checkpoint_every_steps": 3,
            "log_every_steps": 4,
            "trace": True,
            **train,
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


class Launch:
    """`recipes/train.py` with one process or two; with `launcher`, `accelerate launch` starts them."""

    def __init__(self, recipe: Path, run: Path, processes: int, *overrides: str, launcher: bool = False) -> None:
        self.run, log = run, run.with_suffix(".log")
        words = [ROOT / "recipes/train.py", recipe, f"train.output_dir={run}", f"train.num_processes={processes}"]
        environments = environments_of_two() if processes == 2 else [{"ACCELERATE_USE_CPU": "true"}]
        if launcher:
            config = {1: "cpu.yaml", 2: "cpu_2_processes.yaml"}[processes]
            words = ["-m", "accelerate.commands.launch", "--config_file", f"recipes/accelerate/{config}", *words]
            environments = [{}]
        self.processes = [
            Forked(*words, *overrides, stdout=log, stderr=log, env={**os.environ, **part}) for part in environments
        ]

    def finish(self) -> int:
        """The first exit status that is not 0."""
        return next(filter(None, [process.wait(240) for process in self.processes]), 0)

    def stop_at(self, step: int, number: signal.Signals) -> int:
        """Send a signal to all processes of the run once it has traced `step` steps."""
        deadline = time.monotonic() + 240
        trace = self.run / "trace-0.jsonl"
        while not (trace.exists() and len(trace.read_bytes().splitlines()) >= step):
            assert self.processes[0].poll() is None, self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.002)
        for process in self.processes:
            process.kill(number)
        return self.finish()

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + 200
        while words not in self.text():
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.1)

    def text(self) -> str:
        return self.run.with_suffix(".log").read_text()


def _traces(run: Path, processes: int) -> list[list[dict]]:
    return [
        [json.loads(line) for line in (run / f"trace-{rank}.jsonl").read_text().splitlines()]
        for rank in range(processes)
    ]


def _metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "images_per_second"} for line in lines]


@pytest.mark.parametrize("processes", [1, 2])
def test_three_times_killed_is_never_killed(processes, images, tmp_path, chance):
    recipe = _recipe(tmp_path, images)
    whole = tmp_path / "whole"
    launch = Launch(recipe, whole, processes)
    assert launch.finish() == 0, launch.text()

    killed = tmp_path / "killed"
    steps = sorted(chance.sample(range(4, STEPS), 3))
    for step in steps:
        assert Launch(recipe, killed, processes).stop_at(step, signal.SIGKILL) != 0
        assert not (killed / "model").exists()
    launch = Launch(recipe, killed, processes)
    assert launch.finish() == 0, launch.text()
    assert "from step-" in launch.text()

    expected = _traces(whole, processes)
    assert [line["step"] for line in expected[0]] == list(range(1, STEPS + 1))
    assert _traces(killed, processes) == expected, f"killed at steps {steps}"
    assert _metrics(killed) == _metrics(whole), f"killed at steps {steps}"
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (killed, whole))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())
    assert not list(killed.rglob(".partial*"))

    # The two processes share the work: different images, the same total.
    ids = [[number for line in trace for number in line["sample_ids"]] for trace in expected]
    assert sum(map(len, ids)) == STEPS * 16
    if processes == 2:
        first_epoch = [set(part[: sum(ROWS_OF_SHARDS) // 2 - 2]) for part in ids]
        assert not first_epoch[0] & first_epoch[1]


def test_sigterm_saves_and_the_run_goes_on(images, tmp_path):
    recipe = _recipe(tmp_path, images, checkpoint_every_steps=1000, max_steps=8)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert Launch(recipe, whole, 1).finish() == 0
    launch = Launch(recipe, stopped, 1, launcher=True)
    assert launch.stop_at(2, signal.SIGTERM) != 0
    launch.wait_for("is complete")  # the launcher ends at once, the training process finishes its step and saves
    launch = Launch(recipe, stopped, 1)
    assert launch.finish() == 0, launch.text()
    assert _traces(stopped, 1) == _traces(whole, 1)

    # The finished run is left as it is, and a changed recipe is refused.
    again = Launch(recipe, stopped, 1)
    assert again.finish() == 0
    assert _traces(stopped, 1) == _traces(whole, 1)
    other = Launch(recipe, stopped, 1, "optim.learning_rate=2.0")
    assert other.finish() != 0
    assert "optim.learning_rate (1.0 there, 2.0 now)" in other.text()
    never = Launch(recipe, stopped, 1, "train.resume=never")
    assert never.finish() != 0
    assert "holds step-" in never.text()


def test_diverged_run_names_step_and_last_good_checkpoint(images, tmp_path):
    recipe = _recipe(tmp_path, images, checkpoint_every_steps=1)
    launch = Launch(recipe, tmp_path / "run", 1, "optim.name=sgd", "optim.learning_rate=1e30", "optim.warmup_epochs=0")
    assert launch.finish() != 0
    assert "NonFiniteLossError: " in launch.text()
    assert "at step " in launch.text()
    assert "Lower `optim.learning_rate`" in launch.text()
