"""The training loop, its optimiser and its watchdog, in this process."""

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from transformers.utils import ModelOutput

from ssl_zoo.data.errors import DataError
from ssl_zoo.models.mira.modeling_mira import MiraForPreTraining
from ssl_zoo.training.config import OptimConfig
from ssl_zoo.training.loop import train
from ssl_zoo.training.optim import create_optimizer, learning_rate
from ssl_zoo.training.plan import derive_plan
from ssl_zoo.training.recipe import Recipe, RecipeError, recipe_from_dict
from ssl_zoo.training.watchdog import Watchdog, feature_rank
from tests.data.tiny_sets import write_parquet


STEPS = 6


pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def _recipe(folder: Path, data: Path, **sections: dict) -> Recipe:
    small = {
        "method": "mira",
        "model": {
            "architecture": "resnet18",
            "model_args": {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]},
            "projector_hidden_features": [16],
            "projection_features": 8,
            "num_prototypes": 6,
            "freeze_prototypes_epochs": 0,
        },
        "data": {"path": str(data), "num_workers": 0},
        "views": {"global_size": 16},
        "optim": {"name": "sgd", "learning_rate": 0.1, "learning_rate_per": None, "warmup_epochs": 0.0},
        "train": {
            "epochs": STEPS * 8 / 42,
            "global_batch_size": 8,
            "micro_batch_size": 4,
            "log_every_steps": 2,
            "output_dir": str(folder / "run"),
        },
        "evaluation": {"k": 3, "batch_size": 8, "crop_pct": 1.0},
    }
    return recipe_from_dict({**small, **{name: {**small.get(name, {}), **keys} for name, keys in sections.items()}})


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    write_parquet(folder)
    write_parquet(folder, (9,), split="test")
    return folder


def _lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def test_a_run_leaves_all_that_it_promises(tmp_path, images):
    run = train(_recipe(tmp_path, images, train={"knn_every_epochs": 1.0}))
    assert (run / "recipe.yaml").is_file()
    assert list((run / "tensorboard").rglob("events.*"))
    trained = MiraForPreTraining.from_pretrained(run / "model")
    from_checkpoint = MiraForPreTraining.from_pretrained(run / "checkpoints" / f"step-{STEPS:08d}")
    for name, tensor in trained.state_dict().items():
        assert torch.equal(from_checkpoint.state_dict()[name], tensor), name

    lines = _lines(run)
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses] == [1, 2, 4, 6]
    assert losses[-1]["images_seen"] == STEPS * 8
    wanted = {
        "entropy",
        "marginal_entropy",
        "mutual_information",
        "used_prototypes",
        "effective_rank",
        "learning_rate",
    }
    assert all(wanted <= line.keys() for line in losses)
    assert all(math.isfinite(value) for line in losses for value in line.values())
    (accuracy,) = [line["knn_top1"] for line in lines if "knn_top1" in line]
    assert 0 <= accuracy <= 1


def test_state_changes_once_a_step_however_many_micro_batches(tmp_path, images, monkeypatch):
    updates, froze = [], []
    update, before = MiraForPreTraining.update_state, MiraForPreTraining.before_optimizer_step

    def counted_update(self, outputs, *, progress, epoch):
        updates.append((len(outputs), progress, epoch))
        update(self, outputs, progress=progress, epoch=epoch)

    def counted_before(self, *, epoch):
        froze.append(epoch)
        before(self, epoch=epoch)

    monkeypatch.setattr(MiraForPreTraining, "update_state", counted_update)
    monkeypatch.setattr(MiraForPreTraining, "before_optimizer_step", counted_before)
    train(_recipe(tmp_path, images))
    assert [count for count, _, _ in updates] == [2] * STEPS
    assert [progress for _, progress, _ in updates] == pytest.approx([step / STEPS for step in range(1, STEPS + 1)])
    assert [epoch for _, _, epoch in updates] == pytest.approx([step * 8 / 42 for step in range(1, STEPS + 1)])
    assert froze == pytest.approx([step * 8 / 42 for step in range(STEPS)])


def test_too_many_corrupt_images_stop_the_run(tmp_path):
    folder = tmp_path / "images"
    write_parquet(folder, replaced={row: b"no image" for row in range(0, 40, 4)})
    with pytest.raises(DataError, match=r"data\.max_corrupt_share"):
        train(_recipe(tmp_path, folder, train={"epochs": 3.0}))


def test_processes_that_were_asked_for_must_be_there(tmp_path, images):
    with pytest.raises(RecipeError, match="num_processes asks for 2"):
        train(_recipe(tmp_path, images, train={"num_processes": 2}))


def test_only_matrices_decay_and_only_they_have_a_trust_ratio(tmp_path, images):
    recipe = _recipe(tmp_path, images)
    model = MiraForPreTraining(recipe.model_config())
    for name in ("sgd", "lars"):
        optimizer = create_optimizer(model, OptimConfig(name=name, weight_decay=0.5))
        for group in optimizer.param_groups:
            assert {parameter.ndim > 1 for parameter in group["params"]} == {group["weight_decay"] == 0.5}
            assert name == "sgd" or group["always_adapt"] == (group["weight_decay"] == 0.5)
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        assert held == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


def test_learning_rate_warms_up_and_falls(tmp_path, images):
    sections = {
        "optim": {"learning_rate": 0.5, "learning_rate_per": 4, "warmup_epochs": 2.0, "warmup_learning_rate": 0.3},
        "train": {"epochs": 10.0},
    }
    recipe = _recipe(tmp_path, images, **sections)
    plan = derive_plan(recipe, num_rows=80, num_processes=1)
    rates = [learning_rate(recipe.optim, plan, step) for step in range(101)]
    assert rates[0] == pytest.approx(0.3)
    assert rates[10] == pytest.approx((0.3 + 1.0) / 2)
    assert rates[20] == max(rates) == pytest.approx(1.0)
    assert rates[60] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)


def test_learning_rate_falls_in_steps(tmp_path, images):
    sections = {
        "optim": {
            "learning_rate": 0.5,
            "learning_rate_per": None,
            "schedule": "step",
            "decay_epochs": [3.0, 6.0],
            "decay_factor": 0.1,
            "warmup_epochs": 1.0,
        },
        "train": {"epochs": 10.0},
    }
    recipe = _recipe(tmp_path, images, **sections)
    plan = derive_plan(recipe, num_rows=80, num_processes=1)
    rates = [learning_rate(recipe.optim, plan, step) for step in range(100)]
    assert rates[:11] == pytest.approx([0.05 * step for step in range(11)])
    assert rates[10:30] == pytest.approx([0.5] * 20)
    assert rates[30:60] == pytest.approx([0.05] * 30)
    assert rates[60:] == pytest.approx([0.005] * 40)


@pytest.mark.parametrize(
    ("optim", "message"),
    [
        ({"schedule": "step"}, "goes with"),
        ({"decay_epochs": [1.0]}, "goes with"),
        ({"schedule": "step", "decay_epochs": [2.0, 1.0]}, "increasing"),
        ({"schedule": "step", "decay_epochs": [1.0], "decay_factor": 0.0}, "decay_factor"),
    ],
)
def test_impossible_schedules_are_refused(tmp_path, images, optim, message):
    with pytest.raises(RecipeError, match=message):
        _recipe(tmp_path, images, optim=optim)


def test_all_tensors_decay_where_the_recipe_says_so(tmp_path, images):
    model = MiraForPreTraining(_recipe(tmp_path, images).model_config())
    optimizer = create_optimizer(model, OptimConfig(name="sgd", weight_decay=0.5, decay_norms_and_biases=True))
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.5, 0.5]


@dataclass
class BrokenOutput(ModelOutput):
    loss: torch.Tensor | None = None
    spread: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"loss": None}, "`loss` must be a tensor of shape (), got None"),
        ({"loss": torch.ones(4)}, "`loss` must be a tensor of shape (), got shape (4,)"),
        ({"embeddings": None}, "`embeddings` must be a tensor of shape (4, 16), got None"),
        ({"embeddings": torch.ones(4, 8)}, "`embeddings` must be a tensor of shape (4, 16), got shape (4, 8)"),
        ({"spread": 0.5}, "`spread` must be a tensor or None, got 0.5"),
        ({"spread": None}, "at least one field beside `loss` must be a tensor of shape (), got loss, embeddings"),
    ],
)
def test_an_output_that_breaks_its_contract_is_refused(tmp_path, images, monkeypatch, fields, message):
    def forward(self, views, **kwargs):
        complete = {"loss": torch.ones(()), "spread": torch.ones(()), "embeddings": torch.ones(4, 16)}
        return BrokenOutput(**{**complete, **fields})

    monkeypatch.setattr(MiraForPreTraining, "forward", forward)
    with pytest.raises(TypeError, match=re.escape(message)) as error:
        train(_recipe(tmp_path, images))
    assert "`BrokenOutput` of MiraForPreTraining: " in str(error.value)


def test_what_a_method_does_between_steps_is_given_the_data_and_logged(tmp_path, images, monkeypatch):
    seen = []

    def before_step(self, data, *, images_seen, epoch, progress):
        ids = [number for _, ids in data.one_pass(seed=images_seen, description="test") for number in ids.tolist()]
        seen.append((images_seen, sorted(ids)))
        return {"labels_changed": 0.5} if images_seen == 8 else {}

    monkeypatch.setattr(MiraForPreTraining, "before_step", before_step)
    run = train(_recipe(tmp_path, images, train={"max_steps": 3}))
    assert seen == [(8 * step, list(range(42))) for step in range(3)]
    assert [line["step"] for line in _lines(run) if "labels_changed" in line] == [2]


def test_rank_of_features_of_known_spectra():
    basis = torch.linalg.qr(torch.randn(64, 8)).Q
    centred = torch.cat([basis, -basis])
    assert feature_rank(centred) == pytest.approx(8, rel=1e-4)
    assert feature_rank(centred[:, :1] * torch.ones(5)) == pytest.approx(1, abs=1e-3)
    assert feature_rank(torch.ones(10, 4)) == 0


def test_watchdog_speaks_after_three_looks_and_then_ever_more_rarely(tmp_path, images):
    class Model:
        def health(self, metrics):
            return ["sick"] if metrics["sick"] else []

    watchdog = Watchdog(Model())
    assert [bool(watchdog.look({"sick": 1.0})) for _ in range(12)] == [step in (3, 6, 12) for step in range(1, 13)]
    assert watchdog.look({"sick": 0.0}) == []
    assert [bool(watchdog.look({"sick": 0.0, "effective_rank": 1.2})) for _ in range(3)] == [False, False, True]


def test_a_run_that_learns_nothing_says_so_and_what_helps(tmp_path, images, caplog):
    """Equal scores for all images, and a gain below 1: MIRA never leaves this state."""
    model = {"teacher_temperature": 10.0, "student_temperature": 10.0, "beta": 0.0, "beta_end": 0.0}
    train(_recipe(tmp_path, images, model=model, train={"log_every_steps": 1}))
    said = caplog.text
    assert "all images get nearly the same assignment" in said
    assert "raise `beta`, lower `teacher_temperature`" in said


@pytest.mark.parametrize(
    ("model", "message"),
    [({"architecture": "resnet81"}, "did you mean"), ({"model_args": {"colour": "red"}}, "colour")],
)
def test_a_model_that_cannot_be_built_is_the_recipes_fault(tmp_path, images, model, message):
    with pytest.raises(RecipeError, match=message):
        train(_recipe(tmp_path, images, model=model))
