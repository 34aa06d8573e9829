"""Images in blocks of a fixed number of rows. The content of a block doesn't depend on the worker that reads it."""

import random
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from torch.utils.data import IterableDataset, get_worker_info

from ssl_zoo.data.batch import Batch
from ssl_zoo.data.decode import CorruptImageError
from ssl_zoo.data.order import stream_orders
from ssl_zoo.data.source import ImageSource, Row
from ssl_zoo.data.stream import join_samples
from ssl_zoo.data.views import ImageTransform, Sample


__all__ = ["BlockBatch", "BlockStream", "num_blocks"]


class BlockBatch(NamedTuple):
    """Some images of a block; the last batch of a block may hold none.

    Attributes:
        block (`int`): Number of the block.
        is_last (`bool`): Whether the block ends here.
        batch (`Batch`): One entry in `views`, or none; `skipped` names the corrupt rows.
        skipped_ids (`list[int]`): Ids of these rows.
    """

    block: int
    is_last: bool
    batch: Batch
    skipped_ids: list[int]


def num_blocks(source: ImageSource, block_rows: int) -> int:
    """How many blocks of `block_rows` rows a source has; the last may be short."""
    return -(-source.num_rows // block_rows)


class BlockStream(IterableDataset[BlockBatch]):
    """Batches of some blocks, unshuffled. Block `b` has the rows from `b * block_rows` on.

    Each worker reads neighbouring blocks one after the other, so batches of as many blocks as there are workers come
    in turn.

    Args:
        source (`ImageSource`): The images.
        transform (`ImageTransform`): Makes the one view.
        blocks (`Sequence[int]`): Numbers of the blocks, increasing.
        block_rows (`int`): Rows per block.
        batch_size (`int`): Images per batch at most.
    """

    def __init__(
        self,
        source: ImageSource,
        transform: ImageTransform,
        blocks: Sequence[int],
        *,
        block_rows: int,
        batch_size: int,
    ) -> None:
        super().__init__()
        self._source, self._transform, self._blocks, self._batch_size = source, transform, blocks, batch_size
        (self._order,) = stream_orders(source.shard_lengths, num_slots=1, rank=0, world_size=1, block_rows=block_rows)

    def __iter__(self) -> Iterator[BlockBatch]:
        worker = get_worker_info()
        turn, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        reader = self._source.reader()
        for block in np.array_split(np.array(self._blocks, dtype=np.int64), workers)[turn].tolist():
            segments, _ = self._order.block(0, block)
            rows = (row for part in segments for row in reader.read(part.shard, part.start, part.stop))
            yield from self._batches(block, rows)

    def _batches(self, block: int, rows: Iterator[Row]) -> Iterator[BlockBatch]:
        samples: list[tuple[Sample, Row]] = []
        skipped: list[tuple[int, str]] = []
        for row in rows:
            try:
                sample = self._transform.read(row.image, random.Random(str(row.sample_id)))
            except CorruptImageError as error:
                skipped.append((row.sample_id, f"{self._source.path}: row {row.sample_id}: {error}"))
                continue
            if len(samples) == self._batch_size:
                yield self._batch(block, samples, skipped, is_last=False)
                samples, skipped = [], []
            samples.append((sample, row))
        yield self._batch(block, samples, skipped, is_last=True)

    def _batch(
        self, block: int, samples: list[tuple[Sample, Row]], skipped: list[tuple[int, str]], *, is_last: bool
    ) -> BlockBatch:
        batch = join_samples(self._transform, samples, skipped=[reason for _, reason in skipped])
        return BlockBatch(block, is_last, batch, [sample_id for sample_id, _ in skipped])
