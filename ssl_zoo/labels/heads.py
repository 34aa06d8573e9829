"""Labels of images from each head of a model with clusters."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ssl_zoo.data.label_files import Head


__all__ = ["LabelError", "count_clusters", "empty_heads", "join_heads", "read_heads"]


class LabelError(ValueError):
    """A split can't be labelled; the message says why and what to do."""


@torch.no_grad()
def count_clusters(model: Any, images: torch.Tensor) -> list[int]:
    """Number of clusters of each head of a model, for any images `(batch, 3, height, width)` of the right size.

    Raises:
        LabelError: The model has none.
    """
    if not hasattr(model, "cluster_probabilities"):
        raise LabelError(
            f"a {type(model).__name__} has no clusters, so it can't label images. Take the full model of a method "
            "that has: MIRA, SeLa, CMSF with `supervision: semi` or `constraint: kmeans`, or supervised"
        )
    _, num_heads, num_clusters = model.cluster_probabilities(images).shape
    return [num_clusters] * num_heads


@torch.no_grad()
def read_heads(model: Any, images: torch.Tensor, sample_ids: torch.Tensor, *, num_soft: Sequence[int]) -> list[Head]:
    """Ask a model for the labels of some images.

    Args:
        model (`PreTrainedModel`): In evaluation mode, with `cluster_probabilities`.
        images (`torch.Tensor` of shape `(batch, 3, height, width)`): On the model's device.
        sample_ids (`torch.Tensor` of shape `(batch,)`): Ids of these images.
        num_soft (`Sequence[int]`): Soft labels wanted of each head; 0 is none.

    Raises:
        LabelError: Probabilities aren't finite.
    """
    probabilities = model.cluster_probabilities(images).float()
    broken = ~probabilities.isfinite().flatten(1).all(dim=1).cpu()
    if bool(broken.any()):
        raise LabelError(
            f"the model's probabilities for row {int(sample_ids[broken][0])} are infinite or NaN: it has diverged, or "
            "its weights are damaged"
        )
    heads = []
    for number, count in enumerate(num_soft):
        # Stable: of equally likely clusters the one with the lowest number comes first, on every device.
        ordered, clusters = probabilities[:, number].sort(dim=-1, descending=True, stable=True)
        values = ordered[:, : max(1, count)].cpu().numpy()
        ids = clusters[:, : max(1, count)].to(torch.int32).cpu().numpy()
        heads.append(Head(ids[:, 0], values[:, 0], *((ids, values) if count else ())))
    return heads


def empty_heads(num_soft: Sequence[int]) -> list[Head]:
    """The labels of no image."""
    ids, values = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.float32)
    return [
        Head(ids, values, ids.reshape(0, count), values.reshape(0, count)) if count else Head(ids, values)
        for count in num_soft
    ]


def join_heads(heads: Sequence[Head]) -> Head:
    """The labels of one head for several batches, one after the other."""
    labels, confidence = (np.concatenate([head[column] for head in heads]) for column in (0, 1))
    soft = [(head.soft_labels, head.soft_probabilities) for head in heads]
    if soft[0][0] is None:
        return Head(labels, confidence)
    ids, values = (np.concatenate(column) for column in zip(*soft, strict=True))
    return Head(labels, confidence, ids, values)
