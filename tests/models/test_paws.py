"""PAWS's predictions, targets and loss, its support over processes, and its diagnostics."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ssl_zoo
from ssl_zoo.models.paws.loss_paws import (
    class_targets,
    mean_prediction_entropy,
    paws_targets,
    prediction_loss,
    sharpen,
    soft_nearest_neighbors,
)
from tests.two_processes import run_in_two_processes


SMALL = {
    "architecture": "resnet18",
    "model_args": {"channels": [8, 16, 24, 32], "layers": [1, 1, 1, 1]},
    "projector_hidden_features": [16],
    "projection_features": 8,
    "predictor_hidden_features": [4],
    "num_support_classes": 3,
    "num_support_images": 4,
}
NORM_FREE = {  # layer norm only: batch norm would see other batches
    **SMALL,
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32},
    "projector_hidden_features": [],
    "predictor_hidden_features": [],
}


def _model(**fields):
    torch.manual_seed(0)
    return ssl_zoo.PawsForPreTraining(ssl_zoo.PawsConfig(**{**SMALL, **fields})).train()


def _batch(views=2, batch=6, size=32):
    generator = torch.Generator().manual_seed(1)
    support_labels = torch.tensor([7, 7, 7, 7, 2, 2, 2, 2, 5, 5, 5, 5])
    return {
        "views": [torch.randn(batch, 3, size, size, generator=generator) for _ in range(views)],
        "support_views": torch.randn(12, 3, size, size, generator=generator),
        "support_labels": support_labels,
        "labels": torch.tensor([7, 2, 5, 9, -1, 7])[:batch],
    }


def _rows(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_predictions_agree_with_a_sum_over_the_support():
    projections, support = _rows(5, 4), _rows(6, 4, seed=1)
    columns = torch.tensor([0, 1, 2, 0, 1, 2])
    found = soft_nearest_neighbors(
        projections, support, class_targets(columns, num_classes=3, smoothing=0.1), temperature=0.2
    )
    z, s = projections.numpy(), support.numpy()
    for row in range(5):
        weights = [
            math.exp(z[row] @ s[n] / np.linalg.norm(z[row]) / np.linalg.norm(s[n]) / 0.2) for n in range(len(s))
        ]
        for label in range(3):
            share = sum(w for w, c in zip(weights, columns.tolist(), strict=True) if c == label) / sum(weights)
            assert found[row, label].item() == pytest.approx(0.9 * share + 0.1 / 3, rel=1e-6)


def test_a_support_of_one_point_a_class_and_a_low_temperature_is_the_nearest_neighbour():
    support = _rows(4, 8)
    targets = class_targets(torch.arange(4), num_classes=4, smoothing=0.0)
    found = soft_nearest_neighbors(3 * support, support, targets.double(), temperature=1e-3)
    torch.testing.assert_close(found, torch.eye(4, dtype=torch.float64))


def test_the_order_of_the_support_does_not_matter_and_that_of_the_rows_carries_over():
    projections, support, columns = _rows(5, 4), _rows(6, 4, seed=1), torch.tensor([0, 1, 2, 0, 1, 2])
    targets = class_targets(columns, num_classes=3, smoothing=0.1)
    found = soft_nearest_neighbors(projections, support, targets, temperature=0.1)
    order, rows = torch.randperm(6), torch.randperm(5)
    again = soft_nearest_neighbors(projections[rows], support[order], targets[order], temperature=0.1)
    torch.testing.assert_close(again, found[rows])


def test_sharpening_of_known_rows():
    rows = torch.tensor([[0.5, 0.5, 0.0], [0.6, 0.3, 0.1]], dtype=torch.float64)
    expected = torch.tensor([[0.5, 0.5, 0.0], [0.6**4, 0.3**4, 0.1**4]], dtype=torch.float64)
    torch.testing.assert_close(sharpen(rows, temperature=0.25), expected / expected.sum(dim=1, keepdim=True))
    torch.testing.assert_close(sharpen(rows, temperature=1.0), rows)
    # A power that underflows float32 in every entry still gives a row that sums to 1.
    tiny = sharpen(torch.full((1, 4), 0.25), temperature=1e-3)
    torch.testing.assert_close(tiny, torch.full((1, 4), 0.25))


def test_targets_are_the_other_views_and_the_mean_for_local_crops():
    views = torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]]], dtype=torch.float64)
    targets = paws_targets(views, num_views=4, sharpening_temperature=0.5)
    first, second = (sharpen(view, temperature=0.5) for view in views)
    torch.testing.assert_close(targets, torch.stack([second, first, (first + second) / 2, (first + second) / 2]))
    dropped = paws_targets(torch.tensor([[[0.95, 0.05]], [[0.95, 0.05]]]), num_views=2, sharpening_temperature=0.25)
    assert (dropped[..., 1] == 0).all()  # (0.05 / 0.95)^4 < 1e-4


def test_loss_is_the_mean_cross_entropy():
    probabilities, targets = _rows(3, 4, 5).softmax(dim=-1), _rows(3, 4, 5, seed=1).softmax(dim=-1)
    expected = F.cross_entropy(probabilities.log().flatten(0, 1), targets.flatten(0, 1))
    torch.testing.assert_close(prediction_loss(probabilities, targets), expected)
    uniform = torch.full((2, 3, 5), 0.2, dtype=torch.float64)
    assert prediction_loss(uniform, targets[:2, :3]).item() == pytest.approx(math.log(5))


def test_mean_entropy_of_known_predictions():
    each_its_own = torch.eye(4).unsqueeze(0)
    assert mean_prediction_entropy(each_its_own, sharpening_temperature=0.25).item() == pytest.approx(math.log(4))
    all_alike = torch.eye(4)[:1].expand(2, 3, 4)
    assert mean_prediction_entropy(all_alike, sharpening_temperature=0.25).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("predictor", [[4], []])
def test_forward_agrees_with_the_method_step_by_step(predictor):
    model = _model(predictor_hidden_features=predictor)
    reference = copy.deepcopy(model)
    batch = _batch(views=2)
    batch["views"] += [torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(5)) for _ in range(2)]
    output = model(**batch)

    large = reference.timm_model(torch.cat([batch["support_views"], *batch["views"][:2]]))
    small = reference.timm_model(torch.cat(batch["views"][2:]))
    before = reference.projector(torch.cat([large, small]))
    after = reference.predictor(before)
    known = torch.full((12, 3), 0.1 / 3)
    for row, label in enumerate(batch["support_labels"].tolist()):
        known[row, [2, 5, 7].index(label)] += 0.9

    def predict(rows, support):
        return F.softmax(F.normalize(rows) @ F.normalize(support).T / 0.1, dim=1) @ known

    probabilities = predict(after[12:], after[:12]).view(4, 6, 3)
    first, second = predict(before[12:24], before[:12]).detach().view(2, 6, 3) ** 4
    first, second = first / first.sum(dim=1, keepdim=True), second / second.sum(dim=1, keepdim=True)
    targets = torch.stack([second, first, (first + second) / 2, (first + second) / 2])
    targets[targets < 1e-4] = 0
    cross_entropy = -(targets * probabilities.log()).sum(dim=-1).mean()
    mean = (probabilities**4 / (probabilities**4).sum(dim=-1, keepdim=True)).mean(dim=(0, 1))
    torch.testing.assert_close(output.cross_entropy, cross_entropy.detach())
    torch.testing.assert_close(output.loss, cross_entropy + (mean * mean.log()).sum())
    torch.testing.assert_close(output.embeddings, large[12:18])


def test_targets_carry_no_gradient_and_all_else_does():
    model = _model()
    for name, parameter in model.named_parameters():
        if name.endswith("bn2.weight"):
            torch.nn.init.ones_(parameter)  # timm starts each block's last norm at 0, which hides the block
    model(**_batch()).loss.backward()
    for name, parameter in model.named_parameters():
        # Shifts before a batch norm act on nothing.
        shift = name in ("projector.0.bias", "projector.3.bias", "predictor.1.bias")
        assert shift or parameter.grad.abs().sum() > 0, name


def test_accuracy_counts_what_the_support_knows():
    model = _model()
    output = model(**_batch())
    assert output.pseudo_label_accuracy.item() in [pytest.approx(right / 4) for right in range(5)]
    unknown = {**_batch(), "labels": torch.full((6,), -1)}
    assert model(**unknown).pseudo_label_accuracy is None
    assert model(**unknown, diagnostics=False).confidence is None
    assert 1 / 3 <= output.confidence <= 1
    assert output.marginal_entropy <= math.log(3) + 1e-6


def test_two_processes_are_one():
    loss, gradient, diagnostics = _loss_and_gradient(None)
    halves = run_in_two_processes(_loss_and_gradient)
    assert sum(half[0] for half in halves) / 2 == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(sum(half[1] for half in halves) / 2, gradient, rtol=1e-3, atol=1e-6)
    for half in halves:
        assert half[2] == pytest.approx(diagnostics, rel=1e-5)


def _loss_and_gradient(process):
    """Loss and gradient of one process on its share of images and support; run by two processes and by none."""
    model = _model(**NORM_FREE)
    batch = _batch(views=3)
    if process is not None:
        share = {name: value.chunk(2)[process] for name, value in batch.items() if name != "views"}
        batch = {"views": [view.chunk(2)[process] for view in batch["views"]], **share}
    output = model(**batch)
    output.loss.backward()
    gradient = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
    return output.loss.item(), gradient, [output.marginal_entropy.item(), output.pseudo_label_accuracy.item()]


def test_missing_inputs_are_named():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        _model()(**_batch(views=1))
    with pytest.raises(ValueError, match="support_views"):
        _model()(_batch()["views"])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", 0.0),
        ("sharpening_temperature", -1.0),
        ("label_smoothing", 1.0),
        ("num_support_classes", 1),
        ("num_support_images", 0),
        ("entropy_weight", -1.0),
    ],
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(Exception, match=f"`{field}` must be .* got {value}"):
        ssl_zoo.PawsConfig(**{field: value})


def test_health_says_what_is_wrong_and_what_helps():
    healthy = {"marginal_entropy": 1.0, "target_entropy": 0.3}
    model = _model()
    assert model.health(healthy) == []
    assert "raise `entropy_weight`" in model.health({**healthy, "marginal_entropy": 0.1})[0]
    assert "lower `temperature`" in model.health({**healthy, "target_entropy": 1.09})[0]
