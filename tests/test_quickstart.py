"""The default recipe learns: what `make quickstart` does, and by how much the trained model is ahead."""

import json
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
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
