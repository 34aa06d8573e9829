"""Configuration of BYOL."""

from typing import Any

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

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in the list defaults."""
        if self.projector_hidden_features is None:
            self.projector_hidden_features = [4096]
        if self.predictor_hidden_features is None:
            self.predictor_hidden_features = [4096]
        super().__post_init__(**kwargs)

    def validate_ranges(self) -> None:
        """Check every value that training would otherwise trip over.

        Raises:
            ValueError: naming the field, its value and what was expected.
        """
        if self.projection_features <= 0:
            raise ValueError(f"`projection_features` must be > 0, got {self.projection_features}")
        for name in ("momentum", "momentum_end"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)}")
