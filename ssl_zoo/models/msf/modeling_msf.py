"""MSF: an online network learns to predict, from a strong view, the target's neighbours of a weak view."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers.utils import ModelOutput

from ssl_zoo.functional.distributed import all_gather_rows
from ssl_zoo.functional.neighbors import Neighbors, label_agreement, nearest_neighbors, other_images, spread
from ssl_zoo.models.modeling_base import SSLForImageClassification, SSLModel
from ssl_zoo.models.modeling_online_target import OnlineTargetForPreTraining
from ssl_zoo.models.msf.configuration_msf import MsfConfig
from ssl_zoo.models.msf.loss_msf import mean_shift_loss
from ssl_zoo.nn.memory_bank import MemoryBank, UpdatedColumn


__all__ = ["MsfForImageClassification", "MsfForPreTraining", "MsfModel", "MsfPreTrainingOutput"]


@dataclass
class MsfPreTrainingOutput(ModelOutput):
    """Loss and diagnostics of one micro-batch. Scalars are tensors of shape `()`, `None` without diagnostics.

    Args:
        loss: Mean of 2 - 2 cos of predictions and neighbours, in [0, 4].
        purity: Share of the neighbours with the class of the image, the image itself not counted; over all processes.
            `None` without class labels.
        neighbor_distance: Mean of 2 - 2 cos of the targets and their neighbours, the image itself not counted.
        neighbor_age: Mean age of those neighbours in the bank, as a share of the bank: 0 newest, 1 oldest.
        bank_filled: Share of the bank that is filled, this batch included.
        projection_std: Standard deviation of the unit targets about their mean; 0 is collapse, 1 the largest.
        embeddings: The online backbone's pooled features of the strong view, `(batch, num_features)`.
        targets: Unit target projections of all processes, `(global_batch, projection_features)`.
        target_labels, target_ids: Their classes and sample ids, `(global_batch,)`, -1 where there is none.
    """

    loss: torch.Tensor | None = None
    purity: torch.Tensor | None = None
    neighbor_distance: torch.Tensor | None = None
    neighbor_age: torch.Tensor | None = None
    bank_filled: torch.Tensor | None = None
    projection_std: torch.Tensor | None = None
    embeddings: torch.Tensor | None = None
    targets: torch.Tensor | None = None
    target_labels: torch.Tensor | None = None
    target_ids: torch.Tensor | None = None


class MsfModel(SSLModel):
    """Backbone trained by MSF (the online one, as the paper evaluates)."""

    config_class = MsfConfig


class MsfForImageClassification(SSLForImageClassification):
    """Backbone trained by MSF with a linear classifier."""

    config_class = MsfConfig


class MsfForPreTraining(OnlineTargetForPreTraining):
    """Online and target network and the bank of past targets.

    `timm_model` is the online backbone. A published model has no bank; a loaded one starts with an empty bank.
    """

    config_class = MsfConfig
    config: MsfConfig
    _keys_to_ignore_on_save = [  # noqa: RUF012  # transformers declares it so
        f"bank.{name}" for name in ("embeddings", "labels", "sample_ids", "position", "num_filled")
    ]
    _keys_to_ignore_on_load_missing = [r"^target_", r"^bank\."]  # noqa: RUF012

    def __init__(self, config: MsfConfig) -> None:
        super().__init__(config)
        self._create_networks(hidden_bias=True, out_bias=True)
        self.bank = MemoryBank(config.bank_size, config.projection_features)
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
    ) -> MsfPreTrainingOutput:
        """Compute the loss; see `SSLForPreTraining.forward`. The target sees the first view, the online the second.

        The targets of all processes are searched together with the bank as it'll be once they are in it, so each
        image's nearest neighbour is itself.

        Raises:
            ValueError: for fewer than two views.
        """
        if len(views) < 2:
            raise ValueError(f"MSF compares two views of an image: `views` must hold at least 2, got {len(views)}")
        embeddings, predictions = self._online(views[1])
        targets = F.normalize(self._target(views[0]).float(), dim=-1)
        none = torch.full((len(targets),), -1, device=targets.device)
        local_labels, local_ids = none if labels is None else labels, none if sample_ids is None else sample_ids
        numbers = all_gather_rows(torch.stack([local_labels, local_ids], dim=1))
        output = MsfPreTrainingOutput(
            embeddings=embeddings,
            targets=all_gather_rows(targets),
            target_labels=numbers[:, 0],
            target_ids=numbers[:, 1],
        )
        bank = self.bank.preview(**_bank_rows(output))
        neighbors = nearest_neighbors(targets, bank["embeddings"], k=self.config.num_neighbors)
        output.loss = mean_shift_loss(predictions, bank["embeddings"].take(neighbors.rows), neighbors.found)
        if diagnostics:
            self._diagnose(output, bank, neighbors, local_labels, local_ids)
        return output

    @torch.no_grad()
    def _diagnose(
        self,
        output: MsfPreTrainingOutput,
        bank: dict[str, UpdatedColumn],
        neighbors: Neighbors,
        labels: torch.Tensor,
        sample_ids: torch.Tensor,
    ) -> None:
        """Fill the diagnostic fields; one all-reduce. The image itself doesn't count as its neighbour."""
        others = other_images(neighbors, bank["sample_ids"].take(neighbors.rows), sample_ids)
        count = others.sum().clamp_min(1)
        output.purity = label_agreement(labels, bank["labels"].take(neighbors.rows), others)
        output.neighbor_distance = (2.0 - 2.0 * neighbors.similarities)[others].sum() / count
        output.neighbor_age = bank["embeddings"].age(neighbors.rows)[others].sum() / (count * self.bank.size)
        output.bank_filled = neighbors.similarities.new_tensor(len(bank["embeddings"]) / self.bank.size)
        output.projection_std = spread(output.targets)  # type: ignore[arg-type]

    def update_state(self, outputs: list[MsfPreTrainingOutput], *, progress: float, epoch: float) -> None:
        """Move the target towards the online network, and write the step's targets to the bank."""
        super().update_state(outputs, progress=progress, epoch=epoch)
        for output in outputs:
            self.bank.write_(**_bank_rows(output))

    def health(self, metrics: dict[str, float]) -> list[str]:
        """Recognise the ways in which MSF fails; see `SSLForPreTraining.health`."""
        symptoms = []
        if metrics["projection_std"] < 0.1:
            symptoms.append(
                f"the targets have collapsed: their standard deviation is {metrics['projection_std']:.3f} of at most "
                f"1, so every image is every image's neighbour; lower the learning rate or raise `momentum`"
            )
        elif metrics["bank_filled"] == 1 and metrics["neighbor_age"] < 0.1:
            symptoms.append(
                f"neighbours come from the newest {2 * metrics['neighbor_age']:.0%} of the bank: the target moves too "
                f"fast for older entries to be comparable; raise `momentum` or lower `bank_size`"
            )
        return symptoms


def _bank_rows(output: MsfPreTrainingOutput) -> dict[str, torch.Tensor]:
    rows = {"embeddings": output.targets, "labels": output.target_labels, "sample_ids": output.target_ids}
    return rows  # type: ignore[return-value]
