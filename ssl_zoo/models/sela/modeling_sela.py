"""SeLa: the network learns to predict labels that are found by clustering its own predictions into equal parts."""

import math
import time
from dataclasses import dataclass

import torch
from torch import nn
from transformers.utils import ModelOutput

from ssl_zoo.functional.distributed import all_reduce_sum_, rank, world_size
from ssl_zoo.functional.information import information
from ssl_zoo.models.modeling_base import SSLForImageClassification, SSLForPreTraining, SSLModel, TrainingData
from ssl_zoo.models.sela.configuration_sela import SelaConfig
from ssl_zoo.models.sela.label_solve_sela import Storage, collect, solve_labels, update_table_
from ssl_zoo.models.sela.loss_sela import balanced_labels, sela_loss, solves_due
from ssl_zoo.nn.backbone import multi_crop_embeddings, pooled_features


__all__ = ["SelaForImageClassification", "SelaForPreTraining", "SelaModel", "SelaPreTrainingOutput"]


@dataclass
class SelaPreTrainingOutput(ModelOutput):
    """Loss and diagnostics of one micro-batch. Scalars are tensors of shape `()`, `None` without diagnostics.

    Args:
        loss: Cross-entropy of predictions and labels in nats, averaged over the heads.
        head_loss_spread: Largest minus smallest loss of a head.
        label_accuracy: Share of predictions that hit the label; chance is 1 / K.
        prediction_entropy: Mean entropy of a prediction; ln K when the network knows nothing.
        prediction_marginal_entropy: Entropy of the mean prediction over all processes; small after a collapse.
        label_marginal_entropy: The same of the batch's labels: what perfect predictions would have.
        label_precision: Of all pairs of images of the batch with equal label, the share with equal class; chance is
            that of any two images, 1 / classes for balanced ones. Only where the data has classes.
        embeddings: Pooled features of the first view, `(batch, num_features)`.
        pseudo_labels: The labels trained on, `(num_heads, batch)`.
    """

    loss: torch.Tensor | None = None
    head_loss_spread: torch.Tensor | None = None
    label_accuracy: torch.Tensor | None = None
    prediction_entropy: torch.Tensor | None = None
    prediction_marginal_entropy: torch.Tensor | None = None
    label_marginal_entropy: torch.Tensor | None = None
    label_precision: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
    pseudo_labels: torch.Tensor | None = None


class SelaModel(SSLModel):
    """Backbone trained by SeLa."""

    config_class = SelaConfig


class SelaForImageClassification(SSLForImageClassification):
    """Backbone trained by SeLa with a linear classifier."""

    config_class = SelaConfig


class SelaForPreTraining(SSLForPreTraining):
    """Backbone, heads, and the table of labels of all training images.

    The table has shape `(num_heads, num_samples)` and is indexed by sample id. It is saved with the model: a run that
    lost its labels would be another run. It is int32 because gloo and NCCL have no smaller integers that are large
    enough for cluster numbers.
    """

    config_class = SelaConfig
    config: SelaConfig
    label_table: torch.Tensor
    num_solves: torch.Tensor

    def __init__(self, config: SelaConfig) -> None:
        super().__init__(config)
        self.timm_model = self._create_backbone()
        self.heads = nn.Linear(int(config.num_features or 0), config.num_heads * config.num_clusters)
        num_heads, num_samples = config.num_heads, config.num_samples or 0
        table = torch.zeros(num_heads, num_samples, dtype=torch.int32)
        if not table.is_meta:
            table.copy_(balanced_labels(num_heads, num_samples, config.num_clusters, seed=config.label_seed))
        self.register_buffer("label_table", table)
        self.register_buffer("num_solves", torch.zeros((), dtype=torch.int64))
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
    ) -> SelaPreTrainingOutput:
        """Compute the loss; see `SSLForPreTraining.forward`. The paper has one view; more share the image's labels.

        Raises:
            ValueError: without `sample_ids`, or without a table to look them up in.
        """
        if sample_ids is None:
            raise ValueError(
                "SeLa looks up each image's labels: pass `sample_ids`, its row numbers in the training set"
            )
        if not self.label_table.shape[1]:
            raise ValueError(
                "the label table is empty: set `num_samples` of the configuration to the number of training images "
                "(`config.fit_to_data` does) before the model is built"
            )
        targets = self.label_table[:, sample_ids]
        embeddings = multi_crop_embeddings(self.timm_model, views)
        logits = self.heads(embeddings).view(len(views), -1, self.config.num_heads, self.config.num_clusters)
        losses = sela_loss(logits, targets)
        output = SelaPreTrainingOutput(
            loss=losses.mean(), embeddings=embeddings[: len(views[0])], pseudo_labels=targets
        )
        if diagnostics:
            with torch.no_grad():
                self._diagnose(output, losses, logits[0].float(), targets.long(), labels)
        return output

    def _diagnose(
        self,
        output: SelaPreTrainingOutput,
        losses: torch.Tensor,
        logits: torch.Tensor,
        targets: torch.Tensor,
        classes: torch.Tensor | None,
    ) -> None:
        """Fill the diagnostic fields from the first view's `logits` `(batch, heads, clusters)`; three all-reduces."""
        output.head_loss_spread = losses.max() - losses.min()
        output.label_accuracy = (logits.argmax(dim=-1) == targets.T).float().mean()
        predicted = information(torch.softmax(logits, dim=-1).transpose(0, 1))
        output.prediction_entropy = predicted.entropy.mean()
        output.prediction_marginal_entropy = predicted.marginal_entropy.mean()
        counts = torch.zeros(logits.shape[1:], device=logits.device)
        counts = all_reduce_sum_(counts.scatter_add_(1, targets, torch.ones_like(targets, dtype=counts.dtype)))
        output.label_marginal_entropy = torch.special.entr(counts / counts.sum(dim=1, keepdim=True)).sum(dim=1).mean()
        if classes is not None:
            known = (classes >= 0).unsqueeze(1) & (classes >= 0)
            known &= ~torch.eye(len(classes), dtype=torch.bool, device=classes.device)
            together = (targets.unsqueeze(2) == targets.unsqueeze(1)) & known
            right = together & (classes.unsqueeze(1) == classes)
            pairs = all_reduce_sum_(torch.stack([right.sum(), together.sum()]).float())
            output.label_precision = pairs[0] / pairs[1].clamp_min(1.0)

    def before_step(self, data: TrainingData, *, images_seen: int, epoch: float, progress: float) -> dict[str, float]:
        """Solve for new labels at the moments that `SelaConfig` describes; see `SSLForPreTraining`.

        The network is in training mode, as in the authors' code: batch-norm statistics move during the pass and
        dropout acts.

        Raises:
            ValueError: if the table has fewer columns than there are images.
        """
        config = self.config
        done = int(self.num_solves)
        epochs = epoch / progress if progress > 0 else 1.0  # progress 0: only the first moment can have come
        due = solves_due(
            epoch,
            epochs=epochs,
            num_solves=config.num_solves,
            spacing=config.solve_spacing,
            margin_epochs=config.solve_margin_epochs,
        )
        if due <= done:
            return {}
        if self.label_table.shape[1] < data.num_samples:
            raise ValueError(
                f"the label table has {self.label_table.shape[1]} columns, the training data {data.num_samples} "
                f"images: `num_samples` of the configuration must be the latter"
            )
        which = list(range(config.num_heads)) if config.solve_heads == "all" else [done % config.num_heads]
        since, device = time.perf_counter(), self.label_table.device
        on_disk, dtype = config.solve_storage == "disk", getattr(torch, config.solve_dtype)
        with Storage(on_disk=on_disk, folder=config.solve_folder) as storage:
            # The number of the solve seeds the dropout of the pass, and the random state of training is restored.
            with torch.no_grad(), torch.random.fork_rng([device] if device.type == "cuda" else []):
                torch.manual_seed((config.label_seed + done) * world_size() + rank())
                batches = data.one_pass(seed=done, description=f"labels {done + 1} of {config.num_solves}")
                features = collect(batches, lambda view: pooled_features(self.timm_model, view)[1], storage, dtype)
            solved = solve_labels(features, self.heads, which, storage, config)
            numbers = update_table_(
                self.label_table, solved, num_clusters=config.num_clusters, storage=storage, since=since
            )
        self.num_solves.add_(1)
        return numbers

    @torch.no_grad()
    def cluster_probabilities(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Predicted probability of each cluster, head by head; the table of labels plays no part.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): Normalised images.

        Returns:
            `torch.Tensor` of shape `(batch, num_heads, num_clusters)`: float32, rows sum to 1.
        """
        logits = self.heads(pooled_features(self.timm_model, pixel_values)[1])
        return torch.softmax(logits.view(-1, self.config.num_heads, self.config.num_clusters).float(), dim=-1)

    def health(self, metrics: dict[str, float]) -> list[str]:
        """Recognise the ways in which SeLa fails; see `SSLForPreTraining.health`."""
        chance = 1.0 / self.config.num_clusters
        symptoms = []
        spread, possible = metrics["prediction_marginal_entropy"], metrics["label_marginal_entropy"]
        if spread < 0.5 * possible:
            symptoms.append(
                f"the predictions crowd on few clusters (entropy of their mean {spread:.2f}, of the labels "
                f"{possible:.2f}) though the labels don't: the learning rate is too high, or the heads have collapsed"
            )
        if metrics["epoch"] > 1.0 and metrics["label_accuracy"] < 2.0 * chance:
            symptoms.append(
                f"the network can't predict the labels after {metrics['epoch']:.1f} epochs (accuracy "
                f"{metrics['label_accuracy']:.2%}, chance {chance:.2%}; loss {metrics['loss']:.3f}, "
                f"ln K = {math.log(self.config.num_clusters):.3f}): they are as good as random. Raise "
                f"`optim.learning_rate`, make the views milder or lower `num_clusters`"
            )
        return symptoms
