"""Configuration of MSF."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ssl_zoo.models.configuration_base import SSLConfig


__all__ = ["MsfConfig"]


@strict
class MsfConfig(SSLConfig):
    """MSF: mean shift for self-supervised learning (https://huggingface.co/papers/2105.07269).

    The defaults are the released code's for ResNet-50 on ImageNet, but for `num_neighbors`: the published result has
    10, the code's default is 5. The published result has a bank of 1,024,000 as well.

    Args:
        projector_hidden_features (`list[int]`): widths of the projector's hidden layers, `[4096]` when left out (twice
            the backbone's width).
        projection_features (`int`): width of the projections that are compared (a quarter of the backbone's width).
        predictor_hidden_features (`list[int]`): widths of the predictor's hidden layers, `[4096]` when left out.
        bank_size (`int`): how many target projections are remembered, over all processes.
        num_neighbors (`int`): neighbours that a prediction is pulled to, the image itself among them (k).
        momentum (`float`): share of the target that stays at each step at the start of training.
        momentum_end (`float`): the same at the end; cosine in between.
    """

    model_type = "msf"

    projector_hidden_features: list[int] | None = None
    projection_features: int = 512
    predictor_hidden_features: list[int] | None = None
    bank_size: int = 128000
    num_neighbors: int = 10
    momentum: float | int = 0.99
    momentum_end: float | int = 0.99

    _default_lists: ClassVar = {"projector_hidden_features": (4096,), "predictor_hidden_features": (4096,)}
    _ranges: ClassVar = {
        "at least 1": ("projection_features", "bank_size", "num_neighbors"),
        "in [0, 1]": ("momentum", "momentum_end"),
    }

    def validate_ranges(self) -> None:
        """Check also that the bank holds as many entries as are searched for; see `SSLConfig`."""
        super().validate_ranges()
        if self.num_neighbors > self.bank_size:
            raise ValueError(
                f"`num_neighbors` must be at most `bank_size` = {self.bank_size}, got {self.num_neighbors}"
            )
