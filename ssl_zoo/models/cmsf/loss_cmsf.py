"""The loss of CMSF."""

import torch


__all__ = ["constrained_mean_shift_loss"]


def constrained_mean_shift_loss(
    constrained: torch.Tensor, plain: torch.Tensor | None = None, is_constrained: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean distance to the constrained neighbours, without labels averaged with that to the plain ones (CMSF, eq. 1).

    Args:
        constrained (`torch.Tensor` of shape `(batch,)`): Mean of 2 - 2 cos of each prediction and the neighbours of
            its target in the constraint set.
        plain (`torch.Tensor` of shape `(batch,)`, *optional*): The same with neighbours out of the whole bank. Given
            without labels, where every row has this term; left out with labels.
        is_constrained (`torch.Tensor` of shape `(batch,)`, *optional*): Which rows have a constraint set, bool; the
            others have the plain term alone. Goes with `plain`.

    Returns:
        `torch.Tensor` of shape `()` in [0, 4]: averaged over the batch.
    """
    if plain is None or is_constrained is None:
        return constrained.mean()
    return torch.where(is_constrained, (plain + constrained) / 2.0, plain).mean()
