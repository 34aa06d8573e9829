"""Features on disk: computed once for a model, a view and a split, memory-mapped, and safe to interrupt."""

import hashlib
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from PIL import Image

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.data.batch import Batch
from ssl_zoo.data.errors import DataError
from ssl_zoo.data.order import StreamOrder, stream_orders
from ssl_zoo.data.source import ImageSource
from ssl_zoo.data.views import EvalView
from ssl_zoo.features.extract import Encoder, FeatureTable, Reading, check_finite, evaluation_batches
from ssl_zoo.functional.distributed import all_gather_objects, rank, wait_for_all, world_size


__all__ = ["FeatureStore"]

_TO_DO, _DONE, _CORRUPT = range(3)
_FLUSH_SECONDS = 20.0
_COPY_ROWS = 4096


class FeatureStore:
    """Folder of features, each table under a name that follows from all it depends on.

    The processes of a run write their rows into one file, so they must share the folder. An interrupted computation
    goes on after the rows that are done, with any number of processes.

    Args:
        folder (`Path`, *optional*): Where; below the cache of `datasets` by default. Deleting it loses only time.
        dtype: `"float32"`, or `"float16"` for half the disk space.
    """

    def __init__(self, folder: Path | None = None, *, dtype: str = "float32") -> None:
        if dtype not in ("float32", "float16"):
            raise ValueError(f"`dtype` must be float32 or float16, got {dtype!r}")
        self.folder = folder or Path(datasets.config.HF_DATASETS_CACHE) / "ssl_zoo" / "features"
        self._dtype = np.dtype(dtype)

    def features(
        self,
        encode: Encoder,
        source: ImageSource,
        view: EvalView,
        *,
        model: str,
        reading: Reading,
        description: str = "features",
    ) -> FeatureTable:
        """Features of all readable rows of a source, memory-mapped, from disk where they are there.

        Args:
            encode (`Encoder`): The model, in evaluation mode.
            source (`ImageSource`): The images.
            view (`EvalView`): The one view.
            model: What changes when the encoder does, from [`fingerprint`].
            reading ([`Reading`]): How images are read.
            description: What the progress bar says.

        Raises:
            DataError: If too many rows are corrupt, or the processes don't share the folder.
            ValueError: If features are infinite or NaN.
        """
        identity = [model, source.identity, source.image_column, source.label_column]
        identity += [type(view).__name__, view.identity, str(self._dtype)]
        place = self.folder / hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:32]
        if rank() == 0:
            place.mkdir(parents=True, exist_ok=True)
            lock = FileLock(place / "lock")
            lock.acquire()  # another run may be computing the same
        try:
            if not all_gather_objects((place / "complete.json").is_file())[0]:
                self._compute(place, encode, source, view, reading, description)
        finally:
            if rank() == 0:
                lock.release()
        features = np.load(place / "features.npy", mmap_mode="c")
        columns = [np.load(place / f"{name}.npy") for name in ("sample_ids", "labels")]
        return FeatureTable(torch.from_numpy(columns[0]), torch.from_numpy(features), torch.from_numpy(columns[1]))

    def _compute(
        self, place: Path, encode: Encoder, source: ImageSource, view: EvalView, reading: Reading, description: str
    ) -> None:
        if rank() == 0:
            self._allocate(place, source, width=_width(encode, view, reading))
        wait_for_all()  # for the files
        if not all(all_gather_objects((place / "state.npy").is_file())):
            raise DataError(
                f"The processes don't share the folder of features: '{place.name}' made by the first is not there for "
                "all. Name a folder that they share with --cache-dir"
            )
        features, labels, state = (
            np.load(place / f"{name}.npy", mmap_mode="r+") for name in ("part", "part_labels", "state")
        )
        orders = stream_orders(
            source.shard_lengths,
            num_slots=max(1, reading.num_workers),
            rank=rank(),
            world_size=world_size(),
            block_rows=reading.batch_size,
        )
        positions = [_leading_done(state[order.rows]) for order in orders]
        batches = evaluation_batches(
            source, view, reading, description=description, positions=positions, done=int(np.sum(state == _DONE))
        )
        self._fill(batches, orders, positions, encode, features, labels, state)
        wait_for_all()  # for the rows
        if rank() == 0:
            self._finish(place, source, reading)
        wait_for_all()

    def _allocate(self, place: Path, source: ImageSource, *, width: int) -> None:
        """Make the files, unless an interrupted computation left them."""
        if all((place / f"{name}.npy").is_file() for name in ("part", "part_labels", "state")):
            return
        free = shutil.disk_usage(place).free
        wanted = source.num_rows * width * self._dtype.itemsize
        if wanted > free:
            raise DataError(
                f"The features of {source.num_rows:,} images take {wanted / 1e9:.1f} GB on disk, where "
                f"{free / 1e9:.1f} GB are free: name another disk with --cache-dir, or use --feature-dtype float16"
            )
        allocate, shape = np.lib.format.open_memmap, (source.num_rows, width)
        allocate(place / "part.npy", mode="w+", dtype=self._dtype, shape=shape).flush()
        allocate(place / "part_labels.npy", mode="w+", dtype=np.int64, shape=shape[:1]).flush()
        _save(place / "state.npy", np.zeros(source.num_rows, dtype=np.uint8))

    def _fill(
        self,
        batches: Iterable[Batch],
        orders: list[StreamOrder],
        positions: list[int],
        encode: Encoder,
        features: Any,
        labels: Any,
        state: Any,
    ) -> None:
        """Write this process's rows to memory-mapped arrays. A row is done only after its features are on disk."""
        pending: list[tuple[npt.NDArray[np.int64], int]] = []

        def flush() -> None:
            features.flush()
            labels.flush()
            for rows, value in pending:
                state[rows] = value
            state.flush()
            pending.clear()

        flushed = time.monotonic()
        with torch.no_grad():
            for batch in batches:
                rows = batch.sample_ids.cpu().numpy()
                values = encode(batch.views[0]).float().cpu()
                check_finite(values, batch.sample_ids)
                features[rows] = values.numpy()
                labels[rows] = batch.labels.cpu().numpy()
                first = orders[batch.stream].rows.start
                passed = np.arange(first + positions[batch.stream], first + batch.position)
                pending += [(np.setdiff1d(passed, rows), _CORRUPT), (rows, _DONE)]
                positions[batch.stream] = batch.position
                if time.monotonic() - flushed > _FLUSH_SECONDS:
                    flush()
                    flushed = time.monotonic()
        flush()

    def _finish(self, place: Path, source: ImageSource, reading: Reading) -> None:
        """Close the gaps of corrupt rows, and say that the table is complete."""
        state, labels = np.load(place / "state.npy"), np.load(place / "part_labels.npy")
        rows = np.flatnonzero(state == _DONE)
        num_corrupt = len(state) - len(rows)
        if num_corrupt > reading.max_corrupt_share * len(state):
            raise DataError(
                f"{num_corrupt} of {len(state)} rows of {source.path!r} hold no readable image, more than "
                f"`data.max_corrupt_share` = {reading.max_corrupt_share:g} allows. Repair it or raise the share"
            )
        if num_corrupt:
            part = np.load(place / "part.npy", mmap_mode="r")
            with replace_atomically(place / "features.npy") as whole_file:
                whole = np.lib.format.open_memmap(
                    whole_file, mode="w+", dtype=part.dtype, shape=(len(rows), part.shape[1])
                )
                for start in range(0, len(rows), _COPY_ROWS):
                    whole[start : start + _COPY_ROWS] = part[rows[start : start + _COPY_ROWS]]
                whole.flush()
            (place / "part.npy").unlink()
        else:
            (place / "part.npy").rename(place / "features.npy")
        _save(place / "sample_ids.npy", rows.astype(np.int64))
        _save(place / "labels.npy", labels[rows])
        (place / "part_labels.npy").unlink()
        (place / "state.npy").unlink()
        about = {"path": source.path, "split": source.split, "rows": len(rows), "corrupt": num_corrupt}
        with replace_atomically(place / "complete.json") as partial:
            partial.write_text(json.dumps(about), encoding="utf-8")


def _width(encode: Encoder, view: EvalView, reading: Reading) -> int:
    """Features of an image, from a grey one."""
    with torch.no_grad():
        features = encode(view(Image.new("RGB", (64, 64), "gray"))[0][None].to(reading.device))
    if features.ndim != 2:
        raise ValueError(f"an encoder must return features of shape (batch, features), got {tuple(features.shape)}")
    return int(features.shape[1])


def _leading_done(state: npt.NDArray[np.uint8]) -> int:
    to_do = np.flatnonzero(state == _TO_DO)
    return int(to_do[0]) if len(to_do) else len(state)


def _save(path: Path, array: npt.NDArray[np.generic]) -> None:
    with replace_atomically(path) as partial:
        np.save(partial, array)
