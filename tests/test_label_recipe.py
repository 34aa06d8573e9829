"""End to end: a model labels images, is killed while it does, goes on; another network learns from the labels."""

import json
import os
import runpy
import signal
import sys
import time

import pyarrow.parquet as pq
import pytest
import torch
import torch.nn.functional as F

from ssl_zoo.labels import writer as label_writer
from ssl_zoo.loading.models import load_pretraining_model
from ssl_zoo.training.loop import train
from ssl_zoo.training.recipe import load_recipe
from ssl_zoo.training.session import open_session
from tests.evaluation.tiny_run import write_run
from tests.forked import Forked
from tests.training.tiny_recipes import NUM_ROWS, shrink, write_noise


CORRUPT = [3, 92]
# recipes/label.py with small parts, and so slow that it can be killed in the middle.
SLOW = """
import runpy, sys, time
from ssl_zoo.labels import heads as label_heads
from ssl_zoo.labels import writer as label_writer
label_writer._MOST_BLOCK_ROWS = label_writer._LEAST_BLOCK_ROWS = 16
read = label_writer.read_heads
label_writer.read_heads = lambda *arguments, **options: (time.sleep(0.3), read(*arguments, **options))[1]
sys.argv = ["label.py", *sys.argv[1:]]
runpy.run_path("recipes/label.py", run_name="__main__")
"""


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_noise(tmp_path_factory.mktemp("data") / "noise")


@pytest.fixture(scope="module")
def run(images, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "tiny", images)


@pytest.fixture
def label(root, monkeypatch):
    """Run recipes/label.py in this process, with small parts."""
    monkeypatch.setattr(label_writer, "_MOST_BLOCK_ROWS", 16)
    monkeypatch.setattr(label_writer, "_LEAST_BLOCK_ROWS", 16)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(root)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["label.py", *map(str, arguments)])
        runpy.run_path("recipes/label.py", run_name="__main__")

    return call


def options(run, target):
    return [run, "--out", target, "--soft", "2", "--max-corrupt-share", "0.1", "--num-workers", "0"]


def rows_of(target):
    table = pq.read_table(target / "data").to_pydict()
    return dict(zip(table["sample_id"], table["pseudo_label_0"], strict=True)), table


@pytest.fixture(scope="module")
def killed(root, run, tmp_path_factory):
    """A target whose labelling was killed after some parts."""
    target = tmp_path_factory.mktemp("out") / "labels.parquet"
    log, environment = target.parent / "log", {**os.environ, "ACCELERATE_USE_CPU": "true"}
    words = ["-c", SLOW, *options(run, target), "--batch-size", "16"]
    process = Forked(*words, stdout=log, stderr=log, cwd=root, env=environment)
    parts = target.parent / f".{target.name}.unfinished"
    deadline = time.monotonic() + 200
    while len(list(parts.glob("part-*.parquet"))) < 3:
        assert process.poll() is None, log.read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill(signal.SIGKILL)
    process.wait(60)
    assert not target.exists()
    return target


@pytest.fixture
def labels(killed, run, label, capsys):
    """The labels, after the same command was given again."""
    label(*options(run, killed), "--batch-size", "16")
    assert f"{NUM_ROWS - 2} labels, 2 corrupt rows left out" in capsys.readouterr().out
    return killed


def test_a_killed_run_goes_on_to_the_labels_of_one_that_was_not(labels, run, label, tmp_path):
    whole = tmp_path / "labels.parquet"
    label(*options(run, whole), "--batch-size", "16")
    assert [path.read_bytes() for path in labels.glob("data/*")] == [
        path.read_bytes() for path in whole.glob("data/*")
    ]
    known, _ = rows_of(labels)
    assert sorted(known) == [row for row in range(NUM_ROWS) if row not in CORRUPT]
    about = json.loads((labels / "labels.json").read_text())
    assert about["skipped"] == CORRUPT
    assert about["data"] | {"path": "noise", "num_rows": NUM_ROWS, "limit": None} == about["data"]
    assert str(run.parent) not in (labels / "labels.json").read_text() + (labels / "README.md").read_text()


def test_another_network_learns_from_the_labels(labels, root, images, run, tmp_path):
    small = shrink(root / "recipes" / "supervised" / "cifar10_small_cpu_labels.yaml", images=images, steps=3)
    small.save(tmp_path / "recipe.yaml")
    said = [f"data.label_table={labels}", f"train.output_dir={tmp_path / 'run'}", "train.micro_batch_size=null"]
    recipe = load_recipe(tmp_path / "recipe.yaml", said)
    session = open_session(recipe)
    known, _ = rows_of(labels)
    expected = torch.tensor([known.get(row, -1) for row in range(NUM_ROWS)])
    assert torch.equal(session.labelled.known_labels, expected)
    batch = next(iter(session.loader))
    inputs = session.to_device(batch)
    assert torch.equal(inputs["known_labels"], expected[batch.sample_ids])
    assert not torch.equal(inputs["known_labels"], inputs["labels"])  # the classes stay what the data says
    model = session.model.train()
    loss = model(**inputs).loss
    logits = model.head(model.timm_model(inputs["views"][0]))
    torch.testing.assert_close(loss, F.cross_entropy(logits, expected[batch.sample_ids]))
    session.log.__exit__(None, None, None)

    train(recipe)
    trained = load_pretraining_model(str(tmp_path / "run"))
    assert trained.head.out_features == trained.config.num_supervised_classes == 6  # the prototypes of the model
    first = json.loads((tmp_path / "run" / "trace-0.jsonl").read_text().splitlines()[0])
    assert float.fromhex(first["losses"][0]) == pytest.approx(loss.item(), rel=1e-5)


def test_labels_of_other_images_are_not_trained_on(labels, root, tmp_path):
    from ssl_zoo.data.errors import DataError

    other = write_noise(tmp_path / "noise2")
    recipe = shrink(root / "recipes" / "supervised" / "cifar10_small_cpu_labels.yaml", images=other, steps=3)
    recipe.save(tmp_path / "recipe.yaml")
    said = [f"data.label_table={labels}", f"train.output_dir={tmp_path / 'run'}"]
    with pytest.raises(DataError, match="are of other images"):
        open_session(load_recipe(tmp_path / "recipe.yaml", said))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("RUN/recipe.yaml", "--out", "OUT"), "There is no folder"),
        (("RUN", "--out", "OUT", "--split", "tset"), "no split 'tset'"),
        (("RUN", "--out", "RUN"), "exists and holds no labels"),
        (("RUN", "--out", "OUT", "--max-corrupt-share", "0.001"), "hold no readable image"),
        (("RUN", "--out", "OUT", "--limit", "0"), None),
        (("RUN", "--out", "OUT", "--private"), None),
    ],
)
def test_errors_are_sentences(label, run, tmp_path, arguments, message, capsys):
    words = [word.replace("RUN", str(run)).replace("OUT", str(tmp_path / "out")) for word in arguments]
    with pytest.raises(SystemExit) as stopped:
        label(*words)
    if message is None:
        assert stopped.value.code == 2
        assert "--limit must be at least 1" in (error := capsys.readouterr().err) or "--private says" in error
    else:
        assert str(stopped.value).startswith("Not labelled. ")
        assert message in str(stopped.value)
