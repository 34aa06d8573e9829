"""The pseudo-labels that a model with clusters gives to the images of a split."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ssl_zoo.data.source import ImageSource
from ssl_zoo.data.views import ImageTransform
from ssl_zoo.features.extract import Reading, evaluation_batches, gather_table


__all__ = ["Assigner", "PseudoLabels", "assign_pseudo_labels"]

Assigner = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Images `(batch, 3, height, width)` on the device -> pseudo-labels and confidence, each of shape `(batch,)`."""


@dataclass(frozen=True)
class PseudoLabels:
    """Pseudo-labels of a split, ordered by sample id.

    Attributes:
        sample_ids (`torch.Tensor` of shape `(rows,)`): Global row numbers, int64.
        pseudo_labels (`torch.Tensor` of shape `(rows,)`): Number of the prototype, int64.
        confidence (`torch.Tensor` of shape `(rows,)`): Its probability, float32.
        labels (`torch.Tensor` of shape `(rows,)`): Class, int64; -1 where there is none.
    """

    sample_ids: torch.Tensor
    pseudo_labels: torch.Tensor
    confidence: torch.Tensor
    labels: torch.Tensor


@torch.no_grad()
def assign_pseudo_labels(
    assign: Assigner,
    source: ImageSource,
    view: ImageTransform,
    *,
    reading: Reading | None = None,
    description: str = "pseudo-labels",
) -> PseudoLabels:
    """Ask a model for the pseudo-labels of all readable images of a source; the same on every process.

    Args:
        assign (`Assigner`): A pretraining model's `pseudo_labels`, in evaluation mode.
        source (`ImageSource`): The images; class labels are kept when there are any.
        view (`ImageTransform`): Makes the one view.
        reading ([`Reading`], *optional*): How images are read.
        description: What the progress bar says.

    Raises:
        DataError: If too many rows are corrupt.
    """
    reading = reading or Reading()
    parts: list[tuple[torch.Tensor, ...]] = []
    for batch in evaluation_batches(source, view, reading, description=description):
        pseudo_labels, confidence = assign(batch.views[0])
        columns = (batch.sample_ids, pseudo_labels, confidence.float(), batch.labels)
        parts.append(tuple(column.cpu() for column in columns))
    return PseudoLabels(*gather_table(parts, device=reading.device))
