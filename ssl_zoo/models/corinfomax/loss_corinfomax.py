"""The loss of CorInfoMax and the running statistics it is made of."""

from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

from ssl_zoo.functional.distributed import all_reduce_sum_
from ssl_zoo.functional.moments import Moments, batch_moments


__all__ = [
    "LogDeterminants",
    "SingularCovarianceError",
    "corinfomax_loss",
    "log_determinants",
    "running_log_determinants",
    "updated_statistics",
]


class SingularCovarianceError(ArithmeticError):
    """A covariance has no log-determinant: it isn't positive definite, or not finite."""


def updated_statistics(
    past: Moments, batch: Moments, *, forgetting_factor_mean: float, forgetting_factor_covariance: float
) -> Moments:
    """Running mean and covariance of projections with the current batch taken in.

    With la the forgetting factors: mu <- la mu + (1 - la) mean(z), and R <- la R + (1 - la) mean (z - mu)(z - mu)^T
    about the mean JUST updated. The latter is computed as the batch's own covariance plus the outer product of
    mean(z) - mu, which is the same without a cancellation.

    Args:
        past (`Moments`): mu `(..., features)` and R `(..., features, features)` before this batch.
        batch (`Moments`): The batch's own, over all processes.
        forgetting_factor_mean (`float`): Share of the past in the mean.
        forgetting_factor_covariance (`float`): Share of the past in the covariance.

    Returns:
        `Moments`: of the same shapes.
    """
    mean = torch.lerp(batch.mean, past.mean, forgetting_factor_mean)
    rest = batch.mean - mean
    about_mean = torch.baddbmm(batch.covariance, rest.unsqueeze(-1), rest.unsqueeze(-2))
    return Moments(mean, torch.lerp(about_mean, past.covariance, forgetting_factor_covariance))


class LogDeterminants(NamedTuple):
    """Log-determinants with the statistics that they were computed from; see [`running_log_determinants`]."""

    log_dets: torch.Tensor
    batch: Moments
    running: Moments


def running_log_determinants(
    rows: torch.Tensor,
    past: Moments,
    *,
    forgetting_factor_mean: float,
    forgetting_factor_covariance: float,
    offset: float,
) -> LogDeterminants:
    """Log-determinants of the running covariances with the batch of all processes taken in.

    The gradient has a closed form. With la the forgetting factors, m the batch's mean, r = la_mu (m - mu) for the past
    mu, and n images on all processes, that of log det(R + offset I) in row i is

        2 (1 - la_R) / n (R + offset I)^-1 (z_i - m + la_mu r),

    as the scatter about m is stationary in m. So two triangular solves replace the products that autograd would do,
    and no D x D gradients are sent. It is summed over processes, as that of [`all_reduce_sum`].

    Args:
        rows (`torch.Tensor` of shape `(views, batch, features)`): Projections of unit length, local to this process.
            The gradient is computed in their precision.
        past (`Moments`): mu and R before this batch, of the precision to compute in; no gradient.
        forgetting_factor_mean (`float`): la_mu, share of the past in the mean.
        forgetting_factor_covariance (`float`): la_R, share of the past in the covariance.
        offset (`float`): Added to the diagonal.

    Returns:
        [`LogDeterminants`]: `log_dets` `(views,)`, with gradient once; the batch's own moments and the running ones,
        without.

    Raises:
        SingularCovarianceError: see [`log_determinants`].
    """
    log_dets, *moments = _RunningLogDeterminants.apply(
        rows, *past, forgetting_factor_mean, forgetting_factor_covariance, offset
    )
    return LogDeterminants(log_dets, Moments(*moments[:2]), Moments(*moments[2:]))


class _RunningLogDeterminants(torch.autograd.Function):
    @staticmethod
    def forward(
        context: Any,
        rows: torch.Tensor,
        past_mean: torch.Tensor,
        past_covariance: torch.Tensor,
        la_mean: float,
        la_covariance: float,
        offset: float,
    ) -> tuple[torch.Tensor, ...]:
        batch, count = batch_moments(rows, dtype=past_covariance.dtype)
        running = updated_statistics(
            Moments(past_mean, past_covariance),
            batch,
            forgetting_factor_mean=la_mean,
            forgetting_factor_covariance=la_covariance,
        )
        log_dets, factors = log_determinants(running.covariance, offset=offset)
        # la_mu r - m
        shift = -torch.lerp(batch.mean, running.mean, la_mean)
        context.save_for_backward(rows, shift, factors, 2 * (1 - la_covariance) / count)
        context.mark_non_differentiable(*batch, *running)
        return log_dets, *batch, *running

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rows, shift, factors, share = context.saved_tensors
        weight = all_reduce_sum_(gradient.clone()).unsqueeze(-1) * share
        right = (rows + shift.unsqueeze(-2).to(rows.dtype)).mul_(weight.unsqueeze(-1).to(rows.dtype))
        # Two triangular solves are as exact as the inverse, and need neither it nor the product with it.
        return torch.cholesky_solve(right.mT, factors.to(rows.dtype)).mT, None, None, None, None, None


@torch.no_grad()
def log_determinants(covariances: torch.Tensor, *, offset: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-determinant of each covariance plus `offset` times the identity, by Cholesky's decomposition.

    Args:
        covariances (`torch.Tensor` of shape `(views, features, features)`): Symmetric; float64, if the device has it.
        offset (`float`): Added to the diagonal.

    Returns:
        `torch.Tensor` of shape `(views,)`, and the lower factors, `(views, features, features)`. Without gradient.

    Raises:
        SingularCovarianceError: if one isn't positive definite or not finite; names the view, its smallest eigenvalue
            and the cures. All processes hold the same covariances, so all raise at once.
    """
    views, width, _ = covariances.shape
    # A unit matrix in the corner changes nothing but that rows don't begin 4 KB apart: see `_PADDING` of moments.
    shifted = torch.eye(width + 8, dtype=covariances.dtype, device=covariances.device).repeat(views, 1, 1)
    shifted[:, :width, :width] = covariances
    shifted.diagonal(dim1=-2, dim2=-1)[:, :width] += offset
    factors, info = torch.linalg.cholesky_ex(shifted)
    log_dets = 2 * factors.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1)
    usable = (info == 0) & log_dets.isfinite()
    if not bool(usable.all()):
        view = int((~usable).nonzero()[0])
        raise SingularCovarianceError(_what_is_wrong(view, covariances[view], offset))
    return log_dets, factors[:, :width, :width]


def _what_is_wrong(view: int, covariance: torch.Tensor, offset: float) -> str:
    if not bool(covariance.isfinite().all()):
        return (
            f"the covariance of the projections of view {view + 1} is not finite: training has diverged. Lower "
            f"`optim.learning_rate`, lengthen the warm-up, or set `optim.clip_grad_norm`"
        )
    smallest = torch.linalg.eigvalsh(covariance)[0].item()
    return (
        f"the covariance of the projections of view {view + 1} must be positive definite for its log-determinant, but "
        f"its smallest eigenvalue is {smallest:.3g} and `covariance_offset` adds only {offset:g}: the projections "
        f"have collapsed in some direction. Lower `optim.learning_rate`, raise `model.covariance_offset`, raise "
        f"`train.global_batch_size`, or lower `model.projection_features` ({len(covariance)})"
    )


def corinfomax_loss(
    similarity: torch.Tensor,
    log_dets: torch.Tensor,
    num_features: int,
    *,
    similarity_weight: float,
    covariance_weight: float,
) -> torch.Tensor:
    """Weighted squared difference of the views minus the log-determinants per feature.

    Args:
        similarity (`torch.Tensor` of shape `()`): Squared difference of the views' projections, averaged over
            images and features.
        log_dets (`torch.Tensor` of shape `(2,)`): Log-determinant of each view's covariance.
        num_features (`int`): Width of the projections.
        similarity_weight (`float`): Weight of the attraction of the views.
        covariance_weight (`float`): The "big bang" factor, which keeps the projections apart.

    Returns:
        `torch.Tensor` of shape `()`: unbounded below in principle; bounded for unit projections.
    """
    return similarity_weight * similarity - covariance_weight * log_dets.sum() / num_features
