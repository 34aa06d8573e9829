"""MIRA's checkpoints: converted models compute what torchvision's ResNet and heads written out by hand compute."""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from transformers import AutoModel, AutoModelForPreTraining

import ssl_zoo  # noqa: F401  # registers the methods
from ssl_zoo.conversion.convert import Converted, convert_checkpoint
from ssl_zoo.conversion.layout import ConversionError, model_tensors
from ssl_zoo.conversion.mira import MiraLayout
from tests.conversion.author_layouts import (
    TOLERANCE,
    State,
    assert_layout_is_known,
    in_memory,
    largest_difference,
    mira_state,
    photos,
    run_head,
    run_resnet,
    saved,
    unprefixed,
)


def scores(state: State, branch: str, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Pooled features and cosine scores of a branch, by the description of the layout."""
    embeddings = run_resnet(state, photos(), name, f"{branch}.encoder.")
    projections = F.normalize(run_head(state, embeddings, f"{branch}.projector."), dim=1)
    length, direction = state[f"{branch}.head.weight_g"], state[f"{branch}.head.weight_v"]
    return embeddings, projections @ (length * direction / direction.norm(dim=1, keepdim=True)).T


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    """A ResNet-50 of the published shapes."""
    state = mira_state("resnet50", (2048, 2048, 256), 3000)
    file = tmp_path_factory.mktemp("mira") / "mira.pth"
    saved(state, file, epoch=800, optimizer={"state": {}}, scaler={"scale": 1.0}, scheduler={"last_epoch": 7})
    return file, unprefixed(state)


@pytest.fixture(scope="module")
def converted(checkpoint: tuple[Path, State]) -> Converted:
    return convert_checkpoint("mira", checkpoint[0], checkpoint[0].parent / "out")


@torch.no_grad()
def test_the_teacher_is_the_backbone(checkpoint: tuple[Path, State], converted: Converted) -> None:
    expected, _ = scores(checkpoint[1], "ema_model", "resnet50")
    images = photos()
    ours = AutoModel.from_pretrained(converted.folder).eval()
    assert largest_difference(ours(images).pooler_output, expected) < TOLERANCE
    by_timm = timm.create_model(f"local-dir:{converted.folder}", pretrained=True).eval()
    assert largest_difference(by_timm(images), expected) < TOLERANCE


@torch.no_grad()
def test_both_branches_score_prototypes_as_the_authors(checkpoint: tuple[Path, State], converted: Converted) -> None:
    model = AutoModelForPreTraining.from_pretrained(converted.folder).eval()
    assert model.config.num_prototypes == 3000
    for branch, ours in (
        ("ema_model", model._teacher_scores(photos())[1]),
        ("model", model._student_scores([photos()])[0]),
    ):
        _, expected = scores(checkpoint[1], branch, "resnet50")
        assert largest_difference(ours, expected) < TOLERANCE


def test_the_record_says_what_was_left_out(converted: Converted) -> None:
    about = converted.conversion
    assert (about["layout"], about["branch"], about["source"]["epoch"]) == ("mira", "teacher", 800)
    assert set(about["left_out"]) == {"optimizer", "scaler", "scheduler"}
    assert set(about["result"]) == {"model.safetensors", "pretraining/model.safetensors"}
    assert about["paper"].endswith("2211.02284")


def test_the_layout_is_the_authors() -> None:
    with torch.device("meta"):
        state = mira_state("resnet50", (2048, 2048, 256), 3000)
    assert_layout_is_known(state, "mira_resnet50_ddp")


@torch.no_grad()
def test_the_student_alone(tmp_path: Path) -> None:
    state = unprefixed(mira_state())  # as a run without DistributedDataParallel saves it
    file = saved(state, tmp_path / "mira.pth")
    made = convert_checkpoint("auto", file, tmp_path / "out", branch="student")
    assert not made.complete
    assert not (made.folder / "pretraining").exists()
    ours = AutoModel.from_pretrained(made.folder).eval()(photos()).pooler_output
    assert largest_difference(ours, scores(state, "model", "resnet18")[0]) < TOLERANCE


@torch.no_grad()
def test_a_student_one_step_ahead(tmp_path: Path) -> None:
    """The authors' EMA copies the prototypes before the step, so the saved student's can be newer: the teacher's."""
    state = mira_state()
    state["module.model.head.weight_v"] = state["module.model.head.weight_v"] + 0.01
    made = convert_checkpoint("mira", saved(state, tmp_path / "mira.pth"), tmp_path / "out")
    assert "a training step ahead" in made.conversion["notes"]
    model = AutoModelForPreTraining.from_pretrained(made.folder).eval()
    _, expected = scores(unprefixed(state), "ema_model", "resnet18")
    assert largest_difference(model._teacher_scores(photos())[1], expected) < TOLERANCE


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        ("module.model.head.weight_v", lambda tensor: tensor.flip(0), "different directions"),
        ("module.ema_model.head.weight_g", lambda tensor: 2 * tensor, "lengths from 2.000 to 2.000"),
        ("module.ema_model.head.weight_g", None, "1 missing: ema_model.head.weight_g"),
        ("module.ema_model.encoder.layer1.0.conv1.weight", None, "1 missing: ema_model.encoder.layer1.0.conv1.weight"),
        ("module.model.projector.1.running_mean", None, "1 missing: model.projector.1.running_mean"),
        ("module.model.queue", torch.zeros(3), "1 unexpected: model.queue"),
        ("module.model.projector.1.bias", torch.zeros(3), r"1 misshaped: model.projector.1.bias \[3\] instead of"),
        ("module.model.encoder.bn1.bias", torch.full((64,), torch.nan), "NaN or infinity in model.encoder.bn1.bias"),
    ],
)
def test_what_does_not_fit_is_listed(name: str, change: object, words: str) -> None:
    state = mira_state()
    if change is None:
        del state[name]
    else:
        state[name] = change(state[name]) if callable(change) else change
    checkpoint = in_memory(state)
    with pytest.raises(ConversionError, match=words):
        model_tensors(MiraLayout().convert(checkpoint, branch=None), checkpoint)
