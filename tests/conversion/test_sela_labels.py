"""SeLa's labels as a data set: found by the place of an image in torchvision's ImageFolder, refused for any other."""

import json
import random
import shutil

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import torchvision

from ssl_zoo.conversion import sela_labels
from ssl_zoo.conversion.convert import convert_checkpoint
from ssl_zoo.conversion.sela_labels import write_label_table
from ssl_zoo.data.decode import decode_image
from ssl_zoo.data.errors import DataError
from ssl_zoo.data.label_table import read_label_table
from ssl_zoo.data.source import DataConfig, open_source
from ssl_zoo.loading.models import load_pretraining_model
from ssl_zoo.training.loop import train
from ssl_zoo.training.recipe import load_recipe
from ssl_zoo.training.session import open_session
from tests.conversion import sela_layouts as authors
from tests.data.tiny_sets import row_image, row_of, write_parquet
from tests.training.tiny_recipes import shrink


NAME = "images-in-imagefolder-order"
WNIDS = ("n02000001", "n01999999", "n01000000")
PER_CLASS = 11
ROWS = PER_CLASS * len(WNIDS)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Class folders and files written in random order, named like ImageNet's: 9 comes after 10."""
    folder = tmp_path_factory.mktemp("data") / NAME
    files = [folder / "train" / wnid / f"{wnid}_{number}.png" for wnid in WNIDS for number in range(PER_CLASS)]
    random.Random(0).shuffle(files)
    for row, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        row_image(row, size=20).save(file)
    return folder


def colours(folder):
    """The value by which each image in torchvision's order is recognised."""
    found = torchvision.datasets.ImageFolder(folder / "train")
    return [row_of(np.moveaxis(np.asarray(image), -1, 0) / 255) for image, _ in found]


@pytest.fixture(scope="module")
def table(images):
    """Labels that belong to the picture: head 0 its colour modulo 7, head 1 modulo 5."""
    colour = torch.tensor(colours(images))
    return torch.stack([colour % 7, colour % 5])


@pytest.fixture(scope="module")
def labels(table, tmp_path_factory):
    """OUT/labels of a converted checkpoint."""
    folder = tmp_path_factory.mktemp("converted")
    state = authors.alexnet_state(authors.head_names(2))
    torch.save({"epoch": 1, "state_dict": state, "L": table}, folder / "checkpoint.pth")
    return convert_checkpoint("sela", folder / "checkpoint.pth", folder / "out").folder / "labels"


def test_every_image_has_the_label_that_it_had_in_torchvisions_order(images, labels):
    config = DataConfig(path=str(images), label_table=str(labels), label_table_column="pseudo_label_1")
    source = open_source(config)
    known, num_classes = read_label_table(source, config)
    assert num_classes == 7  # clusters of the model, though this head's labels use 5
    rows = [row for shard in range(source.num_shards) for row in source.rows(shard, 0, source.shard_lengths[shard])]
    assert sorted(row.sample_id for row in rows) == list(range(ROWS))
    for row in rows:
        pixels = np.moveaxis(np.asarray(decode_image(row.image)), -1, 0) / 255
        assert known[row.sample_id] == row_of(pixels) % 5


def test_whoever_has_checked_the_order_can_name_another_folder(images, labels, tmp_path):
    """As the card says: by the name of the data in labels.json."""
    own = tmp_path / "pictures"
    shutil.copytree(images, own)
    said = tmp_path / "labels"
    shutil.copytree(labels, said)
    config = DataConfig(path=str(own), label_table=str(said))
    with pytest.raises(DataError, match="are of other images"):
        read_label_table(open_source(config), config)
    about = json.loads((said / "labels.json").read_text())
    about["data"]["path"] = "pictures"
    (said / "labels.json").write_text(json.dumps(about))
    plain = DataConfig(path=str(images), label_table=str(labels))
    ours, theirs = (read_label_table(open_source(each), each)[0].tolist() for each in (config, plain))
    assert ours == theirs


def test_the_files_are_those_of_the_label_recipe(labels, table):
    assert sorted(str(path.relative_to(labels)) for path in labels.rglob("*") if path.is_file()) == [
        "README.md",
        "data/train-00000-of-00001.parquet",
        "labels.json",
    ]
    loaded = datasets.load_dataset(str(labels), split="train")
    assert loaded.column_names == ["sample_id", "pseudo_label_0", "confidence_0", "pseudo_label_1", "confidence_1"]
    assert loaded["sample_id"][:] == list(range(ROWS))
    assert loaded["pseudo_label_0"][:] == table[0].tolist()
    assert set(loaded["confidence_1"][:]) == {None}
    schema = pq.read_schema(labels / "data/train-00000-of-00001.parquet")
    assert [str(kind) for kind in schema.types] == ["int64", "int32", "float", "int32", "float"]
    about = json.loads((labels / "labels.json").read_text())
    assert about["num_labels"] == about["data"]["num_rows"] == about["files"]["data/train-00000-of-00001.parquet"]
    assert about["heads"][1] | {"num_clusters": 7, "num_used": 5, "mean_confidence": None} == about["heads"][1]
    assert about["heads"][0]["largest_share"] == pytest.approx(5 / ROWS)
    assert len(about["source"]["sha256"]) == 64
    card = (labels / "README.md").read_text()
    for said in (
        "need not have this order",
        f"a folder named `{NAME}`",
        "have no probability",
        about["source"]["sha256"],
    ):
        assert said in card
    assert str(labels.parent.parent) not in card + (labels / "labels.json").read_text()


def test_a_network_learns_from_them(images, labels, table, root, tmp_path):
    small = shrink(root / "recipes" / "supervised" / "cifar10_small_cpu_labels.yaml", images=images, steps=2)
    small.save(tmp_path / "recipe.yaml")
    said = [f"data.label_table={labels}", "train.micro_batch_size=null", f"train.output_dir={tmp_path / 'run'}"]
    recipe = load_recipe(tmp_path / "recipe.yaml", [*said, "train.epochs=1.0", "train.trace=false"])
    session = open_session(recipe)
    assert torch.equal(session.labelled.known_labels, table[0])
    session.log.__exit__(None, None, None)
    train(recipe)
    trained = load_pretraining_model(str(tmp_path / "run"))
    assert trained.config.num_supervised_classes == 7


@pytest.mark.parametrize(
    ("rows", "expected"),
    [(1_281_167, "imagenet-1k-imagefolder"), (50_000, "cifar-in-batches"), (42, NAME)],
)
def test_other_copies_of_the_images_are_refused_by_name(rows, expected, tmp_path):
    """A copy on the Hub, or one downloaded from there, may have another order; only its name tells."""
    write_label_table(torch.arange(rows).unsqueeze(0) % 3, tmp_path / "labels", {"num_clusters": 3})
    about = json.loads((tmp_path / "labels/labels.json").read_text())
    assert (about["data"]["path"], about["data"]["num_rows"]) == (expected, rows)
    for name in ("imagenet-1k", "cifar10", "images"):
        copy = write_parquet(tmp_path / name, (20, 22))
        config = DataConfig(path=str(copy), label_table=str(tmp_path / "labels"))
        with pytest.raises(DataError, match=f"are of other images than .*path .'{expected}' there, '{name}' here"):
            read_label_table(open_source(config), config)


def test_fewer_or_more_images_are_refused(labels, tmp_path):
    for lengths in ((20, 12), (20, 14)):
        config = DataConfig(path=str(write_parquet(tmp_path / str(sum(lengths)) / NAME, lengths)))
        config.label_table = str(labels)
        with pytest.raises(DataError, match="number of rows"):
            read_label_table(open_source(config), config)


def test_bad_tables_are_refused_and_a_failure_leaves_nothing(tmp_path, monkeypatch):
    for table in (torch.zeros(3), torch.zeros(2, 3), torch.zeros(2, 0).long(), torch.full((1, 2), -1)):
        with pytest.raises(ValueError, match=r"whole numbers from 0 and the shape \(heads, images\)"):
            write_label_table(table, tmp_path / "labels", {})

    def fail(_):
        raise OSError("the disk is full")

    monkeypatch.setattr(sela_labels, "_render_card", fail)
    with pytest.raises(OSError, match="the disk is full"):
        write_label_table(torch.ones(1, 2).long(), tmp_path / "labels", {})
    assert list(tmp_path.iterdir()) == []
