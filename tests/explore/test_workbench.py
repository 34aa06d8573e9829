"""A model's outputs for a gallery are computed once, and all visitors share the workbench."""

import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ssl_zoo
from ssl_zoo.data import DataConfig
from ssl_zoo.explore import preparation
from ssl_zoo.explore.gallery import Step
from ssl_zoo.explore.preparation import Explained, load_explorer
from ssl_zoo.explore.workbench import ExploreError, NotReady, Request, Rules, Workbench
from tests.data.tiny_sets import write_parquet
from tests.hub.runs import make_run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of MIRA, and images."""
    folder = tmp_path_factory.mktemp("workbench")
    make_run(folder)
    write_parquet(folder / "data", (30, 10))
    return folder


def request(folder: Path, **changes: Any) -> Request:
    return Request(**{"model": str(folder / "run"), "data": str(folder / "data"), "split": "train", **changes})


def finish(work: Generator[Step, None, Explained]) -> tuple[Explained, list[Step]]:
    steps = []
    while True:
        try:
            steps.append(next(work))
        except StopIteration as done:
            return done.value, steps


def test_features_and_scores_are_the_models(folder: Path, tmp_path: Path) -> None:
    found, steps = finish(Workbench(tmp_path).open(request(folder)))
    assert steps[-1].done == len(found.gallery) == 40
    model = ssl_zoo.MiraForPreTraining.from_pretrained(folder / "run" / "model")
    view = load_explorer(str(folder / "run")).view
    images = torch.stack([view(image)[0] for image in found.gallery.images()])
    with torch.no_grad():
        expected, probabilities = model.timm_model(images), model.cluster_probabilities(images)[:, 0]
    np.testing.assert_allclose(found.features, expected.numpy(), atol=1e-5)
    scores = torch.from_numpy(found.log_probabilities(0).astype(np.float32))
    torch.testing.assert_close(scores.softmax(dim=1), probabilities, atol=1e-3, rtol=2e-3)
    assert torch.equal(scores.argmax(dim=1), probabilities.argmax(dim=1))
    np.testing.assert_allclose(np.linalg.norm(found.unit_features, axis=1), 1, atol=1e-5)
    about = {"num_heads": 1, "num_clusters": 10, "kmeans": False, "method": "mira", "beta": pytest.approx(2 / 3)}
    assert {name: found.about[name] for name in about} == about


def test_a_stopped_preparation_goes_on(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "_BATCH", 4)
    monkeypatch.setattr(preparation, "_PART_BATCHES", 2)
    whole, _ = finish(Workbench(tmp_path / "whole").open(request(folder)))
    bench = Workbench(tmp_path / "cache")
    work = bench.open(request(folder))
    while next(work).task != f"looking at the images with {whole.about['title']}":
        pass
    for _ in range(4):  # two parts and a half
        next(work)
    work.close()
    with pytest.raises(NotReady, match="press Open"):
        bench.get(request(folder))
    looked: list[int] = []
    look = preparation._compute
    monkeypatch.setattr(preparation, "_compute", lambda *words: (looked.append(len(words[1])), look(*words))[1])
    found, _ = finish(bench.open(request(folder)))  # and nobody waits for the visitor who left
    assert sum(looked) == 40 - 16
    np.testing.assert_array_equal(found.features, whole.features)
    np.testing.assert_array_equal(found.log_probabilities(), whole.log_probabilities())
    looked.clear()
    assert bench.get(request(folder)) is found
    assert finish(bench.open(request(folder))) == (found, []), "what is open is there at once"
    finish(Workbench(tmp_path / "cache").open(request(folder)))  # a restarted server
    assert not looked


def test_a_model_without_clusters_gets_those_of_k_means(folder: Path, tmp_path: Path) -> None:
    model = ssl_zoo.MiraModel.from_pretrained(folder / "run" / "model")
    model.save_pretrained(tmp_path / "backbone")
    bench = Workbench(tmp_path / "cache")
    wanted = request(folder, model=str(tmp_path / "backbone"), clusters=5)
    found, _ = finish(bench.open(wanted))
    assert found.about["kmeans"]
    assert (found.num_heads, found.num_clusters) == (1, 5)
    centers = np.load(found.folder / "centers.npy")
    nearest = (found.unit_features @ centers.T).argmax(axis=1)
    np.testing.assert_array_equal(found.log_probabilities().argmax(axis=1), nearest)
    more, _ = finish(bench.open(request(folder, model=str(tmp_path / "backbone"), clusters=7)))
    assert more.num_clusters == 7
    np.testing.assert_array_equal(more.features, found.features)
    with pytest.raises(ExploreError, match="41 clusters need as many images, got 40"):
        finish(bench.open(request(folder, model=str(tmp_path / "backbone"), clusters=41)))


def test_a_model_that_has_diverged_is_said_so(folder: Path, tmp_path: Path) -> None:
    model = ssl_zoo.MiraForPreTraining.from_pretrained(folder / "run" / "model")
    with torch.no_grad():
        model.timm_model.conv1.weight.fill_(float("nan"))
    model.save_pretrained(tmp_path / "broken")
    bench = Workbench(tmp_path / "cache")
    with pytest.raises(ExploreError, match="infinite or NaN"):
        finish(bench.open(request(folder, model=str(tmp_path / "broken"))))
    finish(bench.open(request(folder)))  # the workbench isn't blocked


def test_what_cannot_be_opened_is_said_without_folders_of_the_server(folder: Path, tmp_path: Path) -> None:
    def resolve(name: str, rules: Rules, revision: str | None = None) -> str:
        return str(folder / name)

    def describe(error: Exception, name: str, place: str) -> str:
        return f"{name}: {type(error).__name__}"

    bench = Workbench(
        tmp_path,
        Rules(max_images=50),
        resolve_model=resolve,
        resolve_data=lambda *given: resolve(*given),
        describe_error=describe,
    )
    finish(bench.open(Request(model="run", data="data", split="train", images=40)))
    for wanted, message in (
        (Request(model="none", data="data", split="train", images=40), "none: ModelLoadError"),
        (Request(model="run", data="data", split="tset", images=40), "data: DataError"),
        (Request(model="run", data="data", split="train", images=51), "at most 50 images, got 51"),
    ):
        with pytest.raises(ExploreError, match=message):
            finish(bench.open(wanted))


def test_one_preparation_at_a_time(folder: Path, tmp_path: Path) -> None:
    bench = Workbench(tmp_path)
    first = bench.open(request(folder))
    next(first)
    second = bench.open(request(folder, images=20))
    assert "another visitor" in next(second).task
    done: list[Explained] = []
    thread = threading.Thread(target=lambda: done.append(finish(second)[0]))
    thread.start()
    finish(first)
    thread.join(timeout=200)
    assert [len(found.gallery) for found in done] == [20]


def test_the_address_says_what_is_open() -> None:
    asked = Request(model="org/name", data="org/images", split="validation", images=200, config="small")
    query = asked.to_query()
    assert query == {
        "model": "org/name",
        "data": "org/images",
        "split": "validation",
        "images": "200",
        "config": "small",
    }
    assert Request.from_query(query) == asked
    assert Request.from_query({"tab": "map", "images": ""}) == Request()
    assert Request().to_query() == {"model": Request().model, "data": Request().data}
    for value in ("0", "-1", "1e3", "many"):
        with pytest.raises(ExploreError, match=f"`images` must be a whole number of at least 1, got '{value}'"):
            Request.from_query({"images": value})
    assert Request().image_source == DataConfig(path=Request().data, split="test", max_rows=1000)
