import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from sklearn import metrics as reference

from ssl_zoo.evaluation.metrics.clustering import (
    adjusted_mutual_information,
    adjusted_rand_index,
    clustering_agreement,
    hungarian_accuracy,
    normalized_mutual_information,
    purity,
)


def labellings(num_classes, num_clusters, noise, samples=500, seed=0):
    rng = np.random.default_rng(seed)
    classes = rng.integers(num_classes, size=samples)
    clusters = np.where(rng.random(samples) < noise, rng.integers(num_clusters, size=samples), classes % num_clusters)
    return classes, clusters


@pytest.mark.parametrize(
    ("num_classes", "num_clusters", "noise", "samples"),
    [(10, 40, 0.2, 500), (3, 2, 0.5, 500), (10, 10, 1.0, 500), (5, 1, 0, 500), (100, 300, 0.5, 2000), (4, 3, 0.3, 9)],
)
def test_agrees_with_scikit_learn_and_scipy(num_classes, num_clusters, noise, samples):
    classes, clusters = labellings(num_classes, num_clusters, noise, samples)
    found = clustering_agreement(classes, clusters)
    table = reference.cluster.contingency_matrix(classes, clusters)
    matched = table[linear_sum_assignment(table, maximize=True)].sum()
    assert found == {
        "nmi": pytest.approx(reference.normalized_mutual_info_score(classes, clusters), abs=1e-12),
        "ami": pytest.approx(reference.adjusted_mutual_info_score(classes, clusters), abs=1e-10),
        "ari": pytest.approx(reference.adjusted_rand_score(classes, clusters), abs=1e-12),
        "hungarian_accuracy": matched / samples,
        "purity": table.max(axis=0).sum() / samples,
        "num_clusters": len(set(clusters)),
    }
    symmetric = normalized_mutual_information, adjusted_mutual_information, adjusted_rand_index, hungarian_accuracy
    for value, function in zip(found.values(), symmetric, strict=False):
        assert function(classes, clusters) == value
        assert function(clusters, classes) == pytest.approx(value, abs=1e-12)
    assert purity(classes, clusters) == found["purity"]


@pytest.mark.parametrize(("num_classes", "num_clusters"), [(3, 3), (3, 5), (5, 3), (1, 4), (4, 1)])
def test_hungarian_accuracy_is_that_of_the_best_of_all_matchings(num_classes, num_clusters):
    for seed in range(3):
        classes, clusters = labellings(num_classes, num_clusters, 0.7, samples=40, seed=seed)
        table = reference.cluster.contingency_matrix(classes, clusters)
        # A cluster's class, or none: as many empty rows as there are clusters.
        table = np.vstack([table, np.zeros((table.shape[1], table.shape[1]))]).T
        places = itertools.permutations(range(table.shape[1]), table.shape[0])
        best = max(sum(row[place] for row, place in zip(table, chosen, strict=True)) for chosen in places)
        assert hungarian_accuracy(classes, clusters) == best / 40


def test_expected_mutual_information_is_the_mean_over_all_permutations():
    classes, clusters = [0, 0, 0, 1, 1, 2, 2], [0, 1, 1, 1, 2, 0, 3]

    def information(first, second):
        a, b, both = Counter(first), Counter(second), Counter(zip(first, second, strict=True))
        return sum(n / 7 * math.log(7 * n / a[i] / b[j]) for (i, j), n in both.items())

    expected = np.mean([information(classes, permuted) for permuted in itertools.permutations(clusters)])
    entropy = (information(classes, classes) + information(clusters, clusters)) / 2
    adjusted = (information(classes, clusters) - expected) / (entropy - expected)
    assert adjusted_mutual_information(classes, clusters) == pytest.approx(adjusted, abs=1e-12)


def test_expected_mutual_information_where_the_windows_are_cut():
    rng = np.random.default_rng(0)
    # Two large clusters and many small ones: 12 standard deviations are far less than the sizes.
    clusters = np.where(rng.random(20_000) < 0.8, rng.integers(2, size=20_000), rng.integers(300, size=20_000))
    classes = rng.integers(3, size=20_000)
    expected = reference.adjusted_mutual_info_score(classes, clusters)
    assert adjusted_mutual_information(classes, clusters) == pytest.approx(expected, abs=1e-9)


def test_pairs_are_counted_as_by_hand():
    classes, clusters = labellings(4, 5, 0.5, samples=60)
    first, second = np.triu_indices(60, k=1)
    same_class, same_cluster = classes[first] == classes[second], clusters[first] == clusters[second]
    index, chance = (same_class & same_cluster).mean(), same_class.mean() * same_cluster.mean()
    ceiling = (same_class.mean() + same_cluster.mean()) / 2
    assert adjusted_rand_index(classes, clusters) == pytest.approx((index - chance) / (ceiling - chance))


def test_names_of_the_clusters_do_not_count():
    assert normalized_mutual_information([0, 0, 1, 2], [70, 70, -3, 10**12]) == pytest.approx(1.0)
    assert normalized_mutual_information([0, 0, 0], [5, 5, 5]) == 1.0
    assert normalized_mutual_information([0, 1, 0, 1], [0, 0, 1, 1]) == pytest.approx(0.0, abs=1e-15)
    perfect = clustering_agreement([0, 0, 1, 2], [70, 70, -3, 10**12])
    assert list(perfect.values()) == pytest.approx([1, 1, 1, 1, 1, 3])


def test_every_image_a_cluster_of_its_own():
    classes = np.repeat(np.arange(10), 500)
    found = clustering_agreement(classes, np.arange(5000))
    assert found["ami"] == pytest.approx(0.0, abs=1e-9)
    assert found["ari"] == 0.0
    assert found["hungarian_accuracy"] == 10 / 5000
    assert (found["purity"], found["num_clusters"]) == (1.0, 5000)
    assert clustering_agreement(np.arange(9), np.arange(9))["ami"] == 1.0


def test_the_number_of_images_does_not_overflow():
    # Products of numbers of pairs are some 4e20, beyond 64 bits.
    classes, clusters = labellings(2, 3, 0.3, samples=200_000)
    expected = reference.adjusted_rand_score(classes, clusters)
    assert adjusted_rand_index(classes.astype(np.int32), clusters.astype(np.int32)) == pytest.approx(expected)


@pytest.mark.parametrize(("references", "predictions"), [([], []), ([0, 1], [0]), ([[0]], [[0]])])
def test_what_does_not_fit_is_refused(references, predictions):
    for function in (normalized_mutual_information, clustering_agreement, purity, hungarian_accuracy):
        with pytest.raises(ValueError, match="vectors of one length"):
            function(references, predictions)


@pytest.mark.parametrize(
    ("references", "predictions", "message"),
    [
        ([-1, -1], [0, 1], "without a label"),
        ([0, -1, 1], [0, 1, 1], "without a label"),
        ([4, 4, 4], [0, 1, 1], "one class only"),
        ([0.0, 1.0], [0.0, float("nan")], "`predictions` must be class or cluster numbers"),
    ],
)
def test_labels_that_say_nothing_are_refused(references, predictions, message):
    with pytest.raises(ValueError, match=message):
        clustering_agreement(references, predictions)
