import os
import re
import runpy
import subprocess
import sys

import pytest

from ssl_zoo.evaluation.results import read_results
from tests.data.tiny_sets import UNEVEN, write_parquet
from tests.evaluation.tiny_run import write_run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_parquet(tmp_path_factory.mktemp("data") / "pets", UNEVEN)
    return write_parquet(folder, (5, 9), split="test")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "first", data)


def evaluate(root, *arguments, launcher=(), cwd=None):
    command = [sys.executable, *launcher, str(root / "recipes" / "evaluate.py"), *map(str, arguments)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "GLOO_SOCKET_IFNAME": "lo"}
    return subprocess.run(command, cwd=cwd or root, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def first(root, run):
    """One evaluation of the run, with everything."""
    return evaluate(root, run, "--baselines", "--k", 3, 1)


def test_table_results_and_picture(first, run):
    assert first.returncode == 0, first.stderr
    assert re.search(r"pets: 14 images of 'test', neighbours from 42 of 'train'", first.stdout)
    rows = [line.split("  ")[0] for line in first.stdout.splitlines() if "%" in line]
    assert rows == ["raw pixels", "random init", "trained"]
    results = read_results(run / "results.jsonl")
    assert [(r.metric, r.subject, r.protocol.get("k")) for r in results] == [
        ("knn_top1", "raw_pixels", 3),
        ("knn_top1", "raw_pixels", 1),
        ("knn_top1", "random_init", 3),
        ("knn_top1", "random_init", 1),
        ("knn_top1", "trained", 3),
        ("knn_top1", "trained", 1),
        ("nmi", "trained", None),
    ]
    assert [(r.seed, r.images_seen) for r in results[::2]] == [(None, None), (5, 0), (5, 80), (5, 80)]
    assert all(0 <= r.value <= 1 for r in results)
    assert results[0].data == {
        "path": "pets",
        "revision": None,
        "train_split": "train",
        "test_split": "test",
        "num_train": 42,
        "num_test": 14,
    }
    assert str(run.parent) not in (run / "results.jsonl").read_text()
    assert (run / "clusters.png").stat().st_size > 10_000


def test_two_processes_and_other_batches_measure_the_same(first, root, run, tmp_path):
    launcher = ("-m", "accelerate.commands.launch", "--config_file", "recipes/accelerate/cpu_2_processes.yaml")
    done = evaluate(root, run, "--baselines", "--k", 3, 1, "--batch-size", 5, "--output", tmp_path, launcher=launcher)
    assert done.returncode == 0, done.stderr
    expected, found = read_results(run / "results.jsonl")[:7], read_results(tmp_path / "results.jsonl")
    assert [(r.metric, r.subject, r.value) for r in found] == [(r.metric, r.subject, r.value) for r in expected]
    assert "--nproc_per_node 2" in found[0].command
    assert done.stdout.count("raw pixels") == 1
    assert (tmp_path / "clusters.png").read_bytes() == (run / "clusters.png").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such/run/anywhere",), "There is no folder 'no-such/run/anywhere'"),
        (("RUN", "--k", 43), r"`k` must lie in \[1, 42\]"),
        (("RUN", "--test-split", "tset"), "'tset'.*test"),
        (("RUN/model", "--data", "no/such/folder"), "no/such/folder"),
    ],
)
def test_errors_are_sentences(root, run, arguments, message, tmp_path, monkeypatch):
    words = [str(word).replace("RUN", str(run)) for word in arguments]
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words, "--output", str(tmp_path / "out")])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(root / "recipes" / "evaluate.py"), run_name="__main__")
    assert re.search(rf"^Not evaluated\. .*{message}", str(stopped.value), re.DOTALL)
    assert not (tmp_path / "out" / "results.jsonl").exists()
