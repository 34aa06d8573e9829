"""Labels on the Hub: pushed as a data set, replaced, and read back to be learned from."""

import json

import numpy as np
import pytest
from huggingface_hub import HfApi

from ssl_zoo.data.label_files import Head, join_parts, write_part
from ssl_zoo.labels.heads import LabelError
from ssl_zoo.labels.push import push_labels


pytestmark = pytest.mark.hub

READ = """
from types import SimpleNamespace
from ssl_zoo.data.label_table import read_label_table
from ssl_zoo.data.source import DataConfig, DataError
source = SimpleNamespace(num_rows=6, revision=None, split="train")
known, classes = read_label_table(source, DataConfig(path="org/pets", label_table="org/labels@main"))
print(known.tolist(), classes)
for wrong in ("org/none", "org/labels@none"):
    try:
        read_label_table(source, DataConfig(path="org/pets", label_table=wrong))
    except DataError as error:
        print(error)
from datasets import load_dataset
print(load_dataset("org/labels", split="train")["pseudo_label_0"][:])
"""


def write(folder, labels, *, files):
    parts = [folder.parent / f"{folder.name}-{number}.parquet" for number in range(files)]
    for part, ids in zip(parts, np.array_split(np.arange(6), files), strict=True):
        head = Head(np.array(labels, dtype=np.int32)[ids], np.ones(len(ids), dtype=np.float32))
        write_part(part, ids, [head], skipped=[])
    names, heads = join_parts(parts, folder, split="train", clusters=[4], part_bytes=2**40)
    data = {"path": "org/pets", "name": None, "revision": None, "split": "train", "num_rows": 6, "limit": None}
    about = {"data": data, "files": names, "heads": [head._asdict() for head in heads]}
    (folder / "labels.json").write_text(json.dumps(about))
    (folder / "README.md").write_text("---\ntags: [pseudo-labels]\n---\n")
    return folder


def test_pushed_labels_are_read_back(hub_here, tmp_path):
    push_labels(write(tmp_path / "first", [0, 0, 0, 1, 1, 1], files=3), "org/labels", private=True)
    url = push_labels(write(tmp_path / "second", [3, 1, 2, 0, 3, 1], files=2), "org/labels", private=True)
    assert "org/labels" in url
    names = HfApi().list_repo_files("org/labels", repo_type="dataset")
    assert sorted(name for name in names if name.startswith("data/")) == [
        "data/train-00000-of-00002.parquet",
        "data/train-00001-of-00002.parquet",
    ]
    said = hub_here.run(READ).stdout.splitlines()
    assert said[0] == "[3, 1, 2, 0, 3, 1] 4"
    assert "can't be had from the Hub" in said[1]
    assert "org/labels@none" in said[2]
    assert said[3] == "[3, 1, 2, 0, 3, 1]"


def test_what_the_hub_refuses_is_a_sentence(hub_here, tmp_path, monkeypatch):
    folder = write(tmp_path / "labels", [0, 0, 0, 1, 1, 1], files=1)
    push_labels(folder, "org/public")
    with pytest.raises(LabelError, match=r"is public.*Nothing was sent.*labels are whole in"):
        push_labels(folder, "org/public", private=True)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(LabelError, match=r"doesn't take the labels to 'org/more'.*same command"):
        push_labels(folder, "org/more")
