"""The order of the rows in every epoch: complete, disjoint across streams, a function of the seed, and seekable.

An epoch is one permutation of the shards, written one after the other. Stream `s` of `S` takes its contiguous rows
`s * N // S` to `(s + 1) * N // S`, so that streams differ by one row at most whatever the sizes of the shards and each
reads `1 / S` of the data, and permutes them in blocks. Nothing is kept between rows: from the number of rows that a
stream has consumed since the start of training its place is computed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt


__all__ = ["Reader", "Segment", "StreamOrder", "stream_orders"]

RowT_co = TypeVar("RowT_co", covariant=True)
_SHARDS, _ROWS = 1, 2  # keep the two kinds of permutation apart: numpy reads [seed, 0] and [seed] as the same seed


@dataclass(frozen=True)
class Segment:
    """Rows `start` to `stop` (exclusive) of one shard."""

    shard: int
    start: int
    stop: int


class Reader(Protocol[RowT_co]):
    """Something that reads the rows of shards."""

    def read(self, shard: int, start: int, stop: int) -> Iterator[RowT_co]:
        """Rows `start` to `stop` (exclusive) of one shard, in order."""
        ...


class StreamOrder:
    """Where each row of one stream comes from.

    Args:
        shard_lengths (`numpy.ndarray` of shape `(num_shards,)`): Rows of each shard.
        stream (`int`): Number of this stream, from 0 to `num_streams - 1`.
        num_streams (`int`): Streams that share the data: processes x workers.
        block_rows (`int`): Rows that are permuted together; a block may span shards.
        seed (`int`): Seed of all permutations.
        shuffle (`bool`): Whether to permute at all; otherwise rows come in file order.
    """

    def __init__(
        self,
        shard_lengths: npt.NDArray[np.int64],
        *,
        stream: int,
        num_streams: int,
        block_rows: int,
        seed: int,
        shuffle: bool,
    ) -> None:
        num_rows = int(shard_lengths.sum())
        self._first = stream * num_rows // num_streams
        self.num_rows = (stream + 1) * num_rows // num_streams - self._first
        self._lengths, self._stream, self._block_rows = shard_lengths, stream, block_rows
        self._seed, self._shuffle = seed, shuffle
        self._epoch = -1
        self._shards = np.arange(len(shard_lengths))
        self._ends = np.cumsum(shard_lengths)

    @property
    def rows(self) -> slice:
        """The rows of the epoch's sequence that are this stream's; row ids where nothing is permuted."""
        return slice(self._first, self._first + self.num_rows)

    def locate(self, position: int) -> tuple[int, int, int]:
        """`(epoch, block, rows into the block)` after `position` rows consumed since the start of training."""
        epoch, row = divmod(position, self.num_rows)
        return epoch, *divmod(row, self._block_rows)

    def num_blocks(self) -> int:
        """Blocks per epoch; the last may be short."""
        return -(-self.num_rows // self._block_rows)

    def block(self, epoch: int, block: int) -> tuple[list[Segment], npt.NDArray[np.int64]]:
        """The segments to read for one block, in reading order, and the order in which to hand out their rows."""
        start = block * self._block_rows
        stop = min(start + self._block_rows, self.num_rows)
        segments = self._segments(epoch, self._first + start, self._first + stop)
        if not self._shuffle:
            return segments, np.arange(stop - start)
        rng = np.random.default_rng([_ROWS, self._seed, epoch, self._stream, block])
        return segments, rng.permutation(stop - start)

    def read(
        self, reader: Reader[RowT_co], position: int, *, num_epochs: int | None
    ) -> Iterator[tuple[int, list[RowT_co], npt.NDArray[np.int64]]]:
        """Read block by block.

        Args:
            reader (`Reader`): Of the shards.
            position (`int`): Rows that the stream has consumed since the start of training.
            num_epochs (`int`, *optional*): Passes over the data; `None` never ends.

        Yields:
            The epoch, the rows of a block in the order of the shards, and the order in which to hand out those that
            are not consumed yet.
        """
        if self.num_rows == 0:
            return
        epoch, block, offset = self.locate(position)
        while num_epochs is None or epoch < num_epochs:
            segments, permutation = self.block(epoch, block)
            rows = [row for part in segments for row in reader.read(part.shard, part.start, part.stop)]
            yield epoch, rows, permutation[offset:]
            block, offset = block + 1, 0
            if block == self.num_blocks():
                epoch, block = epoch + 1, 0

    def _segments(self, epoch: int, start: int, stop: int) -> list[Segment]:
        """Rows `start` to `stop` of the epoch's sequence of shards, as pieces of those shards."""
        if self._shuffle and epoch != self._epoch:
            self._shards = np.random.default_rng([_SHARDS, self._seed, epoch]).permutation(len(self._lengths))
            self._ends = np.cumsum(self._lengths[self._shards])
            self._epoch = epoch
        segments = []
        slot = int(np.searchsorted(self._ends, start, side="right"))
        while start < stop:
            end, shard = int(self._ends[slot]), int(self._shards[slot])
            first = end - int(self._lengths[shard])
            if start < end:
                segments.append(Segment(shard, start - first, min(stop, end) - first))
                start = min(stop, end)
            slot += 1
        return segments


def stream_orders(
    shard_lengths: npt.NDArray[np.int64],
    *,
    num_slots: int,
    rank: int,
    world_size: int,
    block_rows: int,
    seed: int = 0,
    shuffle: bool = False,
) -> list[StreamOrder]:
    """The order of each slot of one process, where every process of `world_size` has as many; see `StreamOrder`."""
    return [
        StreamOrder(
            shard_lengths,
            stream=rank * num_slots + slot,
            num_streams=world_size * num_slots,
            block_rows=block_rows,
            seed=seed,
            shuffle=shuffle,
        )
        for slot in range(num_slots)
    ]
