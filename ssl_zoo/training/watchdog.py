"""Warns when the metrics of a run show that it goes wrong."""

import math

import torch

from ssl_zoo.functional.information import effective_rank
from ssl_zoo.models.modeling_base import SSLForPreTraining


__all__ = ["Watchdog", "feature_rank"]


class Watchdog:
    """Turns logged metrics into warnings.

    Args:
        model (`SSLForPreTraining`): Knows how its method fails.
        patience (`int`): Looks in a row with symptoms until they are reported; again after 2, 4, 8, ... times as many.
    """

    def __init__(self, model: SSLForPreTraining, patience: int = 3) -> None:
        self._model = model
        self._patience = patience
        self._streak = 0

    def look(self, metrics: dict[str, float]) -> list[str]:
        """Return the warnings to show now, mostly none, for logged scalars of the model and the `effective_rank`."""
        symptoms = self._model.health(metrics)
        if metrics.get("effective_rank", math.inf) < 2.0:
            symptoms.append(
                f"the features have collapsed (effective rank {metrics['effective_rank']:.1f}): all images look alike "
                f"to the backbone; lower the learning rate, lengthen the warm-up or raise the momentum"
            )
        self._streak = self._streak + 1 if symptoms else 0
        due = self._streak >= self._patience and math.log2(self._streak / self._patience).is_integer()
        return symptoms if due else []


@torch.no_grad()
def feature_rank(embeddings: torch.Tensor) -> float:
    """Effective rank of the features of a batch around their mean; `spectrum`'s RankMe leaves the mean in.

    Args:
        embeddings (`torch.Tensor` of shape `(batch, num_features)`): Of one micro-batch.

    Returns:
        `float`: between 1 (a line) and min(batch, num_features); 0 when all rows are equal.
    """
    centred = embeddings.float() - embeddings.float().mean(dim=0)
    return float(effective_rank(torch.linalg.svdvals(centred)))
