"""Entropies: of soft assignments over the batch of all processes, and of a spectrum."""

from typing import NamedTuple

import torch

from ssl_zoo.functional.distributed import all_reduce_sum_


__all__ = ["AssignmentInformation", "effective_rank", "information"]


class AssignmentInformation(NamedTuple):
    """Entropies of a set of assignments, in nats.

    Attributes:
        entropy (`torch.Tensor` of shape `(...)`): Mean over samples of H(W_i); 0 for hard assignments, ln K for none.
        marginal_entropy (`torch.Tensor` of shape `(...)`): H(mean of W_i); ln K when all prototypes are used equally.
        mutual_information (`torch.Tensor` of shape `(...)`): The difference, >= 0: what prototypes tell of images.
    """

    entropy: torch.Tensor
    marginal_entropy: torch.Tensor
    mutual_information: torch.Tensor


@torch.no_grad()
def information(assignments: torch.Tensor) -> AssignmentInformation:
    r"""Mean entropy, entropy of the mean, and their difference MI(W) = H(Wbar) - mean_i H(W_i).

    The mean runs over the batches of all processes, with one all-reduce of (..., K + 2) numbers.

    Args:
        assignments (`torch.Tensor` of shape `(..., batch, num_prototypes)`): Rows on the simplex, local to this
            process; leading dimensions are independent problems. Batches may differ between processes.

    Returns:
        [`AssignmentInformation`]: float32 (float64 for float64 input), not differentiable, equal on every process.

    Raises:
        ValueError: If `assignments` has fewer than two dimensions.
    """
    if assignments.ndim < 2:
        raise ValueError(f"`assignments` must have shape (..., batch, num_prototypes), got {tuple(assignments.shape)}")
    weights = assignments.to(torch.promote_types(assignments.dtype, torch.float32))
    count = weights.new_full((*weights.shape[:-2], 1), weights.shape[-2])
    entropy = torch.special.entr(weights).sum(dim=(-2, -1)).unsqueeze(-1)
    sums = all_reduce_sum_(torch.cat([weights.sum(dim=-2), entropy, count], dim=-1))
    means = sums[..., :-1] / sums[..., -1:]
    marginal_entropy = torch.special.entr(means[..., :-1]).sum(dim=-1)
    return AssignmentInformation(means[..., -1], marginal_entropy, marginal_entropy - means[..., -1])


@torch.no_grad()
def effective_rank(spectrum: torch.Tensor) -> torch.Tensor:
    """Exponential of the entropy of a spectrum scaled to sum 1 (Roy and Vetterli, 2007).

    Of the singular values of features this is RankMe (https://huggingface.co/papers/2210.02885).

    Args:
        spectrum (`torch.Tensor` of shape `(..., values)`): Singular values or eigenvalues, >= 0, in any order.

    Returns:
        `torch.Tensor` of shape `(...)`: from 1 (one value is not 0) to `values` (all are equal); 0 where all are 0.
    """
    total = spectrum.sum(dim=-1, keepdim=True)
    shares = spectrum / total.clamp_min(torch.finfo(spectrum.dtype).tiny)
    return torch.where(total[..., 0] > 0, torch.special.entr(shares).sum(dim=-1).exp(), 0.0)
