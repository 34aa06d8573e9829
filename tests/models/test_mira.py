"""MIRA's loss, state and diagnostics."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

import ssl_zoo
from ssl_zoo.functional.assignment import mira_assignment
from ssl_zoo.models.mira.loss_mira import mira_loss
from tests.two_processes import run_in_two_processes


BACKBONE = {"architecture": "resnet18", "model_args": {"channels": [8, 16, 24, 32], "layers": [1, 1, 1, 1]}}


def _model(**fields):
    torch.manual_seed(0)
    defaults = {"num_prototypes": 6, "projector_hidden_features": [16], "projection_features": 8}
    return ssl_zoo.MiraForPreTraining(ssl_zoo.MiraConfig(**{**BACKBONE, **defaults, **fields})).train()


def _views(count=2, batch=5, size=32):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, 3, size, size, generator=generator) for _ in range(count)]


def test_loss_is_the_mean_cross_entropy_with_every_other_view():
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(2, 4, 3, generator=generator, dtype=torch.float64).softmax(dim=-1)
    scores = [torch.randn(4, 3, generator=generator, dtype=torch.float64) for _ in range(4)]
    expected = 0.0
    for target in range(2):
        others = [view for view in range(4) if view != target]
        for view in others:
            probabilities = torch.exp(scores[view] / 0.3) / torch.exp(scores[view] / 0.3).sum(dim=1, keepdim=True)
            for row in range(4):
                expected -= float((targets[target, row] * probabilities[row].log()).sum()) / (4 * len(others) * 2)
    assert mira_loss(targets, scores, temperature=0.3).item() == pytest.approx(expected, rel=1e-12)


def test_loss_of_uniform_predictions_is_ln_k():
    targets = torch.rand(2, 4, 7).softmax(dim=-1)
    assert mira_loss(targets, [torch.zeros(4, 7)] * 2, temperature=0.1).item() == pytest.approx(math.log(7))


def test_forward_agrees_with_the_method_step_by_step():
    model = _model(beta=0.75, beta_end=0.5)
    reference = copy.deepcopy(model)
    views = [*_views(2), *_views(3, size=16)]
    output = model(views, progress=0.25)

    unit = torch.nn.functional.normalize
    prototypes = unit(reference.prototypes.weight, dim=1)
    teacher = reference.timm_model(torch.cat(views[:2]))
    teacher_scores = (unit(reference.teacher_projector(teacher), dim=1) @ prototypes.T).detach()
    beta = 0.5 + (0.75 - 0.5) * (1 + math.cos(math.pi * 0.25)) / 2
    targets = [mira_assignment(half, temperature=0.225, beta=beta) for half in teacher_scores.chunk(2)]
    student = torch.cat(
        [reference.student_backbone(torch.cat(views[:2])), reference.student_backbone(torch.cat(views[2:]))]
    )
    scores = (unit(reference.student_projector(student), dim=1) @ prototypes.T).split(5)
    losses = [
        F.cross_entropy(scores[view] / 0.1, targets[target])
        for target in range(2)
        for view in range(5)
        if view != target
    ]
    torch.testing.assert_close(output.loss, sum(losses) / len(losses))
    torch.testing.assert_close(output.embeddings, teacher[:5])


def test_gradient_reaches_every_student_tensor_and_no_teacher_tensor():
    model = _model()
    for name, parameter in model.named_parameters():
        if name.startswith("student_backbone") and name.endswith("bn2.weight"):
            torch.nn.init.ones_(parameter)  # timm starts each block's last norm at 0, which hides the block
    model(_views()).loss.backward()
    for name, parameter in model.named_parameters():
        teacher = name.startswith(("timm_model", "teacher_projector"))
        assert (parameter.grad is None) if teacher else bool(parameter.grad.abs().sum() > 0), name


def test_forward_changes_nothing_but_batch_norm_statistics():
    model = _model()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(_views())
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed)


def test_update_state_moves_the_teacher_by_the_scheduled_momentum():
    model = _model(momentum=0.9, momentum_end=1.0)
    with torch.no_grad():
        for parameter in (*model.student_backbone.parameters(), *model.student_projector.parameters()):
            parameter.add_(1.0)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    buffers = {name: tensor.clone() for name, tensor in model.named_buffers()}
    model.update_state([], progress=0.5, epoch=3)
    for name, tensor in model.named_parameters():
        moved = 0.05 if name.startswith(("timm_model", "teacher_projector")) else 0.0
        torch.testing.assert_close(tensor, before[name] + moved, rtol=0, atol=1e-6)
    assert all(torch.equal(tensor, buffers[name]) for name, tensor in model.named_buffers())


def test_prototypes_have_no_gradient_while_frozen():
    model = _model(freeze_prototypes_epochs=2)
    model(_views()).loss.backward()
    model.before_optimizer_step(epoch=2.0)
    assert model.prototypes.weight.grad is not None
    model.before_optimizer_step(epoch=1.99)
    assert model.prototypes.weight.grad is None


def test_scores_are_cosines_whatever_the_length_of_the_prototypes():
    model = _model()
    projections = torch.randn(3, 8)
    scores = model.prototypes(projections)
    with torch.no_grad():
        model.prototypes.weight.mul_(torch.rand(6, 1) + 0.5)
    torch.testing.assert_close(model.prototypes(projections * 7), scores)
    assert scores.abs().max() <= 1


def test_scores_stay_float32_under_autocast():
    model = _model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert model.prototypes(torch.randn(3, 8, dtype=torch.bfloat16)).dtype == torch.float32
        assert model(_views()).loss.dtype == torch.float32


def test_diagnostics_can_be_left_out_and_change_nothing():
    with_them, without = _model()(_views()), _model()(_views(), diagnostics=False)
    assert torch.equal(with_them.loss, without.loss)
    assert without.entropy is None
    total = with_them.marginal_entropy - with_them.entropy
    torch.testing.assert_close(with_them.mutual_information, total)
    torch.testing.assert_close(with_them.target_divergence, with_them.loss.detach() - with_them.entropy)
    assert with_them.student_marginal_entropy <= math.log(6) + 1e-6


def test_view_correlation_is_one_for_equal_views():
    view = _views(1)[0]
    output = _model()([view, view])
    assert output.view_correlation.item() == pytest.approx(1.0, abs=1e-5)
    assert output.start_gain.item() == pytest.approx(0.1 / (0.225 * 0.25), rel=1e-4)


def test_start_gain_predicts_growth_of_a_small_signal():
    """Fit the student's scores to the targets of a small teacher signal: it grows by the gain the docstring states."""
    signal = 1e-4 * torch.randn(256, 8, dtype=torch.float64)
    signal -= signal.mean(dim=0)
    signal -= signal.mean(dim=1, keepdim=True)
    targets = mira_assignment(signal, temperature=0.225, beta=0.75)
    fitted = 0.1 * targets.log()
    fitted -= fitted.mean(dim=1, keepdim=True)
    growth = (fitted * signal).sum() / signal.square().sum()
    assert growth.item() == pytest.approx(0.1 / (0.225 * 0.25), rel=1e-3)


def test_pseudo_labels_are_the_nearest_prototypes():
    model = _model().eval()
    labels, confidence = model.pseudo_labels(_views(1)[0])
    projections = model.teacher_projector(model.timm_model(_views(1)[0]))
    distances = torch.cdist(F.normalize(projections), F.normalize(model.prototypes.weight))
    assert torch.equal(labels, distances.argmin(dim=1))
    assert ((confidence > 1 / 6) & (confidence <= 1)).all()


def test_one_view_is_refused():
    with pytest.raises(ValueError, match="at least 2, got 1"):
        _model()(_views(1))


@pytest.mark.parametrize(
    ("field", "value"),
    [("beta", 1.0), ("teacher_temperature", 0.0), ("momentum", 1.2), ("num_iters", 0), ("num_prototypes", 0)],
)
def test_values_out_of_range_are_named(field, value):
    with pytest.raises(Exception, match=f"`{field}` must be .* got {value}"):
        ssl_zoo.MiraConfig(**{field: value})


def _health(model=None, **metrics):
    healthy = {
        "loss": 1.0,
        "mutual_information": 1.2,
        "marginal_entropy": 1.7,
        "used_prototypes": 1.0,
        "start_gain": 1.5,
        "view_correlation": 0.8,
    }
    return (model or _model()).health({**healthy, **metrics})


def test_health_says_what_is_wrong_and_what_helps():
    assert _health() == []
    (stuck,) = _health(loss=math.log(6), mutual_information=0.0, start_gain=0.7)
    assert "won't leave" in stuck
    assert "raise `beta`" in stuck
    (slow,) = _health(loss=math.log(6), mutual_information=0.0, start_gain=1.7)
    assert "can still grow" in slow
    (crowded,) = _health(marginal_entropy=0.4, mutual_information=0.3)
    assert "few prototypes" in crowded
    assert "raise `beta`" in crowded
    (common,) = _health(_model(teacher_temperature=0.05), marginal_entropy=0.1, mutual_information=0.0)
    assert "temperature = 2.00" in common
    (dead,) = _health(used_prototypes=0.1)
    assert "only 10% of the prototypes" in dead


def _loss_and_gradient(process, views):
    """Loss and gradient of one process on its share of the batch; run by two processes and by none."""
    model = _model(  # layer norm only: batch norm would see other batches
        architecture="vit_tiny_patch16_224",
        model_args={"embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": 32},
        projector_hidden_features=[],
    )
    output = model(views if process is None else [view.chunk(2)[process] for view in views], progress=0.3)
    output.loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return output.loss.item(), gradient, [output.marginal_entropy.item(), output.used_prototypes.item()]


def test_two_processes_are_one():
    views = _views(3, batch=8)
    loss, gradient, diagnostics = _loss_and_gradient(None, views)
    halves = run_in_two_processes(_loss_and_gradient, views)
    assert sum(half[0] for half in halves) / 2 == pytest.approx(loss, rel=1e-5)
    torch.testing.assert_close(sum(half[1] for half in halves) / 2, gradient, rtol=1e-3, atol=1e-5)
    for half in halves:
        assert half[2] == pytest.approx(diagnostics, rel=1e-5)
    alone = [_loss_and_gradient(None, [view.chunk(2)[half] for view in views])[0] for half in range(2)]
    assert abs(sum(alone) / 2 - loss) > 1e-3  # assignments of half batches differ
