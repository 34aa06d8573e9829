"""The suite measures the data sets that load, names those that don't, and has three metrics."""

import datasets
import numpy as np
import pytest
import torch

from ssl_zoo.data.views import RawPixels
from ssl_zoo.evaluation.protocols.logistic import LogisticRegression
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.evaluation.suite import TransferTask
from ssl_zoo.evaluation.transfer import evaluate_suite
from ssl_zoo.features.extract import Reading
from ssl_zoo.features.store import FeatureStore
from tests.data.tiny_sets import row_image, write_parquet


SETTINGS = LogisticRegression(strengths=(1e-4, 1e-2))


def features(images):
    """The class `row % 3`, and a feature without information."""
    row = (images[:, 0].mean(dim=(1, 2)) * 255).round()
    return torch.stack([(row % 3 == 0).float(), (row % 3 == 1).float(), torch.sin(row)], dim=1)


def write_multi_label(folder, split, rows):
    columns = datasets.Features({"jpg": datasets.Image(), "npy": datasets.List(datasets.Value("int64"))})
    labels = [[int(row % 3 == 0), int(row % 3 == 1), int(row % 2)] for row in rows]
    data = datasets.Dataset.from_dict({"jpg": [row_image(row) for row in rows], "npy": labels}, features=columns)
    folder.mkdir(exist_ok=True)
    data.to_parquet(folder / f"{split}.parquet")


@pytest.fixture
def tasks(tmp_path):
    # A corrupt row: labels matched by position instead of by id would be off by one after it.
    plain = write_parquet(tmp_path / "plain", (30,), replaced={4: b"no image"})
    for split in ("validation", "test"):
        write_parquet(plain, (15,), split=split)
    for split in ("train", "test"):
        write_multi_label(tmp_path / "many", split, range(40))
    sizes = {"num_classes": 3, "num_train": 45, "num_test": 15}
    return [
        TransferTask("Plain", str(plain), "top1", validation_split="validation", **sizes),
        TransferTask("Gone", str(tmp_path / "gone"), "top1", **sizes),
        TransferTask("Mean", str(plain), "mean_per_class", **sizes),
        TransferTask("Many", str(tmp_path / "many"), "voc_map", image_column="jpg", label_column="npy", **sizes),
    ]


def test_what_can_be_had_is_measured_and_the_rest_is_named(tasks, tmp_path, caplog):
    results = []
    missing = evaluate_suite(
        Subject("trained", RawPixels(8), features),
        store=FeatureStore(tmp_path / "features"),
        reading=Reading(batch_size=8, num_workers=0, max_corrupt_share=0.1),
        settings=SETTINGS,
        keep=results.extend,
        tasks=tasks,
    )
    assert list(missing) == ["Gone"]
    assert "gone" in missing["Gone"]
    assert "Gone is left out" in caplog.text
    assert [(r.metric, r.protocol["task"]) for r in results] == [
        ("logistic_top1", "Plain"),
        ("logistic_mean_per_class", "Mean"),
        ("logistic_voc_map", "Many"),
    ]
    assert [r.value for r in results[:2]] == [1.0, 1.0]
    # Two of its three labels are in the features; the third, odd or even, is in none of them.
    assert 2 / 3 < results[2].value < 0.95
    assert results[0].data["num_train"] == 30
    assert "Plain: " not in caplog.text
    assert "Mean: 'plain' has" not in caplog.text
    assert "has 30 images to learn from and 15 to test on, the published data set 45 and 15" in caplog.text


def test_multi_hot_labels_are_read_by_row(tasks):
    from ssl_zoo.data.source import DataConfig, open_source

    source = open_source(DataConfig(path=tasks[3].path, image_column="jpg", label_column="npy"))
    labels = source.read_labels()
    assert labels.shape == (40, 3)
    assert np.array_equal(labels[:, 2], np.arange(40) % 2)
    assert next(iter(source.rows(0, 0, 1))).label == -1
