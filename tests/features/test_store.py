"""Features on disk equal those in memory, after any interruption, and are computed once."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.source import DataConfig, open_source
from ssl_zoo.data.views import EvalView, RawPixels
from ssl_zoo.features.extract import Reading, extract_features
from ssl_zoo.features.store import FeatureStore
from ssl_zoo.loading.fingerprint import fingerprint
from tests.data.tiny_sets import UNEVEN, write_parquet
from tests.two_processes import run_in_two_processes


VIEW = RawPixels(8)
READING = Reading(batch_size=4, num_workers=0, max_corrupt_share=0.1)


class Counting:
    """An encoder that counts its images and, on demand, stops like Ctrl-C."""

    def __init__(self, stop_after=None):
        self.num_images, self.stop_after = 0, stop_after

    def __call__(self, images):
        self.num_images += len(images)
        if self.stop_after is not None and self.num_images > self.stop_after:
            raise KeyboardInterrupt
        return images.flatten(1)[:, :7]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_parquet(tmp_path_factory.mktemp("sets") / "torn", UNEVEN, replaced={4: b"no image", 41: b""})


def source_of(folder, **options):
    return open_source(DataConfig(path=str(folder), **options))


def expected_of(folder):
    return extract_features(Counting(), source_of(folder), VIEW, READING)


def assert_same(table, expected):
    assert torch.equal(table.sample_ids, expected.sample_ids)
    assert torch.equal(table.labels, expected.labels)
    assert torch.equal(table.features.float(), expected.features)


def test_once_computed_and_memory_mapped(folder, tmp_path):
    store, encode = FeatureStore(tmp_path), Counting()
    first = store.features(encode, source_of(folder), VIEW, model="a", reading=READING)
    assert_same(first, expected_of(folder))
    count = encode.num_images
    again = store.features(encode, source_of(folder), VIEW, model="a", reading=READING)
    assert_same(again, first)
    assert encode.num_images == count
    (file,) = tmp_path.glob("*/features.npy")
    assert np.load(file).shape == first.features.shape
    maps = Path("/proc/self/maps")
    assert not maps.exists() or str(file) in maps.read_text()


@pytest.mark.parametrize("change", ["model", "view", "rows", "dtype"])
def test_what_changes_the_features_is_computed_anew(folder, tmp_path, change):
    encode = Counting()
    FeatureStore(tmp_path).features(encode, source_of(folder), VIEW, model="a", reading=READING)
    count = encode.num_images
    FeatureStore(tmp_path, dtype="float16" if change == "dtype" else "float32").features(
        encode,
        source_of(folder, max_rows=20 if change == "rows" else None),
        EvalView(8, crop_pct=1.0) if change == "view" else VIEW,
        model="b" if change == "model" else "a",
        reading=READING,
    )
    assert encode.num_images > count
    assert len(list(tmp_path.glob("*/complete.json"))) == 2


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("stop_after", [3, 20, 37])
def test_an_interrupted_computation_goes_on(folder, tmp_path, monkeypatch, stop_after, num_workers):
    monkeypatch.setattr("ssl_zoo.features.store._FLUSH_SECONDS", 0.0)
    store, source = FeatureStore(tmp_path), source_of(folder)
    stopped, rest = Counting(stop_after), Counting()
    with pytest.raises(KeyboardInterrupt):
        store.features(stopped, source, VIEW, model="a", reading=READING)
    assert not list(tmp_path.glob("*/features.npy"))
    reading = Reading(batch_size=3, num_workers=num_workers, max_corrupt_share=0.1)
    assert_same(store.features(rest, source, VIEW, model="a", reading=reading), expected_of(folder))
    # One grey image gives the width, and the batches in progress at the stop are computed again.
    assert stopped.num_images + rest.num_images <= len(expected_of(folder).labels) + 2 + 4 * (1 + 2 * num_workers)


def two_stored(rank, folder, cache, batch_size):
    reading = Reading(batch_size=batch_size, num_workers=0, max_corrupt_share=0.1)
    table = FeatureStore(cache).features(Counting(), source_of(folder), VIEW, model="a", reading=reading)
    return table.sample_ids, table.features, table.labels


@pytest.mark.parametrize("half_done", [False, True])
def test_two_processes_store_what_one_does(folder, tmp_path, monkeypatch, half_done):
    """An uneven last batch, corrupt rows, and the rest of what one process left."""
    if half_done:
        monkeypatch.setattr("ssl_zoo.features.store._FLUSH_SECONDS", 0.0)
        with pytest.raises(KeyboardInterrupt):
            FeatureStore(tmp_path).features(Counting(30), source_of(folder), VIEW, model="a", reading=READING)
    expected = expected_of(folder)
    for found in run_in_two_processes(two_stored, folder, tmp_path, 5):
        for column, other in zip(found, (expected.sample_ids, expected.features, expected.labels), strict=True):
            assert torch.equal(column, other)


def test_half_precision_is_half_the_size(folder, tmp_path):
    table = FeatureStore(tmp_path, dtype="float16").features(
        Counting(), source_of(folder), VIEW, model="a", reading=READING
    )
    assert table.features.dtype == torch.float16
    torch.testing.assert_close(table.features.float(), expected_of(folder).features, atol=1e-3, rtol=1e-3)


def test_bad_features_and_bad_data_are_named_and_leave_nothing_complete(folder, tmp_path):
    store = FeatureStore(tmp_path)

    def diverged(images):
        return images.flatten(1) / 0.0

    with pytest.raises(ValueError, match=r"features of 4 of 4 images are infinite or NaN, row 0 first"):
        store.features(diverged, source_of(folder), VIEW, model="a", reading=READING)
    with pytest.raises(DataError, match=r"2 of 42 rows"):
        store.features(Counting(), source_of(folder), VIEW, model="b", reading=Reading(4, 0, 0.01))
    with pytest.raises(ValueError, match="shape"):
        store.features(lambda images: images, source_of(folder), VIEW, model="c", reading=READING)
    assert not list(tmp_path.glob("*/complete.json"))


def test_a_full_disk_is_said_before_anything_is_computed(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100})())
    with pytest.raises(DataError, match=r"take 0\.0 GB on disk, where 0\.0 GB are free: .*--cache-dir"):
        FeatureStore(tmp_path).features(Counting(), source_of(folder), VIEW, model="a", reading=READING)


def test_a_fingerprint_changes_with_any_weight_or_buffer():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))
    first = fingerprint(model)
    assert fingerprint(model) == first
    for change in (lambda: model[0].weight[1, 2].mul_(1.0001), lambda: model[1].running_var[0].add_(1e-6)):
        with torch.no_grad():
            change()
        assert fingerprint(model) != first
        first = fingerprint(model)
