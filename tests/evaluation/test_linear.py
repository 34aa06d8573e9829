import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from ssl_zoo.evaluation.frozen import linear, scoring
from ssl_zoo.evaluation.frozen.linear import LinearHeads, linear_probe
from ssl_zoo.evaluation.frozen.rows import FeatureRows, split_rows
from ssl_zoo.evaluation.frozen.scoring import score_heads
from ssl_zoo.evaluation.protocols.linear import LinearProbe
from tests.two_processes import run_in_two_processes


def blobs(num_rows=240, width=12, num_classes=4, *, seed=0, spread=1.0, labels=None):
    """Classes that overlap at `spread` 1 and are far apart at 0.05; features of very different sizes and means."""
    rng = np.random.default_rng(123)
    centres = rng.normal(size=(num_classes, width))
    sizes, means = 10.0 ** rng.uniform(-2, 2, size=width), rng.normal(size=width)
    rng = np.random.default_rng(seed)
    labels = rng.integers(num_classes, size=num_rows) if labels is None else np.asarray(labels)
    features = (centres[labels] + spread * rng.normal(size=(num_rows, width)) + means) * sizes
    return torch.tensor(features).float(), torch.tensor(labels)


QUICK = LinearProbe(learning_rates=(1e-3, 1e-1, 10.0), epochs=5, batch_size=64)


def reference_heads(features, labels, rates, batches, *, momentum, weight_decay):
    """torch.optim.SGD and autograd in float64, one rate after the other."""
    found = []
    for rate in rates:
        layer = torch.nn.Linear(features.shape[1], int(labels.max()) + 1, dtype=torch.float64)
        torch.nn.init.zeros_(layer.weight)
        torch.nn.init.zeros_(layer.bias)
        groups = [{"params": [layer.weight], "weight_decay": weight_decay}, {"params": [layer.bias]}]
        optimizer = torch.optim.SGD(groups, lr=1.0, momentum=momentum)
        for number, rows in enumerate(batches):
            for group in optimizer.param_groups:
                group["lr"] = rate * len(rows) / 256 * 0.5 * (1 + math.cos(math.pi * number / len(batches)))
            loss = torch.nn.functional.cross_entropy(layer(features[rows].double()), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        found.append(torch.cat([layer.weight.T, layer.bias[None]]).detach())
    return torch.stack(found)


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.9, 0.0), (0.5, 0.1)])
def test_heads_equal_plain_sgd_in_float64(momentum, weight_decay):
    features, labels = blobs()
    features = (features - features.mean(0)) / features.std(0)
    batches = [*torch.arange(len(labels)).split(50)] * 3
    rates = (0.01, 0.5, 3.0)
    heads = LinearHeads(rates, 12, 4, momentum=momentum, weight_decay=weight_decay, dtype=torch.float64)
    for number, rows in enumerate(batches):
        scale = 0.5 * (1 + math.cos(math.pi * number / len(batches)))
        heads.step(features[rows].double(), labels[rows], scale)
    expected = reference_heads(features, labels, rates, batches, momentum=momentum, weight_decay=weight_decay)
    torch.testing.assert_close(torch.cat([heads.weights, heads.biases], dim=1), expected, rtol=1e-9, atol=1e-11)


def test_multi_hot_heads_equal_autograd_and_ignored_entries_count_nothing():
    features, _ = blobs(40)
    targets = torch.randint(-1, 2, (40, 5), generator=torch.Generator().manual_seed(0))
    targets[3] = -1
    heads = LinearHeads([0.1], 12, 5, multi_hot=True, dtype=torch.float64)
    weights = torch.zeros(12, 5, dtype=torch.float64, requires_grad=True)
    logits = features.double() @ weights
    losses = torch.nn.functional.binary_cross_entropy_with_logits(
        logits, targets.clamp_min(0).double(), reduction="none"
    )
    rows = (targets >= 0).any(dim=1).sum()
    loss = losses[targets >= 0].sum() / rows
    loss.backward()
    found = heads.step(features, targets)
    torch.testing.assert_close(found[0], loss.detach())
    torch.testing.assert_close(heads.weights[0], -0.1 * rows / 256 * weights.grad)


def test_rates_trained_at_once_equal_each_alone():
    features, labels = blobs(300, width=33, num_classes=7)
    rates = (1e-3, 0.03, 1.0, 30.0)
    together = LinearHeads(rates, 33, 7, dtype=torch.float64)
    alone = [LinearHeads([rate], 33, 7, dtype=torch.float64) for rate in rates]
    for rows in torch.arange(300).split(37):
        together.step(features[rows], labels[rows])
        for head in alone:
            head.step(features[rows], labels[rows])
    # One head's products have another shape than four heads', so they take another kernel.
    torch.testing.assert_close(together.weights, torch.cat([head.weights for head in alone]), rtol=1e-9, atol=1e-11)
    assert len({float(weights.norm()) for weights in together.weights}) == 4


def test_separable_classes_are_told_apart():
    train, test = blobs(spread=0.05), blobs(spread=0.05, seed=1)
    found = linear_probe(train, test, settings=replace(QUICK, epochs=20))
    assert found.test_score == found.test_top1 == found.test_top5 == 1.0
    assert (found.num_train, found.num_validation, found.num_test) == (216, 24, 240)
    assert found.validation_scores == (1.0, 1.0, 1.0)
    assert found.chosen == found.candidates[0]  # the lowest rate among equal scores


def test_the_same_every_time_and_global_generators_stay():
    train, test = blobs(), blobs(seed=1)
    state = torch.get_rng_state()
    first, second = (linear_probe(train, test, settings=QUICK) for _ in range(2))
    assert first == second
    assert torch.equal(torch.get_rng_state(), state)


def test_test_rows_choose_nothing():
    """Test labels that contradict the training labels: a choice by test rows would be another one."""
    train, test = blobs(), blobs(seed=1)
    honest = linear_probe(train, test, settings=QUICK)
    spoilt = linear_probe(train, (-test[0], (test[1] + 1) % 4), settings=QUICK)
    assert (spoilt.chosen, spoilt.validation_scores) == (honest.chosen, honest.validation_scores)
    assert spoilt.test_score != honest.test_score


def test_only_the_best_rate_trained_on_all_rows_meets_the_test_rows(monkeypatch):
    """Train, validation and test rows are counted as they are scored; the last training uses all of them."""
    seen = []

    def watching(scores, data, *, num_heads, num_classes):
        seen.append((num_heads, len(data)))
        return score_heads(scores, data, num_heads=num_heads, num_classes=num_classes)

    for module in (linear, scoring):
        monkeypatch.setattr(module, "score_heads", watching)
    train, validation, test = blobs(200), blobs(30, seed=2), blobs(77, seed=1)
    found = linear_probe(train, test, validation=validation, settings=QUICK)
    assert seen == [(3, 30), (1, 77)]
    assert (found.num_train, found.num_validation, found.num_test) == (200, 30, 77)
    joined = torch.cat([train[0], validation[0]]), torch.cat([train[1], validation[1]])
    one_rate = replace(QUICK, learning_rates=(found.chosen,))
    again = linear_probe(joined, test, validation=(joined[0][:9], joined[1][:9]), settings=one_rate)
    assert not again.at_grid_edge
    fitted = linear._fit(FeatureRows({"train": joined}), (found.chosen,), 4, QUICK, "")
    assert found.test_score == pytest.approx(float((fitted(test[0])[0].argmax(1) == test[1]).double().mean()))


def test_validation_rows_decide():
    """The rate that made the validation labels is chosen, whichever it is."""
    train, test, (other, _) = blobs(spread=3.0), blobs(seed=1), blobs(seed=2, spread=3.0)
    rates = QUICK.learning_rates
    for position, rate in enumerate(rates):
        answers = linear._fit(FeatureRows({"train": train}), (rate,), 4, QUICK, "")(other)[0].argmax(dim=1)
        found = linear_probe(train, test, validation=(other, answers), settings=QUICK)
        assert found.chosen == rate
        assert found.validation_scores.index(1.0) == position
        assert found.at_grid_edge == (position != 1)


def test_half_precision_and_rows_without_a_label():
    train, test = blobs(spread=0.05), blobs(spread=0.05, seed=1)
    holes = torch.arange(240) % 3 == 0
    marked = train[0].clone(), torch.where(holes, -1, train[1])
    dense = train[0][~holes], train[1][~holes]
    assert linear_probe(marked, test, settings=QUICK) == linear_probe(dense, test, settings=QUICK)
    assert linear_probe((train[0].half(), train[1]), test, settings=replace(QUICK, epochs=20)).test_score == 1.0


def test_standardised_features_may_have_any_scale_and_be_constant():
    train, test = blobs(), blobs(seed=1)
    expected = linear_probe(train, test, settings=QUICK)
    assert linear_probe((64 * train[0], train[1]), (64 * test[0], test[1]), settings=QUICK) == expected
    constant = torch.ones(240, 1)
    with_constant = linear_probe(
        (torch.cat([train[0], constant], 1), train[1]),
        (torch.cat([test[0], 5 * constant], 1), test[1]),
        settings=QUICK,
    )
    assert with_constant.test_score == expected.test_score


def test_moments_equal_numpy_and_join_tables():
    features, labels = blobs()
    data = FeatureRows({"train": (features[:100], labels[:100]), "validation": (features[100:], labels[100:])})
    mean, variance = data.moments()
    np.testing.assert_allclose(mean, features.double().numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(variance, features.double().numpy().var(0), rtol=1e-9)
    rows = torch.tensor([150, 3, 99, 100, 3, 239])
    taken, classes = data.take(rows)
    assert torch.equal(taken, features[rows])
    assert torch.equal(classes, labels[rows])


def test_validation_rows_are_the_same_share_of_each_class():
    labels = torch.tensor([0] * 100 + [1] * 20 + [2] * 3 + [3])
    kept, held_out = split_rows(labels, share=0.1, seed=0)
    assert labels[held_out].bincount(minlength=4).tolist() == [10, 2, 1, 0]
    assert torch.cat([kept, held_out]).sort().values.equal(torch.arange(124))
    assert not split_rows(labels, share=0.1, seed=1)[1].equal(held_out)
    assert split_rows(labels, share=0.1, seed=0)[1].equal(held_out)


def test_scores_of_heads():
    """Right at the first, fifth and sixth place, and a class that the heads don't know; diverged heads get 0."""
    falling = [3.0, 2, 1, 0, -1, -2]
    scores = torch.tensor([[falling] * 4, [falling, [math.nan] * 6, falling, falling]])
    data = FeatureRows({"test": (torch.eye(4), torch.tensor([0, 4, 5, 6]))})
    metric, top1, top5 = score_heads(lambda features: scores, data, num_heads=2, num_classes=6)
    assert metric == top1 == [0.25, 0.0]
    assert top5 == [0.5, 0.0]


def test_metrics_of_unbalanced_classes_and_of_several_labels():
    train = blobs(300, labels=[0] * 280 + [1] * 10 + [2] * 10, num_classes=3, spread=2.0)
    test = blobs(300, labels=[0] * 280 + [1] * 10 + [2] * 10, num_classes=3, spread=2.0, seed=1)
    found = linear_probe(train, test, settings=QUICK, metric="mean_per_class")
    assert found.test_score < found.test_top1
    train, test = blobs(spread=0.05), blobs(spread=0.05, seed=1)
    several = [torch.nn.functional.one_hot(labels, 4) for _, labels in (train, test)]
    several[0][::7] = -1
    settings = replace(QUICK, epochs=20)
    found = linear_probe((train[0], several[0]), (test[0], several[1]), settings=settings, metric="voc_map")
    assert found.test_score == 1.0
    assert found.test_top1 is None


def _probe(rank):
    return linear_probe(blobs(), blobs(seed=1), settings=QUICK)


def test_two_processes_find_the_same():
    assert run_in_two_processes(_probe) == [_probe(0)] * 2


def test_what_does_not_fit_is_refused():
    features, labels = blobs()
    good = features, labels
    with pytest.raises(ValueError, match="`metric` must be one of top1, mean_per_class, voc_map, got 'top2'"):
        linear_probe(good, good, metric="top2")
    with pytest.raises(ValueError, match=r"train features hold infinite or NaN values, in row 17 first"):
        linear_probe((features.index_fill(0, torch.tensor([17]), math.nan), labels), good)
    with pytest.raises(ValueError, match="none of the 240 rows of the test features has a label"):
        linear_probe(good, (features, torch.full_like(labels, -1)))
    with pytest.raises(ValueError, match="all 216 labelled training rows are of class 3"):
        linear_probe((features, torch.full_like(labels, 3)), good)
    with pytest.raises(ValueError, match=r"one width .* train \(240, 12\) and \(240,\), test \(240, 5\)"):
        linear_probe(good, (features[:, :5], labels))
    with pytest.raises(ValueError, match=r"got \(0, 12\) and \(0,\)"):
        linear_probe((features[:0], labels[:0]), good)
    with pytest.raises(ValueError, match=r"labels \(rows, classes\) for the metric 'voc_map'"):
        linear_probe(good, good, metric="voc_map")
    with pytest.raises(ValueError, match="none to validate with"):
        linear_probe((features[:4], torch.arange(4)), good)
    with pytest.raises(ValueError, match="`learning_rates`"):
        LinearProbe(learning_rates=(1.0, 0.1))
    with pytest.raises(ValueError, match="`epochs` must be >= 1, got 0"):
        LinearProbe(epochs=0)
