"""The stream of batches: complete over real processes and workers, exactly resumable, tolerant of corrupt rows."""

import itertools
import logging
import multiprocessing
import pickle
import random
import subprocess
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photographs import write_photographs
from PIL import Image
from tiny_sets import UNEVEN, encoded, row_of, write_parquet
from torch.utils.data import DataLoader
from two_processes import run_in_two_processes

from ssl_zoo.data import (
    Batch,
    CorruptCounter,
    DataConfig,
    DataError,
    ImageSource,
    ImageTransform,
    MultiView,
    RawPixels,
    ReadPosition,
    ViewsConfig,
    ViewStream,
    open_source,
)


NUM_ROWS = sum(UNEVEN)
RAW = RawPixels(8)
TRUNCATED = encoded(Image.effect_noise((64, 64), 50), "JPEG")[:-400]
CORRUPT = {4: b"no image at all", 13: TRUNCATED, 20: None, 33: b"Text, not bytes", 41: b""}


@pytest.fixture
def source(tmp_path: Path) -> ImageSource:
    return open_source(DataConfig(path=str(write_parquet(tmp_path / "set"))))


def views(**changes: Any) -> MultiView:
    """Small but random views."""
    return MultiView(ViewsConfig(global_size=6, local_crops=1, local_size=4, blur_probability=[0.5] * 3, **changes))


def ids(batches: list[Batch]) -> list[int]:
    return [int(number) for batch in batches for number in batch.sample_ids]


def make_loader(*arguments: Any, **options: Any) -> DataLoader[Batch]:
    return ViewStream(*arguments, **options).loader()


def iterate_once(source: ImageSource, transform: ImageTransform, **options: Any) -> DataLoader[Batch]:
    return make_loader(source, transform, shuffle=False, num_epochs=1, **options)


def take(loader: Any, count: int) -> list[Batch]:
    return list(itertools.islice(loader, count))


def read_one_epoch(rank: int, folder: str, options: dict[str, Any]) -> list[tuple[int, int, int]]:
    """(id, row the pixels show, label) of all that one process of two sees; runs in a process of its own."""
    loader = iterate_once(open_source(DataConfig(path=folder)), RAW, rank=rank, world_size=2, **options)
    return [
        (int(number), row_of(pixels), int(label))
        for batch in loader
        for number, pixels, label in zip(batch.sample_ids, batch.views[0], batch.labels, strict=True)
    ]


def read_endless(rank: int, folder: str, count: int, options: dict[str, Any]) -> list[tuple[int, list[int]]]:
    """(slot, ids) of the first batches of one process of two."""
    loader = make_loader(open_source(DataConfig(path=folder)), RAW, rank=rank, world_size=2, **options)
    return [(batch.stream, batch.sample_ids.tolist()) for batch in take(loader, count)]


class TestCoverage:
    @pytest.mark.parametrize("lengths", [UNEVEN, (42,), (1, 1, 1)])
    def test_two_processes_with_two_workers_see_every_row_once(self, tmp_path: Path, lengths: tuple[int, ...]) -> None:
        folder = str(write_parquet(tmp_path / "set", lengths))
        seen = run_in_two_processes(read_one_epoch, folder, {"batch_size": 4, "num_workers": 2})
        rows = sorted(row for process in seen for row in process)
        assert rows == [(row, row, row % 3) for row in range(sum(lengths))]
        assert abs(len(seen[0]) - len(seen[1])) <= 2

    def test_two_processes_train_in_step_and_each_epoch_is_complete(self, tmp_path: Path) -> None:
        folder, count = str(write_parquet(tmp_path / "set")), 30
        options = {"batch_size": 4, "num_workers": 2, "shuffle_buffer": 8}
        seen = run_in_two_processes(read_endless, folder, count, options)
        assert [len(process) for process in seen] == [count, count]
        assert {len(batch) for process in seen for _, batch in process} == {4}, "no batch is short"
        streams = [
            [row for slot_of, batch in process if slot_of == slot for row in batch]
            for process in seen
            for slot in range(2)
        ]
        sizes = [(number + 1) * NUM_ROWS // 4 - number * NUM_ROWS // 4 for number in range(4)]
        for epoch in range(5):
            rows = [stream[epoch * size : (epoch + 1) * size] for stream, size in zip(streams, sizes, strict=True)]
            assert sorted(row for part in rows for row in part) == list(range(NUM_ROWS))

    def test_workers_end_with_a_loop_that_fails(self, source: ImageSource) -> None:
        """Even if the loader is still referenced, as by the traceback of the error."""
        before = set(multiprocessing.active_children())
        loader = make_loader(source, RAW, batch_size=4, num_workers=2)
        started = set()
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            for _ in loader:
                started = set(multiprocessing.active_children()) - before
                raise ZeroDivisionError
        assert len(started) == 2
        assert set(multiprocessing.active_children()) <= before

    def test_ids_name_the_same_image_however_it_is_read(self, tmp_path: Path) -> None:
        folder = str(write_parquet(tmp_path / "set"))
        for streaming, world_size, num_workers in [(True, 1, 0), (True, 3, 2), (False, 1, 0), (False, 2, 3)]:
            opened = open_source(DataConfig(path=folder, streaming=streaming))
            rows = []
            for rank in range(world_size):
                loader = make_loader(
                    opened, RAW, batch_size=5, rank=rank, world_size=world_size, num_workers=num_workers, num_epochs=1
                )
                for batch in loader:
                    rows += list(zip(batch.sample_ids.tolist(), map(row_of, batch.views[0]), strict=True))
            assert sorted(rows) == [(row, row) for row in range(NUM_ROWS)]

    def test_a_pass_for_evaluation_is_in_file_order(self, source: ImageSource) -> None:
        batches = list(iterate_once(source, RAW, batch_size=8))
        assert ids(batches) == list(range(NUM_ROWS))
        assert [len(batch.sample_ids) for batch in batches] == [8, 8, 8, 8, 8, 2]
        assert batches[-1].position == NUM_ROWS

    def test_epochs_differ_and_map_style_mixes_everything(self, tmp_path: Path) -> None:
        folder = str(write_parquet(tmp_path / "set"))
        for streaming in (True, False):
            opened = open_source(DataConfig(path=folder, streaming=streaming))
            seen = ids(take(ViewStream(opened, RAW, batch_size=NUM_ROWS, shuffle_buffer=8), 2))
            first, second = seen[:NUM_ROWS], seen[NUM_ROWS:]
            assert first != second
            assert sorted(first) == sorted(second) == list(range(NUM_ROWS))
            assert first != sorted(first)

    def test_more_streams_than_rows_is_an_error_in_words(self, source: ImageSource) -> None:
        with pytest.raises(
            DataError, match=r"42 rows in split 'train', fewer than the 44 streams .*data\.num_workers"
        ):
            ViewStream(source, RAW, batch_size=2, world_size=22, num_workers=2)


class TestResume:
    @pytest.mark.parametrize("num_workers", [0, 2, 3])
    def test_it_continues_exactly_three_times_in_a_row(self, tmp_path: Path, num_workers: int) -> None:
        source = open_source(DataConfig(path=str(write_parquet(tmp_path / "set", replaced=CORRUPT))))
        options: dict[str, Any] = {"batch_size": 5, "seed": 3, "shuffle_buffer": 8, "num_workers": num_workers}
        total = 40  # about five epochs
        whole = take(make_loader(source, views(), **options), total)
        assert sum(len(batch.skipped) for batch in whole) >= 4 * len(CORRUPT)

        stops = sorted(random.Random(num_workers).sample(range(1, total), 3))
        resumed: list[Batch] = []
        position = ReadPosition.start(num_workers)
        for stop in [*stops, total]:
            state = pickle.loads(pickle.dumps(position.state_dict()))
            position = ReadPosition.start(num_workers)
            position.load_state_dict(state)
            loader = make_loader(source, views(), start=position, **options)
            for batch in take(loader, stop - len(resumed)):
                position.advance(batch)
                resumed.append(batch)

        for batch, expected in zip(resumed, whole, strict=True):
            assert batch.sample_ids.tolist() == expected.sample_ids.tolist()
            assert (batch.stream, batch.position, batch.skipped) == (
                expected.stream,
                expected.position,
                expected.skipped,
            )
            assert all(torch.equal(view, other) for view, other in zip(batch.views, expected.views, strict=True))

    def test_every_single_position_continues_exactly(self, tmp_path: Path) -> None:
        source = open_source(DataConfig(path=str(write_parquet(tmp_path / "set", replaced=CORRUPT))))
        options: dict[str, Any] = {"batch_size": 3, "shuffle_buffer": 8}
        whole = take(ViewStream(source, RAW, **options), 30)
        for number, batch in enumerate(whole[:-2]):
            after = take(ViewStream(source, RAW, start=ReadPosition([batch.position]), **options), 2)
            assert ids(after) == ids(whole[number + 1 : number + 3])

    def test_another_number_of_workers_is_an_error_in_words(self, source: ImageSource) -> None:
        with pytest.raises(DataError, match=r"made with 2 data workers .*this run has 3.*data\.num_workers"):
            ViewStream(source, RAW, batch_size=2, num_workers=3, start=ReadPosition([0, 0]))


class TestViews:
    def test_views_do_not_depend_on_who_makes_them(self, source: ImageSource) -> None:
        def by_id(**options: Any) -> dict[int, list[torch.Tensor]]:
            world_size = options.get("world_size", 1)
            return {
                int(number): [view[index] for view in batch.views]
                for rank in range(world_size)
                for batch in make_loader(source, views(), rank=rank, num_epochs=1, **options)
                for index, number in enumerate(batch.sample_ids)
            }

        alone = by_id(batch_size=7)
        shared = by_id(batch_size=4, world_size=2, num_workers=2)
        assert alone.keys() == shared.keys() == set(range(NUM_ROWS))
        for number, expected in alone.items():
            assert all(torch.equal(a, b) for a, b in zip(shared[number], expected, strict=True))
        other = by_id(batch_size=7, seed=1)
        assert not all(torch.equal(other[number][0], alone[number][0]) for number in alone)

    def test_epochs_have_new_views(self, source: ImageSource) -> None:
        batches = take(ViewStream(source, views(), batch_size=NUM_ROWS, shuffle=False), 2)
        assert ids(batches[:1]) == ids(batches[1:])
        assert not torch.equal(batches[0].views[0], batches[1].views[0])

    @pytest.mark.parametrize("num_workers", [0, 2])
    def test_global_random_states_are_left_alone(self, source: ImageSource, num_workers: int) -> None:
        def states() -> tuple[Any, ...]:
            return torch.get_rng_state().tolist(), str(np.random.get_state()), random.getstate()  # noqa: NPY002

        before = states()
        take(make_loader(source, views(), batch_size=4, num_workers=num_workers), 3)
        assert states() == before

    def test_workers_compute_with_one_thread(self, source: ImageSource) -> None:
        batch = next(iter(make_loader(source, ThreadCount(), batch_size=2, num_workers=1)))
        assert batch.views[0].unique().tolist() == [1]

    def test_workers_obey_their_parent_only(self, source: ImageSource) -> None:
        before = set(multiprocessing.active_children())
        iterator = iter(make_loader(source, RAW, batch_size=2, num_workers=1))
        next(iterator)
        (worker,) = set(multiprocessing.active_children()) - before
        for number in ("TERM", "INT"):  # as a terminal or a scheduler sends it to the whole group
            subprocess.run(["sh", "-c", f"kill -{number} {worker.pid}"], check=True)
        assert len(ids(take(iterator, 30))) == 60
        worker.terminate()  # as Python does at exit, which would otherwise hang
        worker.join(timeout=200)
        assert worker.exitcode == 0

    def test_it_can_be_sent_to_a_spawned_worker(self, source: ImageSource) -> None:
        stream = ViewStream(source, views(), batch_size=5, shuffle_buffer=8)
        copy = pickle.loads(pickle.dumps(stream))
        assert ids(take(copy, 4)) == ids(take(stream, 4))


class ThreadCount(ImageTransform):
    """A view that shows how many threads torch uses where it was made."""

    def __init__(self) -> None:
        super().__init__(mean=[0.0] * 3, std=[1 / 255] * 3)

    def crop(self, image: Image.Image, rng: random.Random) -> list[Any]:
        return [np.full((2, 2, 3), torch.get_num_threads(), dtype=np.uint8)]


class TestCorruptRows:
    def test_they_are_skipped_counted_and_named(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        folder = str(write_parquet(tmp_path / "set", replaced=CORRUPT))
        source = open_source(DataConfig(path=folder))
        counter = CorruptCounter(source, max_share=0.2)
        batches = []
        with caplog.at_level(logging.WARNING):
            for batch in iterate_once(source, RAW, batch_size=4, num_workers=2):
                counter.update(batch)
                batches.append(batch)
        assert sorted(ids(batches)) == [row for row in range(NUM_ROWS) if row not in CORRUPT]
        assert (counter.num_corrupt, counter.num_rows) == (len(CORRUPT), NUM_ROWS)
        for row in CORRUPT:
            assert f"Skipped {folder}: row {row}: " in caplog.text
        assert "row 20: no image" in caplog.text
        assert "truncated" in caplog.text

    def test_training_batches_stay_full(self, tmp_path: Path) -> None:
        source = open_source(DataConfig(path=str(write_parquet(tmp_path / "set", replaced=CORRUPT))))
        batches = take(ViewStream(source, RAW, batch_size=5, shuffle_buffer=8), 30)
        assert {len(batch.sample_ids) for batch in batches} == {5}
        positions = [0, *(batch.position for batch in batches)]
        for batch, (before, after) in zip(batches, itertools.pairwise(positions), strict=True):
            assert after - before == 5 + len(batch.skipped)

    def test_too_many_stop_the_run(self, tmp_path: Path) -> None:
        source = open_source(DataConfig(path=str(write_parquet(tmp_path / "set", replaced=CORRUPT))))
        counter = CorruptCounter(source, max_share=0.05)
        batches = list(iterate_once(source, RAW, batch_size=1))
        for batch in batches[:-1]:  # a share is judged on 100 rows, or on all rows of a smaller set
            counter.update(batch)
        with pytest.raises(DataError, match=r"5 of 42 rows .* `data.max_corrupt_share` = 0.05"):
            counter.update(batches[-1])

    def test_only_corrupt_rows_stop_the_stream(self, tmp_path: Path) -> None:
        replaced = dict.fromkeys(range(NUM_ROWS), b"garbage")
        source = open_source(DataConfig(path=str(write_parquet(tmp_path / "set", replaced=replaced))))
        with pytest.raises(DataError, match=r"None of 42 successive rows .* column 'image'"):
            take(ViewStream(source, RAW, batch_size=4), 1)


class TestSortedSets:
    def test_a_sorted_set_is_warned_about(self, tmp_path: Path) -> None:
        source = open_source(DataConfig(path=str(write_parquet(tmp_path / "set", (400,), sorted_by_class=True))))
        with pytest.warns(UserWarning, match=r"sorted by class.*data\.streaming=false"):
            take(ViewStream(source, RAW, batch_size=4, shuffle_buffer=120), 1)

    @pytest.mark.parametrize(("sorted_by_class", "buffer"), [(False, 120), (True, 400)])
    def test_a_mixed_or_wholly_buffered_set_is_not(self, tmp_path: Path, sorted_by_class: bool, buffer: int) -> None:
        folder = write_parquet(tmp_path / "set", (400,), sorted_by_class=sorted_by_class)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            take(ViewStream(open_source(DataConfig(path=str(folder))), RAW, batch_size=4, shuffle_buffer=buffer), 1)


def test_rows_that_vanish_are_an_error_in_words(tmp_path: Path) -> None:
    folder = write_parquet(tmp_path / "set")
    source = open_source(DataConfig(path=str(folder)))
    write_parquet(folder, (3, 11, 1, 18, 9))
    with pytest.raises(DataError, match=r"Shard 3 .* ends after 18 rows, expected 20"):
        list(iterate_once(source, RAW, batch_size=4))


def test_photographs_of_a_split_stream(tmp_path: Path) -> None:
    """In CIFAR-10's columns, and of many sizes in one batch."""
    for split, number in (("train", 5), ("test", 70)):
        write_photographs(tmp_path / f"{split}.parquet", number, image="img")
    source = open_source(DataConfig(path=str(tmp_path), split="test"))
    assert (source.num_rows, source.image_column, source.label_column) == (70, "img", "label")
    batch = take(ViewStream(source, MultiView(ViewsConfig(global_size=32)), batch_size=16, shuffle_buffer=64), 1)[0]
    assert [tuple(view.shape) for view in batch.views] == [(16, 3, 32, 32)] * 2
