"""The loss of MSF."""

import torch

from ssl_zoo.functional.neighbors import mean_neighbor_distance


__all__ = ["mean_shift_loss"]


def mean_shift_loss(predictions: torch.Tensor, neighbors: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    """Mean squared distance 2 - 2 cos of the predictions to the neighbours of their targets (MSF, section 3).

    Args:
        predictions (`torch.Tensor` of shape `(batch, features)`): The online network's, of any length.
        neighbors (`torch.Tensor` of shape `(batch, k, features)`): Unit vectors out of the bank.
        found (`torch.Tensor` of shape `(batch, k)`): Which of them exist, bool.

    Returns:
        `torch.Tensor` of shape `()` in [0, 4]: averaged over the neighbours that exist, then over the batch.
    """
    return mean_neighbor_distance(predictions, neighbors, found).mean()
