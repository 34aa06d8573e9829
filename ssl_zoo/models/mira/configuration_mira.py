"""Configuration of MIRA."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ssl_zoo.models.configuration_base import SSLConfig


__all__ = ["MiraConfig"]


@strict
class MiraConfig(SSLConfig):
    """MIRA: mutual information regularised assignment (https://huggingface.co/papers/2211.02284).

    The defaults are the paper's for ResNet-50 on ImageNet.

    Args:
        projector_hidden_features (`list[int]`): widths of the projector's hidden layers, `[2048, 2048]` when left out.
        projection_features (`int`): width of the projections that are compared with the prototypes.
        num_prototypes (`int`): number of prototypes K. Take it from the size of the data: 3000 suits ImageNet.
        student_temperature (`float`): divides the student's scores (tau_s).
        teacher_temperature (`float`): divides the teacher's scores (tau_t).
        beta (`float`): weight of the mutual information at the start of training, in [0, 1).
        beta_end (`float`): the same at the end; cosine in between.
        num_iters (`int`): fixed-point iterations of the assignment.
        momentum (`float`): share of the teacher that stays at each step at the start of training.
        momentum_end (`float`): the same at the end; cosine in between.
        freeze_prototypes_epochs (`int | float`): how long the prototypes get no gradient.
    """

    model_type = "mira"

    projector_hidden_features: list[int] | None = None
    projection_features: int = 256
    num_prototypes: int = 3000
    student_temperature: float | int = 0.1
    teacher_temperature: float | int = 0.225
    beta: float | int = 0.75
    beta_end: float | int = 2 / 3
    num_iters: int = 30
    momentum: float | int = 0.99
    momentum_end: float | int = 1.0
    freeze_prototypes_epochs: float | int = 1

    _default_lists: ClassVar = {"projector_hidden_features": (2048, 2048)}
    _ranges: ClassVar = {
        "> 0": ("student_temperature", "teacher_temperature", "projection_features", "num_prototypes"),
        "at least 1": ("num_iters",),
        "in [0, 1)": ("beta", "beta_end"),
        "in [0, 1]": ("momentum", "momentum_end"),
    }

    @property
    def cluster_assignment(self) -> dict[str, float]:
        """The teacher's temperature, and beta at the end of training."""
        return {"temperature": float(self.teacher_temperature), "beta": float(self.beta_end)}
