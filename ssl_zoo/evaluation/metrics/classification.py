"""How well a classifier does: plain functions of classes and predictions."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt


__all__ = [
    "Interpolation",
    "accuracy",
    "average_precisions",
    "mean_average_precision",
    "mean_per_class_accuracy",
    "top_k_accuracy",
]

Interpolation = Literal["voc2007", "all"]
_CHUNK_ROWS = 8192


def accuracy(references: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """Share of samples whose class is predicted.

    Args:
        references (array of shape `(samples,)`): Classes, >= 0.
        predictions (array of shape `(samples,)`): Predicted classes.

    Returns:
        `float`: in [0, 1].

    Raises:
        ValueError: If there are no samples, their numbers differ or a class is < 0.
    """
    classes, predicted = _labels(references, predictions)
    return float((classes == predicted).mean())


def mean_per_class_accuracy(references: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """Mean over the classes of the accuracy on the samples of each; a class without a sample doesn't count.

    Args:
        references (array of shape `(samples,)`): Classes, >= 0.
        predictions (array of shape `(samples,)`): Predicted classes; also such as `references` don't hold.

    Returns:
        `float`: in [0, 1].

    Raises:
        ValueError: If there are no samples, their numbers differ or a class is < 0.
    """
    classes, predicted = _labels(references, predictions)
    _, index, sizes = np.unique(classes, return_inverse=True, return_counts=True)
    right = np.bincount(index[classes == predicted], minlength=len(sizes))
    return float((right / sizes).mean())


def top_k_accuracy(
    references: npt.ArrayLike, scores: npt.ArrayLike, *, k: int | Sequence[int] = (1, 5)
) -> dict[str, float]:
    """Share of samples whose class is among the k with the highest scores; of equal scores the lower class is first.

    Args:
        references (array of shape `(samples,)`): Classes, in [0, classes).
        scores (array of shape `(samples, classes)`): Logits, probabilities or votes.
        k: Number(s) of classes that may be named, each in [1, classes].

    Returns:
        `dict[str, float]`: `{"top1": ..., "top5": ...}`.

    Raises:
        ValueError: If shapes don't fit, a class or a `k` is out of range, or scores are NaN or infinite.
    """
    classes, table = np.asarray(references), np.asarray(scores)
    if table.ndim != 2 or classes.shape != table.shape[:1] or table.size == 0:
        raise ValueError(
            "`references` must have shape (samples,) and `scores` (samples, classes), with samples > 0; "
            f"got {classes.shape} and {table.shape}"
        )
    num_classes = table.shape[1]
    if classes.min() < 0 or classes.max() >= num_classes:
        raise ValueError(
            f"`references` must lie in [0, {num_classes}), the classes that `scores` has columns for; "
            f"got {classes.min()} to {classes.max()}"
        )
    sizes = [k] if isinstance(k, int) else list(k)
    if not sizes or min(sizes) < 1 or max(sizes) > num_classes:
        raise ValueError(f"`k` must lie in [1, {num_classes}], the number of classes; got {k}")
    starts = range(0, len(table), _CHUNK_ROWS)
    places = np.concatenate([_places(classes[s : s + _CHUNK_ROWS], table[s : s + _CHUNK_ROWS]) for s in starts])
    return {f"top{size}": float((places < size).mean()) for size in sizes}


def _places(classes: npt.NDArray[Any], scores: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """How many classes come before the right one, for each sample."""
    _check_finite(scores)
    right_scores = np.take_along_axis(scores, classes[:, None], axis=1)
    earlier = np.arange(scores.shape[1]) < classes[:, None]
    places: npt.NDArray[np.int64] = ((scores > right_scores) | ((scores == right_scores) & earlier)).sum(axis=1)
    return places


def mean_average_precision(
    references: npt.ArrayLike, scores: npt.ArrayLike, *, interpolation: Interpolation = "voc2007"
) -> float:
    """Mean over the classes of [`average_precisions`]; a class without a positive sample doesn't count.

    Args:
        references (array of shape `(samples, classes)`): 1 = is in the image, 0 = is not, -1 = difficult, ignored.
        scores (array of shape `(samples, classes)`): Higher where a class is more likely in the image.
        interpolation: See [`average_precisions`].

    Returns:
        `float`: in [0, 1].

    Raises:
        ValueError: If shapes or values don't fit, or no class has a positive sample.
    """
    precisions = average_precisions(references, scores, interpolation=interpolation)
    counted = precisions[~np.isnan(precisions)]
    if counted.size == 0:
        raise ValueError("`references` hold no 1: average precision needs positive samples of one class or more")
    return float(counted.mean())


def average_precisions(
    references: npt.ArrayLike, scores: npt.ArrayLike, *, interpolation: Interpolation = "voc2007"
) -> npt.NDArray[np.float64]:
    """Average precision of each class, from the samples in order of its scores.

    `"voc2007"` is the 11-point form of the VOC 2007 challenge: the mean over r = 0, 0.1, ..., 1 of the highest
    precision at a recall >= r. `"all"` is the sum of precision times gain in recall over all thresholds, as
    scikit-learn's `average_precision_score`. Samples with equal scores pass a threshold together, so that their order
    in the file doesn't matter.

    Args:
        references (array of shape `(samples, classes)`): 1 = is in the image, 0 = is not, -1 = difficult, ignored.
        scores (array of shape `(samples, classes)`): Higher where a class is more likely in the image.
        interpolation: `"voc2007"` or `"all"`.

    Returns:
        `numpy.ndarray` of shape `(classes,)`: in [0, 1]; NaN for a class without a positive sample.

    Raises:
        ValueError: If shapes or values don't fit.
    """
    relevance, table = np.asarray(references), np.asarray(scores)
    if table.ndim != 2 or relevance.shape != table.shape or table.size == 0:
        raise ValueError(
            "`references` and `scores` must both have shape (samples, classes), with samples > 0; "
            f"got {relevance.shape} and {table.shape}"
        )
    if not np.isin(relevance, (-1, 0, 1)).all():
        raise ValueError("`references` must be 1 (in the image), 0 (not) or -1 (ignored), but hold other values")
    if interpolation not in ("voc2007", "all"):
        raise ValueError(f"`interpolation` must be 'voc2007' or 'all', got {interpolation!r}")
    _check_finite(table)
    return np.array([_average_precision(*pair, interpolation) for pair in zip(relevance.T, table.T, strict=True)])


def _average_precision(relevance: npt.NDArray[Any], scores: npt.NDArray[Any], interpolation: Interpolation) -> float:
    relevance, scores = relevance[relevance >= 0], scores[relevance >= 0]
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.flatnonzero(np.diff(scores[order], append=-np.inf))
    num_positives = np.cumsum(relevance[order], dtype=np.int64)[last_of_equals]
    if num_positives.size == 0 or num_positives[-1] == 0:
        return float("nan")
    precision = num_positives / (last_of_equals + 1)
    if interpolation == "all":
        return float((np.diff(num_positives, prepend=0) * precision).sum() / num_positives[-1])
    # Recall >= i / 10 in whole numbers: 3 of 10 must reach 0.3, which 3 * 0.1 in floating point does not.
    reached = [np.searchsorted(10 * num_positives, point * num_positives[-1]) for point in range(11)]
    return float(np.mean([precision[first:].max() for first in reached]))


def _labels(references: npt.ArrayLike, predictions: npt.ArrayLike) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    classes, predicted = np.asarray(references), np.asarray(predictions)
    if classes.ndim != 1 or classes.shape != predicted.shape or classes.size == 0:
        raise ValueError(
            f"`references` and `predictions` must be vectors of one length > 0, got {classes.shape}, {predicted.shape}"
        )
    if not classes.min() >= 0:
        raise ValueError(f"`references` must be >= 0, got {classes.min()}: leave samples without a label out")
    return classes, predicted


def _check_finite(scores: npt.NDArray[Any]) -> None:
    if not np.isfinite(scores).all():
        raise ValueError("`scores` hold infinite or NaN values: the classifier that made them has diverged")
