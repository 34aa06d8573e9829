"""What makes training fast changes no result: fused optimisers, memory formats, kept memory; no bfloat16 unasked."""

import copy

import pytest
import torch
from torch import nn

from ssl_zoo.training import processes
from ssl_zoo.training.config import OptimConfig, RecipeError
from ssl_zoo.training.optim import create_optimizer, lay_out_state_, set_learning_rate


pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def _model(memory_format=torch.contiguous_format) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1), nn.Flatten(), nn.Linear(144, 2))
    return model.to(memory_format=memory_format)


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    images = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    model(images).square().sum().backward()
    optimizer.step()
    optimizer.zero_grad()


def _optimizer(model: nn.Module, *, fused: bool, nesterov: bool = False) -> torch.optim.Optimizer:
    config = OptimConfig(name="sgd", momentum=0.9, nesterov=nesterov, weight_decay=0.1)
    optimizer = create_optimizer(model, config, fused=fused)
    set_learning_rate(optimizer, 0.01)
    return optimizer


def _difference(model: nn.Module, other: nn.Module) -> float:
    return max(
        float((own - its).detach().abs().max())
        for own, its in zip(model.parameters(), other.parameters(), strict=True)
    )


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_the_fused_step_is_the_plain_one(memory_format, nesterov):
    models = [_model(memory_format), _model(memory_format)]
    for model, fused in zip(models, (True, False), strict=True):
        optimizer = _optimizer(model, fused=fused, nesterov=nesterov)
        for seed in range(4):
            _step(model, optimizer, seed)
    assert _difference(*models) < 1e-5 < 1e-2 < _difference(models[0], _model(memory_format))


def test_momentum_of_another_memory_format_still_belongs_to_its_weights():
    """A checkpoint from a GPU, where weights are channels last, resumes where they aren't."""
    there = _model(torch.channels_last)
    optimizer = _optimizer(there, fused=True)
    _step(there, optimizer, 0)
    expected, state = copy.deepcopy(there), optimizer.state_dict()
    plain = _optimizer(expected, fused=False)
    plain.load_state_dict(copy.deepcopy(state))
    for group in plain.param_groups:
        group["fused"] = False

    here = _model()
    here.load_state_dict(there.state_dict())
    continued = _optimizer(here, fused=True)
    continued.load_state_dict(copy.deepcopy(state))
    lay_out_state_(continued)
    for parameter, values in continued.state.items():
        assert values["momentum_buffer"].stride() == parameter.stride()
    # The same gradients for both: what is tested is the pairing of momentum and weights.
    generator = torch.Generator().manual_seed(1)
    for own, its in zip(here.parameters(), expected.parameters(), strict=True):
        gradient = torch.randn(own.shape, generator=generator)
        own.grad, its.grad = torch.empty_like(own).copy_(gradient), torch.empty_like(its).copy_(gradient)
    continued.step()
    plain.step()
    assert _difference(here, expected) < 1e-6


def test_bfloat16_is_refused_on_a_cpu_without_instructions_for_it(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setattr(processes, "_computes_bfloat16", lambda: False)
    with pytest.raises(RecipeError, match="--mixed_precision no"):
        processes.create_accelerator()


def test_bfloat16_is_never_chosen_unasked(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    monkeypatch.setattr(processes, "_computes_bfloat16", lambda: True)
    assert processes.create_accelerator().mixed_precision == "no"
