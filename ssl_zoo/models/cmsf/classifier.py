"""The classifier that gives CMSF its pseudo-labels when some images are labelled."""

from collections.abc import Sequence
from itertools import chain
from typing import Self

import torch
import torch.nn.functional as F
from torch import nn

from ssl_zoo.functional.distributed import broadcast_
from ssl_zoo.models.cmsf.configuration_cmsf import CmsfConfig
from ssl_zoo.nn.heads import Projector
from ssl_zoo.nn.memory_bank import MemoryBank


__all__ = ["PseudoLabelClassifier"]


class PseudoLabelClassifier(nn.Module):
    """A small network on target projections, trained from time to time on those of labelled images.

    It isn't trained with the model: only inside `fit_when_due_` its parameters have gradients and its batch norm is in
    training mode.

    Args:
        num_features (`int`): Width of the projections.
        hidden_features (sequence of `int`): Widths of the hidden layers.
        num_classes (`int`): Classes.
        cache_size (`int`): How many projections of labelled images are kept. With the number of such images,
            each is kept about once.
    """

    is_trained: torch.Tensor
    accuracy: torch.Tensor
    num_trainings: torch.Tensor

    def __init__(self, num_features: int, hidden_features: Sequence[int], num_classes: int, cache_size: int) -> None:
        super().__init__()
        self.network = Projector(num_features, hidden_features, num_classes, hidden_bias=True)
        self.cache = MemoryBank(cache_size, num_features)
        self.register_buffer("is_trained", torch.zeros((), dtype=torch.bool))
        self.register_buffer("accuracy", torch.zeros(()))
        self.register_buffer("num_trainings", torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode and without gradient, whatever the rest of the model does."""
        super().train(False)
        self.requires_grad_(False)
        return self

    @torch.no_grad()
    def forward(self, projections: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Class and its probability for unit projections `(batch, num_features)`; both `(batch,)`.

        Before the first training the probability is 0.
        """
        probability, label = self._logits(projections).softmax(dim=-1).max(dim=-1)
        return label, probability * self.is_trained

    @torch.no_grad()
    def probabilities(self, projections: torch.Tensor) -> torch.Tensor:
        """Probability of each class for unit projections `(batch, num_features)`, `(batch, num_classes)`.

        Before the first training all classes are equally likely.
        """
        probabilities = self._logits(projections).softmax(dim=-1)
        return torch.where(self.is_trained, probabilities, 1.0 / probabilities.shape[-1])

    def _logits(self, projections: torch.Tensor) -> torch.Tensor:
        """Logits in float32, whatever dtype the model was cast to."""
        logits: torch.Tensor = self.network(projections.to(next(self.network.parameters()).dtype))
        return logits.float()

    def remember_(self, projections: torch.Tensor, labels: torch.Tensor, sample_ids: torch.Tensor) -> None:
        """Put the labelled rows into the cache, the same on all processes.

        Args:
            projections (`torch.Tensor` of shape `(batch, num_features)`): Unit target projections.
            labels (`torch.Tensor` of shape `(batch,)`): Known classes; -1 for rows to leave out.
            sample_ids (`torch.Tensor` of shape `(batch,)`): Ids, -1 for none.
        """
        known = labels >= 0
        self.cache.write_(embeddings=projections[known], labels=labels[known], sample_ids=sample_ids[known])

    def fit_when_due_(self, config: CmsfConfig, *, moment: int) -> None:
        """Train on the cache by cross-entropy, from the present weights, with a new SGD, unless this was done.

        Every process trains on its copy of the cache; then all take the result of process 0. An incomplete last batch
        of a pass is dropped, as in the released code, unless it is the only one.

        Args:
            config (`CmsfConfig`): Its `classifier_*` fields say how.
            moment (`int`): Number of this training, counted from 1; the seed of the order.
        """
        count, batch_size = int(self.cache.num_filled), config.classifier_batch_size
        if moment <= int(self.num_trainings) or count == 0:
            return
        projections, labels = self.cache.embeddings[:count], self.cache.labels[:count]
        generator = torch.Generator().manual_seed(moment)
        self.network.requires_grad_(True)
        self.network.train(count > 1)  # batch norm can't learn from a single projection
        optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=config.classifier_learning_rate,
            momentum=config.classifier_momentum,
            weight_decay=config.classifier_weight_decay,
        )
        with torch.enable_grad():
            for _ in range(config.classifier_epochs):
                order = torch.randperm(count, generator=generator).to(labels.device)
                whole = order[: count - count % batch_size] if count >= batch_size else order
                for rows in whole.split(batch_size):
                    optimizer.zero_grad()
                    F.cross_entropy(self._logits(projections[rows]), labels[rows]).backward()
                    optimizer.step()
        optimizer.zero_grad()
        self.train()
        for tensor in chain(self.network.parameters(), self.network.buffers()):
            broadcast_(tensor.data)
        self.is_trained.fill_(True)
        self.accuracy.copy_((self(projections)[0] == labels).float().mean())
        self.num_trainings.fill_(moment)
