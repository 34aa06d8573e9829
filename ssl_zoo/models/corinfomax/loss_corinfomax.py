"""The loss of CorInfoMax and the running statistics it is made of."""

from typing import Any

import torch
from torch.autograd.function import once_differentiable

from ssl_zoo.functional.moments import Moments


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
        past (`Moments`): mu `(..., features)` and R `(..., features, features)` before this batch; no gradient.
        batch (`Moments`): The batch's own, over all processes, with gradient.
        forgetting_factor_mean (`float`): Share of the past in the mean.
        forgetting_factor_covariance (`float`): Share of the past in the covariance.

    Returns:
        `Moments`: of the same shapes; the gradient flows through the batch's share of both.
    """
    mean = torch.lerp(batch.mean, past.mean, forgetting_factor_mean)
    rest = batch.mean - mean
    about_mean = torch.baddbmm(batch.covariance, rest.unsqueeze(-1), rest.unsqueeze(-2))
    return Moments(mean, torch.lerp(about_mean, past.covariance, forgetting_factor_covariance))


def log_determinants(covariances: torch.Tensor, *, offset: float) -> torch.Tensor:
    """Log-determinant of each covariance plus `offset` times the identity, by Cholesky's decomposition.

    Args:
        covariances (`torch.Tensor` of shape `(views, features, features)`): Symmetric; float64, if the device has it.
        offset (`float`): Added to the diagonal.

    Returns:
        `torch.Tensor` of shape `(views,)`.

    Raises:
        SingularCovarianceError: if one isn't positive definite or not finite; names the view, its smallest eigenvalue
            and the cures. All processes hold the same covariances, so all raise at once.
    """
    found: torch.Tensor
    found, info = _LogDeterminant.apply(covariances, offset)
    usable = (info == 0) & found.isfinite()
    if not bool(usable.all()):
        view = int((~usable).nonzero()[0])
        raise SingularCovarianceError(_what_is_wrong(view, covariances[view].detach(), offset))
    return found


class _LogDeterminant(torch.autograd.Function):
    """Log-determinants and what Cholesky's decomposition says. The gradient is the inverse, from the same factors."""

    @staticmethod
    def forward(context: Any, covariances: torch.Tensor, offset: float) -> tuple[torch.Tensor, torch.Tensor]:
        views, width, _ = covariances.shape
        # A unit matrix in the corner changes nothing but that rows don't begin 4 KB apart: see `_PADDING` of moments.
        shifted = torch.eye(width + 8, dtype=covariances.dtype, device=covariances.device).repeat(views, 1, 1)
        shifted[:, :width, :width] = covariances
        shifted.diagonal(dim1=-2, dim2=-1)[:, :width] += offset
        factors, info = torch.linalg.cholesky_ex(shifted)
        context.save_for_backward(factors[:, :width, :width])
        context.mark_non_differentiable(info)
        return 2 * factors.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1), info

    @staticmethod
    @once_differentiable
    def backward(context: Any, gradient: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor, None]:
        (factors,) = context.saved_tensors
        return torch.cholesky_inverse(factors).mul_(gradient[:, None, None]), None


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
        similarity_weight (`float`): The attraction of the views.
        covariance_weight (`float`): The "big bang" that keeps all apart.

    Returns:
        `torch.Tensor` of shape `()`: unbounded below in principle; bounded for unit projections.
    """
    return similarity_weight * similarity - covariance_weight * log_dets.sum() / num_features
