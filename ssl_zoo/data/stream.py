"""Batches of views made in the workers of a `DataLoader`, each with its place in the data for an exact resume."""

import itertools
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import TypeVar

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ssl_zoo.data.batch import Batch, CorruptCounter, ReadPosition
from ssl_zoo.data.decode import CorruptImageError
from ssl_zoo.data.errors import DataError
from ssl_zoo.data.labelled import SupportSampler
from ssl_zoo.data.order import StreamOrder, stream_orders
from ssl_zoo.data.source import ImageSource, Row
from ssl_zoo.data.views import ImageTransform, Sample


__all__ = ["Batch", "CorruptCounter", "ReadPosition", "ViewStream", "join_samples", "worker_loader"]

T = TypeVar("T")

_MIN_ROWS_TO_CALL_SORTED = 100
# Workers open their files themselves and use no GPU, so forking is safe, and saves each the imports (10 s and more).
_FAST_START = "fork" if sys.platform == "linux" else None


class ViewStream(IterableDataset[Batch]):
    """Batches for one process of `world_size`; the workers of a `DataLoader` play its slots.

    Args:
        source (`ImageSource`): The images.
        transform (`ImageTransform`): Makes the views. Its randomness is seeded per `(seed, epoch, sample id)`, so
            that a view does not depend on which worker makes it.
        batch_size (`int`): Images per batch.
        seed (`int`): Seed of the order and of the views.
        shuffle (`bool`): Whether to permute; otherwise each stream gives its range in file order.
        shuffle_buffer (`int`): Rows permuted together; so many undecoded images are held per worker.
        rank (`int`), world_size (`int`): This process, and how many share the data.
        num_workers (`int`): Workers of the loader; 0 reads in this process.
        start (`ReadPosition`, *optional*): Where to begin; the start of training by default.
        num_epochs (`int`, *optional*): Passes over the data; `None` never ends: a batch may then span two epochs, none
            is short, and all processes always have equally many.
        support (`SupportSampler`, *optional*): Draws the labelled support that goes with each batch.
        first_batch (`int`): Batches that this process has consumed before.
    """

    def __init__(
        self,
        source: ImageSource,
        transform: ImageTransform,
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        shuffle_buffer: int = 2048,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        start: ReadPosition | None = None,
        num_epochs: int | None = None,
        support: SupportSampler | None = None,
        first_batch: int = 0,
    ) -> None:
        super().__init__()
        self._source, self._transform, self._batch_size = source, transform, batch_size
        self._seed, self._num_epochs, self._num_workers = seed, num_epochs, num_workers
        self._support, self._first_batch = support, first_batch
        self._start = ReadPosition.start(num_workers)
        if start is not None:
            self._start.load_state_dict(start.state_dict())
        num_slots = len(self._start.positions)
        self._orders = stream_orders(
            source.shard_lengths,
            num_slots=num_slots,
            rank=rank,
            world_size=world_size,
            block_rows=shuffle_buffer if shuffle else batch_size,
            seed=seed,
            shuffle=shuffle,
        )
        self._check_order = shuffle and rank == 0 and source.streaming
        if num_epochs is None and min(order.num_rows for order in self._orders) == 0:
            raise DataError(
                f"{source.path!r} has {source.num_rows} rows in split {source.split!r}, fewer than the "
                f"{world_size * num_slots} streams that share them ({world_size} processes x {num_slots} workers). "
                "Use fewer workers (data.num_workers) or processes"
            )

    def loader(self) -> DataLoader[Batch]:
        """A loader of the batches. It leaves the global random state alone; each worker computes with one thread."""
        return worker_loader(self, num_workers=self._num_workers)

    def __iter__(self) -> Iterator[Batch]:
        """The batches of the slot that this worker plays."""
        worker = get_worker_info()
        turn = worker.id if worker else 0
        batches = self._batches((turn + self._start.first_slot) % len(self._orders))
        for number, batch in zip(itertools.count(self._first_batch + turn, len(self._orders)), batches, strict=False):
            if self._support is not None:
                batch.support = self._support.load(number)
            yield batch

    def _batches(self, slot: int) -> Iterator[Batch]:
        order, position = self._orders[slot], self._start.positions[slot]
        samples: list[tuple[Sample, Row]] = []
        skipped: list[str] = []
        failures = 0  # in a row
        for epoch, row in self._rows(order, position, warn=self._check_order and slot == 0):
            try:  # a text is hashed to a seed: neighbouring numbers give unrelated views
                sample = self._transform.read(row.image, random.Random(f"{self._seed}/{epoch}/{row.sample_id}"))
            except CorruptImageError as error:
                skipped.append(f"{self._source.path}: row {row.sample_id}: {error}")
                position, failures = position + 1, failures + 1
                if failures >= order.num_rows:
                    raise DataError(
                        f"None of {failures} successive rows of {self._source.path!r} holds a readable image in "
                        f"column {self._source.image_column!r}; the last is row {row.sample_id} ({error}). "
                        "Is `data.image_column` the right one?"
                    ) from error
                continue
            # A batch leaves when the next readable row is at hand: rows skipped after it are then counted with it.
            if len(samples) == self._batch_size:
                yield join_samples(self._transform, samples, skipped=skipped, stream=slot, position=position)
                samples, skipped = [], []
            samples.append((sample, row))
            position, failures = position + 1, 0
        if samples:
            yield join_samples(self._transform, samples, skipped=skipped, stream=slot, position=position)

    def _rows(self, order: StreamOrder, position: int, *, warn: bool) -> Iterator[tuple[int, Row]]:
        """`(epoch, row)` from `position` on."""
        for epoch, rows, chosen in order.read(self._source.reader(), position, num_epochs=self._num_epochs):
            if warn:
                _warn_if_sorted(self._source, rows)
                warn = False
            for index in chosen:
                yield epoch, rows[index]


def join_samples(
    transform: ImageTransform,
    samples: list[tuple[Sample, Row]],
    *,
    skipped: list[str],
    stream: int = 0,
    position: int = 0,
) -> Batch:
    """Make a batch of the views of some rows, of none as well; see `Batch` for the other arguments."""
    views, parameters = transform.stack([sample for sample, _ in samples]) if samples else ([], [])
    return Batch(
        views=views,
        sample_ids=torch.tensor([row.sample_id for _, row in samples], dtype=torch.int64),
        labels=torch.tensor([row.label for _, row in samples], dtype=torch.int64),
        stream=stream,
        position=position,
        skipped=skipped,
        parameters=parameters,
    )


def worker_loader(stream: IterableDataset[T], *, num_workers: int) -> DataLoader[T]:
    """A loader of the batches that a stream makes; its workers leave signals to the process that uses them.

    They end with the loop over it, when an error ends that as well.

    Args:
        stream (`IterableDataset`): Yields whole batches, a share of them in each worker.
        num_workers (`int`): Loader processes; 0 reads in this one.
    """
    return DataLoader(
        stream,
        batch_size=None,
        num_workers=num_workers,
        multiprocessing_context=_FAST_START if num_workers > 0 else None,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),
        worker_init_fn=_start_worker if num_workers > 0 else None,
    )


def _start_worker(worker: int) -> None:
    """Leave SIGTERM and SIGINT, which reach the whole process group, to the process that trains.

    It finishes its step, saves, and ends its workers; they must still obey *its* SIGTERM, by which Python ends them
    when it exits, or it would wait for them forever.
    """
    if "cv2" in sys.modules:  # torch computes with one thread here by itself; OpenCV would take one per core
        sys.modules["cv2"].setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # Linux; elsewhere nobody can tell who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def _warn_if_sorted(source: ImageSource, rows: list[Row]) -> None:
    """Warn when the first rows come class by class: permuting blocks of them cannot mix the classes."""
    labels = np.array([row.label for row in rows])
    num_classes, num_runs = len(np.unique(labels)), 1 + np.count_nonzero(labels[1:] != labels[:-1])
    several = num_classes > 1 or len(source.class_names or []) > 1
    if len(rows) >= _MIN_ROWS_TO_CALL_SORTED and len(rows) < source.num_rows and several and num_runs == num_classes:
        warnings.warn(
            f"{source.path!r} looks sorted by class: {len(rows)} rows read together hold {num_runs} of its classes, "
            "one after the other, and streaming only mixes rows within data.shuffle_buffer. Read it with "
            "data.streaming=false, which shuffles fully, or store it shuffled.",
            stacklevel=2,
        )
