"""The models and data sets that visitors are offered."""

import json

import datasets
import pytest

from ssl_zoo.explore.offers import data_at_hand, look_at_data, models_at_hand
from ssl_zoo.explore.workbench import ExploreError, Rules
from ssl_zoo.zoo.entries import load_index
from tests.explore.made_explained import make_gallery


@pytest.fixture
def rules(tmp_path):
    """Two folders: models, with one of the zoo's, and runs beside data."""
    models, work = tmp_path / "models", tmp_path / "work"
    (models / "mira-cifar10").mkdir(parents=True)
    (models / "mira-cifar10" / "config.json").write_text("{}")
    (models / "own").mkdir()
    (models / "own" / "config.json").write_text("{}")
    (models / "empty").mkdir()
    (work / "run" / "model").mkdir(parents=True)
    (work / "run" / "model" / "config.json").write_text("{}")
    (work / ".hidden").mkdir()
    (work / ".hidden" / "config.json").write_text("{}")
    make_gallery(work / "pictures", [0, 1])
    return Rules(folders=(models, work, tmp_path / "missing"))


def test_models_of_the_zoo_come_first_by_name(rules):
    (name,) = [entry.name for entry in load_index().values() if (entry.folder or "").endswith("/mira-cifar10")]
    assert models_at_hand(rules) == [name, "own", "run"]


def test_nothing_is_at_hand(tmp_path):
    rules = Rules(folders=(tmp_path / "missing",))
    assert models_at_hand(rules) == []
    assert data_at_hand(rules) == ["embedded"]


def test_data_sets_are_folders_with_images_or_tables(rules):
    assert data_at_hand(rules) == ["embedded", "pictures"]


def test_splits_and_columns_are_found(rules):
    folder = rules.folders[1] / "photos"
    features = datasets.Features(
        {
            "picture": datasets.Image(),
            "kind": datasets.ClassLabel(names=["a", "b"]),
            "number": datasets.Value("int64"),
            "words": datasets.Value("string"),
        }
    )
    rows = {"picture": [None, None], "kind": [0, 1], "number": [3, 4], "words": ["x", "y"]}
    for split in ("train", "val"):
        datasets.Dataset.from_dict(rows, features).to_parquet(folder / f"{split}-00000-of-00001.parquet")
    offer = look_at_data("photos", None, rules)
    assert set(offer.splits) == {"train", "validation"}
    assert offer.images == ("picture",)
    assert offer.labels == ("kind", "number")
    assert offer.configs == ()


def test_configurations_are_asked_for_first(rules):
    folder = rules.folders[1] / "several"
    for name in ("day", "night"):
        datasets.Dataset.from_dict({"label": [0]}).to_parquet(folder / name / "train-00000-of-00001.parquet")
    listed = [{"config_name": name, "data_files": f"{name}/*.parquet"} for name in ("day", "night")]
    (folder / "README.md").write_text(f"---\nconfigs: {json.dumps(listed)}\n---\n")
    offer = look_at_data("several", None, rules)
    assert offer.configs == ("day", "night")
    assert offer.splits == ()
    assert look_at_data("several", "night", rules).splits == ("train",)


@pytest.mark.parametrize("name", ["/etc", "../models", "nobody/has-this", "empty"])
def test_what_cannot_be_looked_at_is_said(rules, name):
    with pytest.raises(ExploreError) as caught:
        look_at_data(name, None, rules)
    assert str(rules.folders[0].parent) not in str(caught.value)
