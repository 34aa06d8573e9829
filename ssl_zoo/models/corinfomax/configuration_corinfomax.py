"""Configuration of CorInfoMax."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ssl_zoo.models.configuration_base import SSLConfig


__all__ = ["CorinfomaxConfig"]


@strict
class CorinfomaxConfig(SSLConfig):
    """CorInfoMax: correlative information maximisation (https://huggingface.co/papers/2209.07999).

    The defaults are the authors' for ResNet-50 on ImageNet-1k (the command in their README). Their other data sets
    have other values, and projectors without batch norm: see `recipes/corinfomax`.

    Args:
        projector_hidden_features (`list[int]`): widths of the projector's hidden layers, `[8192, 8192]` when left out.
            They have biases; the last layer has none.
        projection_features (`int`): width of the projections, D.
        projector_norm (`bool`): batch norm in the hidden layers. The authors have it for ImageNet-1k only.
        similarity_weight (`float`): weight of the mean squared difference of the views (alpha, `sim_loss_weight`).
        covariance_weight (`float`): weight of the log-determinants (`cov_loss_weight`).
        forgetting_factor_mean (`float`): share of the past in the running mean, in [0, 1) (`la_mu`).
        forgetting_factor_covariance (`float`): share of the past in the running covariance, in [0, 1) (`la_R`).
        initial_covariance (`float`): the running covariance starts at this times the identity (`R_ini`).
        covariance_offset (`float`): added to the diagonal before the log-determinant (epsilon, `R_eps_weight`; 1e-8 in
            all published commands, 1e-6 as the code's default).
    """

    model_type = "corinfomax"

    projector_hidden_features: list[int] | None = None
    projection_features: int = 512
    projector_norm: bool = True
    similarity_weight: float | int = 2000.0
    covariance_weight: float | int = 1.0
    forgetting_factor_mean: float | int = 0.1
    forgetting_factor_covariance: float | int = 0.1
    initial_covariance: float | int = 1.0
    covariance_offset: float | int = 1e-8

    _default_lists: ClassVar = {"projector_hidden_features": (8192, 8192)}
    _ranges: ClassVar = {
        "> 0": ("projection_features", "initial_covariance"),
        ">= 0": ("similarity_weight", "covariance_weight", "covariance_offset"),
        "in [0, 1)": ("forgetting_factor_mean", "forgetting_factor_covariance"),
    }
