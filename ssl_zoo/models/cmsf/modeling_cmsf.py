"""CMSF: mean shift whose neighbours come from a part of the bank that is known to be related to the image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from transformers.utils import ModelOutput

from ssl_zoo.functional.distributed import all_gather_rows
from ssl_zoo.functional.neighbors import Neighbors, mean_neighbor_distance, nearest_neighbors, nearest_of_few
from ssl_zoo.models.cmsf.classifier import PseudoLabelClassifier
from ssl_zoo.models.cmsf.configuration_cmsf import CmsfConfig
from ssl_zoo.models.cmsf.constraints import ClusterTable, VisitTable
from ssl_zoo.models.cmsf.diagnostics import diagnose
from ssl_zoo.models.cmsf.loss_cmsf import constrained_mean_shift_loss
from ssl_zoo.models.modeling_base import SSLForImageClassification, SSLModel
from ssl_zoo.models.modeling_online_target import OnlineTargetForPreTraining
from ssl_zoo.nn.memory_bank import Column, MemoryBank, UpdatedColumn


__all__ = ["CmsfForImageClassification", "CmsfForPreTraining", "CmsfModel", "CmsfPreTrainingOutput"]

_BANK = ("embeddings", "labels", "sample_ids", "position", "num_filled")


@dataclass
class CmsfPreTrainingOutput(ModelOutput):
    """Loss and diagnostics of one micro-batch. Scalars are tensors of shape `()`.

    Without diagnostics only the loss is set. With them a scalar is `None` if the variant doesn't have it, or if it is
    undefined (no class labels, no row with a constraint).

    Args:
        loss: Mean of 2 - 2 cos of predictions and neighbours, in [0, 4].
        purity: Share of the constrained neighbours with the class of the image, over all processes. Rows without a
            constraint, and the image itself among the neighbours, don't count.
        neighbor_distance: Mean of 2 - 2 cos of the targets and the same neighbours.
        plain_purity, plain_distance: The same of the neighbours out of the whole bank, for all rows; without labels.
        constrained_share: Share of the rows that have a constraint.
        num_candidates: Mean number of entries of the bank that their constraints leave, the image itself included.
        pseudo_label_coverage: Share of the unlabelled images whose pseudo-label is confident enough; `semi`.
        pseudo_label_accuracy: Share of these pseudo-labels that are right, over all processes; `semi`.
        classifier_accuracy: The classifier's on what it was last trained on; `semi`.
        cluster_entropy: Entropy of the cluster sizes over that of equal sizes, in [0, 1]; `kmeans`.
        used_clusters: Share of the clusters that hold an image; `kmeans`.
        bank_filled: Share of the bank that is filled, this batch included.
        projection_std: Standard deviation of the unit targets about their mean; 0 is collapse, 1 the largest.
        embeddings: The online backbone's pooled features of the strong view, `(batch, num_features)`.
        targets: Unit target projections of all processes, `(global_batch, projection_features)`.
        target_numbers: Their class (for diagnosis), sample id, known class and constraint label, `(global_batch, 4)`;
            -1 where there is none.
        target_visits: Their projections at the previous visit, `(global_batch, projection_features)`.
    """

    loss: torch.Tensor | None = None
    purity: torch.Tensor | None = None
    neighbor_distance: torch.Tensor | None = None
    plain_purity: torch.Tensor | None = None
    plain_distance: torch.Tensor | None = None
    constrained_share: torch.Tensor | None = None
    num_candidates: torch.Tensor | None = None
    pseudo_label_coverage: torch.Tensor | None = None
    pseudo_label_accuracy: torch.Tensor | None = None
    classifier_accuracy: torch.Tensor | None = None
    cluster_entropy: torch.Tensor | None = None
    used_clusters: torch.Tensor | None = None
    bank_filled: torch.Tensor | None = None
    projection_std: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
    targets: torch.Tensor | None = None
    target_numbers: torch.Tensor | None = None
    target_visits: torch.Tensor | None = None


class CmsfModel(SSLModel):
    """Backbone trained by CMSF (the online one, as the paper evaluates)."""

    config_class = CmsfConfig


class CmsfForImageClassification(SSLForImageClassification):
    """Backbone trained by CMSF with a linear classifier."""

    config_class = CmsfConfig


class CmsfForPreTraining(OnlineTargetForPreTraining):
    """Online and target network, the bank of past targets, and the tables or the classifier of the constraint.

    `timm_model` is the online backbone. A published model has no bank and no tables; a loaded one starts with empty
    ones. It keeps the classifier or the centroids, which `pseudo_labels` needs.
    """

    config_class = CmsfConfig
    config: CmsfConfig
    _keys_to_ignore_on_save = [  # noqa: RUF012  # transformers declares it so
        *(f"bank.{name}" for name in (*_BANK, "visits", "constraint_labels")),
        *(f"classifier.cache.{name}" for name in _BANK),
        *("classifier.num_trainings", "clusters.ids", "clusters.num_solved", "visits.embeddings", "visits.seen"),
    ]
    _keys_to_ignore_on_load_missing = [  # noqa: RUF012
        r"^(target_|bank\.|visits\.)",
        r"^clusters\.(ids|num_solved)$",
        r"^classifier\.(cache\.|num_trainings$)",
    ]

    def __init__(self, config: CmsfConfig) -> None:
        super().__init__(config)
        self._create_networks(hidden_bias=True, out_bias=True)
        width, num_samples = config.projection_features, config.num_samples or 1
        self.visits = VisitTable(num_samples, width) if config.supervision == "self" else None
        self.clusters: ClusterTable | None = None
        if config.supervision == "self" and config.constraint == "kmeans":
            self.clusters = ClusterTable(num_samples, width, config.num_clusters)
        self.classifier: PseudoLabelClassifier | None = None
        if config.supervision == "semi":
            self.classifier = PseudoLabelClassifier(
                width,
                config.classifier_hidden_features or [],
                config.num_supervised_classes or 1,
                config.num_labelled or 1,
            )
        columns = {"constraint_labels": Column((), torch.int64, -1)}
        if config.supervision == "self":
            columns = {} if self.clusters else {"visits": Column((width,), torch.float16, 0.0)}
        self.bank = MemoryBank(config.bank_size, width, columns=columns)
        self.post_init()
        self.train(self.training)

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
    ) -> CmsfPreTrainingOutput:
        """Compute the loss; see `SSLForPreTraining.forward`. The target sees the first view, the online the second.

        The targets of all processes are searched together with the bank as it'll be once they are in it.

        Raises:
            ValueError: for fewer than two views, or without the ids or labels that the constraint is made from.
        """
        self._check(views, sample_ids, known_labels)
        embeddings, predictions = self._online(views[1])
        targets = F.normalize(self._target(views[0]).float(), dim=-1)
        none = torch.full((len(targets),), -1, device=targets.device)
        ids = none if sample_ids is None else sample_ids
        known = none if known_labels is None else known_labels
        local_rows = torch.stack(
            [none if labels is None else labels, ids, known, self._constraint(targets, ids, known)], 1
        )
        all_targets, numbers = all_gather_rows(targets), all_gather_rows(local_rows)
        output = CmsfPreTrainingOutput(embeddings=embeddings, targets=all_targets, target_numbers=numbers)
        if self.visits is not None and self.clusters is None:
            output.target_visits, _ = self.visits.look_up(numbers[:, 1], all_targets)
        bank = self.bank.preview(**self._bank_rows(output))
        k, stored = self.config.num_neighbors, bank["embeddings"]
        constrained, candidates, is_constrained = self._constrained_neighbors(targets, local_rows, bank)
        distance = mean_neighbor_distance(predictions, stored.take(constrained.rows), constrained.found)
        plain = None
        if self.config.learns_from_labels:
            output.loss = constrained_mean_shift_loss(distance)
        else:
            plain = nearest_neighbors(targets, stored, k=k)
            plain_distance = mean_neighbor_distance(predictions, stored.take(plain.rows), plain.found)
            output.loss = constrained_mean_shift_loss(distance, plain_distance, is_constrained)
        if diagnostics:
            fields = diagnose(
                bank, local_rows, constrained, candidates, is_constrained, plain, self.classifier, self.clusters
            )
            for name, value in fields.items():
                setattr(output, name, value)
        return output

    def _check(
        self, views: list[torch.Tensor], sample_ids: torch.Tensor | None, known_labels: torch.Tensor | None
    ) -> None:
        config = self.config
        if len(views) < 2:
            raise ValueError(f"CMSF compares two views of an image: `views` must hold at least 2, got {len(views)}")
        if self.config.learns_from_labels and known_labels is None:
            raise ValueError(f"`supervision` is '{config.supervision}': `forward` needs `known_labels`")
        if not self.config.learns_from_labels and (sample_ids is None or config.num_samples is None):
            raise ValueError(
                f"`supervision` is 'self': `forward` needs `sample_ids`, and the configuration `num_samples`, "
                f"got {config.num_samples} (`config.fit_to_data` fills it in before the model is built)"
            )

    def _constraint(self, targets: torch.Tensor, ids: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """Class, pseudo-label or cluster that an image's neighbours must have, -1 for none `(batch,)`."""
        if self.clusters is not None:
            return self.clusters.look_up(ids)
        if self.classifier is None:
            return known
        pseudo_labels, confidence = self.classifier(targets)
        confident = torch.where(confidence >= self.config.confidence_threshold, pseudo_labels, -1)
        return torch.where(known >= 0, known, confident)

    def _constrained_neighbors(
        self, targets: torch.Tensor, local_rows: torch.Tensor, bank: dict[str, UpdatedColumn]
    ) -> tuple[Neighbors, Neighbors | torch.Tensor, torch.Tensor]:
        """Neighbours within the constraint sets; the sets, or the bank's labels; and which rows have a set."""
        k = self.config.num_neighbors
        if self.visits is not None and self.clusters is None:
            visits, seen = self.visits.look_up(local_rows[:, 1], targets)
            candidates = nearest_neighbors(visits, bank["visits"], k=self.config.num_candidates)
            embeddings = bank["embeddings"].take(candidates.rows)
            return nearest_of_few(targets, embeddings, candidates, k=k), candidates, seen
        if self.clusters is not None:
            # The clusters as they are now, not as they were when the entries were written.
            labels = self.clusters.look_up(bank["sample_ids"][:])
        else:
            labels = bank["constraint_labels"][:]
        neighbors = nearest_neighbors(
            targets, bank["embeddings"], k=k, query_labels=local_rows[:, 3], candidate_labels=labels
        )
        return neighbors, labels, local_rows[:, 3] >= 0

    def update_state(self, outputs: list[CmsfPreTrainingOutput], *, progress: float, epoch: float) -> None:
        """Move the target; write the step's targets to bank, tables and cache; update clusters and classifier."""
        super().update_state(outputs, progress=progress, epoch=epoch)
        for output in outputs:
            self.bank.write_(**self._bank_rows(output))
            targets: Any = output.targets
            _, ids, known, _ = cast(torch.Tensor, output.target_numbers).unbind(dim=1)
            if self.visits is not None:
                self.visits.write_(ids, targets)
            if self.classifier is not None:
                self.classifier.remember_(targets, known, ids)
        if self.clusters is not None and self.visits is not None:
            self.clusters.solve_when_due_(self.visits, moment=_moments(epoch, self.config.cluster_every_epochs))
        if self.classifier is not None:
            moment = _moments(epoch, self.config.classifier_every_epochs)
            self.classifier.fit_when_due_(self.config, moment=moment)

    def _bank_rows(self, output: CmsfPreTrainingOutput) -> dict[str, torch.Tensor]:
        numbers: Any = output.target_numbers
        rows: dict[str, Any] = {
            "embeddings": output.targets,
            "labels": numbers[:, 0],
            "sample_ids": numbers[:, 1],
            "constraint_labels": numbers[:, 3],
            "visits": output.target_visits,
        }
        return {name: rows[name] for name in self.bank.columns}

    @property
    def rebuilt_parts(self) -> tuple[str, ...]:
        """See `SSLForPreTraining`; none where pseudo-labels need the target's projections."""
        return super().rebuilt_parts if self.classifier is None and self.clusters is None else ()

    @property
    def cluster_probabilities(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Function from normalised images to the probability of each class (`semi`) or cluster (`kmeans`).

        It returns float32 of shape `(batch, 1, classes or clusters)`, from the target network's projections.

        Raises:
            AttributeError: for the variants that have neither.
        """
        source = self.classifier if self.classifier is not None else self.clusters
        if source is None:
            raise AttributeError(f"CMSF with `supervision` '{self.config.supervision}' has no pseudo-labels")
        return lambda images: source.probabilities(F.normalize(self._target(images).float(), dim=-1)).unsqueeze(1)

    def health(self, metrics: dict[str, float]) -> list[str]:
        """Recognise the ways in which CMSF fails; see `SSLForPreTraining.health`."""
        symptoms = []
        if metrics["projection_std"] < 0.1:
            symptoms.append(
                f"the targets have collapsed: their standard deviation is {metrics['projection_std']:.3f} of at most "
                f"1, so every image is every image's neighbour; lower the learning rate or raise `momentum`"
            )
        if metrics.get("epoch", 0.0) > 2 and metrics["constrained_share"] < 0.05:
            symptoms.append(
                f"only {metrics['constrained_share']:.0%} of the images have a constraint, so this is plain MSF; "
                f"see whether sample ids repeat from epoch to epoch, whether enough images are labelled, or lower "
                f"`confidence_threshold`"
            )
        elif metrics.get("num_candidates", 2.0) < 1.5 and metrics["bank_filled"] == 1:
            symptoms.append(
                f"constraint sets hold {metrics['num_candidates']:.1f} entries of the bank on average, mostly the "
                f"image itself: raise `bank_size` or lower the number of clusters"
            )
        return symptoms


def _moments(epoch: float, every: float) -> int:
    """Number of multiples of `every` up to `epoch`, which may be a rounding error too small."""
    return int(epoch / every + 1e-6)
