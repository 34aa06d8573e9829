"""MIRA's checkpoints: student and teacher, each with encoder, projector and prototypes, in one file.

The 800-epoch and the multi-crop checkpoints have the same names. Facts from the authors' training script.
"""

from collections.abc import Collection
from typing import Any

import torch
import torch.nn.functional as F

from ssl_zoo.conversion.layout import Checkpoint, Conversion, ConversionError, chosen_branch, same_names
from ssl_zoo.conversion.resnet import IMAGENET, is_resnet, linear_widths, resnet_settings
from ssl_zoo.models.registry import config_class_of


__all__ = ["MiraLayout"]


_SOURCES = {"teacher": "ema_model.", "student": "model."}
# Below this cosine the prototypes of teacher and student are more than a step of training apart.
_SAME_DIRECTION = 0.99


class MiraLayout:
    """`model.{encoder,projector,head}` is the student, `ema_model.{...}` the teacher, which the authors evaluate."""

    name = "mira"
    method = "mira"
    branches: tuple[str, ...] = ("teacher", "student")

    def recognises(self, keys: Collection[str]) -> bool:
        """Both branches' encoders are there, and prototypes of direction and length."""
        heads = all(f"{source}head.weight_v" in keys for source in _SOURCES.values())
        return heads and all(is_resnet(keys, f"{source}encoder.") for source in _SOURCES.values())

    def convert(self, checkpoint: Checkpoint, *, branch: str | None) -> Conversion:
        """Make the full model around the teacher, or the student's backbone alone; see `Layout.convert`."""
        branch = chosen_branch(self, branch)
        state, source = checkpoint.state, _SOURCES[branch]
        _, hidden, width = linear_widths(state, f"{source}projector.")
        config: Any = config_class_of("mira")(
            **resnet_settings(state, f"{source}encoder."),
            pretrained_cfg=dict(IMAGENET),
            projector_hidden_features=hidden,
            projection_features=width,
            num_prototypes=state[f"{source}head.weight_v"].shape[0],
        )
        if branch == "student":
            only = "only the student's backbone was asked for"
            return Conversion(
                config=config,
                weights=same_names(checkpoint, "model.encoder.", "timm_model."),
                left_out={"ema_model.": only, "model.projector.": only, "model.head.": only},
                branch=branch,
                complete=False,
                notes="This is the student's backbone. The paper evaluates the teacher's.",
            )
        prototypes, notes = _shared_prototypes(checkpoint)
        weights: dict[str, str | torch.Tensor] = {
            **same_names(checkpoint, "ema_model.encoder.", "timm_model."),
            **same_names(checkpoint, "ema_model.projector.", "teacher_projector."),
            **same_names(checkpoint, "model.encoder.", "student_backbone."),
            **same_names(checkpoint, "model.projector.", "student_projector."),
            "prototypes.weight": prototypes,
        }
        heads = frozenset(f"{prefix}head.weight_{part}" for prefix in _SOURCES.values() for part in "gv")
        return Conversion(config=config, weights=weights, left_out={}, branch=branch, used=heads, notes=notes)


def _shared_prototypes(checkpoint: Checkpoint) -> tuple[torch.Tensor, str]:
    """The teacher's prototypes, `(num_prototypes, features)`, and what is to be said of the student's."""
    teacher, student = (_prototypes(checkpoint, source) for source in _SOURCES.values())
    if teacher.shape != student.shape:
        raise ConversionError(
            f"the teacher has {list(teacher.shape)} prototypes and the student {list(student.shape)}: both are copies "
            f"of one set in MIRA, so this checkpoint is of another method or damaged"
        )
    if torch.equal(teacher, student):
        return teacher, ""
    # The authors copy the student's prototypes to the teacher before a step, so in a saved file the student's may be
    # one step ahead. What is evaluated is the teacher.
    cosine = float(F.cosine_similarity(teacher.double(), student.double(), dim=-1).min())
    if not cosine >= _SAME_DIRECTION:
        raise ConversionError(
            f"the prototypes of teacher and student point in different directions (smallest cosine {cosine:.3f}, "
            f"expected at least {_SAME_DIRECTION}), but MIRA's branches share them; `--branch student` converts the "
            f"student's backbone without them"
        )
    ahead = f"The student's in the file are up to a training step ahead (smallest cosine {cosine:.6f})."
    return teacher, f"The prototypes are the teacher's. {ahead}"


def _prototypes(checkpoint: Checkpoint, source: str) -> torch.Tensor:
    """`g * v / ||v||`, the rows that act under weight normalisation."""
    names = [f"{source}head.weight_{part}" for part in "gv"]
    absent = [name for name in names if name not in checkpoint.state]
    if absent:
        raise ConversionError(f"'{checkpoint.file}' lacks the prototypes: 1 missing: {absent[0]}")
    length, direction = (checkpoint.state[name].float() for name in names)
    if length.shape != (len(direction), 1) or not torch.allclose(length, torch.ones_like(length), atol=1e-4):
        raise ConversionError(
            f"{names[0]} must hold one length of 1 for each prototype, as MIRA freezes them: scores are cosines. "
            f"Got the shape {list(length.shape)} and lengths from {length.min():.3f} to {length.max():.3f}"
        )
    return length * F.normalize(direction, dim=-1)
