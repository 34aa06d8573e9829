import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression as SklearnLogisticRegression

from ssl_zoo.evaluation.frozen import rows as frozen
from ssl_zoo.evaluation.frozen.logistic import (
    LinearClassifier,
    fit_logistic,
    logistic_loss,
    logistic_regression,
)
from ssl_zoo.evaluation.frozen.rows import FeatureRows
from ssl_zoo.evaluation.protocols.logistic import LogisticRegression


EXACT = LogisticRegression(max_iters=3000, tolerance=1e-10)
QUICK = LogisticRegression(strengths=(1e-4, 1e-2, 1.0, 100.0))


def blobs(num_rows=200, width=8, num_classes=4, *, seed=0, spread=1.5):
    """Overlapping classes; features of different sizes, far from 0."""
    centres = np.random.default_rng(123).normal(size=(num_classes, width))
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=num_rows)
    features = (centres[labels] + spread * rng.normal(size=(num_rows, width)) + 1) * np.geomspace(0.5, 2, width)
    return torch.tensor(features), torch.tensor(labels)


def several_labels(labels, num_classes=4, *, seed=0):
    """Multi-hot labels: the class, sometimes a second one, and some entries that don't count."""
    rng = np.random.default_rng(seed)
    found = torch.nn.functional.one_hot(labels, num_classes)
    found[torch.tensor(rng.random(found.shape) < 0.2)] = 1
    found[torch.tensor(rng.random(found.shape) < 0.1)] = -1
    return found


def random_classifier(width=8, num_classes=4):
    rng = torch.Generator().manual_seed(0)
    shapes = (width, num_classes), (num_classes,), (width,)
    return LinearClassifier(*(0.3 * torch.randn(*shape, dtype=torch.float64, generator=rng) for shape in shapes))


@pytest.mark.parametrize("multi_hot", [False, True])
def test_the_gradient_is_that_of_finite_differences(multi_hot):
    features, labels = blobs(60)
    table = (features, several_labels(labels)) if multi_hot else (features, labels)
    data = FeatureRows({"train": table}, metric="voc_map" if multi_hot else "top1")
    at, step = random_classifier(), 1e-6
    _, slope, lift = logistic_loss(at, data, strength=0.3)
    for name, gradient in (("weights", slope), ("biases", lift)):
        for place in range(gradient.numel()):
            losses = []
            for sign in (1, -1):
                moved = getattr(at, name).clone()
                moved.view(-1)[place] += sign * step
                losses.append(logistic_loss(replace(at, **{name: moved}), data, strength=0.3)[0])
            assert (losses[0] - losses[1]) / (2 * step) == pytest.approx(float(gradient.view(-1)[place]), abs=1e-7)


@pytest.mark.parametrize("strength", [1e-4, 1e-2, 3.0])
def test_same_coefficients_as_scikit_learn(strength):
    features, labels = blobs()
    found = fit_logistic(FeatureRows({"train": (features, labels)}), strength, num_classes=4, settings=EXACT)
    other = SklearnLogisticRegression(C=1 / (strength * len(labels)), solver="newton-cg", tol=1e-9).fit(
        features, labels
    )
    np.testing.assert_allclose(found.weights.T, other.coef_, atol=2e-5)
    np.testing.assert_allclose(found.scores(features).softmax(1), other.predict_proba(features), atol=1e-5)


def test_several_labels_are_a_regression_per_class():
    features, labels = blobs()
    targets = several_labels(labels)
    data = FeatureRows({"train": (features, targets)}, metric="voc_map")
    found = fit_logistic(data, 0.01, num_classes=4, settings=EXACT)
    for number in range(4):
        rows = targets[:, number] >= 0
        other = SklearnLogisticRegression(C=1 / (0.01 * int(rows.sum())), solver="newton-cg", tol=1e-9)
        other.fit(features[rows], targets[rows, number])
        np.testing.assert_allclose(found.weights[:, number], other.coef_[0], atol=2e-5)


def test_a_warm_start_ends_where_a_cold_one_does():
    data = FeatureRows({"train": blobs()})
    cold = fit_logistic(data, 1e-3, num_classes=4, settings=EXACT)
    far = fit_logistic(FeatureRows({"train": blobs(seed=5)}), 10.0, num_classes=4, settings=EXACT)
    warm = fit_logistic(data, 1e-3, num_classes=4, settings=EXACT, start=far)
    torch.testing.assert_close(warm.weights, cold.weights, rtol=0, atol=1e-6)
    # A start at the solution stays there, although it is given with another shift.
    moved = LinearClassifier(
        cold.weights, cold.biases - cold.shift @ cold.weights, torch.zeros(8, dtype=torch.float64)
    )
    stay = fit_logistic(data, 1e-3, num_classes=4, settings=replace(EXACT, max_iters=1), start=moved)
    torch.testing.assert_close(stay.weights, cold.weights, rtol=0, atol=1e-6)
    torch.testing.assert_close(stay.biases, cold.biases, rtol=0, atol=1e-5)


def test_float32_ends_where_float64_does():
    features, labels = blobs()
    data = FeatureRows({"train": (features, labels)})
    for strength in (1e-4, 1.0):
        exact = fit_logistic(data, strength, num_classes=4)
        single = fit_logistic(FeatureRows({"train": (features.float(), labels)}), strength, num_classes=4)
        loss = logistic_loss(exact, data, strength=strength)[0]
        assert logistic_loss(single, data, strength=strength)[0] == pytest.approx(float(loss), rel=1e-6)


def test_chunks_change_nothing(monkeypatch):
    data, at = FeatureRows({"train": blobs()}), random_classifier()
    whole = logistic_loss(at, data, strength=0.1)
    monkeypatch.setattr(frozen, "_CHUNK_BYTES", 8 * 24 * 7)  # 7 rows at a time
    assert len(list(data.chunks(16))) == 29
    for part, other in zip(logistic_loss(at, data, strength=0.1), whole, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("metric", ["top1", "mean_per_class", "voc_map"])
def test_the_protocol(metric):
    """The scores are those of fits made one by one with scikit-learn's convention, and the same every time."""
    (features, labels), (queries, classes) = blobs(400), blobs(300, seed=1)
    held_out = blobs(150, seed=2)
    tables = [(features, labels), (queries, classes), held_out]
    if metric == "voc_map":
        tables = [(table[0], several_labels(table[1], seed=seed)) for seed, table in enumerate(tables)]
    train, test, validation = tables
    found = logistic_regression(train, test, validation=validation, settings=QUICK, metric=metric)
    assert found == logistic_regression(train, test, validation=validation, settings=QUICK, metric=metric)
    assert (found.num_train, found.num_validation, found.num_test) == (400, 150, 300)
    assert found.chosen == found.candidates[3 - found.validation_scores[::-1].index(max(found.validation_scores))]
    if metric == "top1":
        for strength, score in zip(found.candidates, found.validation_scores, strict=True):
            other = SklearnLogisticRegression(C=1 / (strength * 400), solver="newton-cg").fit(*train)
            assert score == pytest.approx(other.score(*validation), abs=1.5 / 150)
        joined = torch.cat([train[0], validation[0]]), torch.cat([train[1], validation[1]])
        other = SklearnLogisticRegression(C=1 / (found.chosen * 550), solver="newton-cg").fit(*joined)
        assert found.test_score == found.test_top1 == pytest.approx(other.score(*test), abs=1.5 / 300)
        assert found.test_top5 == 1.0
    assert found.test_score > 0.4


def test_test_rows_choose_nothing():
    train, test = blobs(), blobs(seed=1)
    honest = logistic_regression(train, test, settings=QUICK)
    spoilt = logistic_regression(train, (-test[0], (test[1] + 1) % 4), settings=QUICK)
    assert (spoilt.chosen, spoilt.validation_scores) == (honest.chosen, honest.validation_scores)
    assert spoilt.test_score != honest.test_score


def test_the_strength_that_fits_the_validation_rows_is_chosen():
    train, test, (other, _) = blobs(spread=4.0), blobs(), blobs(seed=2, spread=4.0)
    strengths = (1e-3, 0.3, 30.0)
    settings = LogisticRegression(strengths=strengths)
    known = FeatureRows({"train": train})
    for position, strength in enumerate(strengths):
        answers = fit_logistic(known, strength, num_classes=4).scores(other).argmax(dim=1)
        found = logistic_regression(train, test, validation=(other, answers), settings=settings)
        assert (found.chosen, found.at_grid_edge) == (strength, position != 1)


def test_of_equal_scores_the_strongest_regularisation_is_chosen():
    train, test = blobs(spread=0.05), blobs(seed=1, spread=0.05)
    found = logistic_regression(train, test, settings=LogisticRegression(strengths=(1e-4, 1e-3, 1e-2)))
    assert found.validation_scores == (1.0, 1.0, 1.0)
    assert (found.chosen, found.test_score) == (1e-2, 1.0)


def test_the_grid_of_the_protocol():
    strengths = LogisticRegression().strengths
    np.testing.assert_allclose(strengths, np.logspace(-6, 5, 45))


def test_what_does_not_fit_is_refused():
    features, labels = blobs()
    with pytest.raises(ValueError, match="train features hold infinite or NaN values, in row 0"):
        logistic_regression((features * math.inf, labels), (features, labels))
    with pytest.raises(ValueError, match="all 180 labelled training rows are of class 2"):
        logistic_regression((features, torch.full_like(labels, 2)), (features, labels))
    with pytest.raises(ValueError, match="`strengths` must be > 0"):
        LogisticRegression(strengths=(0.0, 1.0))
    with pytest.raises(ValueError, match="`max_iters` must be >= 1"):
        LogisticRegression(max_iters=0)
