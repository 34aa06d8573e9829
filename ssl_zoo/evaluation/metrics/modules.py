"""Metrics of `evaluate`: instantiate one, nothing is downloaded.

On several processes every metric wants all samples on one of them: mean average precision, NMI and their like are no
averages over parts. `ssl_zoo.evaluation.metrics.gather.gather_once` brings them together, none twice and none missing.
Importing `evaluate` takes seconds, and it moves scores element by element (50,000 images x 1000 classes: half a minute
and more): `classification` and `clustering` have the same numbers as plain functions of arrays.
"""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from ssl_zoo.evaluation.metrics.classification import (
    Interpolation,
    accuracy,
    mean_average_precision,
    mean_per_class_accuracy,
    top_k_accuracy,
)
from ssl_zoo.evaluation.metrics.clustering import clustering_agreement


__all__ = ["Accuracy", "ClusteringAgreement", "MeanAveragePrecision", "MeanPerClassAccuracy", "TopKAccuracy"]

_LABEL, _SCORES = datasets.Value("int64"), datasets.Sequence(datasets.Value("float32"))


def _info(description: str, predictions: str, references: str, features: dict[str, Any]) -> evaluate.MetricInfo:
    return evaluate.MetricInfo(
        description=description,
        citation="",
        inputs_description=f"predictions: {predictions}; references: {references}",
        features=datasets.Features(features),
    )


class Accuracy(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """Share of samples whose class is predicted; see [`accuracy`].

    Example:
        >>> Accuracy(keep_in_memory=True).compute(predictions=[0, 1, 1], references=[0, 1, 0])
        {'accuracy': 0.6666666666666666}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info("Accuracy.", "classes", "classes", {"predictions": _LABEL, "references": _LABEL})

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"accuracy": accuracy(references, predictions)}


class TopKAccuracy(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """Share of samples whose class is among the `k` best-scored ones; see [`top_k_accuracy`].

    Example:
        >>> metric = TopKAccuracy(keep_in_memory=True)
        >>> metric.compute(predictions=[[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]], references=[2, 0], k=(1, 2))
        {'top1': 0.5, 'top2': 1.0}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "Top-k accuracy.", "scores of all classes", "classes", {"predictions": _SCORES, "references": _LABEL}
        )

    def _compute(self, predictions: Any, references: Any, k: int | Sequence[int] = (1, 5)) -> dict[str, float]:
        return top_k_accuracy(references, predictions, k=k)


class MeanPerClassAccuracy(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """Mean of the accuracies on the samples of each class; see [`mean_per_class_accuracy`].

    Example:
        >>> MeanPerClassAccuracy(keep_in_memory=True).compute(predictions=[0, 0, 0], references=[0, 0, 1])
        {'mean_per_class_accuracy': 0.5}
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info("Mean per-class accuracy.", "classes", "classes", {"predictions": _LABEL, "references": _LABEL})

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"mean_per_class_accuracy": mean_per_class_accuracy(references, predictions)}


class MeanAveragePrecision(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """Mean average precision of several labels per image, 1, 0 or -1 = ignored; see [`mean_average_precision`].

    Example:
        >>> metric = MeanAveragePrecision(keep_in_memory=True)
        >>> metric.compute(predictions=[[0.9, 0.3], [0.2, 0.8]], references=[[1, 0], [0, 1]], interpolation="all")
        {'mean_average_precision': 1.0}
    """

    def _info(self) -> evaluate.MetricInfo:
        relevance = datasets.Sequence(datasets.Value("int8"))
        return _info(
            "Mean average precision over classes.",
            "scores of all classes",
            "1 (in the image), 0 (not) or -1 (ignored) for all classes",
            {"predictions": _SCORES, "references": relevance},
        )

    def _compute(
        self, predictions: Any, references: Any, interpolation: Interpolation = "voc2007"
    ) -> dict[str, float]:
        value = mean_average_precision(references, predictions, interpolation=interpolation)
        return {"mean_average_precision": value}


class ClusteringAgreement(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """Agreement of pseudo-labels (`predictions`) and classes (`references`); see [`clustering_agreement`].

    Example:
        >>> metric = ClusteringAgreement(keep_in_memory=True)
        >>> metric.compute(predictions=[7, 7, 3, 4], references=[0, 0, 1, 1])["hungarian_accuracy"]
        0.75
    """

    def _info(self) -> evaluate.MetricInfo:
        return _info(
            "NMI and AMI (arithmetic mean), ARI, accuracy by the best matching, purity, number of clusters.",
            "pseudo-labels",
            "classes",
            {"predictions": _LABEL, "references": _LABEL},
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return clustering_agreement(np.asarray(references), np.asarray(predictions))
