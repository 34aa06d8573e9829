import json
import math
import re
from dataclasses import replace

import pytest

from ssl_zoo.evaluation.results import Result, append_results, read_results, render_results


RESULT = Result(
    metric="knn_top1",
    value=0.61234,
    subject="trained",
    protocol={"name": "knn", "k": 20, "temperature": 0.07},
    data={
        "path": "pets",
        "revision": None,
        "train_split": "train",
        "test_split": "test",
        "num_train": 9,
        "num_test": 4,
    },
    seed=0,
    images_seen=100,
    commit=None,
    versions={"torch": "2"},
    wall_seconds=1.5,
    command="python recipes/evaluate.py run",
)


def test_lines_are_appended_and_read_back(tmp_path):
    path = tmp_path / "run" / "results.jsonl"
    assert read_results(path) == []
    append_results(path, [RESULT])
    append_results(path, [replace(RESULT, value=0.5), replace(RESULT, metric="nmi")])
    assert read_results(path) == [RESULT, replace(RESULT, value=0.5), replace(RESULT, metric="nmi")]
    line = json.loads(path.read_text().splitlines()[0])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", line["date"])
    assert list(line)[:4] == ["metric", "value", "subject", "protocol"]


def test_a_number_that_is_none_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        append_results(tmp_path / "results.jsonl", [RESULT, replace(RESULT, value=math.nan)])
    assert read_results(tmp_path / "results.jsonl") == []


def test_the_table():
    results = [
        replace(RESULT, subject="trained"),
        replace(RESULT, subject="raw_pixels", value=0.3),
        replace(RESULT, protocol={"name": "knn", "k": 1}, value=0.5),
        replace(
            RESULT, metric="nmi", protocol={"name": "nmi"}, value=0.4567, data={**RESULT.data, "train_split": None}
        ),
    ]
    assert render_results(results).splitlines() == [
        "pets: 4 images of 'test', learned from 9 of 'train'",
        "",
        "                   raw pixels  trained",
        "--------------------------------------",
        "k-NN top-1 (k=20)     30.00 %  61.23 %",
        "k-NN top-1 (k=1)            -  50.00 %",
        "NMI                         -    0.457",
    ]
    assert render_results([]) == "No results"


def test_every_data_set_has_a_table_of_its_own():
    other = replace(
        RESULT,
        metric="logistic_voc_map",
        protocol={"name": "logistic"},
        data={**RESULT.data, "path": "voc"},
        value=0.5,
    )
    tables = render_results([RESULT, other]).split("\n\n")
    assert [table.splitlines()[0].partition(":")[0] for table in tables[::2]] == ["pets", "voc"]
    assert "logistic, mAP  50.00 %" in tables[3]


def test_lines_of_before_there_were_intervals_are_read(tmp_path):
    append_results(tmp_path / "results.jsonl", [RESULT])
    line = json.loads((tmp_path / "results.jsonl").read_text())
    old = {name: value for name, value in line.items() if name not in ("interval", "details")}
    (tmp_path / "results.jsonl").write_text(json.dumps(old) + "\n")
    assert read_results(tmp_path / "results.jsonl") == [RESULT]
