"""The bank against a plain list, and its preview against the write that it shows."""

import io
from collections import deque

import pytest
import torch

from ssl_zoo.functional.distributed import all_gather_rows
from ssl_zoo.functional.neighbors import nearest_neighbors
from ssl_zoo.nn.memory_bank import Column, MemoryBank
from tests.two_processes import run_in_two_processes


def bank_of(size):
    return MemoryBank(
        size, 3, columns={"visits": Column((2,), torch.float16, 0.5), "flag": Column((), torch.int64, -7)}
    )


def rows_of(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return {
        "embeddings": torch.randn(count, 3, generator=generator),
        "labels": torch.randint(0, 9, (count,), generator=generator),
        "sample_ids": torch.randint(0, 999, (count,), generator=generator),
        "visits": torch.randn(count, 2, generator=generator),
        "flag": torch.randint(0, 9, (count,), generator=generator),
    }


def newest(bank, name):
    """The filled entries of a column from the oldest to the newest."""
    position, filled = int(bank.position), int(bank.num_filled)
    return torch.roll(getattr(bank, name), -position, dims=0)[bank.size - filled :]


@pytest.mark.parametrize("counts", [[3, 3, 3, 3], [4, 0, 5, 2, 7], [10], [11, 3], [25, 1], [7, 23, 4], [10, 10]])
def test_it_holds_the_last_rows_in_order(counts):
    bank, expected = bank_of(10), {name: deque(maxlen=10) for name in rows_of(1, 0)}
    for seed, count in enumerate(counts):
        rows = rows_of(count, seed)
        bank.write_(**rows)
        for name, values in rows.items():
            expected[name].extend(values.to(getattr(bank, name).dtype))
        for name, values in expected.items():
            held = newest(bank, name)
            assert torch.equal(held, torch.stack(list(values)) if values else held[:0]), name
        assert bank.num_filled == len(expected["labels"])
        unfilled = bank.flag[int(bank.num_filled) :]
        assert (unfilled == -7).all()


@pytest.mark.parametrize("count", [7, 10, 23])
def test_rows_at_once_are_rows_one_by_one(count):
    at_once, one_by_one = bank_of(10), bank_of(10)
    for bank in (at_once, one_by_one):
        bank.write_(**rows_of(4, 0))
    rows = rows_of(count, 1)
    at_once.write_(**rows)
    for row in range(count):
        one_by_one.write_(**{name: values[row : row + 1] for name, values in rows.items()})
    assert all(torch.equal(tensor, one_by_one.state_dict()[name]) for name, tensor in at_once.state_dict().items())


@pytest.mark.parametrize("counts", [[3], [0], [4, 5], [9, 3], [10, 4], [6, 10], [6, 23], [5, 0], [7, 4, 9]])
def test_preview_equals_the_write_bit_for_bit_and_changes_nothing(counts):
    bank = bank_of(10)
    for seed, count in enumerate(counts[:-1]):
        bank.write_(**rows_of(count, seed))
    before = {name: tensor.clone() for name, tensor in bank.state_dict().items()}
    rows = rows_of(counts[-1], 99)
    preview = bank.preview(**rows)
    everything = {name: column[:] for name, column in preview.items()}
    slices = {name: [column[start : start + 3] for start in range(0, 10, 3)] for name, column in preview.items()}
    entries = torch.arange(len(preview["labels"]))
    taken = {name: column.take(entries) for name, column in preview.items()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in bank.state_dict().items())
    bank.write_(**rows)
    filled = int(bank.num_filled)
    for name, column in preview.items():
        written = getattr(bank, name)[:filled]
        assert len(column) == filled
        assert torch.equal(everything[name], written), name
        assert torch.equal(torch.cat(slices[name]), written), name
        assert torch.equal(taken[name], written), name
        assert torch.equal(column[entries], taken[name])
        assert taken[name].dtype == written.dtype
    order = preview["labels"].age(entries).argsort(descending=True)
    assert torch.equal(bank.embeddings[:filled][order], newest(bank, "embeddings"))


@pytest.mark.parametrize("counts", [[4], [30, 12], [64, 9], [50, 30], [20, 90]])
def test_searching_the_preview_is_searching_after_the_write(counts):
    bank = MemoryBank(64, 8)
    for seed, count in enumerate(counts):
        generator = torch.Generator().manual_seed(seed)
        embeddings = torch.nn.functional.normalize(torch.randn(count, 8, generator=generator), dim=1)
        numbers = torch.arange(count)
        rows = {"embeddings": embeddings, "labels": numbers % 3, "sample_ids": numbers}
        queries = embeddings[:4]
        before = nearest_neighbors(queries, bank.preview(**rows)["embeddings"], k=5, chunk_size=16)
        held = bank.preview(**rows)["embeddings"].take(before.rows)
        bank.write_(**rows)
        after = nearest_neighbors(queries, bank.embeddings[: int(bank.num_filled)], k=5, chunk_size=16)
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        assert torch.equal(held, bank.embeddings[after.rows])
        assert (bank.sample_ids[before.rows[:, 0]] == numbers[:4]).all() == (count <= 64)


def test_taking_keeps_the_shape_of_the_numbers():
    bank = bank_of(6)
    bank.write_(**rows_of(4, 0))
    preview = bank.preview(**rows_of(4, 1))
    numbers = torch.tensor([[0, 5], [3, 1], [4, 4]])
    assert preview["embeddings"].take(numbers).shape == (3, 2, 3)
    assert preview["flag"].take(numbers).shape == (3, 2)


def test_a_preview_is_cut_from_the_graph():
    rows = rows_of(2, 0)
    rows["embeddings"].requires_grad_()
    assert not bank_of(4).preview(**rows)["embeddings"][:].requires_grad


def test_reset_is_as_new():
    bank, new = bank_of(5), bank_of(5)
    bank.write_(**rows_of(7, 0))
    bank.reset_()
    assert all(torch.equal(tensor, new.state_dict()[name]) for name, tensor in bank.state_dict().items())


def test_everything_is_in_the_state():
    bank, file = bank_of(5), io.BytesIO()
    bank.write_(**rows_of(3, 0))
    torch.save(bank.state_dict(), file)
    file.seek(0)
    other = bank_of(5)
    other.load_state_dict(torch.load(file, weights_only=True))
    for either in (bank, other):
        either.write_(**rows_of(4, 1))
    assert all(torch.equal(tensor, other.state_dict()[name]) for name, tensor in bank.state_dict().items())
    assert set(bank.state_dict()) == {"embeddings", "labels", "sample_ids", "visits", "flag", "position", "num_filled"}


def test_wrong_columns_are_named():
    rows = rows_of(2, 0)
    with pytest.raises(ValueError, match=r"rows of equal length for each of .*'flag'.*'visits'"):
        bank_of(4).write_(**{name: values for name, values in rows.items() if name != "flag"})
    with pytest.raises(ValueError, match="'labels': 1"):
        bank_of(4).write_(**{**rows, "labels": rows["labels"][:1]})
    with pytest.raises(ValueError, match="at least 1, got 0"):
        MemoryBank(0, 3)


def _written(process):
    """Each process has rows of its own, and different numbers of them."""
    bank = MemoryBank(8, 3)
    for step in range(3):
        rows = rows_of(2 + process, seed=10 * step + process)
        bank.write_(**{name: all_gather_rows(rows[name]) for name in ("embeddings", "labels", "sample_ids")})
    return {name: tensor.clone() for name, tensor in bank.state_dict().items()}


def test_all_processes_hold_the_same_bank():
    first, second = run_in_two_processes(_written)
    expected = MemoryBank(8, 3)
    for step in range(3):
        both = [rows_of(2 + process, seed=10 * step + process) for process in range(2)]
        names = ("embeddings", "labels", "sample_ids")
        expected.write_(**{name: torch.cat([rows[name] for rows in both]) for name in names})
    for name, tensor in expected.state_dict().items():
        assert torch.equal(first[name], tensor), name
        assert torch.equal(second[name], tensor), name
