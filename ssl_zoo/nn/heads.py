"""Projection heads."""

from collections.abc import Sequence

from torch import nn


__all__ = ["Projector"]


class Projector(nn.Sequential):
    """Linear-BN-ReLU for every hidden width, then a plain linear layer.

    Args:
        in_features (`int`): Width of the embeddings that come in.
        hidden_features (sequence of `int`): Widths of the hidden layers; empty for a linear projector.
        out_features (`int`): Width of the projections.
        hidden_bias (`bool`): Bias in the hidden layers, redundant before batch norm.
        out_bias (`bool`): Bias in the last layer.
        norm (`bool`): Batch norm after the hidden layers; `False` for Linear-ReLU.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: Sequence[int],
        out_features: int,
        *,
        hidden_bias: bool = False,
        out_bias: bool = True,
        norm: bool = True,
    ) -> None:
        layers: list[nn.Module] = []
        for width in hidden_features:
            layers.append(nn.Linear(in_features, width, bias=hidden_bias))
            if norm:
                layers.append(nn.BatchNorm1d(width))
            layers.append(nn.ReLU(inplace=True))
            in_features = width
        super().__init__(*layers, nn.Linear(in_features, out_features, bias=out_bias))
