"""Checkpoints of MSF and CMSF: online and target encoder, predictor, and the state of the search.

The projector is the encoders' `fc`. Facts from the authors' training scripts.
"""

from argparse import Namespace
from collections.abc import Collection
from typing import Any

import torch

from ssl_zoo.conversion.layout import Checkpoint, Conversion, ConversionError, chosen_branch, same_names
from ssl_zoo.conversion.resnet import IMAGENET, is_resnet, linear_widths, resnet_settings
from ssl_zoo.models.registry import config_class_of


__all__ = ["MeanShiftLayout", "ambiguity"]


_BANK = "a bank of past embeddings fills again within a few hundred steps, and would be larger than the network"
_SEARCH = {
    "queue": _BANK,
    "labels": "class of each entry of the bank, for diagnosis",
    "queue_ptr": "position in the bank",
}
_OWN_SEARCH = {
    "cmsf-self": {
        "pool": "embeddings of all training images at earlier visits; they belong to the authors' copy of the data",
        "pool_qindex": "which of the two earlier visits is newer, image by image",
        "index_queue": "image number of each entry of the bank",
    },
    "cmsf-semi": {
        "gt_labels": "class of each entry of the bank, for diagnosis",
        "sup_queue": "bank of the labelled images' embeddings, which the classifier learns from",
        "sup_labels": "class of each entry of that bank",
        "sup_queue_ptr": "position in that bank",
        "sup_queue_oflow": "whether that bank was full once",
    },
}
_SUPERVISION = {"cmsf-self": "self", "cmsf-semi": "semi", "cmsf-sup": "full"}
_AMBIGUOUS = (
    "MSF and supervised CMSF save the same names, and nothing else in the file tells them apart: this was taken for "
    "MSF. If it is CMSF's, convert it again by the name `cmsf`; the backbone is the same, the method is not."
)


class MeanShiftLayout:
    """`encoder_q` (online) and `encoder_t` (target) with their `fc`, and `predict_q`.

    Args:
        name (`str`): `msf`, `cmsf-self`, `cmsf-semi` or `cmsf-sup`. The first and the last have the same names.
    """

    branches: tuple[str, ...] = ("online", "target")

    def __init__(self, name: str) -> None:
        self.name = name
        self.method = name.partition("-")[0]

    def recognises(self, keys: Collection[str]) -> bool:
        """Both encoders, the predictor, and of the search what this variant alone has."""
        encoders = all(is_resnet(keys, _prefix(keys, name)) for name in ("encoder_q", "encoder_t"))
        if not encoders or not any(name.startswith("predict_q.") for name in keys):
            return False
        special = {"cmsf-self": "pool" in keys, "cmsf-semi": any(name.startswith("mlp_head.") for name in keys)}
        return special.get(self.name, not any(special.values()))

    def convert(self, checkpoint: Checkpoint, *, branch: str | None) -> Conversion:
        """Make the full model around the online network, or the target's backbone alone; see `Layout.convert`."""
        branch = chosen_branch(self, branch)
        state = checkpoint.state
        online, target, predictor = (_prefix(state, name) for name in ("encoder_q", "encoder_t", "predict_q"))
        search = {**_SEARCH, **_OWN_SEARCH.get(self.name, {})}
        left_out = {name: why for name, why in search.items() if name in state}
        config = self._config(checkpoint, online, predictor)
        if branch == "target":
            only = "only the target's backbone was asked for"
            rest = [online, predictor, f"{target}fc.", *(["mlp_head."] if self.name == "cmsf-semi" else [])]
            return Conversion(
                config=config,
                weights=_backbone(checkpoint, target, "timm_model."),
                left_out={**left_out, **dict.fromkeys(rest, only)},
                branch=branch,
                complete=False,
                notes="This is the target's backbone, a moving average. The paper evaluates the online one.",
            )
        weights, notes = _backbone(checkpoint, online, "timm_model."), ""
        weights |= same_names(checkpoint, f"{online}fc.", "projector.")
        weights |= _backbone(checkpoint, target, "target_backbone.")
        weights |= same_names(checkpoint, f"{target}fc.", "target_projector.")
        weights |= same_names(checkpoint, predictor, "predictor.")
        if self.name == "cmsf-semi":
            weights |= same_names(checkpoint, _prefix(state, "mlp_head"), "classifier.network.")
            weights |= {"classifier.is_trained": torch.tensor(True), "classifier.accuracy": torch.zeros(())}
            notes = (
                "The classifier of pseudo-labels is the authors', trained. How accurate it was on its training data "
                "is not in the file: `classifier.accuracy` is 0 until it is trained again."
            )
        return Conversion(config=config, weights=weights, left_out=left_out, branch=branch, notes=notes)

    def _config(self, checkpoint: Checkpoint, online: str, predictor: str) -> Any:
        state, saved = checkpoint.state, _saved_options(checkpoint)
        _, projector_hidden, width = linear_widths(state, f"{online}fc.")
        if "queue" not in state:
            raise ConversionError(f"'{checkpoint.file}' doesn't fit the layout '{self.name}': 1 missing: queue")
        fields: dict[str, Any] = {
            **resnet_settings(state, online),
            "pretrained_cfg": dict(IMAGENET),
            "projector_hidden_features": projector_hidden,
            "projection_features": width,
            "predictor_hidden_features": linear_widths(state, predictor)[1],
            "bank_size": state["queue"].shape[0],
        }
        if "topk" in saved:
            fields["num_neighbors"] = saved["topk"]
        if "momentum" in saved:  # constant in the authors' code
            fields["momentum"] = fields["momentum_end"] = saved["momentum"]
        if self.method == "cmsf":
            fields["supervision"] = _SUPERVISION[self.name]
            fields.setdefault("num_neighbors", 5 if self.name == "cmsf-self" else 10)  # as in the released scripts
        if self.name == "cmsf-self":
            fields["num_samples"] = state["pool"].shape[1]
        if self.name == "cmsf-semi":
            _, hidden, num_classes = linear_widths(state, _prefix(state, "mlp_head"))
            fields["classifier_hidden_features"], fields["num_supervised_classes"] = hidden, num_classes
            if "conf_th" in saved:
                fields["confidence_threshold"] = saved["conf_th"] if saved.get("use_conf") else 0.0
        return config_class_of(self.method)(**fields)


def ambiguity(layout: str, recognised: Collection[str]) -> str:
    """What must be said when a layout was chosen although another has the same names; empty when all is clear."""
    return _AMBIGUOUS if layout == "msf" and "cmsf-sup" in recognised else ""


def _backbone(checkpoint: Checkpoint, source: str, target: str) -> dict[str, str | torch.Tensor]:
    """Names of an encoder without its `fc`, the projector."""
    names = same_names(checkpoint, source, target)
    return {name: tensor for name, tensor in names.items() if not name.startswith(f"{target}fc.")}


def _prefix(keys: Collection[str], name: str) -> str:
    """What stands before a part's names: each part was wrapped in DataParallel by itself, or not at all."""
    wrapped = f"{name}.module."
    return wrapped if any(key.startswith(wrapped) for key in keys) else f"{name}."


def _saved_options(checkpoint: Checkpoint) -> dict[str, Any]:
    """The options of the command line that are numbers; paths and the like are nobody's business."""
    opt = checkpoint.extras.get("opt")
    options = vars(opt) if isinstance(opt, Namespace) else {}
    return {name: value for name, value in options.items() if isinstance(value, bool | int | float)}
