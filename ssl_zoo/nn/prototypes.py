"""Prototypes: unit vectors that projections are compared with."""

import torch
import torch.nn.functional as F
from torch import nn


__all__ = ["Prototypes"]


class Prototypes(nn.Module):
    """Cosine similarity of projections to learned prototypes.

    The stored rows are free; what acts is their direction. This is weight normalisation with the gain fixed at 1.

    Args:
        num_features (`int`): Width of the projections.
        num_prototypes (`int`): How many prototypes.
    """

    def __init__(self, num_features: int, num_prototypes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.Linear(num_features, num_prototypes, bias=False).weight.detach())

    def forward(self, projections: torch.Tensor) -> torch.Tensor:
        """Score projections.

        Args:
            projections (`torch.Tensor` of shape `(..., num_features)`): Need not be normalised.

        Returns:
            `torch.Tensor` of shape `(..., num_prototypes)`: cosines in [-1, 1], always float32: under autocast, half
            precision would cost the assignments about 2e-3.
        """
        with torch.autocast(projections.device.type, enabled=False):
            dtype = torch.promote_types(self.weight.dtype, torch.float32)
            directions = F.normalize(self.weight.to(dtype), dim=-1)
            return F.linear(F.normalize(projections.to(dtype), dim=-1), directions)
