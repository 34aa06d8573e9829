"""CorInfoMax's checkpoints: of ImageNet with batch norm in the projector, of CIFAR without, and the backbone alone."""

from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import AutoImageProcessor, AutoModel, AutoModelForPreTraining

import ssl_zoo  # noqa: F401  # registers the methods
from ssl_zoo.conversion.convert import convert_checkpoint
from tests.conversion.author_layouts import (
    TOLERANCE,
    assert_layout_is_known,
    corinfomax_state,
    largest_difference,
    photos,
    run_head,
    run_resnet,
    saved,
    unprefixed,
)


@torch.no_grad()
@pytest.mark.parametrize(("norm", "small"), [(True, False), (False, True)])
def test_features_and_projections(norm: bool, small: bool, tmp_path: Path) -> None:
    state = corinfomax_state(norm=norm, small_stem=small)
    options = {"dataset": "cifar100" if small else "imagenet", "sim_loss_weight": 1000.0, "la_R": 0.01, "R_ini": 2.0}
    file = tmp_path / "model.pth"
    saved(state, file, key="model_state_dict", epoch=100, loss=0.5, parameters_dict=options, optimizer_state_dict={})
    made = convert_checkpoint("auto", file, tmp_path / "out")
    images = photos(32 if small else 64)
    expected = run_resnet(state, images, "resnet18", "backbone.")
    ours = AutoModel.from_pretrained(made.folder).eval()(images).pooler_output
    assert largest_difference(ours, expected) < TOLERANCE
    full = AutoModelForPreTraining.from_pretrained(made.folder).eval()
    projections = F.normalize(full._project(images)[1], dim=1)
    assert largest_difference(projections, F.normalize(run_head(state, expected, "projector."), dim=1)) < TOLERANCE
    config = full.config
    assert (config.projector_norm, config.small_image_stem) == (norm, small)
    assert (config.similarity_weight, config.forgetting_factor_covariance) == (1000.0, 0.01)
    assert torch.equal(full.projection_covariances, 2.0 * torch.eye(16).expand(2, 16, 16))
    assert torch.equal(full.projection_means, torch.zeros(2, 16))
    left_out = {"R1, R2, mu1, mu2", "loss", "parameters_dict", "optimizer_state_dict"}
    assert set(made.conversion["left_out"]) == left_out
    if not small:
        by_timm = timm.create_model(f"local-dir:{made.folder}", pretrained=True).eval()
        assert largest_difference(by_timm(images), expected) < TOLERANCE


@torch.no_grad()
def test_the_backbone_alone(tmp_path: Path) -> None:
    state = {
        name: tensor
        for name, tensor in unprefixed(corinfomax_state(norm=True, small_stem=False), "backbone.").items()
        if not name.startswith("projector.")
    }
    made = convert_checkpoint("corinfomax", saved(state, tmp_path / "t_resnet50.pth", key=""), tmp_path / "out")
    assert (made.conversion["layout"], made.complete) == ("corinfomax-backbone", False)
    ours = AutoModel.from_pretrained(made.folder).eval()(photos()).pooler_output
    assert largest_difference(ours, run_resnet(state, photos(), "resnet18", "")) < TOLERANCE


@pytest.mark.parametrize(
    ("dataset", "size", "mean"), [("cifar100", 32, 0.5071), ("tiny_imagenet", 64, 0.485), ("imagenet-100", 224, 0.485)]
)
def test_images_are_prepared_as_in_the_authors_evaluation(
    dataset: str, size: int, mean: float, tmp_path: Path
) -> None:
    state = corinfomax_state(norm=False, small_stem=dataset == "cifar100")
    file = saved(state, tmp_path / "model.pth", key="model_state_dict", parameters_dict={"dataset": dataset})
    processor = AutoImageProcessor.from_pretrained(convert_checkpoint("corinfomax", file, tmp_path / "out").folder)
    grey = Image.new("RGB", (2 * size, 3 * size), (128, 128, 128))
    prepared = processor(grey, return_tensors="pt")["pixel_values"]
    assert prepared.shape == (1, 3, size, size)
    mean, std = (0.5071, 0.2673) if dataset == "cifar100" else (0.485, 0.229)
    assert float(prepared[0, 0].mean()) == pytest.approx((128 / 255 - mean) / std, abs=1e-3)


def test_the_layout_is_the_authors() -> None:
    with torch.device("meta"):
        state = corinfomax_state("resnet50", (8192, 8192, 512), norm=True, small_stem=False)
    assert_layout_is_known(state, "corinfomax_imagenet1k_bn_CovModel6_resnet50")
