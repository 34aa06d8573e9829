"""The loss of SeLa, its initial labels, and the moments at which labels are solved for."""

from typing import Literal

import torch


__all__ = ["balanced_labels", "sela_loss", "solves_due"]


def sela_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of each head's predictions with its labels.

    Args:
        logits (`torch.Tensor` of shape `(views, batch, num_heads, num_clusters)`): Of each view; any float dtype.
        labels (`torch.Tensor` of shape `(num_heads, batch)`): One label per image and head, for all of its views.

    Returns:
        `torch.Tensor` of shape `(num_heads,)`: in nats, averaged over views and batch. The loss is their mean.
    """
    log_predictions = torch.log_softmax(logits.float(), dim=-1)
    targets = labels.long().T[None, :, :, None].expand(len(logits), -1, -1, 1)
    return -log_predictions.gather(-1, targets).mean(dim=(0, 1, 3))


def balanced_labels(num_heads: int, num_samples: int, num_clusters: int, *, seed: int) -> torch.Tensor:
    """Assign the samples at random to clusters of equal size, independently for each head.

    Returns:
        `torch.Tensor` of shape `(num_heads, num_samples)`: int32 labels; cluster sizes differ by 1 at most.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randperm(num_samples, generator=generator, device="cpu") % num_clusters for _ in range(num_heads)]
    return torch.stack(rows).to(torch.int32)


def solves_due(
    epoch: float,
    *,
    epochs: float,
    num_solves: int,
    spacing: Literal["quadratic", "linear"],
    margin_epochs: float,
) -> int:
    """Count the moments (epochs + margin) (i / (num_solves - 1))^p, p = 1 or 2, up to `epoch`.

    Args:
        epoch: Passes over the data done so far.
        epochs: Passes over the data in the whole training.
        num_solves: Number of moments; the first is 0.
        spacing: `linear` for p = 1, `quadratic` for p = 2.
        margin_epochs: What the authors add to `epochs`.

    Returns:
        Between 1 and `num_solves`.
    """
    last = max(num_solves - 1, 1)
    power = 2 if spacing == "quadratic" else 1
    # No closed form for i: a moment must compare equal to its own epoch in floating point.
    return sum((epochs + margin_epochs) * (index / last) ** power <= epoch for index in range(num_solves))
