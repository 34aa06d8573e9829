"""Labels of a model as a data set: content, resuming after an interruption, processes, refusals."""

import copy
import json
from pathlib import Path

import jinja2.meta
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import load_dataset
from datasets.data_files import EmptyDatasetError
from huggingface_hub import DatasetCard

from ssl_zoo.data import label_files
from ssl_zoo.data.errors import DataError
from ssl_zoo.data.source import DataConfig, open_source
from ssl_zoo.data.views import EvalView
from ssl_zoo.labels import writer as label_writer
from ssl_zoo.labels.card import TEMPLATE
from ssl_zoo.labels.heads import LabelError
from ssl_zoo.labels.writer import Labelling, label_images
from ssl_zoo.loading.fingerprint import weights_sha256
from ssl_zoo.training.build import build_model
from tests.data.tiny_sets import UNEVEN, write_parquet
from tests.training.tiny_recipes import FIXTURES, ROOT, fixture_name, tiny
from tests.two_processes import run_in_two_processes


ROWS, CORRUPT = sum(UNEVEN), (4, 8, 9, 10, 11, 30)  # rows 8 to 11 are a whole block
HEADS, CLUSTERS = 2, 5
VIEW = EvalView(8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), crop_pct=1.0)
ABOUT = {
    "model": {"name": "tiny", "revision": None, "method": "sela", "architecture": "resnet18", "weights_sha256": "ab"},
    "data": {"path": "pets", "name": None, "revision": None, "split": "train", "num_rows": ROWS, "limit": None},
}


class Model(torch.nn.Module):
    """Its probabilities are a function of the row number that the image's colour encodes."""

    def __init__(self, *, stop_after: int = 1000, broken_row: int = -1) -> None:
        super().__init__()
        self.slopes = torch.linspace(-1.0, 1.0, HEADS * CLUSTERS).view(HEADS, CLUSTERS).sin()
        self.seen: list[int] = []
        self._stop_after, self._broken_row = stop_after, broken_row

    def cluster_probabilities(self, images: torch.Tensor) -> torch.Tensor:
        rows = (images[:, 0, 0, 0] * 255).round()
        if bool((images[:, 2] > 0).all()):  # not the black image that is asked about first
            if len(self.seen) >= self._stop_after:
                raise KeyboardInterrupt
            self.seen += rows.int().tolist()
        logits = ((rows[:, None, None] + 1) * self.slopes).cos() * 2  # + 1: no two clusters are equally likely
        return torch.softmax(torch.where(rows[:, None, None] == self._broken_row, torch.nan, logits), dim=-1)


def expected_probabilities(row: int) -> np.ndarray:
    slopes = np.sin(np.linspace(-1.0, 1.0, HEADS * CLUSTERS)).reshape(HEADS, CLUSTERS)
    powers = np.exp(2 * np.cos((row + 1) * slopes))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    replaced = dict.fromkeys(CORRUPT, b"no image")
    return write_parquet(tmp_path_factory.mktemp("data") / "pets", UNEVEN, replaced=replaced)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(label_writer, "_MOST_BLOCK_ROWS", 4)
    monkeypatch.setattr(label_writer, "_LEAST_BLOCK_ROWS", 4)


def run(folder, target, model=None, *, soft=3, about=ABOUT, streaming=True, **options):
    source = open_source(DataConfig(path=str(folder), streaming=streaming))
    labelling = Labelling(model or Model(), source, VIEW, Path(target), about, soft)
    options = {"batch_size": 3, "num_workers": 0, "max_corrupt_share": 0.2, **options}
    return label_images(labelling, **options)


def tables(target):
    return {path.name: path.read_bytes() for path in sorted(Path(target).glob("data/*"))}


def work_folder(target):
    return target.parent / f".{target.name}.unfinished"


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """Labels that nobody interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(label_writer, "_MOST_BLOCK_ROWS", 4)
        patch.setattr(label_writer, "_LEAST_BLOCK_ROWS", 4)
        target = tmp_path_factory.mktemp("out") / "labels.parquet"
        run(folder, target)
    return target


def test_the_labels_are_the_models(whole):
    table = load_dataset(str(whole), split="train").with_format("numpy")[:]
    readable = [row for row in range(ROWS) if row not in CORRUPT]
    assert table["sample_id"].tolist() == readable
    for position, row in enumerate(readable):
        for head, expected in enumerate(expected_probabilities(row)):
            order = np.argsort(-expected, kind="stable")
            assert table[f"pseudo_label_{head}"][position] == order[0]
            assert table[f"confidence_{head}"][position] == pytest.approx(expected[order[0]], rel=1e-5)
            assert table[f"soft_labels_{head}"][position].tolist() == order[:3].tolist()
            assert table[f"soft_probabilities_{head}"][position] == pytest.approx(expected[order[:3]], rel=1e-5)
    schema = pq.read_schema(next(whole.glob("data/*")))
    kinds = {name: str(schema.field(name).type).replace("element", "item") for name in schema.names}
    assert kinds["sample_id"] == "int64"
    assert (kinds["pseudo_label_1"], kinds["confidence_1"]) == ("int32", "float")
    assert (kinds["soft_labels_0"], kinds["soft_probabilities_0"]) == ("list<item: int32>", "list<item: float>")


def test_what_they_are_of_stands_beside_them(whole, folder):
    about = json.loads((whole / "labels.json").read_text())
    assert {key: about[key] for key in ABOUT} == ABOUT
    assert about["skipped"] == list(CORRUPT)
    assert about["files"] == {"data/train-00000-of-00001.parquet": ROWS - len(CORRUPT)}
    best = np.array([expected_probabilities(row).argmax(axis=1) for row in range(ROWS) if row not in CORRUPT])
    for head, summary in enumerate(about["heads"]):
        counts = np.bincount(best[:, head], minlength=CLUSTERS)
        assert summary["num_used"] == (counts > 0).sum()
        assert summary["largest_share"] == pytest.approx(counts.max() / len(best))
    card = DatasetCard.load(whole / "README.md")
    assert card.data.source_datasets is None  # a folder of this machine
    assert "(6): 4, 8, 9, 10, 11, 30." in card.text
    assert str(folder.parent) not in card.text + json.dumps(about)
    names = jinja2.meta.find_undeclared_variables(jinja2.Environment().parse(TEMPLATE.read_text(encoding="utf-8")))
    assert names <= {"card_data", "title", "method", *about}, "Jinja renders an unknown name as nothing"


@pytest.mark.parametrize("stop_after", [1, 7, 25, 34])
def test_an_interrupted_run_goes_on(folder, whole, tmp_path, stop_after):
    target = tmp_path / "labels.parquet"
    first = Model(stop_after=stop_after)
    with pytest.raises(KeyboardInterrupt):
        run(folder, target, first)
    assert not target.exists()
    with pytest.raises(EmptyDatasetError):
        load_dataset(str(tmp_path))
    second = Model()
    run(folder, target, second)
    assert tables(target) == tables(whole)
    again = set(first.seen) & set(second.seen)
    assert len(again) < 4 + 3  # at most the part that was being made
    assert set(first.seen) | set(second.seen) == set(range(ROWS)) - set(CORRUPT)
    assert not work_folder(target).exists()


def test_a_damaged_part_is_made_anew(folder, whole, tmp_path):
    target = tmp_path / "labels.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(folder, target, Model(stop_after=20))
    part = sorted(work_folder(target).glob("part-*.parquet"))[1]
    part.write_bytes(part.read_bytes()[:-30])
    run(folder, target)
    assert tables(target) == tables(whole)


def label_on_a_process(rank, folder, target):
    label_writer._MOST_BLOCK_ROWS = label_writer._LEAST_BLOCK_ROWS = 4
    model = Model()
    about = run(folder, target, model)
    return about["files"], model.seen


def test_two_processes_write_what_one_does(folder, whole, tmp_path):
    target = tmp_path / "labels.parquet"
    (files, first), (same, second) = run_in_two_processes(label_on_a_process, folder, target)
    assert files == same
    assert tables(target) == tables(whole)
    assert sorted(first + second) == [row for row in range(ROWS) if row not in CORRUPT]
    assert min(len(first), len(second)) > ROWS // 4


def test_reading_otherwise_changes_nothing(folder, whole, tmp_path):
    run(folder, tmp_path / "a.parquet", num_workers=2)
    run(folder, tmp_path / "b.parquet", streaming=False)
    assert [tables(tmp_path / f"{name}.parquet") == tables(whole) for name in "ab"] == [True] * 2
    run(folder, tmp_path / "c.parquet", batch_size=4)
    expected, found = (load_dataset(str(path), split="train").to_dict() for path in (whole, tmp_path / "c.parquet"))
    assert found.keys() == expected.keys()
    for name, column in expected.items():  # batches of another size round otherwise
        np.testing.assert_allclose(found[name], column, rtol=1e-6 if "confidence" in name or "prob" in name else 0)


def test_large_labels_become_several_files(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(label_files, "_FILE_BYTES", 1000)
    target = tmp_path / "labels.parquet"
    about = run(folder, target, soft="all")
    assert len(about["files"]) > 2
    table = load_dataset(str(target), split="train").with_format("numpy")[:]
    assert table["sample_id"].tolist() == [row for row in range(ROWS) if row not in CORRUPT]
    np.testing.assert_allclose(table["soft_probabilities_1"].sum(axis=1), 1, rtol=1e-5)
    assert (np.sort(table["soft_labels_0"], axis=1) == np.arange(CLUSTERS)).all()


def test_hard_labels_alone(folder, tmp_path):
    run(folder, tmp_path / "labels.parquet", soft=0)
    names = pq.read_schema(next((tmp_path / "labels.parquet").glob("data/*"))).names
    assert names == ["sample_id", "pseudo_label_0", "confidence_0", "pseudo_label_1", "confidence_1"]


def test_labels_that_are_there_are_not_made_again(folder, whole):
    model = Model()
    about = run(folder, whole, model)
    assert model.seen == []
    assert about == json.loads((whole / "labels.json").read_text())


def test_other_labels_are_refused(folder, whole, tmp_path):
    other = copy.deepcopy(ABOUT)
    other["model"]["weights_sha256"] = "cd"
    with pytest.raises(LabelError, match=r"holds other labels: model.weights_sha256 \('ab' there, 'cd' now\)"):
        run(folder, whole, about=other)
    with pytest.raises(LabelError, match=r"holds other labels: soft \(3 there, 'all' now\).*--overwrite"):
        run(folder, whole, soft="all")
    target = tmp_path / "labels.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(folder, target, Model(stop_after=9))
    with pytest.raises(LabelError, match=r"parts of other labels: model.weights_sha256"):
        run(folder, target, about=other)
    assert run(folder, target, about=other, overwrite=True)["model"]["weights_sha256"] == "cd"
    assert run(folder, target, overwrite=True)["model"]["weights_sha256"] == "ab"
    assert not work_folder(target).exists()
    (tmp_path / "mine").mkdir()
    with pytest.raises(LabelError, match="exists and holds no labels"):
        run(folder, tmp_path / "mine")


def test_images_that_changed_in_between_are_refused(tmp_path):
    folder = write_parquet(tmp_path / "pets", (5, 9))
    target = tmp_path / "labels.parquet"
    with pytest.raises(KeyboardInterrupt):
        run(folder, target, Model(stop_after=6))
    write_parquet(tmp_path / "pets", (5, 9), replaced={3: b"none"})
    with pytest.raises(LabelError, match="parts of other labels: images"):
        run(folder, target)


def test_bad_input_is_a_sentence(folder, tmp_path):
    target = tmp_path / "labels.parquet"
    with pytest.raises(LabelError, match=r"Linear has no clusters.*MIRA, SeLa"):
        run(folder, target, torch.nn.Linear(1, 1))
    with pytest.raises(LabelError, match="--soft must be 'all' or a number of at least 0, got -1"):
        run(folder, target, soft=-1)
    with pytest.raises(LabelError, match="probabilities for row 6 are infinite or NaN"):
        run(folder, target, Model(broken_row=6))
    with pytest.raises(DataError, match=r"6 of 42 rows .* hold no readable image"):
        run(folder, target, max_corrupt_share=0.1)
    assert not target.exists()


def test_the_hash_is_of_the_weights_that_are_saved():
    model = torch.nn.BatchNorm1d(3)
    first = weights_sha256(model)
    assert weights_sha256(copy.deepcopy(model)) == first
    model.running_mean[0] = 0.5
    assert weights_sha256(model) != first
    model._keys_to_ignore_on_save = ["running_mean"]
    second = weights_sha256(model)
    model.running_mean[0] = 0.7
    assert weights_sha256(model) == second


# Not all: a new method with clusters is found by its `cluster_probabilities`.
LABELLING = {"mira", "sela", "cmsf-km", "cmsf-semi", "supervised"}


@pytest.mark.parametrize("path", FIXTURES, ids=fixture_name)
def test_probabilities_of_every_method(path):
    """Rows sum to 1, and pseudo-labels are the largest of the first head; methods without clusters have neither."""
    recipe = tiny(path, images=ROOT, steps=4)
    model = build_model(recipe, num_samples=48, num_classes=3, num_labelled=24).eval()
    labels = hasattr(model, "cluster_probabilities")
    assert hasattr(model, "pseudo_labels") == labels
    assert labels or fixture_name(path) not in LABELLING
    if not labels:
        return
    size = recipe.views.global_size
    images = torch.randn(6, 3, size, size, generator=torch.Generator().manual_seed(0))
    if getattr(model, "clusters", None) is not None:
        model.clusters.centroids[:3] = torch.nn.functional.normalize(model._target(images[:3]).detach(), dim=1)
    found = model.cluster_probabilities(images)
    assert found.shape[:2] == (6, getattr(model.config, "num_heads", 1))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(found.shape[:2]))
    labels, confidence = model.pseudo_labels(images)
    assert torch.equal(labels, found[:, 0].argmax(dim=-1))
    assert torch.equal(confidence, found[:, 0].amax(dim=-1))
    if getattr(model, "clusters", None) is not None:  # the nearest centroid; those in use are of the first images
        projections = torch.nn.functional.normalize(model._target(images).detach(), dim=1)
        distances = torch.cdist(projections.double(), model.clusters.centroids[:3].double())
        assert torch.equal(labels, distances.argmin(dim=1))
        assert labels[:3].tolist() == [0, 1, 2]
