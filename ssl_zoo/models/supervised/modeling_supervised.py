"""Supervised: a classifier on a backbone, trained on the labels that are known."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput

from ssl_zoo.functional.distributed import all_reduce_sum_, world_size
from ssl_zoo.functional.information import information
from ssl_zoo.models.modeling_base import SSLForImageClassification, SSLForPreTraining, SSLModel
from ssl_zoo.models.supervised.configuration_supervised import SupervisedConfig
from ssl_zoo.models.supervised.loss_supervised import supervised_loss
from ssl_zoo.nn.backbone import multi_crop_embeddings, pooled_features


__all__ = [
    "SupervisedForImageClassification",
    "SupervisedForPreTraining",
    "SupervisedModel",
    "SupervisedPreTrainingOutput",
]


@dataclass
class SupervisedPreTrainingOutput(ModelOutput):
    """Loss and diagnostics of one micro-batch. Scalars are tensors of shape `()`, `None` without diagnostics.

    Args:
        loss: Cross-entropy of predictions and known labels in nats, over the labelled images of all processes.
        label_accuracy: Share of the labelled images of all processes whose most likely class is their known label.
        labelled_share: Share of the images of all processes that have a known label.
        prediction_entropy: Mean entropy of a prediction; ln C when the network knows nothing.
        prediction_marginal_entropy: Entropy of the mean prediction over all processes; small after a collapse.
        embeddings: Pooled features of the first view, `(batch, num_features)`.
    """

    loss: torch.Tensor | None = None
    label_accuracy: torch.Tensor | None = None
    labelled_share: torch.Tensor | None = None
    prediction_entropy: torch.Tensor | None = None
    prediction_marginal_entropy: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None


class SupervisedModel(SSLModel):
    """Backbone trained on labels."""

    config_class = SupervisedConfig


class SupervisedForImageClassification(SSLForImageClassification):
    """Backbone trained on labels, with a new linear classifier; the trained one is in the pretraining model."""

    config_class = SupervisedConfig


class SupervisedForPreTraining(SSLForPreTraining):
    """Backbone and a linear classifier, `head`."""

    config_class = SupervisedConfig
    config: SupervisedConfig

    def __init__(self, config: SupervisedConfig) -> None:
        super().__init__(config)
        self.timm_model = self._create_backbone()
        self.head = nn.Linear(int(config.num_features or 0), config.num_supervised_classes or 1)
        self.post_init()

    def forward(
        self,
        views: list[torch.Tensor],
        *,
        sample_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        known_labels: torch.Tensor | None = None,
        progress: float = 0.0,
        epoch: float = 0.0,
        diagnostics: bool = True,
    ) -> SupervisedPreTrainingOutput:
        """Compute the loss; see `SSLForPreTraining.forward`. Several views share the image's label.

        Args:
            views (list of `torch.Tensor`): As there.
            sample_ids (`torch.Tensor`): Not used.
            labels (`torch.Tensor`): Not used: what may be learned from comes as `known_labels`.
            known_labels (`torch.Tensor` of shape `(batch,)`): Class ids, -1 for images that don't count.
            progress (`float`): Not used.
            epoch (`float`): Not used.
            diagnostics (`bool`): As there.

        Raises:
            ValueError: without `known_labels`, or if the number of classes isn't known.
        """
        config = self.config
        if known_labels is None:
            raise ValueError("supervised training learns from labels: `forward` needs `known_labels`")
        if config.num_supervised_classes is None:
            raise ValueError(
                "`num_supervised_classes` of the configuration is not set: `config.fit_to_data` fills it in before "
                "the model is built"
            )
        embeddings = multi_crop_embeddings(self.timm_model, views)
        logits = self.head(embeddings).view(len(views), len(known_labels), -1)
        losses = supervised_loss(logits, known_labels, smoothing=config.label_smoothing)
        known = known_labels >= 0
        first = logits[0].detach().float()
        right = (first.argmax(dim=-1) == known_labels) & known
        counts = all_reduce_sum_(torch.stack([known.sum(), right.sum(), known_labels.new_tensor(len(known))]).float())
        # Processes may have different numbers of labelled images. DDP averages over processes: with this weight the
        # average is the mean over the labelled images of all processes.
        loss = losses.sum() * world_size() / counts[0].clamp_min(1.0)
        output = SupervisedPreTrainingOutput(loss=loss, embeddings=embeddings[: len(views[0])])
        if diagnostics:
            predicted = information(torch.softmax(first, dim=-1))
            output.label_accuracy = counts[1] / counts[0].clamp_min(1.0)
            output.labelled_share = counts[0] / counts[2]
            output.prediction_entropy = predicted.entropy
            output.prediction_marginal_entropy = predicted.marginal_entropy
        return output

    @torch.no_grad()
    def cluster_probabilities(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Probability of each class.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): Normalised images.

        Returns:
            `torch.Tensor` of shape `(batch, 1, num_supervised_classes)`: float32, rows sum to 1.
        """
        logits = self.head(pooled_features(self.timm_model, pixel_values)[1])
        return torch.softmax(logits.float(), dim=-1).unsqueeze(1)

    def health(self, metrics: dict[str, float]) -> list[str]:
        """Recognise the ways in which supervised training fails; see `SSLForPreTraining.health`."""
        most = math.log(max(self.config.num_supervised_classes or 1, 2))
        symptoms = []
        if metrics["labelled_share"] == 0:
            symptoms.append(
                "no image of the step has a known label, so nothing was learned: see whether sample ids of "
                "`data.label_table` are those of the data, or label more images (`data.labelled_share`)"
            )
        elif metrics["epoch"] > 1.0 and metrics["prediction_entropy"] > 0.98 * most:
            symptoms.append(
                f"the network predicts all classes alike after {metrics['epoch']:.1f} epochs (entropy "
                f"{metrics['prediction_entropy']:.2f} of ln C = {most:.2f}): raise `optim.learning_rate`, or see "
                f"whether the labels belong to these images"
            )
        return symptoms
