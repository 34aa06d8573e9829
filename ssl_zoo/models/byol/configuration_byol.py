"""Configuration of BYOL."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ssl_zoo.models.configuration_base import SSLConfig


__all__ = ["ByolConfig"]


@strict
class ByolConfig(SSLConfig):
    """BYOL: bootstrap your own latent (https://huggingface.co/papers/2006.07733).

    The defaults are the paper's for ResNet-50 on ImageNet, 1000 epochs.

    Args:
        projector_hidden_features (`list[int]`): widths of the projector's hidden layers, `[4096]` when left out.
        predictor_hidden_features (`list[int]`): the same of the predictor.
        projection_features (`int`): width of projections and predictions.
        momentum (`float`): share of the target that stays at each step at the start of training (tau). The released
            code's preset is 0.99 for 100 and 300 epochs.
        momentum_end (`float`): the same at the end; cosine in between.
    """

    model_type = "byol"

    projector_hidden_features: list[int] | None = None
    predictor_hidden_features: list[int] | None = None
    projection_features: int = 256
    momentum: float | int = 0.996
    momentum_end: float | int = 1.0

    _default_lists: ClassVar = {"projector_hidden_features": (4096,), "predictor_hidden_features": (4096,)}
    _ranges: ClassVar = {
        "> 0": ("projection_features",),
        "in [0, 1]": ("momentum", "momentum_end"),
    }
