"""Pseudo-labels are read back by sample id, and refused when they are of other images."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.label_files import Head, join_parts, read_skipped, write_part
from ssl_zoo.data.label_table import describe_data, read_label_table
from ssl_zoo.data.labelled import choose_labelled
from ssl_zoo.data.source import DataConfig, open_source
from tests.data.tiny_sets import UNEVEN, write_parquet


ROWS, MISSING = sum(UNEVEN), (2, 17)
IDS = np.array([row for row in range(ROWS) if row not in MISSING])


def label_of(ids, head=0):
    return ((np.asarray(ids) * 7 + head) % 5).astype(np.int32)


def write_table(folder, config, *, ids=IDS, label=label_of, clusters=(5, 6), **changed):
    """Labels of two heads in two parts, for the data of `config`."""
    parts = [folder.parent / f"{folder.name}-{number}.parquet" for number in range(2)]
    for part, rows in zip(parts, np.array_split(ids, 2), strict=True):
        heads = [Head(label(rows, head), np.ones(len(rows), dtype=np.float32)) for head in range(2)]
        write_part(part, rows, heads, skipped=[])
    files, heads = join_parts(parts, folder, split="train", clusters=clusters, part_bytes=2**28)
    data = {**describe_data(open_source(config), config), **changed}
    about = {"data": data, "files": files, "heads": [head._asdict() for head in heads]}
    (folder / "labels.json").write_text(json.dumps(about))
    return folder


@pytest.fixture(scope="module")
def pets(tmp_path_factory):
    return write_parquet(tmp_path_factory.mktemp("data") / "pets", UNEVEN)


@pytest.fixture(scope="module")
def table(pets, tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("labels") / "labels.parquet", DataConfig(path=str(pets)))


def read(pets, table, **fields):
    config = DataConfig(path=str(pets), label_table=str(table), **fields)
    return read_label_table(open_source(config), config)


@pytest.mark.parametrize("head", [0, 1])
def test_labels_are_found_by_sample_id(pets, table, head):
    known, num_classes = read(pets, table, label_table_column=f"pseudo_label_{head}")
    assert num_classes == (5, 6)[head]
    assert known.dtype == np.int64
    assert known[list(MISSING)].tolist() == [-1, -1]
    assert known[IDS].tolist() == label_of(IDS, head).tolist()


def test_what_is_learned_from_is_the_table_and_not_the_classes(pets, table):
    config = DataConfig(path=str(pets), label_table=str(table))
    source = open_source(config)
    subset = choose_labelled(source, config)
    assert subset.num_classes == 5
    assert subset.ids.tolist() == IDS.tolist()
    assert subset.known_labels[IDS].tolist() == label_of(IDS).tolist()
    assert subset.known_labels[IDS].tolist() != source.read_labels()[IDS].tolist()
    few = choose_labelled(source, DataConfig(path=str(pets), label_table=str(table), labelled_share=0.2))
    assert 5 <= len(few.ids) < 15
    assert few.known_labels[few.ids].tolist() == label_of(few.ids).tolist()


def test_data_without_classes_can_be_learned_from(table, tmp_path, pets):
    bare = tmp_path / "pets"
    bare.mkdir()
    for file in pets.glob("*.parquet"):
        pq.write_table(pq.read_table(file).select(["image"]), bare / file.name)
    config = DataConfig(path=str(bare), image_column="image", label_table=str(table))
    source = open_source(config)
    assert source.label_column is None
    assert len(choose_labelled(source, config).ids) == len(IDS)


def test_a_part_of_the_rows(pets, table, tmp_path):
    """Fewer rows to train on than labels, and labels of fewer rows than there are to train on."""
    known, _ = read(pets, table, max_rows=12)
    assert known.tolist() == [-1 if row in MISSING else label_of(row) for row in range(12)]
    first = write_table(tmp_path / "first", DataConfig(path=str(pets), max_rows=9), ids=np.arange(9))
    known, _ = read(pets, first)
    assert (known >= 0).nonzero()[0].tolist() == list(range(9))
    with pytest.raises(DataError, match=r"number of rows \(42 there, 14 here\)"):
        read(write_parquet(tmp_path / "pets", (5, 9)), table)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"path": "birds"}, r"path \('birds' there, 'pets' here\)"),
        ({"split": "test"}, r"split \('test' there, 'train' here\)"),
        ({"name": "large"}, None),  # a local copy has no configurations
        ({"revision": "abc"}, None),  # nor revisions
        ({"path": "org/pets"}, None),  # a copy of a set on the Hub
        ({"num_rows": 41}, r"number of rows \(41 there, 42 here\)"),
        ({"num_rows": 50}, r"number of rows \(50 there, 42 here\)"),
    ],
)
def test_labels_of_other_images_are_refused(pets, tmp_path, changed, message):
    table = write_table(tmp_path / "labels", DataConfig(path=str(pets)), ids=np.arange(40), **changed)
    if message is None:
        assert (read(pets, table)[0] >= 0).sum() == 40
    else:
        with pytest.raises(DataError, match=f"are of other images.*{message}"):
            read(pets, table)


def test_bad_tables_are_sentences(pets, table, tmp_path):
    config = DataConfig(path=str(pets))
    with pytest.raises(DataError, match=r"has the columns \['sample_id', .*; did you mean 'pseudo_label_\d'"):
        read(pets, table, label_table_column="pseudo_label_2")
    with pytest.raises(DataError, match="'confidence_0', which holds float, not whole numbers"):
        read(pets, table, label_table_column="confidence_0")
    with pytest.raises(DataError, match="no such folder"):
        read(pets, tmp_path / "none")
    with pytest.raises(DataError, match=r"has no labels\.json.*recipes/label\.py"):
        read(pets, pets)
    with pytest.raises(DataError, match=r"org/none.*can't be had from the Hub"):
        read(pets, "org/none")
    twice = write_table(tmp_path / "twice", config, ids=np.append(IDS, 5))
    with pytest.raises(DataError, match="one label for each sample id"):
        read(pets, twice)
    beyond = write_table(tmp_path / "beyond", config, ids=np.append(IDS, ROWS))
    with pytest.raises(DataError, match="one label for each sample id"):
        read(pets, beyond)
    large = write_table(tmp_path / "large", config)
    about = json.loads((large / "labels.json").read_text())
    about["heads"][0]["num_clusters"] = 3
    (large / "labels.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=r"label 4 in 'pseudo_label_0'.*says there are 3"):
        read(pets, large)
    file = min((beyond / "data").glob("*"))
    pq.write_table(pq.read_table(file).slice(1), file)
    with pytest.raises(DataError, match=r"has 20 rows, expected 21"):
        read(pets, beyond)
    file.write_bytes(b"PAR1")
    with pytest.raises(DataError, match="can't be read"):
        read(pets, beyond)


def test_an_empty_column_name_is_refused():
    with pytest.raises(DataError, match=r"`data\.label_table_column` is empty"):
        DataConfig(label_table_column="")


def test_a_part_accounts_for_its_rows(tmp_path):
    path = tmp_path / "part.parquet"
    assert read_skipped(path, num_rows=3) is None
    head = Head(np.array([1, 0], dtype=np.int32), np.ones(2, dtype=np.float32))
    write_part(path, np.array([4, 6]), [head], skipped=[5])
    assert read_skipped(path, num_rows=3) == [5]
    assert read_skipped(path, num_rows=4) is None
    assert list(tmp_path.iterdir()) == [path]
    pq.write_table(pa.table({"sample_id": [4, 5, 6]}), path)  # not a part as we write it
    assert read_skipped(path, num_rows=3) is None
