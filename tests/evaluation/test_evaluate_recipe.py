import re
import runpy
import sys

import datasets
import pytest

from ssl_zoo.evaluation.results import read_results
from ssl_zoo.training.recipe import load_recipe
from tests import forked
from tests.data.tiny_sets import UNEVEN, row_image, write_parquet
from tests.evaluation.tiny_run import write_run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = write_parquet(tmp_path_factory.mktemp("data") / "pets", UNEVEN)
    return write_parquet(folder, (5, 9), split="test")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "first", data)


def evaluate(root, *arguments, start=forked.run):
    return start(root / "recipes" / "evaluate.py", *arguments)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


FAST = ("linear.epochs=3", "linear.batch_size=16", "semi10.epochs=2", "semi10.batch_size=2")


@pytest.fixture(scope="module")
def first(root, run, cache):
    """One evaluation of the run by several protocols."""
    protocols = ("knn", "clusters", "linear", "semi10", "spectrum")
    words = ("--baselines", "--cache-dir", cache, "--protocol", *protocols, "knn.k=3,1", *FAST)
    return evaluate(root, run, *words)


def test_table_results_and_pictures(first, run):
    assert first.returncode == 0, first.stderr
    assert "pets: 14 images of 'test', learned from 42 of 'train'" in first.stdout
    assert re.search(r"raw pixels +random init +trained", first.stdout)
    results = read_results(run / "results.jsonl")
    found = {(r.metric, r.subject, r.protocol.get("k")) for r in results}
    for k in (1, 3):
        assert {("knn_top1", subject, k) for subject in ("raw_pixels", "random_init", "trained")} <= found
    assert {name for name, subject, _ in found if subject == "trained"} >= {
        *("linear_top1", "finetune_top1", "nmi", "ami", "ari", "hungarian_accuracy", "purity"),
        *("rankme", "alpha", "alignment", "uniformity", "cluster_entropy"),
    }
    assert ("finetune_top1", "raw_pixels", None) not in found
    by_subject = {r.subject: (r.seed, r.images_seen) for r in results}
    assert by_subject == {"raw_pixels": (None, None), "random_init": (5, 0), "trained": (5, 80)}
    accuracies = [r for r in results if r.metric.endswith("_top1")]
    assert all(0 <= r.interval[0] <= r.value <= r.interval[1] <= 1 for r in accuracies)
    assert results[0].data == {
        "path": "pets",
        "revision": None,
        "train_split": "train",
        "test_split": "test",
        "num_train": 42,
        "num_test": 14,
    }
    assert str(run.parent) not in (run / "results.jsonl").read_text()
    for picture in ("clusters", "spectrum", "spectrum-random_init", "curves"):
        assert (run / f"{picture}.png").stat().st_size > 10_000


def test_two_processes_and_other_batches_measure_the_same(first, root, run, cache, tmp_path):
    words = ("--protocol", "knn", "clusters", "linear", "spectrum", "knn.k=3,1", *FAST, "--batch-size", 5)
    done = evaluate(
        root, run, *words, "--output", tmp_path, "--cache-dir", tmp_path / "features", start=forked.run_two
    )
    assert done.returncode == 0, done.stderr
    found = read_results(tmp_path / "results.jsonl")
    measured = {(r.metric, r.protocol.get("k")): r.value for r in found}
    expected = [r for r in read_results(run / "results.jsonl") if r.subject == "trained"]
    expected = {(r.metric, r.protocol.get("k")): r.value for r in expected if r.metric[:8] != "finetune"}
    assert measured.keys() == expected.keys()
    exact = {"knn_top1", "nmi", "ami", "ari", "hungarian_accuracy", "purity", "linear_top1"}
    for key, value in expected.items():  # convolutions round a little differently in batches of another size
        assert measured[key] == (value if key[0] in exact else pytest.approx(value, rel=1e-4))
    assert "--nproc_per_node 2" in found[0].command
    assert done.stdout.count("images of 'test'") == 1
    assert (tmp_path / "clusters.png").read_bytes() == (run / "clusters.png").read_bytes()


def test_the_same_again_is_the_same_number_from_the_stored_features(first, root, run, cache, tmp_path):
    words = ("--protocol", "knn", "linear", "semi10", "knn.k=3,1", *FAST, "--output", tmp_path, "--cache-dir", cache)
    done = evaluate(root, run, *words)
    assert done.returncode == 0, done.stderr
    assert "Features of trained" not in done.stderr
    measured = {(r.metric, r.protocol.get("k")): r.value for r in read_results(tmp_path / "results.jsonl")}
    expected = [r for r in read_results(run / "results.jsonl") if r.subject == "trained"]
    for result in expected:
        if result.metric in ("knn_top1", "linear_top1", "finetune_top1"):
            assert measured[result.metric, result.protocol.get("k")] == result.value


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("no-such/run/anywhere",), "There is no folder 'no-such/run/anywhere'"),
        (("RUN", "knn.k=43"), r"`k` must lie in \[1, 42\]"),
        (("RUN", "knn.kk=43"), r"override 'knn.kk=43': unknown key `knn.kk`; the nearest valid key is `knn.k`"),
        (("RUN", "linear.epochs=many"), r"override 'linear.epochs=many': `linear.epochs`: expected int, got 'many'"),
        (("RUN", "--test-split", "tset"), "'tset'.*test"),
        (("RUN", "--image-column", "img"), "'img'.*'image'"),
        (("RUN/model", "--data", "no/such/folder"), "no/such/folder"),
        (("RUN", "--data", "UNLABELLED"), "Split 'train' of .* has no labels, which this protocol needs"),
        (("RUN", "--data", "ONE_CLASS", "--protocol", "linear"), "class"),
        (("resnet9000",), "no folder 'resnet9000', timm knows no model of this name"),
    ],
)
def test_errors_are_sentences(root, run, arguments, message, tmp_path, monkeypatch):
    places = {"RUN": str(run), "UNLABELLED": str(tmp_path / "plain"), "ONE_CLASS": str(tmp_path / "one")}
    words = [
        str(word).replace("RUN", places["RUN"]) if str(word).startswith("RUN") else places.get(word, word)
        for word in arguments
    ]
    for split in ("train", "test"):
        images = {"image": [row_image(row) for row in range(6)]}
        features = datasets.Features({"image": datasets.Image()})
        write_split(tmp_path / "plain", split, images, features)
        features["label"] = datasets.ClassLabel(names=["ant", "bee"])
        write_split(tmp_path / "one", split, {**images, "label": [1] * 6}, features)
    monkeypatch.setattr(sys, "argv", ["evaluate.py", *words, "--output", str(tmp_path / "out")])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(root / "recipes" / "evaluate.py"), run_name="__main__")
    assert re.search(rf"^Not evaluated\. .*{message}", str(stopped.value), re.DOTALL)
    assert not (tmp_path / "out" / "results.jsonl").exists()


def write_split(folder, split, columns, features):
    folder.mkdir(exist_ok=True)
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}.parquet")


def test_what_the_method_learned_from_is_no_matter_for_its_evaluation(root, run, monkeypatch):
    """Pseudo-labels or a share of labels were used in training; fine-tuning and probes learn the data's classes."""
    monkeypatch.setattr(sys, "argv", ["evaluate.py", str(run)])
    monkeypatch.setattr(sys, "path", list(sys.path))
    script = runpy.run_path(str(root / "recipes" / "evaluate.py"), run_name="script")
    recipe = load_recipe(run / "recipe.yaml", ["data.label_table=labels.parquet", "data.max_rows=7"])
    data = script["read_data"](script["parse_arguments"](), recipe)
    assert (data.label_table, data.labelled_share, data.labelled_ids, data.max_rows) == (None, 1.0, None, None)
    assert data.path == recipe.data.path
