"""The loss of PAWS: predictions by soft nearest neighbours in a labelled support, and targets made of them."""

import torch
import torch.nn.functional as F

from ssl_zoo.functional.distributed import all_reduce_sum


__all__ = [
    "class_targets",
    "mean_prediction_entropy",
    "paws_targets",
    "prediction_loss",
    "sharpen",
    "soft_nearest_neighbors",
]

_NEGLIGIBLE = 1e-4  # smaller entries of a target are set to 0, as in the authors' code


def class_targets(columns: torch.Tensor, *, num_classes: int, smoothing: float) -> torch.Tensor:
    """Smoothed one-hot rows.

    Args:
        columns (`torch.Tensor` of shape `(support,)`): Class of each support image, 0 to `num_classes - 1`.
        num_classes (`int`): Classes in the support.
        smoothing (`float`): Share that is spread over all classes, in [0, 1).

    Returns:
        `torch.Tensor` of shape `(support, num_classes)`: rows sum to 1.
    """
    return F.one_hot(columns, num_classes) * (1.0 - smoothing) + smoothing / num_classes


def soft_nearest_neighbors(
    projections: torch.Tensor, support: torch.Tensor, targets: torch.Tensor, *, temperature: float
) -> torch.Tensor:
    """Class probabilities by similarity to a labelled support (PAWS eq. 1, https://huggingface.co/papers/2104.13963).

    Args:
        projections (`torch.Tensor` of shape `(rows, width)`): Normalised here.
        support (`torch.Tensor` of shape `(support, width)`): Of all processes; normalised here.
        targets (`torch.Tensor` of shape `(support, num_classes)`): From `class_targets`.
        temperature (`float`): Divides the cosines.

    Returns:
        `torch.Tensor` of shape `(rows, num_classes)`: softmax over the support times `targets`; rows sum to 1.
    """
    cosines = F.normalize(projections, dim=-1) @ F.normalize(support, dim=-1).T
    weights = torch.softmax(cosines / temperature, dim=-1)
    return weights @ targets.to(weights.dtype)


def sharpen(probabilities: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """Raise rows to the power of 1 / temperature and normalise them again (PAWS eq. 2)."""
    # Scaled to a largest entry of 1 first, so that no power underflows to a row of zeros.
    powers = (probabilities / probabilities.amax(dim=-1, keepdim=True)) ** (1.0 / temperature)
    return powers / powers.sum(dim=-1, keepdim=True)


def paws_targets(probabilities: torch.Tensor, *, num_views: int, sharpening_temperature: float) -> torch.Tensor:
    """Targets of all views: each global view's is the other's sharpened prediction, a local view's their mean.

    Args:
        probabilities (`torch.Tensor` of shape `(2, batch, num_classes)`): Predictions for the two global views.
        num_views (`int`): Views in all, at least 2.
        sharpening_temperature (`float`): Of `sharpen`.

    Returns:
        `torch.Tensor` of shape `(num_views, batch, num_classes)`.
    """
    sharp = sharpen(probabilities, temperature=sharpening_temperature)
    mean = sharp.mean(dim=0, keepdim=True).expand(num_views - 2, -1, -1)
    targets = torch.cat([sharp.flip(0), mean])
    return torch.where(targets < _NEGLIGIBLE, 0.0, targets)


def prediction_loss(probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy over views and images; both of shape `(views, batch, num_classes)`."""
    tiny = torch.finfo(probabilities.dtype).tiny
    return -(targets * probabilities.clamp_min(tiny).log()).sum(dim=-1).mean()


def mean_prediction_entropy(probabilities: torch.Tensor, *, sharpening_temperature: float) -> torch.Tensor:
    """Entropy of the mean of all processes' sharpened predictions, in nats (me-max, PAWS eq. 4).

    Args:
        probabilities (`torch.Tensor` of shape `(views, batch, num_classes)`): This process's; equally many on each.
        sharpening_temperature (`float`): Of `sharpen`.

    Returns:
        `torch.Tensor` of shape `()`: the same on every process, at most ln num_classes; its gradient reaches all of
        them.
    """
    sharp = sharpen(probabilities, temperature=sharpening_temperature).flatten(end_dim=-2)
    sums = all_reduce_sum(torch.cat([sharp.sum(dim=0), sharp.new_full((1,), len(sharp))]))
    entropy: torch.Tensor = torch.special.entr(sums[:-1] / sums[-1]).sum()
    return entropy
