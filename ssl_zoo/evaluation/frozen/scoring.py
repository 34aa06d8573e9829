"""Scores classifiers on frozen features, and describes the one that was chosen."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ssl_zoo.evaluation.frozen.rows import FeatureRows, ProbeMetric, ProbeRows
from ssl_zoo.evaluation.metrics.classification import mean_average_precision, mean_per_class_accuracy


__all__ = ["ProbeResult", "score_choice", "score_heads"]


@dataclass(frozen=True)
class ProbeResult:
    """Scores of a classifier on frozen features.

    Attributes:
        metric: What `test_score` and `validation_scores` are, shares in [0, 1].
        chosen: The learning rate or strength that was best on the validation rows.
        candidates: All that were tried, increasing.
        validation_scores: Of each candidate.
        at_grid_edge: Whether the chosen one is the first or last of several: the best may lie beyond.
        test_score: Of the chosen candidate, trained on train and validation rows.
        test_top1: Share of the test rows whose best class is right; `None` for multi-hot labels.
        test_top5: Share whose class is among the best five; `None` for multi-hot labels.
        num_train: Labelled training rows, without the validation rows.
        num_validation: Labelled rows chosen by.
        num_test: Labelled test rows.
    """

    metric: ProbeMetric
    chosen: float
    candidates: tuple[float, ...]
    validation_scores: tuple[float, ...]
    at_grid_edge: bool
    test_score: float
    test_top1: float | None
    test_top5: float | None
    num_train: int
    num_validation: int
    num_test: int

    def details(self) -> dict[str, Any]:
        """What a result says of the choice."""
        return {"chosen": self.chosen, "at_grid_edge": self.at_grid_edge, "num_validation": self.num_validation}


def score_heads(
    scores: Callable[[torch.Tensor], torch.Tensor], data: FeatureRows, *, num_heads: int, num_classes: int
) -> tuple[list[float], list[float | None], list[float | None]]:
    """The probe's metric, top-1 and top-5 of several classifiers in one pass over the rows.

    Args:
        scores (`Callable`): Features `(batch, features)` -> scores `(heads, batch, classes)`.
        data ([`FeatureRows`]): Rows to classify.
        num_heads: Of the scores.
        num_classes: Of the scores.

    Returns:
        `tuple` of three lists, an entry for each head: the metric of `data`, top-1 and top-5 (`None` for multi-hot
        labels). A head whose scores are not finite, because it diverged, gets 0.
    """
    best, kept, finite = [], [], torch.ones(num_heads, dtype=torch.bool)
    top5 = torch.zeros(num_heads, dtype=torch.int64)
    for features, labels in data.chunks(values_per_row=2 * num_heads * num_classes):
        batch_scores = scores(features)
        finite &= batch_scores.isfinite().all(dim=2).all(dim=1).cpu()
        if data.metric == "voc_map":
            kept.append(batch_scores.cpu())
            continue
        best.append(batch_scores.argmax(dim=2).cpu())
        top5 += (_places(batch_scores, labels) < 5).sum(dim=1).cpu()
    if data.metric == "voc_map":
        table, references = torch.cat(kept, dim=1).nan_to_num(), data.labels.numpy()
        maps = [mean_average_precision(references, head.numpy(), interpolation="voc2007") for head in table]
        return _masked(maps, finite), [None] * num_heads, [None] * num_heads
    predictions = torch.cat(best, dim=1)
    top1s = _masked([count / len(data) for count in (predictions == data.labels).sum(dim=1).tolist()], finite)
    top5s = _masked([count / len(data) for count in top5.tolist()], finite)
    metric = top1s
    if data.metric == "mean_per_class":
        metric = _masked([mean_per_class_accuracy(data.labels.numpy(), head.numpy()) for head in predictions], finite)
    return metric, [*top1s], [*top5s]


def _places(scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """How many classes come before the right one, `(heads, batch)`; of equal scores the lower class is first."""
    columns, right = torch.arange(scores.shape[2], device=scores.device), labels[:, None]
    right_scores = torch.where(columns == right, scores, 0.0).sum(dim=2, keepdim=True)
    places = ((scores > right_scores) | ((scores == right_scores) & (columns < right))).sum(dim=2)
    return torch.where(labels < scores.shape[2], places, scores.shape[2])


def _masked(values: list[float], finite: torch.Tensor) -> list[float]:
    return [float(value) if good else 0.0 for value, good in zip(values, finite.tolist(), strict=True)]


def score_choice(
    rows: ProbeRows,
    candidates: tuple[float, ...],
    validation_scores: Sequence[float],
    best: int,
    scores: Callable[[torch.Tensor], torch.Tensor],
) -> ProbeResult:
    """Test the classifier that was chosen, trained on training and validation rows; the test rows are read here only.

    Args:
        rows ([`ProbeRows`]): The rows.
        candidates: What was chosen among, increasing.
        validation_scores: Of each candidate.
        best: Number of the chosen one.
        scores (`Callable`): Features `(batch, features)` -> scores `(1, batch, classes)`.
    """
    [score], [top1], [top5] = score_heads(scores, rows.tested, num_heads=1, num_classes=rows.num_classes)
    return ProbeResult(
        metric=rows.tested.metric,
        chosen=candidates[best],
        candidates=candidates,
        validation_scores=tuple(validation_scores),
        at_grid_edge=len(candidates) > 1 and best in (0, len(candidates) - 1),
        test_score=score,
        test_top1=top1,
        test_top5=top5,
        num_train=len(rows.training),
        num_validation=len(rows.held_out),
        num_test=len(rows.tested),
    )
