"""CorInfoMax: projections of two views are drawn together while their covariances are kept large in all directions."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers.utils import ModelOutput

from ssl_zoo.functional.distributed import all_reduce_sum, world_size
from ssl_zoo.functional.information import effective_rank
from ssl_zoo.functional.moments import Moments, combine_moments, unit_rows
from ssl_zoo.models.corinfomax.configuration_corinfomax import CorinfomaxConfig
from ssl_zoo.models.corinfomax.loss_corinfomax import (
    corinfomax_loss,
    running_log_determinants,
    updated_statistics,
)
from ssl_zoo.models.modeling_base import SSLForImageClassification, SSLForPreTraining, SSLModel
from ssl_zoo.nn.backbone import pooled_features
from ssl_zoo.nn.heads import Projector


__all__ = [
    "CorinfomaxForImageClassification",
    "CorinfomaxForPreTraining",
    "CorinfomaxModel",
    "CorinfomaxPreTrainingOutput",
]


@dataclass
class CorinfomaxPreTrainingOutput(ModelOutput):
    """Loss and diagnostics of one micro-batch. Scalars are tensors of shape `()`, `None` without diagnostics.

    The eigenvalues are those of the running covariances of both views with this batch taken in. All scalars are over
    the batches of all processes.

    Args:
        loss: Weighted similarity minus weighted log-determinants.
        similarity: Squared difference of the views' unit projections, averaged over images and features.
        view_cosine: Mean cosine of the two views of an image, `1 - similarity * D / 2`.
        log_determinant_1: Log-determinant of the first view's covariance per feature, as it enters the loss.
        log_determinant_2: The same of the second view.
        total_variance: Sum of the eigenvalues: about 1 for unit projections with mean 0, 0 when all are the same.
        smallest_eigenvalue: Over both views.
        largest_eigenvalue: Over both views.
        covariance_rank: Effective rank, the exponential of the entropy of the normalised eigenvalues; 1 to D.
        weak_directions: Share of the eigenvalues below a hundredth of 1 / D, the value if all were alike.
        embeddings: Pooled features of the first view, `(batch, num_features)`.
        batch_means: Means of the projections of this batch, `(2, D)`; for `update_state`, without gradient.
        batch_covariances: Covariances of the projections of this batch, `(2, D, D)`; likewise.
    """

    loss: torch.Tensor | None = None
    similarity: torch.Tensor | None = None
    view_cosine: torch.Tensor | None = None
    log_determinant_1: torch.Tensor | None = None
    log_determinant_2: torch.Tensor | None = None
    total_variance: torch.Tensor | None = None
    smallest_eigenvalue: torch.Tensor | None = None
    largest_eigenvalue: torch.Tensor | None = None
    covariance_rank: torch.Tensor | None = None
    weak_directions: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
    batch_means: torch.Tensor | None = None
    batch_covariances: torch.Tensor | None = None


class CorinfomaxModel(SSLModel):
    """Backbone trained by CorInfoMax."""

    config_class = CorinfomaxConfig


class CorinfomaxForImageClassification(SSLForImageClassification):
    """Backbone trained by CorInfoMax with a linear classifier."""

    config_class = CorinfomaxConfig


class CorinfomaxForPreTraining(SSLForPreTraining):
    """Backbone, projector, and the running mean and covariance of the projections of each view."""

    config_class = CorinfomaxConfig
    config: CorinfomaxConfig
    projection_means: torch.Tensor
    projection_covariances: torch.Tensor

    def __init__(self, config: CorinfomaxConfig) -> None:
        super().__init__(config)
        self.timm_model = self._create_backbone()
        width = config.projection_features
        self.projector = Projector(
            int(config.num_features or 0),
            config.projector_hidden_features or [],
            width,
            hidden_bias=True,
            out_bias=False,
            norm=config.projector_norm,
        )
        self.register_buffer("projection_means", torch.zeros(2, width))
        self.register_buffer("projection_covariances", config.initial_covariance * torch.eye(width).repeat(2, 1, 1))
        self.post_init()

    def forward(
        self,
        views: list[torch.Tensor],
        *,
        sample_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        progress: float = 0.0,
        epoch: float = 0.0,
        diagnostics: bool = True,
    ) -> CorinfomaxPreTrainingOutput:
        """Compute the loss; see `SSLForPreTraining.forward`.

        Raises:
            ValueError: unless there are exactly two views.
            SingularCovarianceError: if a covariance is not positive definite or not finite.
        """
        if len(views) != 2:
            raise ValueError(
                f"CorInfoMax compares two views of an image: `views` must hold exactly 2, got {len(views)}; set "
                f"`views.global_crops: 2` and `views.local_crops: 0`"
            )
        config = self.config
        # A pass per view, as the authors': batch norm sees one view at a time.
        embeddings, projections = zip(*(self._project(view) for view in views), strict=True)
        with torch.autocast(views[0].device.type, enabled=False):
            stacked = torch.stack(projections)
            rows = unit_rows(stacked.to(_precision_of_rows(stacked)))
            log_dets, batch, running = running_log_determinants(
                rows,
                self._past(_full_precision(rows.device)),
                **self._forgetting_factors(),
                offset=config.covariance_offset,
            )
            first, second = rows.unbind()
            squares = F.mse_loss(first, second, reduction="sum").to(log_dets)
            total, count = all_reduce_sum(torch.stack([squares, squares.new_tensor(rows.shape[1])]))
            similarity = total / (count * config.projection_features)
            loss = corinfomax_loss(
                similarity,
                log_dets,
                config.projection_features,
                similarity_weight=config.similarity_weight,
                covariance_weight=config.covariance_weight,
            )
        output = CorinfomaxPreTrainingOutput(
            loss=loss.to(torch.promote_types(stacked.dtype, torch.float32)),
            embeddings=embeddings[0],
            batch_means=batch.mean,
            batch_covariances=batch.covariance,
        )
        if diagnostics:
            with torch.no_grad():
                self._diagnose(output, similarity, log_dets, running.covariance)
        return output

    def _project(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings `(batch, num_features)` and projections `(batch, projection_features)`, not normalised."""
        _, embeddings = pooled_features(self.timm_model, images)
        return embeddings, self.projector(embeddings)

    def _past(self, dtype: torch.dtype) -> Moments:
        """The stored running statistics."""
        return Moments(self.projection_means.to(dtype), self.projection_covariances.to(dtype))

    def _forgetting_factors(self) -> dict[str, float]:
        names = ("forgetting_factor_mean", "forgetting_factor_covariance")
        return {name: getattr(self.config, name) for name in names}

    def _diagnose(
        self,
        output: CorinfomaxPreTrainingOutput,
        similarity: torch.Tensor,
        log_dets: torch.Tensor,
        covariances: torch.Tensor,
    ) -> None:
        """Fill the diagnostic fields; nothing is communicated."""
        width = self.config.projection_features
        eigenvalues = torch.linalg.eigvalsh(covariances).clamp_min(0)  # (2, D), ascending
        output.similarity = similarity
        output.view_cosine = 1 - similarity * width / 2
        output.log_determinant_1, output.log_determinant_2 = log_dets / width
        output.total_variance = eigenvalues.sum(dim=-1).mean()
        output.smallest_eigenvalue = eigenvalues.min()
        output.largest_eigenvalue = eigenvalues.max()
        output.covariance_rank = effective_rank(eigenvalues).mean()
        output.weak_directions = (eigenvalues < 0.01 / width).double().mean()

    def update_state(self, outputs: list[CorinfomaxPreTrainingOutput], *, progress: float, epoch: float) -> None:
        """Take the step's images into the running statistics, as one batch however many micro-batches it had."""
        parts = [Moments(output.batch_means, output.batch_covariances) for output in outputs]  # type: ignore[arg-type]
        batch = combine_moments(parts)
        running = updated_statistics(self._past(batch.mean.dtype), batch, **self._forgetting_factors())
        self.projection_means.copy_(running.mean)
        self.projection_covariances.copy_(running.covariance)

    def health(self, metrics: dict[str, float]) -> list[str]:
        """Recognise the ways in which CorInfoMax fails; see `SSLForPreTraining.health`."""
        width = self.config.projection_features
        rank = metrics["covariance_rank"]
        symptoms = []
        if metrics["total_variance"] < 0.05:
            symptoms.append(
                f"the projections of all images are nearly the same (total variance {metrics['total_variance']:.3f} "
                f"of 1): lower `similarity_weight` or the learning rate, or lengthen the warm-up"
            )
        elif rank < 0.25 * width or metrics["weak_directions"] > 0.5:
            symptoms.append(
                f"the projections fill few of their {width} directions (effective rank {rank:.1f}, "
                f"{metrics['weak_directions']:.0%} of the eigenvalues below 1 % of 1 / D): lower `similarity_weight`, "
                f"raise the batch size above the width, or lower `projection_features`"
            )
        elif metrics["view_cosine"] < 0.1:
            symptoms.append(
                f"the two views of an image are no more alike than two images (cosine {metrics['view_cosine']:.2f}): "
                f"raise `similarity_weight` or make the views milder"
            )
        return symptoms


def _precision_of_rows(projections: torch.Tensor) -> torch.dtype:
    """float32 or more for `(views, batch, features)`, which is the precision of the covariance's gradient as well.

    With fewer images than directions the covariance is nearly singular: float32 would then put the gradient wrong by
    one part in a hundred. With as few as 1.05 times as many it's one in a hundred thousand (measured at 512).
    """
    _, batch, width = projections.shape
    enough = batch * world_size() >= 2 * width
    return torch.promote_types(projections.dtype, torch.float32 if enough else _full_precision(projections.device))


def _full_precision(device: torch.device) -> torch.dtype:
    """float64, the authors' precision of the covariance, or float32 where the device has no other.

    The small eigenvalues decide on the log-determinant, and float32 would blur those below 1e-8.
    """
    return torch.float32 if device.type == "mps" else torch.float64
