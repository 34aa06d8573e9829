import numpy as np
import pytest
import torch
from tqdm import tqdm

from ssl_zoo.evaluation.frozen import knn
from ssl_zoo.evaluation.frozen.knn import WeightedKnn


def random_problem(num_bank=300, num_queries=90, width=16, num_classes=7, *, seed=0):
    """Classes that overlap, so that the weights and the number of neighbours matter; lengths that must not."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(num_classes, width))
    labels, classes = rng.integers(num_classes, size=num_bank), rng.integers(num_classes, size=num_queries)
    bank = centres[labels] + 1.5 * rng.normal(size=(num_bank, width))
    queries = centres[classes] + 1.5 * rng.normal(size=(num_queries, width))
    bank *= rng.uniform(0.1, 10, size=(num_bank, 1))
    tensors = (torch.tensor(bank).float(), torch.tensor(labels), torch.tensor(queries).float())
    return *tensors, torch.tensor(classes)


def tied_problem(num_bank=400, num_queries=90, num_classes=7):
    """Similarities of multiples of 1/8, which no kernel rounds: most neighbours are exactly as near as many others."""
    generator = torch.Generator().manual_seed(0)
    bank, queries = (torch.randint(2, (rows, 16), generator=generator) * 2.0 - 1 for rows in (num_bank, num_queries))
    return bank, torch.randint(num_classes, (num_bank,), generator=generator), queries, None


def brute_force(bank, labels, queries, *, k, temperature):
    bank, queries = (array.double().numpy() for array in (bank, queries))
    bank /= np.linalg.norm(bank, axis=1, keepdims=True)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    found = []
    for query in queries:
        similarities = bank @ query
        nearest = np.argsort(-similarities, kind="stable")[:k]
        votes = np.zeros(int(labels.max()) + 1)
        for row in nearest:
            votes[int(labels[row])] += np.exp(similarities[row] / temperature)
        found.append(votes.argmax())
    return torch.tensor(np.array(found))


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("k", [1, 20, 300])
def test_equals_brute_force(k, temperature):
    bank, labels, queries, _ = random_problem()
    found = WeightedKnn(bank, labels, temperature=temperature).predict(queries, k=k)
    assert torch.equal(found, brute_force(bank, labels, queries, k=k, temperature=temperature))


def test_the_weights_decide():
    """One near neighbour outvotes two far ones at a low temperature, and not at a high one."""
    bank, labels = torch.tensor([[1.0, 0.05], [0.6, 0.8], [0.6, -0.8]]), torch.tensor([1, 0, 0])
    query = torch.tensor([[1.0, 0.0]])
    assert WeightedKnn(bank, labels, temperature=0.07).predict(query, k=3).tolist() == [1]
    assert WeightedKnn(bank, labels, temperature=10.0).predict(query, k=3).tolist() == [0]


def test_several_k_in_one_pass_equal_one_at_a_time():
    bank, labels, queries, _ = random_problem()
    classifier = WeightedKnn(bank, labels, temperature=1.0)
    together = classifier.predict(queries, k=[20, 1, 100, 5])
    assert together.shape == (4, len(queries))
    for row, k in zip(together, (20, 1, 100, 5), strict=True):
        assert torch.equal(row, classifier.predict(queries, k=k))
    assert len({tuple(row.tolist()) for row in together}) == 4


@pytest.mark.parametrize("problem", [random_problem, tied_problem])
@pytest.mark.parametrize(("query_chunk", "bank_chunk"), [(5, 1), (7, 13), (90, 299), (1000, 1000)])
def test_chunks_change_nothing(problem, query_chunk, bank_chunk):
    bank, labels, queries, _ = problem()
    found = WeightedKnn(bank, labels, query_chunk=query_chunk, bank_chunk=bank_chunk).predict(queries, k=[1, 10, 20])
    for row, k in zip(found, (1, 10, 20), strict=True):
        assert torch.equal(row, brute_force(bank, labels, queries, k=k, temperature=0.07))


def test_memory_is_bounded_by_the_chunks(monkeypatch):
    bank, labels, queries, _ = random_problem(num_bank=500, num_queries=400)
    products, mm = [], torch.mm

    def watching(left, right, *, out):
        products.append((len(left), right.shape[1], out.untyped_storage().data_ptr()))
        return mm(left, right, out=out)

    monkeypatch.setattr(torch, "mm", watching)
    WeightedKnn(bank, labels, query_chunk=32, bank_chunk=64).predict(queries, k=20)
    assert len(products) == 13 * 8
    assert max(queries for queries, _, _ in products) == 32
    assert max(rows for _, rows, _ in products) == 64
    assert len({memory for _, _, memory in products[: 4 * 8]}) == 1, "similarities of one block share their memory"


@pytest.mark.parametrize("order", ["random", "by class", "near ones last", "near ones first"])
@pytest.mark.parametrize("k", [1, 20, 200])
def test_the_filter_loses_none_of_the_nearest(order, k):
    """Chunks of many blocks: the k-th best block maximum and the k-th nearest so far bound what is looked at."""
    bank, labels, queries, _ = random_problem(num_bank=7000, num_queries=40)
    # Each of these twice, far apart. Twins have one label: which is nearer may be a matter of rounding.
    bank, labels = torch.cat([bank[:3000], bank]), torch.cat([labels[:3000], labels])
    if order != "random":
        nearness = torch.nn.functional.normalize(bank) @ queries[0]
        rank = {"by class": labels, "near ones last": nearness, "near ones first": -nearness}[order].argsort(
            stable=True
        )
        bank, labels = bank[rank], labels[rank]
    classifier = WeightedKnn(bank, labels, bank_chunk=4096)
    assert torch.equal(classifier.predict(queries, k=k), brute_force(bank, labels, queries, k=k, temperature=0.07))
    unit = torch.nn.functional.normalize(queries.double()) @ torch.nn.functional.normalize(bank.double()).T
    similarities, rows = classifier._neighbors(queries, k, tqdm(disable=True))
    torch.testing.assert_close(similarities.double(), unit.topk(k).values, rtol=0, atol=1e-6)
    torch.testing.assert_close(unit.gather(1, rows), similarities.double(), rtol=0, atol=1e-6)
    assert all(len(found.unique()) == k for found in rows)


@pytest.mark.parametrize("bank_chunk", [1, 3, 1000])
def test_of_equally_similar_rows_the_first_of_the_bank_count(bank_chunk):
    bank = torch.eye(4)[torch.arange(40) % 4]
    labels = torch.arange(40) // 4
    queries = torch.eye(4)
    assert WeightedKnn(bank, labels, bank_chunk=bank_chunk).predict(queries, k=1).tolist() == [0] * 4
    # Among 3 equal votes the lowest class wins.
    assert WeightedKnn(bank, 9 - labels, bank_chunk=bank_chunk).predict(queries, k=3).tolist() == [7] * 4


def test_rounding_errors_of_a_product_do_not_order_neighbors():
    similarities = torch.zeros(1, 256)
    similarities[0, 10], similarities[0, 200] = 0.5, 0.5 + 2.0**-24
    key = knn._merge(torch.full((1, 1), knn._NO_KEY), similarities, start=0, k=1)
    assert knn._LAST_ROW - (key & knn._LAST_ROW) == 10


def test_perfect_and_chance():
    bank, labels, _, _ = random_problem()
    assert torch.equal(WeightedKnn(bank, labels).predict(bank, k=1), labels)
    opposite = WeightedKnn(bank, labels).predict(-bank, k=1)
    assert (opposite == labels).float().mean() < 0.5


def test_half_precision_and_no_queries():
    bank, labels, queries, _ = random_problem()
    classifier = WeightedKnn(bank.half(), labels)
    assert (classifier.predict(queries.half()) == WeightedKnn(bank, labels).predict(queries)).float().mean() > 0.95
    assert classifier.predict(queries[:0], k=[1, 5]).shape == (2, 0)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_classes():
    bank, labels, queries, _ = random_problem()
    found = WeightedKnn(bank, labels, device="cuda").predict(queries, k=[1, 20])
    assert torch.equal(found.cpu(), WeightedKnn(bank, labels).predict(queries, k=[1, 20]))


def test_what_does_not_fit_is_refused():
    bank, labels, queries, _ = random_problem()
    classifier = WeightedKnn(bank, labels)
    with pytest.raises(ValueError, match=r"`k` must lie in \[1, 300\], the number of rows in the bank; got 301"):
        classifier.predict(queries, k=301)
    with pytest.raises(ValueError, match="`k`"):
        classifier.predict(queries, k=[20, 0])
    with pytest.raises(ValueError, match=r"`queries` must have shape \(queries, 16\)"):
        classifier.predict(queries[:, :8])
    with pytest.raises(ValueError, match="`queries` holds infinite or NaN"):
        classifier.predict(torch.full((1, 16), float("nan")))
    with pytest.raises(ValueError, match="`bank` holds infinite or NaN"):
        WeightedKnn(torch.full((1, 16), float("inf")), labels[:1])
    with pytest.raises(ValueError, match="`labels` must be >= 0, got -1"):
        WeightedKnn(bank, labels - 1)
    with pytest.raises(ValueError, match=r"got \(300, 16\) and \(299,\)"):
        WeightedKnn(bank, labels[1:])
    with pytest.raises(ValueError, match="`temperature` must be > 0, got 0"):
        WeightedKnn(bank, labels, temperature=0)


@pytest.mark.parametrize("bank_chunk", [7, 4096])
def test_a_mapped_half_precision_bank_stays_as_it_is(tmp_path, bank_chunk):
    bank, labels, queries, _ = random_problem()
    table = np.memmap(tmp_path / "features.f16", np.float16, "w+", shape=tuple(bank.shape))
    table[:] = bank.numpy()
    mapped = torch.from_numpy(table)
    classifier = WeightedKnn(mapped, labels, bank_chunk=bank_chunk)
    assert classifier._bank.data_ptr() == mapped.data_ptr()
    expected = WeightedKnn(mapped.float(), labels).predict(queries, k=[1, 20, 300])
    assert torch.equal(classifier.predict(queries, k=[1, 20, 300]), expected)
    assert torch.equal(mapped, bank.half())


def test_lengths_of_any_size_and_zero():
    bank, labels, queries, _ = random_problem()
    expected = WeightedKnn(bank, labels).predict(queries, k=5)
    sizes = 2.0 ** torch.randint(-40, 90, (len(bank), 1), generator=torch.Generator().manual_seed(0))
    assert torch.equal(WeightedKnn(bank * sizes, labels).predict(queries * 2.0**60, k=5), expected)
    nowhere = torch.cat([bank, torch.zeros(1, 16)]), torch.cat([labels, torch.tensor([6])])
    assert torch.equal(WeightedKnn(*nowhere).predict(bank, k=1), labels)
    assert WeightedKnn(*nowhere).predict(torch.zeros(2, 16), k=1).tolist() == [int(labels[0])] * 2


def test_the_first_row_that_is_not_finite_is_named():
    bank, labels, _, _ = random_problem()
    spoilt = bank.half()
    spoilt[[250, 123], 3] = torch.tensor([float("nan"), float("-inf")], dtype=torch.float16)
    with pytest.raises(ValueError, match="`bank` holds infinite or NaN values in 2 of 300 rows, first in row 123"):
        WeightedKnn(spoilt, labels)
    with pytest.raises(ValueError, match="`queries` holds infinite or NaN values in 2 of 300 rows"):
        WeightedKnn(bank, labels).predict(spoilt)
