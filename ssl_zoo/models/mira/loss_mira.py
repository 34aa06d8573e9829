"""The loss of MIRA."""

import torch


__all__ = ["mira_loss"]


def mira_loss(assignments: torch.Tensor, scores: list[torch.Tensor], *, temperature: float) -> torch.Tensor:
    """Cross-entropy of each global view's assignment with the predictions from every other view.

    Args:
        assignments (`torch.Tensor` of shape `(global_views, batch, num_prototypes)`): Targets, rows sum to 1.
        scores (list of `torch.Tensor` of shape `(batch, num_prototypes)`): The student's cosine scores, one entry a
            view, the global views first.
        temperature (`float`): The student's.

    Returns:
        `torch.Tensor` of shape `()`: averaged over the batch, over the other views, then over the targets.
    """
    num_targets, batch_size = assignments.shape[:2]
    with torch.autocast(assignments.device.type, enabled=False):  # the sum below is a matmul: keep it in float32
        log_predictions = torch.stack([torch.log_softmax(view / temperature, dim=-1) for view in scores])
        # cross_entropy[a, v] is that of target a with view v; a view never predicts its own target.
        cross_entropy = -torch.einsum("abk,vbk->av", assignments, log_predictions) / batch_size
    same_view = torch.eye(num_targets, len(scores), dtype=torch.bool, device=cross_entropy.device)
    return cross_entropy.masked_fill(same_view, 0.0).sum() / (num_targets * (len(scores) - 1))
