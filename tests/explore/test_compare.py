"""Two clusterings against loops, scikit-learn and every possible matching."""

import itertools
import json

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_mutual_info_score, adjusted_rand_score, normalized_mutual_info_score

from ssl_zoo.explore.clusters import clustering
from ssl_zoo.explore.compare import compare
from ssl_zoo.explore.run_checkpoints import list_run_checkpoints
from ssl_zoo.explore.workbench import ExploreError
from tests.explore.made_explained import explain, make_gallery, sure_of


def compared(folder, first, second, clusters, confidence=0.9):
    """Compare two labellings; `clusters` is a pair of how many there are."""
    gallery = make_gallery(folder / "gallery", [0] * len(first))
    both = [
        clustering(explain(folder / name, gallery, sure_of(np.asarray(labels), number, confidence)))
        for name, labels, number in zip("ab", (first, second), clusters, strict=True)
    ]
    return compare(*both)


def table_of(first, second, clusters):
    counts = np.zeros(clusters, dtype=int)
    for before, after in zip(first, second, strict=True):
        counts[before, after] += 1
    return counts


@pytest.fixture
def random():
    return np.random.default_rng(3)


@pytest.mark.parametrize("clusters", [(4, 4), (3, 6), (6, 3)])
def test_the_matching_is_the_best_of_all(tmp_path, random, clusters):
    first = random.integers(0, clusters[0], 60)
    second = (first * 2 + random.integers(0, 3, 60)) % clusters[1]
    found, counts = compared(tmp_path, first, second, clusters), table_of(first, second, clusters)
    low, high = sorted(clusters)
    wide = counts if clusters[0] <= clusters[1] else counts.T
    best = max(
        sum(wide[row, column] for row, column in enumerate(order))
        for order in itertools.permutations(range(high), low)
    )
    assert sum(counts[pair] for pair in found.partners.items()) == best
    assert found.matched_share == pytest.approx(best / 60)
    assert len(found.moved) == 60 - best


def test_many_clusters_match_as_scipys_do(tmp_path, random):
    first, second = random.integers(0, 300, 2000), random.integers(0, 250, 2000)
    second[:900] = first[:900] * 7 % 250
    found, counts = compared(tmp_path, first, second, (300, 260)), table_of(first, second, (300, 260))
    rows, columns = linear_sum_assignment(counts, maximize=True)
    assert found.matched_share == pytest.approx(counts[rows, columns].sum() / 2000)
    assert len(set(found.partners.values())) == len(found.partners)
    assert all(counts[pair] > 0 for pair in found.partners.items())


def test_scores_are_scikit_learns(tmp_path, random):
    first = random.integers(0, 8, 300)
    second = np.where(random.random(300) < 0.7, first, random.integers(0, 8, 300))
    found = compared(tmp_path, first, second, (8, 8))
    assert found.nmi == pytest.approx(normalized_mutual_info_score(first, second))
    assert found.ami == pytest.approx(adjusted_mutual_info_score(first, second))
    assert found.ari == pytest.approx(adjusted_rand_score(first, second))


def test_moved_images_are_those_off_the_matching_the_surest_first(tmp_path, random):
    first = random.integers(0, 5, 200)
    second = (first + 2) % 5  # the same partition under other numbers ...
    strays = random.choice(200, 40, replace=False)
    second[strays] = (second[strays] + 1) % 5  # ... but for these
    confidence = random.uniform(0.4, 0.99, 200).round(2)
    found = compared(tmp_path, first, second, (5, 6), confidence)
    assert found.partners == {number: (number + 2) % 5 for number in range(5)}
    assert sorted(found.moved.tolist()) == sorted(strays.tolist())
    moves = found.moves()
    for move in moves:
        assert (move.first, move.second) == (first[move.image], second[move.image])
        assert move.expected == (first[move.image] + 2) % 5 != move.second
        assert move.surprise == pytest.approx(confidence[move.image] ** 2, rel=1e-2)
    assert [move.surprise for move in moves] == sorted((move.surprise for move in moves), reverse=True)
    assert found.moves(10, 5) == moves[10:15]
    assert found.moves(100, 5) == []


def test_a_cluster_without_a_partner_expects_nothing(tmp_path):
    found = compared(tmp_path, [0, 0, 0, 1, 1], [0, 0, 0, 0, 0], (2, 2))
    assert found.partners == {0: 0}
    assert [(move.image, move.first, move.expected) for move in found.moves()] == [(3, 1, None), (4, 1, None)]


def test_the_same_partition_moves_nothing(tmp_path, random):
    labels = random.integers(0, 7, 100)
    found = compared(tmp_path, labels, 6 - labels, (7, 7))
    assert (found.matched_share, found.nmi, found.ami, found.ari) == (1, 1, 1, 1)
    assert found.moves() == []
    assert np.array_equal(found.agreement().counts, np.diag(np.sort(np.bincount(labels))[::-1]))


@pytest.mark.parametrize("clusters", [(9, 9), (6, 20), (8, 20), (20, 6), (30, 40), (60, 60)])
@pytest.mark.parametrize("limit", [2, 7, 20, 60])
def test_the_table_holds_every_image_once(tmp_path, random, clusters, limit):
    first = np.minimum(random.geometric(0.15, 500) - 1, clusters[0] - 2)  # the last cluster is empty
    second = np.where(random.random(500) < 0.6, first % clusters[1], random.integers(0, clusters[1], 500))
    found = compared(tmp_path, first, second, clusters)
    table, counts = found.agreement(limit=limit), table_of(first, second, clusters)
    assert table.counts.shape == (len(table.rows), len(table.columns))
    assert max(table.counts.shape) <= limit
    assert table.counts.sum() == 500
    shown, across = (
        [row for row in table.rows if row is not None],
        [each for each in table.columns if each is not None],
    )
    for names, kept, sizes in ((table.rows, shown, counts.sum(1)), (table.columns, across, counts.sum(0))):
        assert len(set(kept)) == len(kept)
        assert None not in names[:-1]
        assert (names[-1] is None) == ((sizes > 0).sum() > limit)
        assert all(sizes[number] > 0 for number in kept)
    rest = {
        "rows": [r for r in range(clusters[0]) if r not in shown],
        "columns": [c for c in range(clusters[1]) if c not in across],
    }
    for row, row_name in enumerate(table.rows):
        for column, column_name in enumerate(table.columns):
            wanted_rows = rest["rows"] if row_name is None else [row_name]
            wanted_columns = rest["columns"] if column_name is None else [column_name]
            assert table.counts[row, column] == counts[np.ix_(wanted_rows, wanted_columns)].sum()
    assert all(found.partners[table.rows[place]] == table.columns[place] for place in range(table.num_pairs))
    # The largest clusters of the first are shown.
    least = min(counts.sum(1)[shown])
    assert all(counts.sum(1)[row] <= least for row in rest["rows"])


def test_other_images_are_refused(tmp_path):
    labels = np.array([0, 1, 1])
    one, other = (
        clustering(explain(tmp_path / f"m{name}", make_gallery(tmp_path / name, [0] * 3), sure_of(labels, 2)))
        for name in "ab"
    )
    with pytest.raises(ExploreError, match="same data"):
        compare(one, other)
    with pytest.raises(ValueError, match="limit"):
        compare(one, one).agreement(limit=1)


def test_heads_of_one_model_can_be_compared(tmp_path, random):
    logs = np.concatenate([sure_of(random.integers(0, 4, 50), 4), sure_of(random.integers(0, 4, 50), 4)], axis=1)
    explained = explain(tmp_path / "m", make_gallery(tmp_path / "g", [0] * 50), logs)
    found = compare(clustering(explained, head=0), clustering(explained, head=1))
    assert 0.25 <= found.matched_share < 0.8


@pytest.fixture
def run(tmp_path):
    """Checkpoints at steps 5, 10 and 20, of 8 steps an epoch; the run ended at 20."""
    for name in ("checkpoints/step-00000010", "checkpoints/step-00000005", "checkpoints/step-00000020", "model"):
        (tmp_path / "run" / name).mkdir(parents=True)
        (tmp_path / "run" / name / "config.json").write_text("{}")
    (tmp_path / "run" / "checkpoints" / ".partial-step-00000030").mkdir()
    (tmp_path / "run" / "checkpoints" / "step-00000002").mkdir()  # of a detector: nothing that can be loaded
    lines = [json.dumps({"step": step, "epoch": step / 8}) for step in range(2, 21, 2)]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join([*lines, '{"step": 2']))
    return tmp_path / "run"


@pytest.mark.parametrize("inside", ["", "model", "checkpoints/step-00000010"])
def test_checkpoints_of_a_run(run, inside):
    found = list_run_checkpoints(str(run / inside))
    assert [(each.step, each.epoch, each.is_final) for each in found] == [
        (5, 0.625, False),
        (10, 1.25, False),
        (20, 2.5, True),
    ]
    places = ("checkpoints/step-00000005", "checkpoints/step-00000010", "model")
    assert [each.name for each in found] == [str(run / place) for place in places]


def test_checkpoints_of_an_unfinished_run(run):
    (run / "model" / "config.json").unlink()
    (run / "metrics.jsonl").unlink()
    found = list_run_checkpoints(str(run))
    assert [(each.step, each.epoch, each.is_final) for each in found] == [
        (5, None, False),
        (10, None, False),
        (20, None, False),
    ]


def test_what_is_no_run_has_no_checkpoints(run, tmp_path):
    (run / "elsewhere").mkdir()
    for name in ("org/name", "resnet18", str(run / "elsewhere"), str(run / "checkpoints"), str(tmp_path), "\0"):
        assert list_run_checkpoints(name) == []
