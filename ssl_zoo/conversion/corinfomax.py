"""CorInfoMax's checkpoints: backbone and projector of a training, or the backbone's tensors alone.

All data sets have the same names; ImageNet-1k's projector has batch norm, CIFAR's backbone a stem for small images.
Facts from the authors' model and saving scripts.
"""

from collections.abc import Collection
from typing import Any

import torch

from ssl_zoo.conversion.layout import Checkpoint, Conversion, ConversionError, chosen_branch, same_names
from ssl_zoo.conversion.resnet import IMAGENET, is_resnet, linear_widths, resnet_settings
from ssl_zoo.models.registry import config_class_of


__all__ = ["CorinfomaxBackboneLayout", "CorinfomaxLayout"]


# The authors' evaluations resize by bilinear interpolation (torchvision's default) to size / 0.875, then crop.
_SMALL_IMAGES: dict[str, dict[str, Any]] = {
    "cifar10": {"input_size": [3, 32, 32], "mean": [0.4914, 0.4822, 0.4465], "std": [0.247, 0.243, 0.261]},
    "cifar100": {"input_size": [3, 32, 32], "mean": [0.5071, 0.4865, 0.4409], "std": [0.2673, 0.2564, 0.2762]},
    "tiny_imagenet": {"input_size": [3, 64, 64]},
}
# Option of the authors' scripts, saved as `parameters_dict` -> our field.
_OPTIONS = {
    "sim_loss_weight": "similarity_weight",
    "cov_loss_weight": "covariance_weight",
    "la_mu": "forgetting_factor_mean",
    "la_R": "forgetting_factor_covariance",
    "R_ini": "initial_covariance",
    "R_eps_weight": "covariance_offset",
}


class CorinfomaxLayout:
    """`backbone.*` and `projector.*` of a training checkpoint."""

    name = "corinfomax"
    method = "corinfomax"
    branches: tuple[str, ...] = ("backbone",)

    def recognises(self, keys: Collection[str]) -> bool:
        """A ResNet under `backbone.`, and a projector."""
        return is_resnet(keys, "backbone.") and "projector.0.weight" in keys

    def convert(self, checkpoint: Checkpoint, *, branch: str | None) -> Conversion:
        """Make the full model, its running statistics fresh; see `Layout.convert`."""
        branch = chosen_branch(self, branch)
        state = checkpoint.state
        _, hidden, width = linear_widths(state, "projector.")
        settings = resnet_settings(state, "backbone.")
        preparation, notes = _preparation(checkpoint, small=settings["small_image_stem"])
        config: Any = config_class_of("corinfomax")(
            **settings,
            **_options(checkpoint),
            pretrained_cfg=preparation,
            projector_hidden_features=hidden,
            projection_features=width,
            projector_norm=any(name.startswith("projector.") and name.endswith(".running_mean") for name in state),
        )
        fresh = "the authors don't save the running statistics of the projections, so they start anew"
        weights: dict[str, str | torch.Tensor] = {
            **same_names(checkpoint, "backbone.", "timm_model."),
            **same_names(checkpoint, "projector.", "projector."),
            "projection_means": torch.zeros(2, width),
            "projection_covariances": config.initial_covariance * torch.eye(width).repeat(2, 1, 1),
        }
        return Conversion(
            config=config, weights=weights, left_out={"R1, R2, mu1, mu2": fresh}, branch=branch, notes=notes
        )


class CorinfomaxBackboneLayout:
    """The flat `*_resnet50.pth`: a ResNet's tensors by torchvision's names, without the classifier."""

    name = "corinfomax-backbone"
    method = "corinfomax"
    branches: tuple[str, ...] = ("backbone",)

    def recognises(self, keys: Collection[str]) -> bool:
        """A ResNet at the top, without a classifier."""
        return is_resnet(keys) and "fc.weight" not in keys

    def convert(self, checkpoint: Checkpoint, *, branch: str | None) -> Conversion:
        """Make the backbone; see `Layout.convert`."""
        branch = chosen_branch(self, branch)
        settings = resnet_settings(checkpoint.state, "")
        preparation, notes = _preparation(checkpoint, small=settings["small_image_stem"])
        return Conversion(
            config=config_class_of("corinfomax")(**settings, pretrained_cfg=preparation),
            weights=same_names(checkpoint, "", "timm_model."),
            left_out={"projector": "the file holds the backbone alone, so there is no pretraining model"},
            branch=branch,
            complete=False,
            notes=notes,
        )


def _preparation(checkpoint: Checkpoint, *, small: bool) -> tuple[dict[str, Any], str]:
    """How images are prepared, by the data set that the file names or else by the stem; and what is to be said."""
    dataset = _saved_options(checkpoint).get("dataset")
    if dataset in _SMALL_IMAGES or (dataset is None and small):
        differing = _SMALL_IMAGES[dataset or "cifar10"]
        unsure = "" if dataset else "The file doesn't name its data set; the images are prepared as CIFAR-10's."
        return {**IMAGENET, **differing}, unsure
    return dict(IMAGENET), ""


def _saved_options(checkpoint: Checkpoint) -> dict[str, Any]:
    saved = checkpoint.extras.get("parameters_dict")
    return saved if isinstance(saved, dict) else {}


def _options(checkpoint: Checkpoint) -> dict[str, Any]:
    """The options of the training that are ours, too."""
    options = {}
    for name, field in _OPTIONS.items():
        value = _saved_options(checkpoint).get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ConversionError(f"`parameters_dict['{name}']` must be a number, got '{value}'")
        options[field] = value
    return options
