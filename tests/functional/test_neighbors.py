"""The neighbour search against brute force in float64, and functions of the neighbours."""

import pytest
import torch
import torch.nn.functional as F

from ssl_zoo.functional.neighbors import (
    Neighbors,
    label_agreement,
    mean_neighbor_distance,
    nearest_neighbors,
    nearest_of_few,
    other_images,
    spread,
)
from tests.two_processes import run_in_two_processes


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def brute_force(queries, candidates, allowed):
    """Rows of the allowed candidates by Euclidean distance in float64, nearest first, as lists."""
    distances = torch.cdist(queries.double(), candidates.double())
    order = distances.argsort(dim=1)
    return [[int(row) for row in rows if ok[row]] for rows, ok in zip(order, allowed, strict=True)]


@pytest.mark.parametrize("chunk_size", [1, 7, 64, 100, 5000])
def test_search_is_brute_force_in_float64(chunk_size):
    queries, candidates = unit(9, 16), unit(100, 16, seed=1)
    found = nearest_neighbors(queries, candidates, k=6, chunk_size=chunk_size)
    expected = brute_force(queries, candidates, torch.ones(9, 100, dtype=torch.bool))
    assert found.rows.tolist() == [rows[:6] for rows in expected]
    assert found.found.all()
    exact = (queries.double() @ candidates.double().T).gather(1, found.rows)
    torch.testing.assert_close(found.similarities.double(), exact, rtol=0, atol=1e-6)
    best = (queries.double() @ candidates.double().T).topk(6).values
    torch.testing.assert_close(exact, best)


@pytest.mark.parametrize("chunk_size", [3, 50, 1000])
def test_labels_limit_the_search_and_minus_one_means_what_it_says(chunk_size):
    queries, candidates = unit(12, 8), unit(200, 8, seed=1)
    query_labels = torch.arange(12) % 5 - 1
    candidate_labels = torch.arange(200) % 7 - 1  # no query has 3, -1 matches nothing
    found = nearest_neighbors(
        queries, candidates, k=4, query_labels=query_labels, candidate_labels=candidate_labels, chunk_size=chunk_size
    )
    allowed = (query_labels[:, None] == candidate_labels) & (candidate_labels >= 0) | (query_labels[:, None] < 0)
    assert found.rows.tolist() == [rows[:4] for rows in brute_force(queries, candidates, allowed)]


def test_fewer_candidates_than_neighbours_are_marked():
    queries, candidates = unit(3, 8), unit(10, 8, seed=1)
    labels = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 2, 2])
    found = nearest_neighbors(
        queries, candidates, k=3, query_labels=torch.tensor([0, 7, -1]), candidate_labels=labels, chunk_size=4
    )
    assert found.found.tolist() == [[True, True, False], [False] * 3, [True] * 3]
    assert sorted(found.rows[0, :2].tolist()) == [0, 1]
    assert (found.rows[~found.found] == 0).all()
    assert (found.similarities[~found.found] == -torch.inf).all()
    few = nearest_neighbors(queries, candidates[:2], k=5)
    assert few.found.tolist() == [[True, True, False, False, False]] * 3
    none = nearest_neighbors(queries, candidates[:0], k=2)
    assert not none.found.any()
    assert none.rows.shape == (3, 2)


@pytest.mark.parametrize("order", ["together", "apart", "in every 13th place"])
def test_the_nearest_are_found_wherever_they_lie(order):
    """The search looks at maxima of blocks: neighbours may share one, or have one each."""
    angles = torch.linspace(0, 3, 104)
    candidates, queries = torch.stack([angles.cos(), angles.sin()], dim=1), torch.tensor([[1.0, 0.0]])
    place = {
        "together": torch.arange(104),
        "apart": torch.randperm(104),
        "in every 13th place": torch.arange(104).view(13, 8).T.flatten().argsort(),
    }[order]
    for k in (1, 8, 9, 13, 40, 104):
        found = nearest_neighbors(queries, candidates[place], k=k)
        assert place[found.rows[0]].tolist() == list(range(k))


def test_more_labels_than_fit_in_a_chunk_and_queries_without_one():
    """Queries of every class, of none, and of one that no candidate has; candidates in more than one chunk."""
    queries, candidates = unit(40, 8), unit(5000, 8, seed=1)
    query_labels, candidate_labels = torch.arange(40) % 14 - 1, torch.arange(5000).flip(0) % 12 - 1
    found = nearest_neighbors(queries, candidates, k=5, query_labels=query_labels, candidate_labels=candidate_labels)
    allowed = (query_labels[:, None] == candidate_labels) & (candidate_labels >= 0) | (query_labels[:, None] < 0)
    for row, expected in enumerate(brute_force(queries, candidates, allowed)):
        assert found.rows[row][found.found[row]].tolist() == expected[:5]
    assert found.found[query_labels == 12].sum() == 0


def test_an_entry_itself_is_its_nearest():
    candidates = unit(300, 4)
    rows = torch.tensor([0, 17, 299])
    assert nearest_neighbors(candidates[rows], candidates, k=3, chunk_size=64).rows[:, 0].tolist() == rows.tolist()


def test_ties_are_decided_alike_whenever_asked():
    candidates = unit(10, 4).repeat(8, 1)
    queries = unit(6, 4, seed=1)
    first = nearest_neighbors(queries, candidates, k=5, chunk_size=32)
    again = nearest_neighbors(queries.clone(), candidates.clone(), k=5, chunk_size=32)
    assert torch.equal(first.rows, again.rows)
    assert all(len(set(rows)) == 5 for rows in first.rows.tolist())


def test_order_of_the_queries_doesnt_matter():
    queries, candidates, order = unit(8, 6), unit(90, 6, seed=1), torch.randperm(8)
    found, shuffled = (nearest_neighbors(q, candidates, k=4, chunk_size=40) for q in (queries, queries[order]))
    assert torch.equal(found.rows[order], shuffled.rows)


def test_search_stays_float32_under_autocast_and_reads_half_precision():
    queries, candidates = unit(5, 64), unit(80, 64, seed=1)
    expected = nearest_neighbors(queries, candidates, k=3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = nearest_neighbors(queries, candidates, k=3)
    assert torch.equal(found.similarities, expected.similarities)
    halved = nearest_neighbors(queries, candidates.half(), k=3)
    torch.testing.assert_close(halved.similarities, expected.similarities, rtol=0, atol=1e-3)


class Watched:
    """A table that records which rows are read."""

    def __init__(self, rows):
        self.rows, self.largest = rows, 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, rows):
        part = self.rows[rows]
        self.largest = max(self.largest, len(part))
        return part


def test_no_more_than_a_chunk_is_read_at_once():
    table = Watched(unit(500, 4))
    nearest_neighbors(unit(3, 4), table, k=2, chunk_size=64)
    assert table.largest == 64


def test_numbers_out_of_range_are_named():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        nearest_neighbors(unit(2, 4), unit(5, 4), k=0)
    with pytest.raises(ValueError, match="give both or none"):
        nearest_neighbors(unit(2, 4), unit(5, 4), k=1, query_labels=torch.zeros(2))


def test_nearest_of_few_looks_at_existing_candidates_only():
    queries, table = unit(4, 8), unit(50, 8, seed=1)
    rows = torch.stack([torch.randperm(50)[:6] for _ in range(4)])
    exists = torch.ones(4, 6, dtype=torch.bool)
    exists[1, 2:] = False
    few = nearest_of_few(queries, table[rows], Neighbors(rows, torch.zeros(4, 6), exists), k=3)
    for query in range(4):
        own = rows[query][exists[query]]
        order = (table[own].double() @ queries[query].double()).argsort(descending=True)
        count = min(3, len(own))
        assert few.rows[query, :count].tolist() == own[order][:count].tolist()
        assert few.found[query].sum() == count


def test_distance_is_the_mean_over_existing_neighbours():
    predictions = (3 * torch.randn(5, 6, dtype=torch.float64)).requires_grad_()
    neighbors = F.normalize(torch.randn(5, 4, 6, dtype=torch.float64), dim=-1)
    found = torch.tensor(
        [[True] * 4, [True, False, False, False], [False] * 4, [True, True, False, False], [True] * 4]
    )
    distances = mean_neighbor_distance(predictions, neighbors, found)
    for row in range(5):
        existing = neighbors[row][found[row]]
        unit_row = predictions[row] / predictions[row].norm()
        expected = (unit_row - existing).square().sum(dim=1).mean() if len(existing) else torch.tensor(0.0).double()
        torch.testing.assert_close(distances[row], expected)
    assert torch.autograd.gradcheck(lambda p: mean_neighbor_distance(p, neighbors, found), predictions)


def test_label_agreement_counts_known_pairs():
    labels = torch.tensor([0, 1, -1])
    others = torch.tensor([[0, 1, -1], [1, 1, 2], [0, 0, 0]])
    assert label_agreement(labels, others).item() == pytest.approx(3 / 5)
    assert label_agreement(labels, others, torch.eye(3, dtype=torch.bool)).item() == pytest.approx(2 / 2)
    assert label_agreement(labels, torch.full((3, 2), -1)) is None


def _agreement(process):
    agree = label_agreement(torch.tensor([process]), torch.tensor([[0, 0, 1]]))
    nothing = label_agreement(torch.tensor([-process]), torch.tensor([[0]]))
    return agree.item(), nothing.item()


def test_label_agreement_is_over_all_processes():
    results = run_in_two_processes(_agreement)
    assert results == [pytest.approx((3 / 6, 1.0))] * 2


def test_other_images_are_told_by_their_ids_or_by_distance():
    found = torch.tensor([[True, True, True], [True, True, False], [True, True, True]])
    neighbors = Neighbors(torch.zeros(3, 3, dtype=torch.int64), torch.zeros(3, 3), found)
    ids = torch.tensor([[5, 6, 5], [7, 8, 8], [-1, -1, 4]])
    others = other_images(neighbors, ids, torch.tensor([5, 7, -1]))
    assert others.tolist() == [[False, True, False], [False, True, False], [False, True, True]]


def test_spread_of_equal_and_of_opposite_vectors():
    assert spread(unit(1, 5).expand(7, 5)).item() == pytest.approx(0.0, abs=1e-3)
    assert spread(torch.cat([unit(3, 5), -unit(3, 5)])).item() == pytest.approx(1.0)
    vectors = unit(20, 5).double()
    expected = vectors.var(dim=0, unbiased=False).sum().sqrt()
    assert spread(vectors).item() == pytest.approx(expected.item(), rel=1e-5)
