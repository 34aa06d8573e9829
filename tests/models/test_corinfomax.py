"""CorInfoMax's loss, running statistics, state and diagnostics."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ssl_zoo
from ssl_zoo.functional.moments import Moments, batch_moments
from ssl_zoo.models.corinfomax.loss_corinfomax import (
    SingularCovarianceError,
    corinfomax_loss,
    log_determinants,
    running_log_determinants,
)
from tests.two_processes import run_in_two_processes


BACKBONE = {"architecture": "resnet18", "model_args": {"channels": [8, 16, 24, 32], "layers": [1, 1, 1, 1]}}
# Layer norm only: batch norm would see other batches in each of two processes.
LAYER_NORM = {
    "architecture": "vit_tiny_patch16_224",
    "model_args": {"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32},
    "projector_norm": False,
}
WIDTH = 8


def _model(**fields):
    torch.manual_seed(0)
    defaults = {"projector_hidden_features": [16], "projection_features": WIDTH, "similarity_weight": 50.0}
    return ssl_zoo.CorinfomaxForPreTraining(ssl_zoo.CorinfomaxConfig(**{**BACKBONE, **defaults, **fields})).train()


def _views(count=2, batch=12, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, 3, 32, 32, generator=generator) for _ in range(count)]


def _unit(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def _start(width=WIDTH, initial=1.0):
    return Moments(
        torch.zeros(2, width, dtype=torch.float64), initial * torch.eye(width, dtype=torch.float64).repeat(2, 1, 1)
    )


def _loss_of(rows, past, *, la_mean=0.1, la_covariance=0.3, offset=1e-3):
    """Loss of unit projections (2, batch, features) and the statistics after them."""
    log_dets, _, running = running_log_determinants(
        rows, past, forgetting_factor_mean=la_mean, forgetting_factor_covariance=la_covariance, offset=offset
    )
    similarity = (rows[0] - rows[1]).square().mean()
    loss = corinfomax_loss(similarity, log_dets, rows.shape[-1], similarity_weight=50.0, covariance_weight=2.0)
    return loss, running


# The loss against a second derivation, written for numpy from the paper's definitions: centred with the mean just
# updated, sums over rows one by one, the log-determinant from the eigenvalues.


def _reference(steps, *, la_mean, la_covariance, offset, initial):
    width = steps[0].shape[-1]
    means, covariances = np.zeros((2, width)), np.stack([initial * np.eye(width)] * 2)
    losses = []
    for views in steps:
        loss = 50.0 * ((views[0] - views[1]) ** 2).mean()
        for view, rows in enumerate(views):
            means[view] = la_mean * means[view] + (1 - la_mean) * rows.mean(axis=0)
            outer = sum(np.outer(row - means[view], row - means[view]) for row in rows) / len(rows)
            covariances[view] = la_covariance * covariances[view] + (1 - la_covariance) * outer
            loss -= 2.0 * np.log(np.linalg.eigvalsh(covariances[view]) + offset).sum() / width
        losses.append(loss)
    return losses, means, covariances


@pytest.mark.parametrize(("la_mean", "la_covariance"), [(0.1, 0.3), (0.9, 0.01), (0.0, 0.0)])
def test_loss_and_statistics_agree_with_numpy_over_several_steps(la_mean, la_covariance):
    steps = [_unit(2, 20, WIDTH, seed=step) + 0.2 for step in range(4)]  # a mean that isn't 0
    past = _start(initial=0.5)
    losses = []
    for rows in steps:
        loss, past = _loss_of(rows, past, la_mean=la_mean, la_covariance=la_covariance)
        losses.append(loss.item())
    expected, means, covariances = _reference(
        [rows.numpy() for rows in steps], la_mean=la_mean, la_covariance=la_covariance, offset=1e-3, initial=0.5
    )
    np.testing.assert_allclose(losses, expected, rtol=1e-12)
    np.testing.assert_allclose(past.mean, means, rtol=1e-12)
    np.testing.assert_allclose(past.covariance, covariances, rtol=1e-10, atol=1e-14)


def test_the_model_agrees_with_numpy_over_several_steps():
    model = _model(**LAYER_NORM, forgetting_factor_mean=0.2, forgetting_factor_covariance=0.4, covariance_offset=1e-3)
    model.config.covariance_weight = 2.0
    projections, losses = [], []
    for step in range(3):
        views = _views(seed=step)
        projected = [model.projector(model.timm_model(view)).detach() for view in views]
        projections.append(F.normalize(torch.stack(projected).double(), dim=-1).numpy())
        output = model(views)
        losses.append(output.loss.item())
        model.update_state([output], progress=0.0, epoch=0.0)
    expected, means, covariances = _reference(projections, la_mean=0.2, la_covariance=0.4, offset=1e-3, initial=1.0)
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    np.testing.assert_allclose(model.projection_means, means, atol=1e-7)
    np.testing.assert_allclose(model.projection_covariances, covariances, atol=1e-7)


def test_each_view_has_a_pass_of_its_own_as_in_the_authors_code():
    model = _model()
    reference = copy.deepcopy(model)
    views = _views()
    output = model(views)
    rows = torch.stack([F.normalize(reference.projector(reference.timm_model(view)), dim=-1) for view in views])
    torch.testing.assert_close(output.similarity, (rows[0] - rows[1]).square().mean().double(), rtol=1e-5, atol=0)


# Closed forms.


def test_log_determinant_of_an_isotropic_covariance():
    covariances = torch.stack([0.5 * torch.eye(6), 2.0 * torch.eye(6)]).double()
    found, _ = log_determinants(covariances, offset=0.25)
    assert found.tolist() == pytest.approx([6 * math.log(0.75), 6 * math.log(2.25)], rel=1e-12)


def test_log_determinant_by_cholesky_equals_numpys_slogdet():
    rows = _unit(2, 200, 32) * torch.logspace(0, -3, 32, dtype=torch.float64)  # eigenvalues over 6 decades
    covariances = batch_moments(rows)[0].covariance
    signs, expected = np.linalg.slogdet(covariances.numpy() + 1e-8 * np.eye(32))
    assert (signs == 1).all()
    np.testing.assert_allclose(log_determinants(covariances, offset=1e-8)[0], expected, rtol=1e-12)


@pytest.mark.parametrize(("la_mean", "la_covariance"), [(0.3, 0.2), (0.0, 0.0)])
def test_gradient_of_the_log_determinants_is_autograds_of_the_definition(la_mean, la_covariance):
    rows, weights = _unit(2, 40, 10) + 0.2, torch.tensor([1.0, -3.0]).double()
    past = Moments(0.1 * _unit(2, 10), torch.eye(10).double() + _unit(2, 1, 10).mT @ _unit(2, 1, 10))
    found, expected = (rows.clone().requires_grad_() for _ in range(2))
    log_dets, *_ = running_log_determinants(
        found, past, forgetting_factor_mean=la_mean, forgetting_factor_covariance=la_covariance, offset=1e-3
    )
    (log_dets * weights).sum().backward()
    mean = la_mean * past.mean + (1 - la_mean) * expected.mean(dim=1)
    centred = expected - mean.unsqueeze(1)
    covariance = la_covariance * past.covariance + (1 - la_covariance) * centred.mT @ centred / 40
    reference = torch.logdet(covariance + 1e-3 * torch.eye(10).double())
    (reference * weights).sum().backward()
    torch.testing.assert_close(log_dets, reference, rtol=1e-12, atol=0)
    torch.testing.assert_close(found.grad, expected.grad, rtol=1e-9, atol=1e-12)


def _log_determinants_and_gradient(process, parts):
    rows = (torch.cat(parts, dim=1) if process is None else parts[process]).clone().requires_grad_()
    factors = {"forgetting_factor_mean": 0.3, "forgetting_factor_covariance": 0.2}
    log_dets, *_ = running_log_determinants(rows, _start(), **factors, offset=1e-3)
    log_dets.square().sum().backward()
    return log_dets.detach(), rows.grad


def test_gradient_of_two_processes_with_unequal_batches_is_that_of_one():
    parts = [_unit(2, 24, WIDTH)[:, :9] + 0.1, _unit(2, 24, WIDTH)[:, 9:]]
    whole = _log_determinants_and_gradient(None, parts)
    both = run_in_two_processes(_log_determinants_and_gradient, parts)
    for log_dets, _ in both:
        torch.testing.assert_close(log_dets, whole[0], rtol=0, atol=1e-12)
    # Each of two processes has twice the gradient: DistributedDataParallel halves it.
    torch.testing.assert_close(torch.cat([grad for _, grad in both], dim=1) / 2, whole[1], rtol=0, atol=1e-13)


def test_equal_views_cost_no_similarity():
    view = _views(1)[0]
    output = _model(**LAYER_NORM)([view, view])
    # The two halves of one batch may take different kernels.
    assert output.similarity.item() == pytest.approx(0, abs=1e-12)
    assert output.view_cosine.item() == pytest.approx(1, rel=1e-6)
    assert output.log_determinant_1.item() == pytest.approx(output.log_determinant_2.item(), abs=1e-12)
    assert output.loss.item() == pytest.approx(-2 * output.log_determinant_1.item(), rel=1e-6)


def test_without_a_past_the_covariance_is_the_batchs_own():
    rows = _unit(2, 20, WIDTH)
    _, running = _loss_of(rows, _start(), la_mean=0.0, la_covariance=0.0)
    for view in range(2):
        np.testing.assert_allclose(running.covariance[view], np.cov(rows[view].numpy().T, bias=True), atol=1e-14)


def test_with_nothing_but_the_past_the_batch_does_not_matter():
    rows = _unit(2, 20, WIDTH).requires_grad_()
    loss, running = _loss_of(rows, _start(initial=0.5), la_mean=1.0, la_covariance=1.0)
    assert torch.equal(running.mean, torch.zeros(2, WIDTH))
    (gradient,) = torch.autograd.grad(loss - 50.0 * (rows[0] - rows[1]).square().mean(), rows)
    assert gradient.abs().max() < 1e-14


def test_the_loss_of_unit_projections_has_the_bound_that_the_documentation_states():
    """No projections on the sphere do better than equal views that fill it evenly: 2 ln D."""
    axes = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)]).double()
    best, _ = _loss_of(torch.stack([axes, axes]), _start(), la_mean=0.0, la_covariance=0.0, offset=0.0)
    assert best.item() == pytest.approx(2.0 * 2 * math.log(WIDTH), rel=1e-12)
    for seed in range(5):
        loss, _ = _loss_of(_unit(2, 40, WIDTH, seed=seed), _start(), la_mean=0.0, la_covariance=0.0, offset=0.0)
        assert loss > best


# Gradients and invariances.


def test_gradient_is_exact_through_the_mean_and_the_covariance_just_updated():
    past = Moments(0.1 * _unit(2, 4), _start(4).covariance)
    rows = _unit(2, 6, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: _loss_of(z, past, la_mean=0.6, la_covariance=0.3)[0], rows)


def test_order_of_the_images_does_not_matter():
    rows = _unit(2, 20, WIDTH)
    loss, running = _loss_of(rows, _start())
    shuffled, other = _loss_of(rows[:, torch.randperm(20)], _start())
    assert shuffled.item() == pytest.approx(loss.item(), rel=1e-13)
    torch.testing.assert_close(other.covariance, running.covariance, rtol=0, atol=1e-14)


def test_a_rotation_of_all_projections_does_not_matter():
    rotation = torch.linalg.qr(torch.randn(WIDTH, WIDTH, dtype=torch.float64)).Q
    first, second = Moments(*_start()), Moments(*_start())  # the start is isotropic, so it needn't be turned
    for step in range(3):
        rows = _unit(2, 20, WIDTH, seed=step) + 0.1
        loss, first = _loss_of(rows, first)
        rotated, second = _loss_of(rows @ rotation, second)
        assert rotated.item() == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(second.covariance, rotation.T @ first.covariance @ rotation, rtol=0, atol=1e-13)


def test_swapping_the_views_swaps_the_statistics():
    rows = _unit(2, 20, WIDTH)
    loss, running = _loss_of(rows, _start())
    swapped, other = _loss_of(rows.flip(0), _start())
    assert swapped.item() == pytest.approx(loss.item(), rel=1e-13)
    torch.testing.assert_close(other.mean, running.mean.flip(0), rtol=0, atol=1e-15)


# State.


def test_forward_changes_nothing_but_batch_norm_statistics():
    model = _model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(_views())
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)


def test_the_loss_uses_the_statistics_that_update_state_stores():
    model = _model(**LAYER_NORM, forgetting_factor_covariance=0.5)
    output = model(_views())
    model.update_state([output], progress=0.0, epoch=0.0)
    log_dets = torch.linalg.slogdet(model.projection_covariances.double()).logabsdet / WIDTH
    assert log_dets[0].item() == pytest.approx(output.log_determinant_1.item(), abs=1e-4)
    assert log_dets[1].item() == pytest.approx(output.log_determinant_2.item(), abs=1e-4)
    assert not model.projection_covariances.requires_grad


def test_micro_batches_update_the_state_as_one_batch_would():
    views = _views(batch=12)
    whole, parted = _model(**LAYER_NORM), _model(**LAYER_NORM)
    whole.update_state([whole(views)], progress=0.0, epoch=0.0)
    thirds = zip(*(view.chunk(3) for view in views), strict=True)
    parted.update_state([parted(list(third)) for third in thirds], progress=0.0, epoch=0.0)
    torch.testing.assert_close(parted.projection_means, whole.projection_means, rtol=0, atol=1e-7)
    torch.testing.assert_close(parted.projection_covariances, whole.projection_covariances, rtol=0, atol=1e-7)


def test_the_statistics_are_saved_with_the_model(tmp_path):
    model = _model()
    for seed in range(3):
        model.update_state([model(_views(seed=seed))], progress=0.0, epoch=0.0)
    model.save_pretrained(tmp_path)
    loaded = ssl_zoo.CorinfomaxForPreTraining.from_pretrained(tmp_path).train()
    assert loaded.projection_covariances.abs().sum() > 0
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    views = _views(seed=9)
    assert torch.equal(loaded(views).loss, model(views).loss)
    backbone = ssl_zoo.CorinfomaxModel.from_pretrained(tmp_path)
    assert torch.equal(backbone.timm_model.conv1.weight, model.timm_model.conv1.weight)


def test_gradient_reaches_every_trained_tensor():
    model = _model()
    for name, parameter in model.named_parameters():
        if name.startswith("timm_model") and name.endswith("bn2.weight"):
            torch.nn.init.ones_(parameter)  # timm starts each block's last norm at 0, which hides the block
    model(_views()).loss.backward()
    # Biases before a batch norm have no effect; the authors have them nevertheless.
    idle = [name for name, parameter in model.named_parameters() if not parameter.grad.abs().sum() > 1e-5]
    assert idle == ["projector.0.bias"]


def test_projectors_are_the_authors_with_and_without_batch_norm():
    with_norm = {name: tuple(p.shape) for name, p in _model().projector.named_parameters()}
    assert list(with_norm) == ["0.weight", "0.bias", "1.weight", "1.bias", "3.weight"]
    plain = _model(projector_hidden_features=[16, 16], projector_norm=False).projector
    assert [name for name, _ in plain.named_parameters()] == ["0.weight", "0.bias", "2.weight", "2.bias", "4.weight"]


# Precision and errors.


def test_the_loss_is_computed_in_full_precision_under_autocast():
    model = _model(**LAYER_NORM)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(_views())
        rows = F.normalize(
            torch.stack([model.projector(model.timm_model(view)) for view in _views()]).double(), dim=-1
        )
    assert output.loss.dtype == torch.float32
    assert output.batch_covariances.dtype == torch.float64
    torch.testing.assert_close(output.batch_covariances, batch_moments(rows)[0].covariance, rtol=0, atol=1e-15)


@pytest.mark.parametrize(("batch", "tolerance"), [(4, 1e-6), (12, 1e-6), (40, 1e-4)])
def test_gradient_is_float64s_however_few_images_there_are(batch, tolerance):
    """With fewer images than directions the covariance is nearly singular: rows in float32 would be off by 1e-2."""
    projections = [view[:, 0, :1, :WIDTH].flatten(1).clone() for view in _views(batch=batch)]
    gradients = []
    for dtype in (torch.float32, torch.float64):
        model = _model(forgetting_factor_covariance=1e-9, similarity_weight=0.0)
        model._project = lambda view: (view, view)
        inputs = [projection.to(dtype).requires_grad_() for projection in projections]
        gradients.append(torch.stack(torch.autograd.grad(model(inputs).loss, inputs)).double())
    difference = (gradients[0] - gradients[1]).norm() / gradients[1].norm()
    assert difference < tolerance


def test_collapsed_projections_are_named_with_the_cures():
    model = _model(**LAYER_NORM, covariance_offset=0.0, forgetting_factor_covariance=0.0)
    view = _views(1)[0]
    with torch.no_grad():
        model.projector[-1].weight[1:] = 0
    with pytest.raises(SingularCovarianceError) as caught:
        model([view, view])
    message = str(caught.value)
    for part in ("view 1", "smallest eigenvalue", "learning_rate", "covariance_offset", "batch", "features` (8)"):
        assert part in message


def test_the_view_and_its_smallest_eigenvalue_are_named():
    covariances = torch.stack([torch.eye(3), torch.diag(torch.tensor([1.0, 1.0, -0.25]))]).double()
    with pytest.raises(SingularCovarianceError, match=r"view 2 .* smallest eigenvalue is -0\.25"):
        log_determinants(covariances, offset=1e-8)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_projections_that_are_not_finite_are_told_from_collapsed_ones(value):
    covariances = torch.eye(3).repeat(2, 1, 1).double()
    covariances[0, 1, 1] = value
    with pytest.raises(SingularCovarianceError, match="view 1 is not finite: training has diverged"):
        log_determinants(covariances, offset=1e-8)
    views = _views()
    views[1][0] = value
    with pytest.raises(SingularCovarianceError, match="view 2 is not finite"):
        _model(**LAYER_NORM)(views)


@pytest.mark.parametrize("count", [1, 3])
def test_other_than_two_views_are_refused(count):
    with pytest.raises(ValueError, match=f"exactly 2, got {count}"):
        _model()(_views(count))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("forgetting_factor_mean", 1.0),
        ("forgetting_factor_covariance", -0.1),
        ("initial_covariance", 0.0),
        ("covariance_offset", -1.0),
        ("similarity_weight", -1.0),
        ("projection_features", 0),
    ],
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(Exception, match=f"`{field}` must be .* got {value}"):
        ssl_zoo.CorinfomaxConfig(**{field: value})


# Diagnostics.


def test_diagnostics_can_be_left_out_and_change_nothing():
    with_them, without = _model()(_views()), _model()(_views(), diagnostics=False)
    assert torch.equal(with_them.loss, without.loss)
    assert without.similarity is None
    logged = {name for name, value in without.items() if value.ndim == 0}
    assert logged == {"loss"}


def test_diagnostics_describe_the_spectrum():
    model = _model(**LAYER_NORM)
    output = model(_views())
    model.update_state([output], progress=0.0, epoch=0.0)
    eigenvalues = np.linalg.eigvalsh(model.projection_covariances.double())
    shares = eigenvalues / eigenvalues.sum(axis=1, keepdims=True)
    ranks = np.exp(-(shares * np.log(shares)).sum(axis=1))
    assert output.smallest_eigenvalue.item() == pytest.approx(eigenvalues.min(), rel=1e-4)
    assert output.largest_eigenvalue.item() == pytest.approx(eigenvalues.max(), rel=1e-4)
    assert output.total_variance.item() == pytest.approx(eigenvalues.sum(axis=1).mean(), rel=1e-5)
    assert output.covariance_rank.item() == pytest.approx(ranks.mean(), rel=1e-4)
    assert output.weak_directions.item() == pytest.approx((eigenvalues < 0.01 / WIDTH).mean())
    weighted = 50.0 * output.similarity - output.log_determinant_1 - output.log_determinant_2
    assert output.loss.item() == pytest.approx(weighted.item(), rel=1e-6)


def test_health_says_what_is_wrong_and_what_helps():
    healthy = {"total_variance": 0.5, "covariance_rank": 6.0, "weak_directions": 0.0, "view_cosine": 0.8}
    model = _model()
    assert model.health(healthy) == []
    (point,) = model.health({**healthy, "total_variance": 0.01})
    assert "nearly the same" in point
    assert "lower `similarity_weight`" in point
    for symptom in ({"covariance_rank": 1.5}, {"weak_directions": 0.6}):
        (flat,) = model.health({**healthy, **symptom})
        assert "few of their 8 directions" in flat
    (apart,) = model.health({**healthy, "view_cosine": 0.0})
    assert "raise `similarity_weight`" in apart


# Two processes.


def _steps(process, views):
    """Two training steps of one process on its share of the batch; run by two processes and by none."""
    model = _model(**LAYER_NORM, forgetting_factor_mean=0.3, forgetting_factor_covariance=0.5)
    own = views if process is None else [view.tensor_split([5])[process] for view in views]  # 5 and 7 images
    losses = []
    for _ in range(2):
        model.zero_grad()
        output = model(own)
        output.loss.backward()
        losses.append(output.loss.item())
        model.update_state([output], progress=0.0, epoch=0.0)
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    logged = [value.item() for name, value in output.items() if value.ndim == 0 and name != "loss"]
    return losses, gradient, logged, model.projection_means, model.projection_covariances


def test_two_processes_are_one():
    views = _views()
    losses, gradient, logged, means, covariances = _steps(None, views)
    halves = run_in_two_processes(_steps, views)
    for half in halves:
        assert half[0] == pytest.approx(losses, rel=1e-6)
        assert half[2] == pytest.approx(logged, rel=1e-5, abs=1e-9)
        torch.testing.assert_close(half[3], means, rtol=0, atol=1e-7)
        torch.testing.assert_close(half[4], covariances, rtol=0, atol=1e-7)
    assert torch.equal(halves[0][4], halves[1][4])
    torch.testing.assert_close(sum(half[1] for half in halves) / 2, gradient, rtol=1e-3, atol=1e-4)
    assert gradient.abs().max() > 1
