"""The loss of supervised training."""

import torch


__all__ = ["supervised_loss"]


def supervised_loss(logits: torch.Tensor, labels: torch.Tensor, *, smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of predictions and labels of each image, in float32 or better.

    Args:
        logits (`torch.Tensor` of shape `(views, batch, num_classes)`): Of each view; any float dtype.
        labels (`torch.Tensor` of shape `(batch,)`): One label per image, for all of its views; -1 for none.
        smoothing (`float`): Share of each label that is spread evenly over all classes, its own included.

    Returns:
        `torch.Tensor` of shape `(batch,)`: in nats, averaged over the views; 0 where there is no label.
    """
    log_predictions = torch.log_softmax(logits.to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    targets = labels.clamp_min(0)[None, :, None].expand(len(logits), -1, 1)
    of_label = log_predictions.gather(-1, targets).squeeze(-1)
    losses = -((1.0 - smoothing) * of_label + smoothing * log_predictions.mean(dim=-1)).mean(dim=0)
    return torch.where(labels >= 0, losses, 0.0)
