"""Checkpoints of MSF and of CMSF's variants."""

import argparse
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from transformers import AutoConfig, AutoModel, AutoModelForPreTraining

import ssl_zoo  # noqa: F401  # registers the methods
from ssl_zoo.conversion.convert import convert_checkpoint
from ssl_zoo.conversion.layout import ConversionError, model_tensors
from ssl_zoo.conversion.mean_shift import MeanShiftLayout
from tests.conversion.author_layouts import (
    TOLERANCE,
    assert_layout_is_known,
    in_memory,
    largest_difference,
    mean_shift_state,
    photos,
    run_head,
    run_resnet,
    saved,
)


VARIANTS = ("msf", "cmsf-self", "cmsf-semi", "cmsf-sup")


@torch.no_grad()
@pytest.mark.parametrize("variant", ["msf", "cmsf-self", "cmsf-semi"])  # cmsf-sup has msf's names
def test_both_networks_compute_what_the_authors_do(variant: str, tmp_path: Path) -> None:
    state = mean_shift_state(variant)
    opt = argparse.Namespace(topk=7, momentum=0.98, lr_decay_epochs=[90, 120], checkpoint_path="anywhere", gpu=None)
    file = saved(state, tmp_path / "ckpt_epoch_200.pth", opt=opt, epoch=200, optimizer={"state": {}})
    made = convert_checkpoint(variant.partition("-")[0], file, tmp_path / "out")
    assert (made.conversion["layout"], made.conversion["branch"]) == (variant, "online")
    images = photos()
    online = run_resnet(state, images, "resnet18", "encoder_q.module.")
    assert largest_difference(AutoModel.from_pretrained(made.folder).eval()(images).pooler_output, online) < TOLERANCE
    by_timm = timm.create_model(f"local-dir:{made.folder}", pretrained=True).eval()
    assert largest_difference(by_timm(images), online) < TOLERANCE
    full = AutoModelForPreTraining.from_pretrained(made.folder).eval()
    embeddings, predictions = full._online(images)
    assert largest_difference(embeddings, online) < TOLERANCE
    projections = run_head(state, online, "encoder_q.module.fc.")
    assert largest_difference(full.projector(embeddings), projections) < TOLERANCE
    assert largest_difference(predictions, run_head(state, projections, "predict_q.module.")) < TOLERANCE
    target = run_resnet(state, images, "resnet18", "encoder_t.module.")
    targets = run_head(state, target, "encoder_t.module.fc.")
    assert largest_difference(full._target(images), targets) < TOLERANCE
    config = full.config
    assert (config.bank_size, config.num_neighbors, config.momentum, config.momentum_end) == (64, 7, 0.98, 0.98)
    assert int(full.bank.num_filled) == 0
    assert {"queue", "labels", "queue_ptr", "opt", "optimizer"} <= set(made.conversion["left_out"])
    if variant == "cmsf-self":
        assert (config.supervision, config.num_samples) == ("self", 30)
    if variant == "cmsf-semi":
        logits = run_head(state, F.normalize(targets, dim=1), "mlp_head.module.")
        found = full.cluster_probabilities(images)[:, 0]
        assert largest_difference(found, logits.softmax(dim=1)) < TOLERANCE
        assert bool(full.classifier.is_trained)


@torch.no_grad()
def test_the_target_alone(tmp_path: Path) -> None:
    state = mean_shift_state("cmsf-semi")
    made = convert_checkpoint("cmsf-semi", saved(state, tmp_path / "msf.pth"), tmp_path / "out", branch="target")
    assert not made.complete
    ours = AutoModel.from_pretrained(made.folder).eval()(photos()).pooler_output
    assert largest_difference(ours, run_resnet(state, photos(), "resnet18", "encoder_t.module.")) < TOLERANCE


def test_one_layer_as_classifier(tmp_path: Path) -> None:
    """`--mlp_xent linear`, the default of the authors' script."""
    state = {name: tensor for name, tensor in mean_shift_state("cmsf-semi").items() if "mlp_head" not in name}
    state |= {"mlp_head.module.0.weight": torch.randn(7, 128), "mlp_head.module.0.bias": torch.randn(7)}
    opt = argparse.Namespace(use_conf=False, conf_th=0.9)
    made = convert_checkpoint("cmsf", saved(state, tmp_path / "cmsf.pth", opt=opt), tmp_path / "out")
    model = AutoModelForPreTraining.from_pretrained(made.folder)
    assert torch.equal(model.classifier.network[0].weight, state["mlp_head.module.0.weight"])
    assert model.config.confidence_threshold == 0.0


def test_equal_names_are_told_apart_by_name_alone(tmp_path: Path) -> None:
    file = saved(mean_shift_state("msf"), tmp_path / "some.pth")
    guessed = convert_checkpoint("auto", file, tmp_path / "guessed").conversion
    assert guessed["layout"] == "msf"
    assert "taken for MSF" in guessed["notes"]
    named = convert_checkpoint("cmsf", file, tmp_path / "named").conversion
    assert (named["layout"], named["notes"]) == ("cmsf-sup", "")
    config = AutoConfig.from_pretrained(tmp_path / "named")
    assert (config.model_type, config.supervision) == ("cmsf", "full")


@pytest.mark.parametrize(
    ("name", "tensor", "words"),
    [
        ("encoder_t.module.fc.1.running_var", None, "1 missing: encoder_t.module.fc.1.running_var"),
        ("extra.weight", torch.zeros(2), "1 unexpected: extra.weight"),
        ("queue", None, "1 missing: queue"),
    ],
)
def test_what_does_not_fit_is_said(name: str, tensor: torch.Tensor | None, words: str) -> None:
    state = mean_shift_state("msf")
    if tensor is None:
        del state[name]
    else:
        state[name] = tensor
    checkpoint = in_memory(state)
    with pytest.raises(ConversionError, match=words):
        model_tensors(MeanShiftLayout("msf").convert(checkpoint, branch=None), checkpoint)


@pytest.mark.parametrize(
    ("topk", "words"), [(65, "at most `bank_size` = 64, got 65"), (0.5, "no valid configuration of msf")]
)
def test_options_that_make_no_sense_are_refused(topk: float, words: str, tmp_path: Path) -> None:
    file = saved(mean_shift_state("msf"), tmp_path / "msf.pth", opt=argparse.Namespace(topk=topk))
    with pytest.raises(ConversionError, match=words):
        convert_checkpoint("msf", file, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["msf.pth"]


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_layout_is_the_authors(variant: str) -> None:
    with torch.device("meta"):
        state = mean_shift_state(variant, "resnet50")
    known = {"cmsf-sup": "msf"}.get(variant, variant)
    assert_layout_is_known(state, f"{known.replace('-', '_')}_resnet50")
