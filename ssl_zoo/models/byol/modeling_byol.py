"""BYOL: an online network predicts the output of its moving average, the target, for another view."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers.utils import ModelOutput

from ssl_zoo.functional.distributed import all_reduce_sum_
from ssl_zoo.functional.schedules import cosine
from ssl_zoo.models.byol.configuration_byol import ByolConfig
from ssl_zoo.models.byol.loss_byol import byol_loss, cosines
from ssl_zoo.models.modeling_base import SSLForImageClassification, SSLModel
from ssl_zoo.models.modeling_online_target import OnlineTargetForPreTraining


__all__ = ["ByolForImageClassification", "ByolForPreTraining", "ByolModel", "ByolPreTrainingOutput"]


@dataclass
class ByolPreTrainingOutput(ModelOutput):
    """Loss and diagnostics of one micro-batch. Scalars are tensors of shape `()`, `None` without diagnostics.

    Args:
        loss: Squared distance of unit predictions and unit targets, both directions summed; 0 to 8.
        positive_cosine: Mean cosine of a prediction with the target of the other view, `1 - loss / 4`.
        same_view_cosine: Mean cosine of a prediction with the target of the same view, which isn't trained for.
        target_spread: Standard deviation of the unit targets over the batches of all processes, times the square root
            of their width and averaged over it: 1 when they fill the sphere, 0 when they are all the same.
        momentum: Share of the target that stays at this point of the training.
        embeddings: The online network's pooled features of the first view, `(batch, num_features)`.
    """

    loss: torch.Tensor | None = None
    positive_cosine: torch.Tensor | None = None
    same_view_cosine: torch.Tensor | None = None
    target_spread: torch.Tensor | None = None
    momentum: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None


class ByolModel(SSLModel):
    """Backbone trained by BYOL (the online one, as the paper evaluates)."""

    config_class = ByolConfig


class ByolForImageClassification(SSLForImageClassification):
    """Backbone trained by BYOL with a linear classifier."""

    config_class = ByolConfig


class ByolForPreTraining(OnlineTargetForPreTraining):
    """Online backbone, projector and predictor; target backbone and projector.

    `timm_model` is the online backbone.
    """

    config_class = ByolConfig
    config: ByolConfig

    def __init__(self, config: ByolConfig) -> None:
        super().__init__(config)
        self._create_networks(hidden_bias=True, out_bias=False)  # as in the authors' code
        self.post_init()
        self.train(self.training)

    def forward(
        self,
        views: list[torch.Tensor],
        *,
        sample_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        progress: float = 0.0,
        epoch: float = 0.0,
        diagnostics: bool = True,
    ) -> ByolPreTrainingOutput:
        """Compute the loss; see `SSLForPreTraining.forward`.

        Raises:
            ValueError: unless there are exactly two views.
        """
        if len(views) != 2:
            raise ValueError(
                f"BYOL compares two views of an image: `views` must hold exactly 2, got {len(views)}; set "
                f"`views.global_crops: 2` and `views.local_crops: 0`"
            )
        # A pass per view, as the authors': batch norm sees one view at a time.
        embeddings, of_view = zip(*(self._online(view) for view in views), strict=True)
        predictions = torch.stack(of_view)
        targets = torch.stack([self._target(view) for view in views])
        output = ByolPreTrainingOutput(loss=byol_loss(predictions, targets), embeddings=embeddings[0])
        if diagnostics:
            with torch.no_grad():
                output.positive_cosine = cosines(predictions, targets.flip(0)).mean()
                output.same_view_cosine = cosines(predictions, targets).mean()
                output.target_spread = _spread(targets.flatten(0, 1))
                momentum = cosine(self.config.momentum, self.config.momentum_end, progress)
                output.momentum = output.positive_cosine.new_tensor(momentum)
        return output

    def health(self, metrics: dict[str, float]) -> list[str]:
        """Recognise the ways in which BYOL fails; see `SSLForPreTraining.health`."""
        symptoms = []
        if metrics["target_spread"] < 0.1:
            symptoms.append(
                f"the targets of all images are nearly the same (spread {metrics['target_spread']:.2f} of 1): the "
                f"networks agree on a constant. Raise `momentum`, lower the learning rate or lengthen the warm-up"
            )
        elif metrics["positive_cosine"] < 0.1:
            symptoms.append(
                f"the predictions are unrelated to the targets (cosine {metrics['positive_cosine']:.2f}): "
                f"raise the learning rate, shorten the warm-up, or raise `momentum`: the target may move too fast"
            )
        return symptoms


def _spread(targets: torch.Tensor) -> torch.Tensor:
    """Standard deviation of unit rows times the root of their width, for `(rows, features)`; one all-reduce."""
    rows = F.normalize(targets.float(), dim=-1)
    local = torch.cat([rows.sum(dim=0), rows.square().sum(dim=0), rows.new_tensor([len(rows)])])
    *sums, count = all_reduce_sum_(local).split([rows.shape[-1], rows.shape[-1], 1])
    mean, square = (total / count for total in sums)
    spread: torch.Tensor = (square - mean.square()).clamp_min(0).sqrt().mean() * math.sqrt(rows.shape[-1])
    return spread
