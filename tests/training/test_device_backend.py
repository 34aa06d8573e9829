"""Training with `views.backend: device`: it resumes exactly where it stopped, and sees the views of `fast`."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ssl_zoo.training.loop import train
from ssl_zoo.training.recipe import Recipe
from ssl_zoo.training.session import open_session
from tests.training.tiny_recipes import ROOT, shrink, write_noise


STEPS = 8


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_noise(tmp_path_factory.mktemp("images"))


def tiny(images: Path, run: Path, *, backend: str, method: str = "mira") -> Recipe:
    recipe = shrink(ROOT / "recipes" / method / "cifar10_small_cpu.yaml", images=images, steps=STEPS, num_workers=2)
    recipe.views.backend = backend
    recipe.views.local_crops = 1
    recipe.views.blur_probability = [0.9, 0.5, 0.5]
    recipe.train.output_dir = str(run)
    recipe.train.checkpoint_every_steps = 3
    return recipe


def trace(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "trace-0.jsonl").read_text().splitlines()]


# SeLa also passes over the training images between its steps, and PAWS has labelled support views.
@pytest.mark.parametrize(
    "method", ["mira", *(pytest.param(name, marks=pytest.mark.slow(seconds=8)) for name in ("sela", "paws"))]
)
def test_a_stopped_run_goes_on_exactly(images: Path, tmp_path: Path, method: str) -> None:
    whole = train(tiny(images, tmp_path / "whole", backend="device", method=method))
    stopped = tiny(images, tmp_path / "stopped", backend="device", method=method)
    stopped.train.max_steps = 5
    train(stopped)
    stopped.train.max_steps = None
    assert trace(train(stopped)) == trace(whole)
    assert len(trace(whole)) == STEPS
    ours, theirs = (load_file(tmp_path / run / "model" / "model.safetensors") for run in ("stopped", "whole"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("method", ["mira", "paws"])
def test_the_first_batch_is_the_fast_backends(images: Path, tmp_path: Path, method: str) -> None:
    sessions = [
        open_session(tiny(images, tmp_path / name, backend=name, method=method)) for name in ("fast", "device")
    ]
    fast, device = (session.to_device(next(iter(session.loader))) for session in sessions)
    assert torch.equal(fast["sample_ids"], device["sample_ids"])
    scale = 255 * torch.tensor(sessions[0].recipe.views.std).view(3, 1, 1)
    for ours, theirs in zip(fast["views"], device["views"], strict=True):
        assert ours.shape == theirs.shape
        difference = ((ours - theirs) * scale).abs().mean(dim=(1, 2, 3))
        assert difference.mean() < 2.0
        assert difference.max() < 6.0, "a sample has another's parameters"
        assert difference.max() > 0, "the same code made both"
    if method == "paws":  # the few support views are made whole by the workers
        assert torch.equal(fast["support_views"], device["support_views"])
