"""The loss of BYOL."""

import torch
import torch.nn.functional as F


__all__ = ["byol_loss", "cosines"]


def cosines(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cosine of each prediction with its target, in float32 or better also under autocast.

    Args:
        predictions (`torch.Tensor` of shape `(..., features)`): Need not be normalised.
        targets (`torch.Tensor` of shape `(..., features)`): Likewise.

    Returns:
        `torch.Tensor` of shape `(...)`: in [-1, 1]; 0 for a vector of zeros.
    """
    dtype = torch.promote_types(predictions.dtype, torch.float32)
    with torch.autocast(predictions.device.type, enabled=False):
        return (F.normalize(predictions.to(dtype), dim=-1) * F.normalize(targets.to(dtype), dim=-1)).sum(dim=-1)


def byol_loss(predictions: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Squared distance of unit predictions and unit targets of the OTHER view, summed over both directions.

    Args:
        predictions (`torch.Tensor` of shape `(2, batch, features)`): The online network's of view 1 and 2.
        targets (`torch.Tensor` of shape `(2, batch, features)`): The target network's projections of view 1 and 2;
            pass them without gradient.

    Returns:
        `torch.Tensor` of shape `()`: from 0 to 8, averaged over the batch; 4 when all are orthogonal.
    """
    return (2 - 2 * cosines(predictions, targets.flip(0))).sum(dim=0).mean()
