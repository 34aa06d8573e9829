"""The order of rows: complete, disjoint, balanced and seekable, for any sizes of shards and numbers of streams."""

import numpy as np
import pytest

from ssl_zoo.data.order import StreamOrder


CASES = [
    # rows per shard, streams, rows per block
    ((3, 11, 1, 20, 7), 4, 5),
    ((3, 11, 1, 20, 7), 1, 1000),
    ((42,), 4, 3),
    ((1,) * 17, 3, 4),
    ((0, 5, 0, 6, 0), 6, 2),
    ((100, 1, 1, 1), 7, 16),
    ((2, 3), 8, 2),  # fewer rows than streams
]


def order_of(lengths: tuple[int, ...], stream: int, streams: int, block: int, **changes: object) -> StreamOrder:
    options = {"seed": 5, "shuffle": True, **changes}
    return StreamOrder(np.array(lengths), stream=stream, num_streams=streams, block_rows=block, **options)  # type: ignore[arg-type]


def epoch_rows(order: StreamOrder, lengths: tuple[int, ...], epoch: int) -> list[int]:
    """Global row numbers of one stream in one epoch, in the order they are handed out."""
    offsets = np.cumsum(lengths) - lengths
    rows: list[int] = []
    for block in range(order.num_blocks()):
        segments, permutation = order.block(epoch, block)
        read = [int(offsets[part.shard]) + row for part in segments for row in range(part.start, part.stop)]
        assert sorted(permutation) == list(range(len(read)))
        rows += [read[index] for index in permutation]
    return rows


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("lengths", "streams", "block"), CASES)
def test_every_epoch_covers_every_row_once(lengths: tuple[int, ...], streams: int, block: int, shuffle: bool) -> None:
    orders = [order_of(lengths, stream, streams, block, shuffle=shuffle) for stream in range(streams)]
    for epoch in range(3):
        rows = [epoch_rows(order, lengths, epoch) for order in orders]
        assert sorted(row for part in rows for row in part) == list(range(sum(lengths)))
        assert [len(part) for part in rows] == [order.num_rows for order in orders]
    counts = [order.num_rows for order in orders]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize(("lengths", "streams", "block"), CASES[:-1])
def test_a_position_is_computed_not_replayed(lengths: tuple[int, ...], streams: int, block: int) -> None:
    stream = streams // 2
    order = order_of(lengths, stream, streams, block)
    handed_out = [row for epoch in range(3) for row in epoch_rows(order, lengths, epoch)]
    offsets = np.cumsum(lengths) - lengths
    for position in (0, 1, min(block, order.num_rows), len(handed_out) // 2, len(handed_out) - 1):
        fresh = order_of(lengths, stream, streams, block)
        epoch, number, offset = fresh.locate(position)
        segments, permutation = fresh.block(epoch, number)
        read = [int(offsets[part.shard]) + row for part in segments for row in range(part.start, part.stop)]
        assert read[permutation[offset]] == handed_out[position]


def test_without_shuffling_rows_come_in_file_order() -> None:
    lengths = (3, 11, 1, 20, 7)
    rows = [
        row for stream in range(4) for row in epoch_rows(order_of(lengths, stream, 4, 5, shuffle=False), lengths, 0)
    ]
    assert rows == list(range(42))


def test_epochs_seeds_and_streams_have_their_own_order() -> None:
    lengths = (20, 20, 20, 20, 20)
    base = epoch_rows(order_of(lengths, 0, 1, 16), lengths, 0)
    assert base == epoch_rows(order_of(lengths, 0, 1, 16), lengths, 0)
    assert base != epoch_rows(order_of(lengths, 0, 1, 16), lengths, 1)
    assert base != epoch_rows(order_of(lengths, 0, 1, 16, seed=6), lengths, 0)
    # One large block, one shard: only the permutation inside the block is left to differ.
    permutations = [
        order_of((64,), stream, 2, 64).block(epoch, 0)[1].tolist() for stream in (0, 1) for epoch in (0, 1)
    ]
    assert len({tuple(permutation) for permutation in permutations}) == 4


def test_each_stream_reads_its_share_of_the_data_only() -> None:
    order = order_of((50, 50, 50, 50), 1, 4, 7)
    for epoch in range(3):
        segments = [part for block in range(order.num_blocks()) for part in order.block(epoch, block)[0]]
        assert sum(part.stop - part.start for part in segments) == 50
        assert len({part.shard for part in segments}) <= 2
