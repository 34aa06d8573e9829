"""BYOL's loss, state and diagnostics."""

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import ssl_zoo
from ssl_zoo.models.byol.loss_byol import byol_loss, cosines
from tests.two_processes import run_in_two_processes


BACKBONE = {"architecture": "resnet18", "model_args": {"channels": [8, 16, 24, 32], "layers": [1, 1, 1, 1]}}
TARGET = ("target_backbone", "target_projector")


def _model(**fields):
    torch.manual_seed(0)
    heads = {"projector_hidden_features": [16], "predictor_hidden_features": [12], "projection_features": 8}
    return ssl_zoo.ByolForPreTraining(ssl_zoo.ByolConfig(**{**BACKBONE, **heads, **fields})).train()


def _views(count=2, batch=6):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 3, 32, 32, generator=generator) for _ in range(count)]


def _pair(batch=5, width=4):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, batch, width, generator=generator, dtype=torch.float64)


# The loss.


def test_loss_is_the_squared_distance_of_unit_vectors_both_ways():
    predictions, targets = _pair()
    expected = 0.0
    for prediction, target in zip(predictions.numpy(), targets.numpy()[::-1], strict=True):
        for row, other in zip(prediction, target, strict=True):
            expected += np.square(row / np.linalg.norm(row) - other / np.linalg.norm(other)).sum() / len(prediction)
    assert byol_loss(predictions, targets).item() == pytest.approx(expected, rel=1e-12)


def test_loss_of_equal_opposite_and_orthogonal_vectors():
    rows = torch.eye(4).repeat(2, 1, 1)
    assert byol_loss(rows, 3 * rows).item() == 0
    assert byol_loss(rows, -rows).item() == 8
    assert byol_loss(rows, rows.roll(1, dims=1)).item() == 4


def test_each_prediction_is_compared_with_the_other_views_target():
    view_1, view_2 = torch.eye(4)[:2], torch.eye(4)[2:]
    assert byol_loss(torch.stack([view_2, view_1]), torch.stack([view_1, view_2])).item() == 0
    assert byol_loss(torch.stack([view_1, view_2]), torch.stack([view_1, view_2])).item() == 4


def test_lengths_do_not_matter():
    predictions, targets = _pair()
    lengths = torch.rand(2, 5, 1, dtype=torch.float64) + 0.1
    scaled = byol_loss(predictions * lengths, targets * 7)
    assert scaled.item() == pytest.approx(byol_loss(predictions, targets).item(), rel=1e-12)


def test_order_of_the_images_and_a_swap_of_the_views_do_not_matter():
    predictions, targets = _pair()
    order, loss = torch.randperm(5), byol_loss(predictions, targets).item()
    assert byol_loss(predictions[:, order], targets[:, order]).item() == pytest.approx(loss, rel=1e-12)
    assert byol_loss(predictions.flip(0), targets.flip(0)).item() == pytest.approx(loss, rel=1e-12)


def test_gradient_is_exact():
    predictions, targets = _pair()
    assert torch.autograd.gradcheck(lambda rows: byol_loss(rows, targets), predictions.requires_grad_())


def test_a_vector_of_zeros_is_no_nan():
    assert cosines(torch.zeros(1, 3), torch.ones(1, 3)).item() == 0


# The networks.


def test_forward_agrees_with_the_method_step_by_step():
    model = _model()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(TARGET):
                parameter.add_(0.01 * torch.randn_like(parameter))  # a target that differs from the online network
    reference = copy.deepcopy(model)
    views = _views()
    output = model(views)
    losses = []
    for online, other in (views, views[::-1]):
        prediction = reference.predictor(reference.projector(reference.timm_model(online)))
        target = reference.target_projector(reference.target_backbone(other)).detach()
        losses.append((2 - 2 * F.cosine_similarity(prediction, target)).mean())
    torch.testing.assert_close(output.loss, sum(losses))
    torch.testing.assert_close(output.embeddings, reference.timm_model(views[0]))


def test_heads_are_the_authors():
    """First layer with a bias, batch norm, ReLU, last layer without a bias; 4096 and 256 wide by default."""
    model = _model()
    for head in (model.projector, model.predictor, model.target_projector):
        assert [name for name, _ in head.named_parameters()] == [
            "0.weight",
            "0.bias",
            "1.weight",
            "1.bias",
            "3.weight",
        ]
    config = ssl_zoo.ByolConfig()
    assert (config.projector_hidden_features, config.predictor_hidden_features) == ([4096], [4096])
    assert (config.projection_features, config.momentum, config.momentum_end) == (256, 0.996, 1.0)


def test_gradient_reaches_every_online_tensor_and_no_target_tensor():
    model = _model()
    for name, parameter in model.named_parameters():
        if name.startswith("timm_model") and name.endswith("bn2.weight"):
            torch.nn.init.ones_(parameter)  # timm starts each block's last norm at 0, which hides the block
    model(_views()).loss.backward()
    idle = []
    for name, parameter in model.named_parameters():
        if name.startswith(TARGET):
            assert parameter.grad is None, name
        elif not parameter.grad.abs().sum() > 1e-5:
            idle.append(name)
    assert idle == ["projector.0.bias", "predictor.0.bias"]  # before a batch norm; the authors have them nevertheless


def test_forward_changes_nothing_but_batch_norm_statistics():
    model = _model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(_views())
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)


@pytest.mark.parametrize(("progress", "moved"), [(0.0, 0.1), (0.5, 0.05), (1.0, 0.0)])
def test_update_state_moves_the_target_by_the_scheduled_momentum(progress, moved):
    model = _model(momentum=0.9, momentum_end=1.0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith(TARGET):
                parameter.add_(1.0)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    model.update_state([], progress=progress, epoch=3)
    for name, tensor in model.named_parameters():
        expected = before[name] + (moved if name.startswith(TARGET) else 0.0)
        torch.testing.assert_close(tensor, expected, rtol=0, atol=1e-6)
    assert model(_views(), progress=progress).momentum.item() == pytest.approx(1 - moved)


def test_state_survives_saving_and_loading(tmp_path):
    model = _model(momentum=0.5)
    with torch.no_grad():
        for parameter in model.timm_model.parameters():
            parameter.add_(0.01)
    model.update_state([], progress=0.0, epoch=0.0)
    model.save_pretrained(tmp_path)
    loaded = ssl_zoo.ByolForPreTraining.from_pretrained(tmp_path).train()
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    assert not torch.equal(loaded.timm_model.conv1.weight, loaded.target_backbone.conv1.weight)
    assert all(not p.requires_grad for p in loaded.target_backbone.parameters())
    backbone = ssl_zoo.ByolModel.from_pretrained(tmp_path)  # the online branch
    assert torch.equal(backbone.timm_model.conv1.weight, model.timm_model.conv1.weight)


def test_the_loss_stays_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert _model()(_views()).loss.dtype == torch.float32


@pytest.mark.parametrize("count", [1, 3])
def test_other_than_two_views_are_refused(count):
    with pytest.raises(ValueError, match=f"exactly 2, got {count}"):
        _model()(_views(count))


@pytest.mark.parametrize(("field", "value"), [("momentum", 1.2), ("momentum_end", -0.1), ("projection_features", 0)])
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(Exception, match=f"`{field}` must be .* got {value}"):
        ssl_zoo.ByolConfig(**{field: value})


# Diagnostics.


def test_diagnostics_can_be_left_out_and_change_nothing():
    with_them, without = _model()(_views()), _model()(_views(), diagnostics=False)
    assert torch.equal(with_them.loss, without.loss)
    assert {name for name, value in without.items() if value.ndim == 0} == {"loss"}
    assert with_them.positive_cosine.item() == pytest.approx(1 - with_them.loss.item() / 4, abs=1e-6)
    for name, value in with_them.items():
        assert not value.requires_grad or name in ("loss", "embeddings")


def test_spread_is_one_on_the_sphere_and_zero_after_a_collapse():
    model = _model()
    axes = torch.cat([torch.eye(8), -torch.eye(8)])
    model._target = lambda view: 5 * axes[: len(view)]
    assert model(_views(batch=16)).target_spread.item() == pytest.approx(1.0, abs=1e-6)
    model._target = lambda view: torch.full((len(view), 8), 3.0)
    assert model(_views()).target_spread.item() == pytest.approx(0.0, abs=1e-3)


def test_health_says_what_is_wrong_and_what_helps():
    healthy = {"target_spread": 0.8, "positive_cosine": 0.7}
    model = _model()
    assert model.health(healthy) == []
    (collapsed,) = model.health({"target_spread": 0.02, "positive_cosine": 1.0})
    assert "agree on a constant" in collapsed
    assert "Raise `momentum`" in collapsed
    (lost,) = model.health({**healthy, "positive_cosine": 0.0})
    assert "raise the learning rate" in lost


# Two processes.


def _loss_and_gradient(process, views):
    """Loss, gradient and spread of one process on its half of the batch; run by two processes and by none."""
    model = _model()
    # Batch norm would see other batches; in evaluation mode it sees none. Gradients flow all the same.
    model.eval()
    output = model(views if process is None else [view.chunk(2)[process] for view in views])
    output.loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return output.loss.item(), gradient, output.target_spread.item()


def test_two_processes_are_one():
    views = _views(batch=8)
    loss, gradient, spread = _loss_and_gradient(None, views)
    halves = run_in_two_processes(_loss_and_gradient, views)
    assert sum(half[0] for half in halves) / 2 == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(sum(half[1] for half in halves) / 2, gradient, rtol=1e-3, atol=1e-6)
    assert gradient.abs().max() > 1e-2
    for half in halves:
        assert half[2] == pytest.approx(spread, rel=1e-5)
    alone = [_loss_and_gradient(None, [view.chunk(2)[half] for view in views])[2] for half in range(2)]
    assert math.fabs(sum(alone) / 2 - spread) > 1e-4  # half the batch has a smaller spread
