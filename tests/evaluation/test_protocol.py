import numpy as np
import pytest
import torch

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.source import DataConfig, open_source
from ssl_zoo.data.views import RawPixels
from ssl_zoo.evaluation.online_knn import knn_accuracy
from ssl_zoo.features.extract import Reading, extract_features
from ssl_zoo.labels.assign import assign_pseudo_labels
from tests.data.tiny_sets import UNEVEN, row_of, write_imagefolder, write_parquet
from tests.two_processes import run_in_two_processes


NUM_ROWS = sum(UNEVEN)
VIEW = RawPixels(8)


def flatten(images):
    return images.flatten(1)


def source_of(folder, split="train", **options):
    return open_source(DataConfig(path=str(folder), split=split, **options))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_parquet(tmp_path_factory.mktemp("sets") / "pets", UNEVEN)
    return write_parquet(folder, (5, 9), split="test")


@pytest.fixture(scope="module")
def torn_folder(tmp_path_factory):
    return write_parquet(tmp_path_factory.mktemp("sets") / "torn", UNEVEN, replaced={4: b"no image", 41: b""})


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_every_row_once_in_order(folder, batch_size, num_workers):
    table = extract_features(flatten, source_of(folder), VIEW, Reading(batch_size=batch_size, num_workers=num_workers))
    assert table.sample_ids.tolist() == list(range(NUM_ROWS))
    assert table.labels.tolist() == [row % 3 for row in range(NUM_ROWS)]
    assert [row_of(pixels.reshape(3, 8, 8)) for pixels in table.features] == list(range(NUM_ROWS))


def test_corrupt_rows_are_left_out_up_to_a_share(torn_folder):
    table = extract_features(flatten, source_of(torn_folder), VIEW, Reading(max_corrupt_share=0.1, num_workers=0))
    assert table.sample_ids.tolist() == [row for row in range(NUM_ROWS) if row not in (4, 41)]
    with pytest.raises(DataError, match="2 of 42 rows"):
        extract_features(flatten, source_of(torn_folder), VIEW, Reading(max_corrupt_share=0.01, num_workers=0))


def table_on_a_process(rank, folder, batch_size, max_rows):
    source = source_of(folder, max_rows=max_rows)
    reading = Reading(batch_size=batch_size, num_workers=0, max_corrupt_share=0.1)
    table = extract_features(flatten, source, VIEW, reading)
    return table.sample_ids, table.features, table.labels


@pytest.mark.parametrize(("batch_size", "max_rows"), [(5, None), (4, 41), (100, 3), (5, 1)])
def test_two_processes_make_the_table_of_one(torn_folder, batch_size, max_rows):
    """Odd numbers of rows, corrupt rows and a process without any row; nothing is dropped or doubled."""
    expected = table_on_a_process(0, torn_folder, batch_size, max_rows)
    assert len(expected[0]) == len([row for row in range(max_rows or NUM_ROWS) if row not in (4, 41)])
    for table in run_in_two_processes(table_on_a_process, torn_folder, batch_size, max_rows):
        for found, column in zip(table, expected, strict=True):
            assert torch.equal(found, column)


def blurred(images):
    """Features with which k-NN is right about as often as wrong."""
    return torch.cat([images.mean(dim=(2, 3)), torch.ones(len(images), 1)], dim=1)


def accuracy_on_a_process(rank, folder, batch_size):
    reading = Reading(batch_size=batch_size, num_workers=0)
    bank, test = source_of(folder), source_of(folder, "test")
    return knn_accuracy(blurred, bank, test, VIEW, k=(1, 5, 42), reading=reading)


def test_accuracy_by_hand(folder):
    bank, test = source_of(folder), source_of(folder, "test")
    tables = [extract_features(blurred, source, VIEW, Reading(num_workers=0)) for source in (bank, test)]
    features, queries = (torch.nn.functional.normalize(table.features.double(), dim=1).numpy() for table in tables)
    similarities = queries @ features.T
    expected = {}
    for k in (1, 5, 42):
        nearest = np.argsort(-np.round(similarities * 2**22), axis=1, kind="stable")[:, :k]
        weights = np.exp(np.take_along_axis(similarities, nearest, axis=1) / 0.07)
        votes = np.stack([(weights * (tables[0].labels.numpy()[nearest] == c)).sum(axis=1) for c in range(3)], axis=1)
        expected[k] = float((votes.argmax(axis=1) == tables[1].labels.numpy()).mean())
    assert accuracy_on_a_process(0, folder, 4) == expected
    assert len(set(expected.values())) > 1


def test_batches_and_processes_change_no_accuracy(folder):
    expected = accuracy_on_a_process(0, folder, 4)
    assert accuracy_on_a_process(0, folder, 4) == expected
    assert accuracy_on_a_process(0, folder, 3) == expected
    assert run_in_two_processes(accuracy_on_a_process, folder, 4) == [expected, expected]


def test_more_neighbours_than_images_are_refused_before_the_test_set_is_read(folder):
    seen = []

    def counting(images):
        seen.append(len(images))
        return images.flatten(1)

    with pytest.raises(ValueError, match=r"`k` must lie in \[1, 42\]"):
        knn_accuracy(counting, source_of(folder), source_of(folder, "test"), VIEW, k=(43,))
    assert sum(seen) == 42


def test_a_split_without_labels_is_refused(folder, tmp_path):
    plain = write_imagefolder(tmp_path / "plain", per_class=4)
    for picture in (plain / "train").glob("*/*.png"):
        picture.rename(plain / f"{picture.parent.name}-{picture.name}")
    for empty in (plain / "train").iterdir():
        empty.rmdir()
    (plain / "train").rmdir()
    unlabelled = source_of(plain)
    assert unlabelled.label_column is None
    with pytest.raises(DataError, match="has no labels, which k-NN needs"):
        knn_accuracy(flatten, unlabelled, source_of(folder, "test"), VIEW)


def assign_by_brightness(images):
    brightness = images.mean(dim=(1, 2, 3))
    return (brightness * 1000).long() % 5, brightness


def pseudo_labels_on_a_process(rank, folder):
    reading = Reading(batch_size=4, num_workers=0)
    return tuple(vars(assign_pseudo_labels(assign_by_brightness, source_of(folder), VIEW, reading=reading)).values())


def test_two_processes_assign_the_pseudo_labels_of_one(folder):
    expected = pseudo_labels_on_a_process(0, folder)
    assert expected[0].tolist() == list(range(NUM_ROWS))
    assert len(expected[1].unique()) > 1
    for table in run_in_two_processes(pseudo_labels_on_a_process, folder):
        for found, column in zip(table, expected, strict=True):
            torch.testing.assert_close(found, column)  # integers exactly, confidences of batches of other sizes nearly
