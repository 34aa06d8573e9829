"""Counts the rows of each shard and reads all labels of a split.

Parquet files are read directly; other formats take one pass over the data. Slow results are cached.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import datasets
import fsspec
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from filelock import FileLock
from tqdm.auto import tqdm

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.data.locate import Located


__all__ = ["count_rows", "identify", "read_labels"]

T = TypeVar("T")


def count_rows(located: Located, *, split: str) -> npt.NDArray[np.int64]:
    """Rows of each shard, in file order.

    Footers of local parquet files are read every time. Whatever takes longer is kept under the `datasets` cache,
    keyed by the commit on the Hub or, for local files, by their names, sizes and times of change.
    """

    def counts() -> npt.NDArray[np.int64]:
        shards = footers if _is_parquet(located) else _pass_counts(located.dataset)
        total = located.dataset.num_shards
        return _collect(tqdm(shards, total=total, desc=f"Counting the rows of {located.path}", unit="shard", delay=2))

    footers = _read_files(located.files, lambda file: int(pq.read_metadata(file).num_rows))
    if _is_parquet(located) and located.revision is None:
        return _collect(footers)
    return _remembered(f"rows-{identify(located, split)}", counts)


def read_labels(located: Located, *, split: str, column: str) -> npt.NDArray[np.int64]:
    """Label of every row, in file order, -1 where there is none; cached as the counts of `count_rows` are.

    Of parquet files only this column is read, of other formats everything.
    """

    def labels() -> npt.NDArray[np.int64]:
        total = len(located.files) if _is_parquet(located) else None
        if _is_parquet(located):
            parts = _read_files(located.files, lambda file: pq.read_table(file, columns=[column])[column].to_pylist())
        else:
            parts = (batch[column] for batch in located.dataset.select_columns([column]).iter(1024))
        bar = tqdm(parts, total=total, desc=f"Reading the labels of {located.path}", unit="part", delay=2)
        return np.concatenate([_collect(part) for part in bar])

    if isinstance(located.dataset, datasets.Dataset):
        return _collect(located.dataset[column])
    return _remembered(f"labels-{column}-{identify(located, split)}", labels)


def _collect(values: Iterable[int | None]) -> npt.NDArray[np.int64]:
    return np.array([-1 if value is None else value for value in values], dtype=np.int64)


def _is_parquet(located: Located) -> bool:
    """Whether the shards are parquet files that can be read apart from `datasets`."""
    return len(located.files) == located.dataset.num_shards and all(
        file.endswith(".parquet") for file in located.files
    )


def _remembered(name: str, compute: Callable[[], npt.NDArray[np.int64]]) -> npt.NDArray[np.int64]:
    cache = Path(datasets.config.HF_DATASETS_CACHE) / "ssl_zoo" / f"{name}.npy"
    cache.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{cache}.lock"):  # the other processes of a run wait here and then find the file
        if not cache.exists():
            with replace_atomically(cache) as partial:
                np.save(partial, compute())
        values: npt.NDArray[np.int64] = np.load(cache)
    return values


def _read_files(files: list[str], read: Callable[[Any], T]) -> Iterator[T]:
    def read_file(file: str) -> T:
        with fsspec.open(file, "rb") as handle:
            return read(handle)

    with ThreadPoolExecutor(max_workers=16) as pool:  # waits for the network, not for the CPU
        yield from pool.map(read_file, files)


def _pass_counts(dataset: datasets.IterableDataset) -> Iterator[int]:
    for shard in range(dataset.num_shards):
        part = dataset.shard(dataset.num_shards, shard)
        for column, feature in dataset.features.items():
            if isinstance(feature, datasets.Image):
                part = part.cast_column(column, datasets.Image(decode=False))
        yield sum(1 for _ in part)


def identify(located: Located, split: str) -> str:
    """A short text that changes when the data does: with the commit, or names, sizes and times of local files."""
    files: list[tuple[str, int, int]] = []
    if located.revision is None:
        for file in located.files:
            with contextlib.suppress(OSError):
                status = os.stat(file)
                files.append((file, status.st_size, status.st_mtime_ns))
    identity = [located.path, located.name, split, located.revision, files]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
