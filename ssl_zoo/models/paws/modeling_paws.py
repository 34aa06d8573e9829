"""PAWS: a network predicts, for each view of an image, what its labelled neighbours say of another view."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput

from ssl_zoo.functional.distributed import all_gather_rows, all_gather_rows_with_gradient, all_reduce_sum_
from ssl_zoo.models.modeling_base import SSLForImageClassification, SSLForPreTraining, SSLModel
from ssl_zoo.models.paws.configuration_paws import PawsConfig
from ssl_zoo.models.paws.loss_paws import (
    class_targets,
    mean_prediction_entropy,
    paws_targets,
    prediction_loss,
    soft_nearest_neighbors,
)
from ssl_zoo.nn.backbone import multi_crop_embeddings
from ssl_zoo.nn.heads import Projector


__all__ = ["PawsForImageClassification", "PawsForPreTraining", "PawsModel", "PawsPreTrainingOutput"]


@dataclass
class PawsPreTrainingOutput(ModelOutput):
    """Loss and diagnostics of one micro-batch. Scalars are tensors of shape `()`, `None` without diagnostics.

    Args:
        loss: Cross-entropy of targets and predictions minus the weighted entropy of the mean prediction, in nats.
        cross_entropy: The first part.
        marginal_entropy: Entropy of the mean sharpened prediction over all processes; ln C when all classes of the
            support are predicted alike often.
        target_entropy: Mean entropy of the global views' targets; 0 is certainty, ln C none at all.
        confidence: Mean largest entry of these targets.
        pseudo_label_accuracy: Share of the images whose target names their class, among those whose class is known
            and in the support. For diagnosis: the loss doesn't see it. `None` if there are none.
        embeddings: Pooled features of the first view, `(batch, num_features)`.
    """

    loss: torch.Tensor | None = None
    cross_entropy: torch.Tensor | None = None
    marginal_entropy: torch.Tensor | None = None
    target_entropy: torch.Tensor | None = None
    confidence: torch.Tensor | None = None
    pseudo_label_accuracy: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None


class PawsModel(SSLModel):
    """Backbone trained by PAWS."""

    config_class = PawsConfig


class PawsForImageClassification(SSLForImageClassification):
    """Backbone trained by PAWS with a linear classifier."""

    config_class = PawsConfig


class PawsForPreTraining(SSLForPreTraining):
    """Backbone, projector and predictor; predictions come from the projections' labelled neighbours."""

    config_class = PawsConfig
    config: PawsConfig

    def __init__(self, config: PawsConfig) -> None:
        super().__init__(config)
        self.timm_model = self._create_backbone()
        width = config.projection_features
        # The authors' layers have biases, also where batch norm follows.
        self.projector = Projector(
            int(config.num_features or 0), config.projector_hidden_features or [], width, hidden_bias=True
        )
        self.predictor: nn.Module = nn.Identity()
        if config.predictor_hidden_features:
            hidden = Projector(width, config.predictor_hidden_features, width, hidden_bias=True)
            self.predictor = nn.Sequential(nn.BatchNorm1d(width), *hidden)
        self.post_init()

    def forward(
        self,
        views: list[torch.Tensor],
        *,
        sample_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        known_labels: torch.Tensor | None = None,
        support_views: torch.Tensor | None = None,
        support_labels: torch.Tensor | None = None,
        progress: float = 0.0,
        epoch: float = 0.0,
        diagnostics: bool = True,
    ) -> PawsPreTrainingOutput:
        """Compute the loss; see `SSLForPreTraining.forward`. The first two views are the global ones.

        Args:
            views (list of `torch.Tensor`): As there.
            sample_ids (`torch.Tensor`): Not used.
            labels (`torch.Tensor`): For `pseudo_label_accuracy` alone.
            known_labels (`torch.Tensor`): Not used: labels act through the support alone.
            support_views (`torch.Tensor` of shape `(support, 3, height, width)`): This process's part of the labelled
                support, of the size of the global views.
            support_labels (`torch.Tensor` of shape `(support,)`): Its classes.
            progress (`float`): Not used.
            epoch (`float`): Not used.
            diagnostics (`bool`): As there.

        Raises:
            ValueError: for fewer than two views, or without a support.
        """
        if len(views) < 2:
            raise ValueError(f"PAWS compares views of an image: `views` must hold at least 2, got {len(views)}")
        if support_views is None or support_labels is None:
            raise ValueError("PAWS compares images with labelled ones: give `support_views` and `support_labels`")
        config = self.config
        embeddings = multi_crop_embeddings(self.timm_model, [support_views, *views])
        projections = self.projector(embeddings)
        predictions = self.predictor(projections)
        with torch.autocast(projections.device.type, enabled=False):
            count = len(support_labels)
            predictions, projections = _at_least_float32(predictions), _at_least_float32(projections)
            shape = (len(views), len(views[0]), -1)
            classes, columns = torch.unique(all_gather_rows(support_labels), return_inverse=True)
            known = class_targets(columns, num_classes=len(classes), smoothing=config.label_smoothing)
            support = all_gather_rows_with_gradient(predictions[:count])
            probabilities = soft_nearest_neighbors(
                predictions[count:], support, known, temperature=config.temperature
            ).view(shape)
            with torch.no_grad():
                # Targets come from before the predictor, as in the authors' code.
                rows = projections[count : count + 2 * len(views[0])]
                support = all_gather_rows(projections[:count].detach())
                named = soft_nearest_neighbors(rows, support, known, temperature=config.temperature)
                targets = paws_targets(
                    named.view(2, *shape[1:]),
                    num_views=len(views),
                    sharpening_temperature=config.sharpening_temperature,
                )
            cross_entropy = prediction_loss(probabilities, targets)
            entropy = mean_prediction_entropy(probabilities, sharpening_temperature=config.sharpening_temperature)
            loss = cross_entropy - config.entropy_weight * entropy
        output = PawsPreTrainingOutput(loss=loss, embeddings=embeddings[count : count + len(views[0])])
        if diagnostics:
            output.cross_entropy, output.marginal_entropy = cross_entropy.detach(), entropy.detach()
            output.target_entropy = torch.special.entr(targets[:2]).sum(dim=-1).mean()
            output.confidence = targets[:2].amax(dim=-1).mean()
            output.pseudo_label_accuracy = _accuracy(targets[:2].mean(dim=0), classes, labels)
        return output

    def health(self, metrics: dict[str, float]) -> list[str]:
        """Recognise the ways in which PAWS fails; see `SSLForPreTraining.health`."""
        most = math.log(self.config.num_support_classes)
        symptoms = []
        if metrics["marginal_entropy"] < 0.5 * most:
            symptoms.append(
                f"most images are given the same few classes (marginal entropy {metrics['marginal_entropy']:.2f} of "
                f"{most:.2f}): raise `entropy_weight`, or check that the support has all classes alike"
            )
        elif metrics["target_entropy"] > 0.9 * most:
            symptoms.append(
                f"targets say next to nothing (entropy {metrics['target_entropy']:.2f} of {most:.2f}): lower "
                f"`temperature` or `sharpening_temperature`, or give more support images per class"
            )
        return symptoms


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _accuracy(targets: torch.Tensor, classes: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor | None:
    """Share of the rows of all processes, of those with a class in the support, whose best class is theirs."""
    if labels is None:
        return None
    counted = torch.isin(labels, classes)
    right = (classes[targets.argmax(dim=-1)] == labels) & counted
    sums = all_reduce_sum_(torch.stack([right.sum(), counted.sum()]).float())
    return sums[0] / sums[1] if sums[1] else None
