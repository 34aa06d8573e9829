import warnings

import numpy as np
import pytest
import torch
from sklearn import metrics as reference

from ssl_zoo.evaluation.metrics.classification import (
    accuracy,
    average_precisions,
    mean_average_precision,
    mean_per_class_accuracy,
    top_k_accuracy,
)
from ssl_zoo.evaluation.metrics.clustering import clustering_agreement
from ssl_zoo.evaluation.metrics.modules import (
    Accuracy,
    ClusteringAgreement,
    MeanAveragePrecision,
    MeanPerClassAccuracy,
    TopKAccuracy,
)


def scored(samples=300, classes=12, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=samples)
    scores = rng.normal(size=(samples, classes)) + 2 * np.eye(classes)[labels]
    return labels, (np.round(scores) if ties else scores).astype(np.float32)


def multi_hot(samples=200, classes=6, seed=0, ties=False):
    rng = np.random.default_rng(seed)
    relevance = rng.choice([-1, 0, 1], p=[0.1, 0.6, 0.3], size=(samples, classes))
    scores = rng.normal(size=(samples, classes)) + relevance
    return relevance, (np.round(scores) if ties else scores).astype(np.float32)


def test_accuracies_are_those_of_scikit_learn():
    labels, scores = scored()
    predicted = scores.argmax(axis=1)
    assert accuracy(labels, predicted) == pytest.approx(reference.accuracy_score(labels, predicted))
    found = top_k_accuracy(labels, scores, k=(1, 3, 5, 12))
    assert found["top1"] == accuracy(labels, predicted)
    assert found["top12"] == 1.0
    for k in (1, 3, 5):
        expected = reference.top_k_accuracy_score(labels, scores, k=k, labels=range(12))
        assert found[f"top{k}"] == pytest.approx(expected)
    uneven = np.where(labels < 9, 0, labels)
    expected = reference.recall_score(uneven, predicted, labels=np.unique(uneven), average="macro")
    assert mean_per_class_accuracy(uneven, predicted) == pytest.approx(expected)


def test_of_equal_scores_the_lower_class_is_first():
    labels, scores = scored(ties=True)
    order = np.argsort(-scores, axis=1, kind="stable")
    for k in (1, 4):
        named = (order[:, :k] == labels[:, None]).any(axis=1)
        assert top_k_accuracy(labels, scores, k=k) == {f"top{k}": named.mean()}
    assert top_k_accuracy([0, 1, 2, 3], np.zeros((4, 4)), k=(1, 2)) == {"top1": 0.25, "top2": 0.5}


def test_classes_without_a_sample_do_not_count():
    assert mean_per_class_accuracy([0, 0, 0, 7], [0, 0, 1, 7]) == pytest.approx((2 / 3 + 1) / 2)
    assert mean_per_class_accuracy([3, 3], [3, 5]) == 0.5
    relevance, scores = multi_hot()
    relevance[:, 2] = np.minimum(relevance[:, 2], 0)
    precisions = average_precisions(relevance, scores)
    assert np.isnan(precisions).tolist() == [False, False, True, False, False, False]
    assert mean_average_precision(relevance, scores) == pytest.approx(np.nanmean(precisions))


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_over_all_thresholds_is_that_of_scikit_learn(ties):
    relevance, scores = multi_hot(ties=ties)
    found = average_precisions(relevance, scores, interpolation="all")
    for column, value in enumerate(found):
        counted = relevance[:, column] >= 0
        expected = reference.average_precision_score(relevance[counted, column], scores[counted, column])
        assert value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_eleven_points_are_those_of_the_curve(ties):
    relevance, scores = multi_hot(ties=ties)
    found = average_precisions(relevance, scores)
    for column, value in enumerate(found):
        counted = relevance[:, column] >= 0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            precision, recall, _ = reference.precision_recall_curve(
                relevance[counted, column], scores[counted, column]
            )
        # The last point of scikit-learn's curve, recall 0 and precision 1, is no threshold.
        precision, recall = precision[:-1], recall[:-1]
        points = [precision[recall >= point / 10 - 1e-9].max() for point in range(11)]
        assert value == pytest.approx(np.mean(points), abs=1e-12)


def test_eleven_points_by_hand():
    # Positives at places 1 and 3 of 4: precision 1 up to recall 0.5 (6 points), then 2/3 (5 points).
    assert average_precisions([[1], [0], [1], [0]], [[4.0], [3], [2], [1]]) == pytest.approx([(6 + 5 * 2 / 3) / 11])
    # A difficult sample is ignored.
    assert average_precisions([[1], [-1], [0]], [[1.0], [9], [0]]) == pytest.approx([1.0])
    # 3 of 10 found are a recall of 0.3, which 3 * 0.1 in floating point is not.
    relevance = np.array([1] * 3 + [0] * 90 + [1] * 7)[:, None]
    exact = average_precisions(relevance, -np.arange(100.0)[:, None])[0]
    assert exact == pytest.approx((4 + 7 * 0.1) / 11)


@pytest.mark.parametrize(
    ("references", "predictions", "message"),
    [([], [], "length > 0"), ([0], [0, 1], "one length"), ([-1, 0], [0, 0], "without a label")],
)
def test_labels_that_do_not_fit_are_refused(references, predictions, message):
    for function in (accuracy, mean_per_class_accuracy):
        with pytest.raises(ValueError, match=message):
            function(references, predictions)


@pytest.mark.parametrize(
    ("references", "scores", "k", "message"),
    [
        ([0], [[1.0, 2.0]], (1, 5), r"`k` must lie in \[1, 2\]"),
        ([0], [[1.0, 2.0]], 0, r"`k` must lie in \[1, 2\]"),
        ([2], [[1.0, 2.0]], 1, r"lie in \[0, 2\)"),
        ([-1], [[1.0, 2.0]], 1, r"lie in \[0, 2\)"),
        ([0, 1], [[1.0, 2.0]], 1, "must have shape"),
        ([], np.zeros((0, 3)), 1, "samples > 0"),
        ([0], [[1.0, float("nan")]], 1, "infinite or NaN"),
    ],
)
def test_scores_that_do_not_fit_are_refused(references, scores, k, message):
    with pytest.raises(ValueError, match=message):
        top_k_accuracy(references, scores, k=k)


@pytest.mark.parametrize(
    ("references", "scores", "message"),
    [
        ([[0, 1]], [[1.0]], "both have shape"),
        ([[2, 1]], [[1.0, 2.0]], "other values"),
        ([[0, -1]], [[1.0, 2.0]], "hold no 1"),
        ([[0, 1]], [[1.0, float("inf")]], "infinite or NaN"),
    ],
)
def test_multi_hot_labels_that_do_not_fit_are_refused(references, scores, message):
    with pytest.raises(ValueError, match=message):
        mean_average_precision(references, scores)
    with pytest.raises(ValueError, match="'voc2007' or 'all'"):
        mean_average_precision([[1]], [[1.0]], interpolation="voc2012")


def test_as_metrics_of_evaluate():
    labels, scores = scored()
    relevance, several = multi_hot()
    predicted = scores.argmax(axis=1)
    cases = [
        (Accuracy, predicted, labels, {}, {"accuracy": accuracy(labels, predicted)}),
        (TopKAccuracy, scores, labels, {}, top_k_accuracy(labels, scores, k=(1, 5))),
        (TopKAccuracy, scores, labels, {"k": 2}, top_k_accuracy(labels, scores, k=2)),
        (
            MeanPerClassAccuracy,
            predicted,
            labels,
            {},
            {"mean_per_class_accuracy": mean_per_class_accuracy(labels, predicted)},
        ),
        (
            MeanAveragePrecision,
            several,
            relevance,
            {"interpolation": "all"},
            {"mean_average_precision": mean_average_precision(relevance, several, interpolation="all")},
        ),
        (ClusteringAgreement, predicted, labels, {}, clustering_agreement(labels, predicted)),
    ]
    for kind, predictions, references, settings, expected in cases:
        metric = kind(keep_in_memory=True)
        for start in range(0, len(labels), 77):  # the last batch is shorter
            batch = slice(start, start + 77)
            metric.add_batch(predictions=torch.tensor(predictions[batch]), references=torch.tensor(references[batch]))
        assert metric.compute(**settings) == expected
