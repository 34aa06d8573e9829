"""The images of a gallery: fetched once, kept, and continued after an interruption."""

import io
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from ssl_zoo.data import DataConfig
from ssl_zoo.data.source import DataError
from ssl_zoo.explore import gallery as module
from ssl_zoo.explore.gallery import THUMBNAIL, Gallery, open_gallery
from tests.data.tiny_sets import CLASSES, row_of, write_imagefolder, write_parquet


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART_ROWS", 5)


def opened(path: Path, cache: Path, **changes: object) -> Gallery:
    work = open_gallery(DataConfig(path=str(path), split="train", **changes), cache)  # type: ignore[arg-type]
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value


def rows_in(gallery: Gallery) -> list[int]:
    return [row_of(np.asarray(image).transpose(2, 0, 1) / 255) for image in gallery.images()]


def test_the_first_rows_in_order_over_uneven_shards(tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "data")  # 42 rows in shards of 3, 11, 1, 20 and 7
    found = opened(data, tmp_path / "cache", max_rows=17)
    assert len(found) == 17
    assert found.sample_ids.tolist() == rows_in(found) == list(range(17))
    assert found.labels.tolist() == [row % 3 for row in range(17)]
    assert found.class_names == list(CLASSES)
    assert (found.class_name(1), found.class_name(-1)) == ("bee", "no label")
    assert row_of(np.asarray(found.image(11)).transpose(2, 0, 1) / 255) == 11
    assert len(found.small_images) == 17
    with Image.open(io.BytesIO(found.small_images[0])) as small:
        assert (small.size, small.format) == ((THUMBNAIL, THUMBNAIL), "JPEG")
    assert len(opened(data, tmp_path / "cache", max_rows=1000)) == 42, "no more than there are"


def test_images_that_are_files(tmp_path: Path) -> None:
    found = opened(write_imagefolder(tmp_path / "data"), tmp_path / "cache", max_rows=6)
    assert rows_in(found) == list(range(6))


def test_corrupt_rows_are_left_out_and_counted(tmp_path: Path) -> None:
    data = write_parquet(tmp_path / "data", (12,), replaced={3: b"no image", 7: None})
    found = opened(data, tmp_path / "cache", max_rows=12)
    assert found.sample_ids.tolist() == [row for row in range(12) if row not in (3, 7)]
    assert found.about["corrupt"] == 2
    assert found.labels.tolist() == [row % 3 for row in found.sample_ids.tolist()]
    data = write_parquet(tmp_path / "bad", (4,), replaced=dict.fromkeys(range(4), b"no image"))
    with pytest.raises(DataError, match="None of the first 4 rows"):
        opened(data, tmp_path / "cache", max_rows=4)


def test_a_stop_loses_nothing_and_a_second_opening_reads_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, cache = write_parquet(tmp_path / "data"), tmp_path / "cache"
    request = DataConfig(path=str(data), split="train", max_rows=20)
    work = open_gallery(request, cache)
    steps = [next(work) for _ in range(3)]  # the opening, and two parts
    work.close()
    assert [step.done for step in steps] == [0, 5, 10]
    assert not list(cache.rglob("gallery.json")), "it is not taken for a whole one"
    read: list[int] = []
    small = module._small
    monkeypatch.setattr(module, "_small", lambda image: (read.append(1), small(image))[1])
    assert opened(data, cache, max_rows=20).sample_ids.tolist() == list(range(20))
    assert len(read) == 10, "the two parts that were done are not read again"
    read.clear()
    assert len(opened(data, cache, max_rows=20)) == 20
    assert not read


def test_a_part_can_be_stopped_in_between(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART_ROWS", 20)
    monkeypatch.setattr(module, "_STEP_ROWS", 8)
    data = write_parquet(tmp_path / "data")
    work = open_gallery(DataConfig(path=str(data), split="train", max_rows=20), tmp_path / "cache")
    assert [step.done for step in itertools.islice(work, 3)] == [0, 8, 16]
    work.close()
    assert opened(data, tmp_path / "cache", max_rows=20).sample_ids.tolist() == list(range(20))


def test_other_images_are_another_gallery(tmp_path: Path) -> None:
    data, other = write_parquet(tmp_path / "data", (6,)), write_parquet(tmp_path / "other", (6, 2))
    identities = {
        opened(path, tmp_path / "cache", max_rows=count).identity for path, count in ((data, 6), (data, 5), (other, 6))
    }
    assert len(identities) == 3


def test_rows_that_name_files_elsewhere_are_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array([{"bytes": None, "path": str(secret)}], kind)
    metadata = {b"huggingface": b'{"info": {"features": {"image": {"_type": "Image"}}}}'}
    table = pa.table({"image": column}).replace_schema_metadata(metadata)
    (tmp_path / "data").mkdir()
    pq.write_table(table, tmp_path / "data" / "train-00000-of-00001.parquet")
    with pytest.raises(DataError, match="names a file outside"):
        opened(tmp_path / "data", tmp_path / "cache", max_rows=1)
