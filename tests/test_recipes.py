"""Every recipe file parses and builds its model; every Accelerate configuration starts what it says."""

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

from ssl_zoo.data.views import MultiView, ViewsConfig
from ssl_zoo.models.registry import config_class_of, method_names, pretraining_class_of
from ssl_zoo.training.build import build_model
from ssl_zoo.training.optim import create_optimizer, set_learning_rate
from ssl_zoo.training.recipe import SECTIONS, load_recipe
from tests.training.tiny_recipes import shrink


ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted(path for method in method_names() for path in (ROOT / "recipes" / method).glob("*.yaml"))
LABELS = torch.tensor([0, 0, 0, 0, 2, 2, 2, 2])
LAUNCH = sorted((ROOT / "recipes" / "accelerate").glob("*.yaml"))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT / "recipes"))


def test_every_yaml_file_is_a_recipe_or_a_launch_configuration() -> None:
    assert sorted((ROOT / "recipes").rglob("*.y*ml")) == sorted([*RECIPES, *LAUNCH])


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_parses_and_builds_its_model(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.method == path.parent.name
    with torch.device("meta"):
        model = pretraining_class_of(recipe.method)(recipe.model_config())
    assert sum(parameter.numel() for parameter in model.parameters()) > 0
    MultiView(recipe.views)


class FakeData:
    """What a method may ask for between steps, of random tensors."""

    num_samples = 64

    def __init__(self, views: ViewsConfig) -> None:
        sizes = [views.global_size] * views.global_crops + [views.local_size] * views.local_crops
        self._shapes = [(8, 3, size, size) for size in sizes]

    def views(self) -> list[torch.Tensor]:
        return [torch.randn(shape) for shape in self._shapes]

    def one_pass(self, *, seed: int, description: str) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
        for ids in torch.randperm(self.num_samples).split(8):
            yield self.views(), ids


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_takes_two_steps(path: Path) -> None:
    """Narrow layers and random images, but the recipe's method, settings, views and optimiser."""
    recipe = shrink(path, images=ROOT, steps=2)
    model = build_model(recipe, num_samples=64, num_classes=3, num_labelled=32).train()
    optimizer = create_optimizer(model, recipe.optim)
    set_learning_rate(optimizer, 0.01)
    data = FakeData(recipe.views)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for step in range(2):
        now = {"epoch": step / 2, "progress": step / 2}
        model.before_step(data, images_seen=8 * step, **now)
        inputs = {"sample_ids": torch.randperm(64)[:8], "labels": torch.arange(8) % 3}
        if model.config.learns_from_labels:
            inputs["known_labels"] = torch.where(torch.arange(8) < 4, inputs["labels"], -1)
        if model.config.support_size:
            inputs |= {"support_views": torch.randn(8, *data.views()[0].shape[1:]), "support_labels": LABELS}
        output = model(data.views(), **inputs, **now)
        assert bool(output.loss.isfinite())
        output.loss.backward()
        model.before_optimizer_step(epoch=step / 2)
        optimizer.step()
        optimizer.zero_grad()
        model.update_state([output], progress=(step + 1) / 2, epoch=(step + 1) / 2)
        assert output.embeddings.shape == (8, model.config.num_features)
    assert any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert all(bool(tensor.isfinite().all()) for tensor in model.state_dict().values())


@pytest.mark.parametrize("path", RECIPES, ids=name)
def test_a_recipe_says_how_to_run_it_and_what_to_expect(path: Path) -> None:
    header = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    assert any(line.startswith("# Run: ") and "accelerate launch" in line for line in header)
    assert any(line.startswith("# Expect: ") for line in header)
    assert "https://huggingface.co/papers/" in "".join(header)


def may_be_left_out(section: type) -> set[str]:
    """Keys whose default switches something off, as their metadata say."""
    return {item.name for item in dataclasses.fields(section) if item.metadata.get("off")}


@pytest.mark.parametrize("path", [path for path in RECIPES if path.name.startswith("imagenet1k")], ids=name)
def test_a_recipe_of_a_paper_states_all_that_is_on(path: Path) -> None:
    """A default may stand in for a key only where it switches something off."""
    written, recipe = yaml.safe_load(path.read_text(encoding="utf-8")), load_recipe(path)
    sections = {**SECTIONS, "model": config_class_of(recipe.method)}
    for section, content in recipe.to_dict().items():
        if section in sections:
            missing = set(content) - set(written[section]) - may_be_left_out(sections[section])
            assert not missing, f"{section}: write out what is missing"


@pytest.mark.parametrize("section", [*SECTIONS.values(), *map(config_class_of, method_names())])
def test_a_default_that_is_off_is_nothing(section: type) -> None:
    defaults = section()
    for key in may_be_left_out(section):
        value = getattr(defaults, key)
        assert not (any(value) if isinstance(value, list) else value), f"{key}: {value} switches something on"


@pytest.mark.parametrize("path", LAUNCH, ids=name)
def test_a_launch_configuration_is_understood_by_accelerate(path: Path) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    assert load_config_from_file(str(path)).num_processes >= 1
    assert f"--config_file {path.relative_to(ROOT)}" in path.read_text(encoding="utf-8")


WORKER = """
import json, sys, torch
from ssl_zoo.training.processes import create_accelerator
accelerator = create_accelerator()
total = accelerator.reduce(torch.ones(1), "sum").item()
if accelerator.is_main_process:
    print(json.dumps({"num_processes": accelerator.num_processes, "total": total, "device": accelerator.device.type}))
accelerator.end_training()
"""


def launch(config: str, script: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(ROOT / "recipes" / "accelerate" / config), str(script)]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False, timeout=200
    )


@pytest.mark.parametrize(("config", "expected"), [("cpu.yaml", 1), ("cpu_2_processes.yaml", 2)])
def test_a_launch_configuration_starts_as_many_processes_as_it_says(
    tmp_path: Path, config: str, expected: int
) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER, encoding="utf-8")
    # Without a GPU the configuration must do it alone; with one, the file says to set this as well.
    environment = {"ACCELERATE_USE_CPU": "true"} if torch.accelerator.is_available() else {}
    result = launch(config, script, **environment)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == {
        "num_processes": expected,
        "total": float(expected),
        "device": "cpu",
    }


def test_processes_that_are_not_joined_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from ssl_zoo.training.config import RecipeError
    from ssl_zoo.training.processes import create_accelerator

    monkeypatch.setenv("WORLD_SIZE", "1")
    create_accelerator()
    monkeypatch.setenv("WORLD_SIZE", "2")
    alone = SimpleNamespace(num_processes=1)
    monkeypatch.setattr("ssl_zoo.training.processes.Accelerator", lambda **options: alone)
    with pytest.raises(RecipeError, match="2 processes were started, but each sees 1"):
        create_accelerator()
