"""The default recipe learns: what `make quickstart` does, and by how much the trained model is ahead."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ssl_zoo.data.embedded import embedded_dataset_dir
from tests import forked


ROOT = Path(__file__).resolve().parents[1]


def test_the_two_commands_with_few_images(tmp_path):
    """They finish and write what the README promises; a network that has seen 256 images has learned nothing yet."""
    sizes, cache, run = embedded_dataset_dir.__kwdefaults__, tmp_path / "cache", tmp_path / "run"
    small = embedded_dataset_dir(num_train=256, num_test=64, cache_dir=cache)
    small.rename(small.with_name(small.name.replace("256-64", f"{sizes['num_train']}-{sizes['num_test']}")))
    for words in (
        ["recipes/train.py", f"train.output_dir={run}", "train.epochs=2"],
        ["recipes/evaluate.py", run, "--baselines"],
    ):
        done = forked.run(*words, env={**os.environ, "SSL_ZOO_CACHE": str(cache), "ACCELERATE_USE_CPU": "true"})
        assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    assert {line["subject"] for line in lines if line["metric"] == "knn_top1"} == {
        *("raw_pixels", "random_init", "trained"),
    }
    assert (run / "clusters.png").is_file()


@pytest.mark.slow(seconds=240)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_default_beats_raw_pixels_and_random_init_by_ten_points(seed, tmp_path):
    run = tmp_path / "run"
    for words in (
        ["recipes/train.py", f"train.seed={seed}", f"train.output_dir={run}"],
        ["recipes/evaluate.py", str(run), "--baselines"],
    ):
        subprocess.run([sys.executable, "-m", "accelerate.commands.launch", *words], cwd=ROOT, check=True)
    lines = [json.loads(line) for line in (run / "results.jsonl").read_text().splitlines()]
    accuracy = {line["subject"]: line["value"] for line in lines if line["metric"] == "knn_top1"}
    assert accuracy["trained"] >= max(accuracy["raw_pixels"], accuracy["random_init"]) + 0.1
    assert (run / "clusters.png").is_file()
