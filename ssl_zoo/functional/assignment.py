"""Solvers that turn scores of samples against prototypes into soft assignments, over the batch of all processes."""

from __future__ import annotations

import torch

from ssl_zoo.functional.distributed import all_reduce_max_, all_reduce_sum_


__all__ = ["mira_assignment"]

# Up to here the weights of the prototypes, at most about K (2N)^(beta / (1 - beta)) apart, fit into float32.
_LARGEST_BETA_OF_A_FIXED_KERNEL = 0.8


@torch.no_grad()
def mira_assignment(
    scores: torch.Tensor, *, temperature: float, beta: float, num_iters: int = 30, tolerance: float | None = None
) -> torch.Tensor:
    r"""Mutual information regularised assignment of samples to prototypes (MIRA, https://huggingface.co/papers/2211.02284).

    With p_i = softmax(scores_i / temperature), finds the rows W_i on the simplex that minimise

        mean_i KL(W_i || p_i) - beta MI(W),      MI(W) = H(Wbar) - mean_i H(W_i),      Wbar = mean_i W_i

    over the batch of all processes. The objective is strictly convex for 0 <= beta < 1 and its minimiser fulfils
    W_ij ~ p_ij^(1 / (1 - beta)) Wbar_j^(-beta / (1 - beta)). The paper's fixed point iteration finds it: from
    k_i = softmax(scores_i / (temperature (1 - beta))) and v = (mean_i k_i)^(1 - beta), repeat `num_iters` times

        v_j <- ( mean_i [ k_ij / sum_j' v_j'^(-beta / (1 - beta)) k_ij' ] )^(1 - beta),

    then W_ij ~ v_j^(-beta / (1 - beta)) k_ij. It contracts log v by `beta` or better per iteration. In float32 that
    form gives NaN for a prototype without mass; here rows and columns of k are scaled so that each holds a 1, which
    changes none of the iterates and leaves nothing to underflow, at any temperature. beta = 0, or equal rows, give
    W = p.

    An iteration costs two products of the (batch, num_prototypes) kernel with a vector and one all-reduce of
    num_prototypes numbers per problem, all problems in one; no (batch, num_prototypes) tensor is made in the loop.
    Beyond beta 0.8 the kernel is rescaled in every iteration: several times the cost, and a second all-reduce.

    Args:
        scores (`torch.Tensor` of shape `(..., batch, num_prototypes)`): Cosine similarities, local to this process;
            leading dimensions are independent problems (MIRA: the two global views). Any floating dtype; the batch may
            differ between processes, leading dimensions and `num_prototypes` may not. Infinite or NaN scores are not
            looked for: they give NaN.
        temperature: Teacher temperature, > 0 (paper: 0.225).
        beta: Strength of the mutual information, in [0, 1) (paper: 0.75 falling to 2/3).
        num_iters: Updates of v after its first value, >= 0 (paper: 30); an upper bound when `tolerance` is given.
        tolerance: Stop when no log v_j changes by as much in an iteration; `None` always runs `num_iters`. Reads one
            number back from the device per iteration. Every process takes the same decision.

    Returns:
        `torch.Tensor` of shape `(..., batch, num_prototypes)`: assignments of the local rows, which sum to 1; float32
        (float64 for float64 scores), without gradient.

    Raises:
        ValueError: If an argument is out of its range, or `scores` is empty or has fewer than two dimensions.
    """
    _check(scores, temperature, beta, num_iters, tolerance)
    with torch.autocast(device_type=scores.device.type, enabled=False):
        dtype = torch.promote_types(scores.dtype, torch.float32)
        logits = scores.to(dtype).flatten(end_dim=-3) if scores.ndim > 2 else scores.to(dtype).unsqueeze(0)
        # The difference first: close to the maximum it is exact, where large logits would be rounded.
        logits = (logits - logits.amax(dim=-1, keepdim=True)) / (temperature * (1.0 - beta))
        # k, a = v^(-beta / (1 - beta)) and m = v^(1 / (1 - beta)) as in the docstring. The kernel is k with rows and
        # columns scaled; `shift` undoes the columns: k_ij ~ kernel_ij exp(shift_j), a_j k_ij ~ kernel_ij weights_j.
        log_a = torch.zeros_like(logits[:, 0])
        kernel, shift = _scaled_kernel(logits, log_a)
        log_v: torch.Tensor | None = None
        for _ in range(num_iters + 1):
            weights = torch.exp(shift + log_a)
            inverse_sums = _matvec(kernel, weights).reciprocal()
            column_sums = all_reduce_sum_(_matvec(kernel.transpose(1, 2), inverse_sums))
            # Number of samples of all processes: sum_j m_j a_j with sums for the means in m.
            count = (column_sums * weights).sum(dim=-1, keepdim=True)
            log_m = shift + column_sums.log() - count.log()
            log_a = -beta * log_m
            previous, log_v = log_v, (1.0 - beta) * log_m
            if beta > _LARGEST_BETA_OF_A_FIXED_KERNEL:
                kernel, shift = _scaled_kernel(logits, log_a)
            if tolerance is not None and previous is not None and (log_v - previous).abs().max().item() < tolerance:
                break
        assignments = kernel * torch.exp(shift + log_a).unsqueeze(1)
        assignments /= assignments.sum(dim=-1, keepdim=True)
        return assignments.reshape(scores.shape)


def _scaled_kernel(logits: torch.Tensor, log_weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Exponentials of `logits`, rows and then columns (over all processes) scaled by their largest weighted entry.

    Args:
        logits (`torch.Tensor` of shape `(problems, batch, num_prototypes)`): Local to this process.
        log_weights (`torch.Tensor` of shape `(problems, num_prototypes)`): The same on every process.

    Returns:
        `tuple` of the kernel of shape `(problems, batch, num_prototypes)`, whose entries are at most 1 and whose rows
        and (global) columns each hold a 1, and the shift of shape `(problems, num_prototypes)`: up to a factor per
        row, exp(logits_ij) is kernel_ij exp(shift_j). In a row, shift + log_weights is 0 where the 1 stands.
    """
    weighted = logits + log_weights.unsqueeze(1)
    weighted -= weighted.amax(dim=-1, keepdim=True)
    column_maxima = all_reduce_max_(weighted.amax(dim=-2))
    weighted -= column_maxima.unsqueeze(1)
    return weighted.exp_(), column_maxima - log_weights


def _matvec(matrices: torch.Tensor, vectors: torch.Tensor) -> torch.Tensor:
    """Products of `(problems, rows, columns)` and `(problems, columns)`.

    One `mv` per problem instead of `bmm`, which a GPU may be allowed to compute in TF32.
    """
    return torch.stack([torch.mv(matrix, vector) for matrix, vector in zip(matrices, vectors, strict=True)])


def _check(scores: torch.Tensor, temperature: float, beta: float, num_iters: int, tolerance: float | None) -> None:
    if scores.ndim < 2 or scores.numel() == 0:
        raise ValueError(f"`scores` must have shape (..., batch, num_prototypes), none 0, got {tuple(scores.shape)}")
    if not scores.is_floating_point():
        raise ValueError(f"`scores` must be floating point, got {scores.dtype}")
    if not 0.0 < temperature < float("inf"):
        raise ValueError(f"`temperature` must be > 0 and finite, got {temperature}")
    if not 0.0 <= beta < 1.0:
        raise ValueError(f"`beta` must lie in [0, 1), got {beta}: the objective is convex only there")
    if num_iters < 0:
        raise ValueError(f"`num_iters` must be >= 0, got {num_iters}")
    if tolerance is not None and not tolerance > 0.0:
        raise ValueError(f"`tolerance` must be > 0 or None, got {tolerance}")
