"""MIRA: a student learns the assignments that maximise the mutual information of the teacher's scores."""

import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from transformers.utils import ModelOutput

from ssl_zoo.functional.assignment import mira_assignment
from ssl_zoo.functional.distributed import all_reduce_sum_
from ssl_zoo.functional.information import information
from ssl_zoo.functional.schedules import cosine
from ssl_zoo.models.mira.configuration_mira import MiraConfig
from ssl_zoo.models.mira.loss_mira import mira_loss
from ssl_zoo.models.modeling_base import SSLForImageClassification, SSLForPreTraining, SSLModel
from ssl_zoo.nn.backbone import multi_crop_embeddings, pooled_features
from ssl_zoo.nn.ema import update_ema_
from ssl_zoo.nn.heads import Projector
from ssl_zoo.nn.prototypes import Prototypes


__all__ = ["MiraForImageClassification", "MiraForPreTraining", "MiraModel", "MiraPreTrainingOutput"]


@dataclass
class MiraPreTrainingOutput(ModelOutput):
    """Loss and diagnostics of one micro-batch. Scalars are tensors of shape `()`, `None` without diagnostics.

    Args:
        loss: Cross-entropy of targets and predictions, in nats.
        entropy: Mean entropy of the targets' rows; 0 is a hard assignment, ln K none at all.
        marginal_entropy: Entropy of the mean target over all processes; ln K when all prototypes are used alike.
        mutual_information: Their difference.
        student_entropy, student_marginal_entropy, teacher_entropy, teacher_marginal_entropy: The same of the student's
            predictions and of the teacher's before the assignment.
        target_divergence: Mean KL divergence of the student's predictions from the targets.
        used_prototypes: Share of the prototypes that are the best of some sample of all processes, in [0, 1].
        view_correlation: Correlation of the teacher's scores of the two views, batch means removed.
        start_gain: Factor by which a small signal common to both views grows at each step. Below 1, a model that
            assigns all images alike doesn't leave that state.
        embeddings: The teacher's pooled features of the first view, `(batch, num_features)`.
        assignments: The targets, `(2, batch, num_prototypes)`.
    """

    loss: torch.Tensor | None = None
    entropy: torch.Tensor | None = None
    marginal_entropy: torch.Tensor | None = None
    mutual_information: torch.Tensor | None = None
    student_entropy: torch.Tensor | None = None
    student_marginal_entropy: torch.Tensor | None = None
    teacher_entropy: torch.Tensor | None = None
    teacher_marginal_entropy: torch.Tensor | None = None
    target_divergence: torch.Tensor | None = None
    used_prototypes: torch.Tensor | None = None
    view_correlation: torch.Tensor | None = None
    start_gain: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
    assignments: torch.Tensor | None = None


class MiraModel(SSLModel):
    """Backbone trained by MIRA (the teacher's, as the paper evaluates)."""

    config_class = MiraConfig


class MiraForImageClassification(SSLForImageClassification):
    """Backbone trained by MIRA with a linear classifier."""

    config_class = MiraConfig


class MiraForPreTraining(SSLForPreTraining):
    """Student, teacher and the prototypes they share.

    `timm_model` is the teacher's backbone.
    """

    config_class = MiraConfig
    config: MiraConfig
    _frozen: ClassVar[tuple[str, ...]] = ("timm_model", "teacher_projector")
    _filled_from: ClassVar[dict[str, str]] = {
        "student_backbone": "timm_model",
        "student_projector": "teacher_projector",
    }
    _keys_to_ignore_on_load_missing = [r"^student_"]  # noqa: RUF012  # transformers declares it so

    def __init__(self, config: MiraConfig) -> None:
        super().__init__(config)
        self.timm_model = self._create_backbone()
        width = int(config.num_features or 0)
        self.teacher_projector = Projector(width, config.projector_hidden_features or [], config.projection_features)
        self.student_backbone = copy.deepcopy(self.timm_model)
        self.student_projector = copy.deepcopy(self.teacher_projector)
        self.prototypes = Prototypes(config.projection_features, config.num_prototypes)
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
    ) -> MiraPreTrainingOutput:
        """Compute the loss; see `SSLForPreTraining.forward`. The first two views are the global ones.

        Raises:
            ValueError: for fewer than two views.
        """
        if len(views) < 2:
            raise ValueError(f"MIRA compares views of an image: `views` must hold at least 2, got {len(views)}")
        config = self.config
        beta = cosine(config.beta, config.beta_end, progress)
        with torch.no_grad():
            embeddings, teacher_scores = self._teacher_scores(torch.cat(list(views[:2])))
            teacher_scores = teacher_scores.view(2, len(views[0]), -1)
            assignments = mira_assignment(
                teacher_scores, temperature=config.teacher_temperature, beta=beta, num_iters=config.num_iters
            )
        student_scores = self._student_scores(views)
        loss = mira_loss(assignments, student_scores, temperature=config.student_temperature)
        output = MiraPreTrainingOutput(loss=loss, embeddings=embeddings[: len(views[0])], assignments=assignments)
        if diagnostics:
            with torch.no_grad():
                self._diagnose(output, loss, assignments, teacher_scores, torch.stack(student_scores[:2]), beta)
        return output

    def _teacher_scores(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, embeddings = pooled_features(self.timm_model, images)
        return embeddings, self.prototypes(self.teacher_projector(embeddings))

    def _student_scores(self, views: list[torch.Tensor]) -> list[torch.Tensor]:
        """Scores of all views, `(batch, num_prototypes)` each."""
        scores = self.prototypes(self.student_projector(multi_crop_embeddings(self.student_backbone, views)))
        return list(scores.split([len(view) for view in views]))

    def _diagnose(
        self,
        output: MiraPreTrainingOutput,
        loss: torch.Tensor,
        targets: torch.Tensor,
        teacher_scores: torch.Tensor,
        student_scores: torch.Tensor,
        beta: float,
    ) -> None:
        """Fill the diagnostic fields. Targets and scores are `(2, batch, num_prototypes)`; two all-reduces."""
        config = self.config
        student = torch.softmax(student_scores / config.student_temperature, dim=-1)
        teacher = torch.softmax(teacher_scores / config.teacher_temperature, dim=-1)
        entropies = information(torch.stack([targets, student, teacher]))
        # The two views' figures are averaged: they estimate the same thing.
        per_row, marginal, mutual = (entropy.mean(dim=-1) for entropy in entropies)
        output.entropy, output.student_entropy, output.teacher_entropy = per_row
        output.marginal_entropy, output.student_marginal_entropy, output.teacher_marginal_entropy = marginal
        output.mutual_information = mutual[0]
        output.target_divergence = loss - output.entropy
        best = all_reduce_sum_(F.one_hot(targets.argmax(dim=-1), config.num_prototypes).sum(dim=(0, 1)))
        output.used_prototypes = (best > 0).float().mean()
        first, second = teacher_scores - teacher_scores.mean(dim=1, keepdim=True)
        norm = (first.square().sum() * second.square().sum()).sqrt()
        output.view_correlation = (first * second).sum() / norm.clamp_min(torch.finfo(norm.dtype).tiny)
        gain = config.student_temperature / (config.teacher_temperature * (1.0 - beta))
        output.start_gain = gain * output.view_correlation

    def before_optimizer_step(self, *, epoch: float) -> None:
        """Drop the prototypes' gradient while they are frozen: the projections spread before the prototypes move."""
        if epoch < self.config.freeze_prototypes_epochs:
            self.prototypes.weight.grad = None

    def update_state(self, outputs: list[MiraPreTrainingOutput], *, progress: float, epoch: float) -> None:
        """Move the teacher towards the student."""
        momentum = cosine(self.config.momentum, self.config.momentum_end, progress)
        update_ema_(self.timm_model, self.student_backbone, momentum)
        update_ema_(self.teacher_projector, self.student_projector, momentum)

    @torch.no_grad()
    def cluster_probabilities(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Probability of each prototype under the teacher's softmax; the assignment of a batch plays no part.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): Normalised images.

        Returns:
            `torch.Tensor` of shape `(batch, 1, num_prototypes)`: float32, rows sum to 1.
        """
        _, scores = self._teacher_scores(pixel_values)
        return torch.softmax(scores.float() / self.config.teacher_temperature, dim=-1).unsqueeze(1)

    def health(self, metrics: dict[str, float]) -> list[str]:
        """Recognise the ways in which MIRA fails; see `SSLForPreTraining.health`."""
        config = self.config
        chance = math.log(config.num_prototypes)
        symptoms = []
        if metrics["marginal_entropy"] < 0.5 * chance:
            ratio = config.student_temperature / config.teacher_temperature
            cure = (
                "raise `beta` or the batch size"
                if ratio < 1
                else f"what all images share is multiplied by student / teacher temperature = {ratio:.2f} per step, "
                f"which kills it only below 1: raise `teacher_temperature`"
            )
            symptoms.append(
                f"the assignments crowd on few prototypes (marginal entropy {metrics['marginal_entropy']:.2f} of "
                f"ln K = {chance:.2f}); {cure}"
            )
        elif metrics["mutual_information"] < 0.01 * chance:
            gain = metrics["start_gain"]
            cure = (
                "it won't leave this state: raise `beta`, lower `teacher_temperature` (not below the student's), or "
                "make the views milder"
                if gain <= 1
                else "the signal can still grow: wait, or raise the learning rate or shorten the warm-up"
            )
            symptoms.append(
                f"all images get nearly the same assignment (loss {metrics['loss']:.3f}, ln K = {chance:.3f}). "
                f"A common signal is multiplied by {gain:.2f} at each step (temperatures and beta times view "
                f"correlation {metrics['view_correlation']:.2f}); {cure}"
            )
        elif metrics["used_prototypes"] < 0.25:
            symptoms.append(
                f"only {metrics['used_prototypes']:.0%} of the prototypes are some image's best: "
                f"`num_prototypes` may be too large for the batch or the data, or `beta` too small"
            )
        return symptoms
