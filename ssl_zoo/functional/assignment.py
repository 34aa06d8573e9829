"""Solvers that turn scores of samples against prototypes into soft assignments, over the batch of all processes."""

from collections.abc import Iterator

import torch

from ssl_zoo.functional.distributed import all_reduce_max_, all_reduce_sum_
from ssl_zoo.functional.exponents import LARGEST_RANGE, SMALLEST_POWER


__all__ = ["mira_assignment"]

# Without a tolerance, the iterations that remain may change no assignment by more.
_PRECISION = {torch.float32: 4e-6, torch.float64: 1e-15}
_BLOCK_ELEMENTS = 2**18  # of the kernel, 1 MB: a CPU's cache holds what several operations share


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

    then W_ij ~ v_j^(-beta / (1 - beta)) k_ij. It contracts the largest distance of two ratios v_j / v_j', measured by
    their logarithms, by `beta` or better per iteration; a common factor of v doesn't matter to W. In float32 that
    form gives NaN for a prototype without mass; here rows and columns of k are scaled so that each holds a 1, which
    changes none of the iterates and leaves nothing to underflow, at any temperature. beta = 0, or equal rows, give
    W = p.

    An iteration is one pass over the kernel, with two matrix-vector products a block of rows, and one all-reduce of
    num_prototypes numbers per problem, all problems in one. Beside the result, no (batch, num_prototypes) tensor is
    made. Where v moves far (sharp temperatures, beta near 1) the kernel is made anew, with a second all-reduce.

    Args:
        scores (`torch.Tensor` of shape `(..., batch, num_prototypes)`): Cosine similarities, local to this process;
            leading dimensions are independent problems (MIRA: the two global views). Any floating dtype; the batch may
            differ between processes, leading dimensions and `num_prototypes` may not. Infinite or NaN scores are not
            looked for: they give NaN.
        temperature: Teacher temperature, > 0 (paper: 0.225).
        beta: Strength of the mutual information, in [0, 1) (paper: 0.75 falling to 2/3).
        num_iters: Updates of v after its first value, >= 0 (paper: 30); an upper bound, as the iteration stops early.
        tolerance: Stop when no log(v_j / v_j') changes by as much in an iteration; `None` when, because of the
            contraction, the iterations that remain can't change an assignment by more than 4e-6 (float64: 1e-15).
            Every process takes the same decision, from two numbers read back from the device per iteration.

    Returns:
        `torch.Tensor` of shape `(..., batch, num_prototypes)`: assignments of the local rows, which sum to 1; float32
        (float64 for float64 scores), without gradient.

    Raises:
        ValueError: If an argument is out of its range, or `scores` is empty or has fewer than two dimensions.
    """
    _check(scores, temperature, beta, num_iters, tolerance)
    dtype = torch.promote_types(scores.dtype, torch.float32)
    if tolerance is None:
        tolerance = _smallest_change(beta, _PRECISION[dtype])
    with torch.autocast(device_type=scores.device.type, enabled=False):
        problems = scores.flatten(end_dim=-3) if scores.ndim > 2 else scores.unsqueeze(0)
        sharpness = 1.0 / (temperature * (1.0 - beta))
        # k, a = v^(-beta / (1 - beta)) and m = v^(1 / (1 - beta)) as in the docstring. The kernel is k with rows and
        # columns scaled; `shift` undoes the columns: k_ij ~ kernel_ij exp(shift_j), a_j k_ij ~ kernel_ij weights_j.
        kernel = torch.empty(problems.shape, dtype=dtype, device=scores.device)
        # Vectors are float64: the rounding of a logarithm in float32 would look like a change, and never stop.
        log_m = log_m_of_kernel = torch.zeros_like(kernel[:, 0], dtype=torch.float64)
        shift = _fill_(kernel, problems, sharpness, None)
        for iteration in range(num_iters + 1):
            # Common factors of v, and with them that of the weights, are left out: they don't matter.
            weights = _weights(shift, log_m, beta)
            column_sums = all_reduce_sum_(_column_sums(kernel, weights.to(dtype)).double())
            previous, log_m = log_m, column_sums.log_().add_(shift)
            moves = torch.stack([log_m - previous, log_m - log_m_of_kernel])
            change, moved = (moves.amax(dim=-1) - moves.amin(dim=-1)).amax(dim=-1).tolist()
            if beta * moved > LARGEST_RANGE:
                shift, log_m_of_kernel = _fill_(kernel, problems, sharpness, -beta * log_m), log_m
            if iteration > 0 and (1.0 - beta) * change < tolerance:
                break
        weights = _weights(shift, log_m, beta).to(dtype)
        for index, rows in _blocks(kernel):
            block = kernel[index, rows].mul_(weights[index])
            block /= block.sum(dim=1, keepdim=True)
        return kernel.reshape(scores.shape)


def _smallest_change(beta: float, precision: float) -> float:
    """Change of the ratios of v after which no assignment can change by more than `precision`.

    All later changes of log(v_j / v_j') add up to at most beta / (1 - beta) times the last one, those of log a to
    beta / (1 - beta) times as much, and W_i = softmax(log a + log k_i) changes by at most a quarter of that.
    """
    return 4.0 * precision * ((1.0 - beta) / beta) ** 2 if beta > 0.0 else float("inf")


def _weights(shift: torch.Tensor, log_m: torch.Tensor, beta: float) -> torch.Tensor:
    """a_j exp(shift_j), of which the largest is 1 for each problem."""
    exponents = torch.sub(shift, log_m, alpha=beta)
    return exponents.sub_(exponents.amax(dim=-1, keepdim=True)).exp_()


def _blocks(kernel: torch.Tensor) -> Iterator[tuple[int, slice]]:
    """Problems and ranges of rows, small enough for a CPU's cache; on a GPU all rows at once."""
    num_problems, batch, num_prototypes = kernel.shape
    size = max(1, _BLOCK_ELEMENTS // num_prototypes) if kernel.device.type == "cpu" else batch
    for index in range(num_problems):
        for start in range(0, batch, size):
            yield index, slice(start, start + size)


def _fill_(
    kernel: torch.Tensor, scores: torch.Tensor, sharpness: float, log_weights: torch.Tensor | None
) -> torch.Tensor:
    """Exponentials of sharpness x scores, rows and then (global) columns scaled by their largest weighted entry.

    Columns are left as they are where no exponential is small, as of cosines at MIRA's temperatures.

    Args:
        kernel (`torch.Tensor` of shape `(problems, batch, num_prototypes)`): To be filled. Its entries are then at
            most 1, each row holds a 1, and each column something that is far from underflow.
        scores (`torch.Tensor` of the same shape): Local to this process.
        sharpness: > 0.
        log_weights (`torch.Tensor` of shape `(problems, num_prototypes)`): float64, the same on every process;
            `None` for 0.

    Returns:
        `torch.Tensor` of shape `(problems, num_prototypes)`: the shift. Up to a factor per row,
        exp(sharpness scores_ij) is kernel_ij exp(shift_j); in a row, shift + log_weights is 0 where the 1 stands.
    """
    maxima = torch.full_like(kernel[:, 0], float("-inf"))
    if log_weights is None and _fill_mild_(kernel, scores, sharpness):
        return torch.zeros_like(maxima, dtype=torch.float64)
    for index, rows in _blocks(kernel):
        given, block = scores[index, rows].to(kernel.dtype), kernel[index, rows]
        # The difference first: close to the maximum it is exact, where large logits would be rounded.
        torch.sub(given, given.amax(dim=1, keepdim=True), out=block).mul_(sharpness)
        if log_weights is not None:
            block += log_weights[index]
            block -= block.amax(dim=1, keepdim=True)
        maxima[index] = torch.maximum(maxima[index], block.amax(dim=0))
    all_reduce_max_(maxima)
    for index, rows in _blocks(kernel):
        kernel[index, rows].sub_(maxima[index]).clamp_min_(SMALLEST_POWER).exp_()
    return maxima.double() if log_weights is None else maxima - log_weights


def _fill_mild_(kernel: torch.Tensor, scores: torch.Tensor, sharpness: float) -> bool:
    """Exponentials with rows scaled by their largest entry; whether all are far from underflow, on every process."""
    lowest = torch.zeros((), dtype=torch.float64, device=kernel.device)
    for index, rows in _blocks(kernel):
        given = scores[index, rows].to(kernel.dtype)
        largest = given.amax(dim=1, keepdim=True)
        # sharpness x given is added in one rounding; that of the other term is a factor of the row.
        block = torch.add(largest.mul_(-sharpness), given, alpha=sharpness, out=kernel[index, rows])
        lowest = torch.minimum(lowest, block.amin())
        block.exp_()
    return bool(all_reduce_max_(-lowest) < LARGEST_RANGE)


def _column_sums(kernel: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """sum_i kernel_ij / sum_j' kernel_ij' weights_j' for each problem and prototype; weights' shape.

    By `mv`, which no GPU computes in TF32 as it may `bmm`.
    """
    sums = torch.zeros_like(weights)
    for index, rows in _blocks(kernel):
        block = kernel[index, rows]
        sums[index].addmv_(block.T, torch.mv(block, weights[index]).reciprocal_())
    return sums


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
