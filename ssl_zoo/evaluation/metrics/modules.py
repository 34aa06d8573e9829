"""The metrics of `classification` and `clustering` as modules of `evaluate`: instantiated, nothing is downloaded.

Importing `evaluate` takes seconds, and it moves scores element by element (half a minute and more for 50,000 images x
1000 classes): the package itself computes by the plain functions. On several processes every metric wants all samples
on one of them, as mean average precision, NMI and their like are no averages over parts: see [`gather_once`].
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import datasets
import evaluate
import torch

from ssl_zoo.evaluation.metrics import classification, clustering
from ssl_zoo.features.extract import gather_table


__all__ = [
    "Accuracy",
    "ClusteringAgreement",
    "MeanAveragePrecision",
    "MeanPerClassAccuracy",
    "TopKAccuracy",
    "gather_once",
]

_LABEL = datasets.Value("int64")
_SCORES = datasets.Sequence(datasets.Value("float32"))
_RELEVANCE = datasets.Sequence(datasets.Value("int8"))


class _Module(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """A function of references and predictions, with its settings as keyword arguments of `compute`."""

    function: ClassVar[Callable[..., Any]]
    predictions: ClassVar[Any] = _LABEL
    references: ClassVar[Any] = _LABEL

    def _info(self) -> evaluate.MetricInfo:
        columns = {"predictions": self.predictions, "references": self.references}
        return evaluate.MetricInfo(
            description=self.__doc__, citation="", inputs_description="", features=datasets.Features(columns)
        )

    def _compute(self, predictions: Any, references: Any, **settings: Any) -> dict[str, float]:
        function = type(self).function
        value = function(references, predictions, **settings)
        return value if isinstance(value, dict) else {function.__name__: value}


class Accuracy(_Module):
    """Share of samples whose class is predicted; see [`classification.accuracy`]."""

    function = staticmethod(classification.accuracy)


class TopKAccuracy(_Module):
    """Share of samples whose class is among the `k` with the highest scores; see [`classification.top_k_accuracy`]."""

    function = staticmethod(classification.top_k_accuracy)
    predictions = _SCORES


class MeanPerClassAccuracy(_Module):
    """Mean of the accuracies on the samples of each class; see [`classification.mean_per_class_accuracy`]."""

    function = staticmethod(classification.mean_per_class_accuracy)


class MeanAveragePrecision(_Module):
    """Mean average precision of several labels per image; see [`classification.mean_average_precision`]."""

    function = staticmethod(classification.mean_average_precision)
    predictions, references = _SCORES, _RELEVANCE


class ClusteringAgreement(_Module):
    """Agreement of pseudo-labels (`predictions`) and classes; see [`clustering.clustering_agreement`]."""

    function = staticmethod(clustering.clustering_agreement)


def gather_once(
    parts: Sequence[tuple[torch.Tensor, ...]], *, device: torch.device | str, num_samples: int | None = None
) -> tuple[torch.Tensor, ...]:
    """Join the batches of all processes, and refuse a sample that is there twice or not at all.

    Args:
        parts (`Sequence` of `tuple` of `torch.Tensor` of shape `(batch, ...)`): Columns of this process's batches on
            the CPU, sample ids first; as many batches as there are, of any length.
        device: What the rows travel over.
        num_samples (*optional*): Number of samples that there must be; leave it out where corrupt ones were skipped.

    Returns:
        `tuple` of `torch.Tensor` of shape `(samples, ...)`: on the CPU, by sample id, the same on every process.

    Raises:
        ValueError: If a sample is there twice, or their number is not `num_samples`.
    """
    columns = gather_table(parts, device=device)
    ids = columns[0]
    again = ids[1:][ids[1:] == ids[:-1]]
    if len(again):
        raise ValueError(
            f"sample {int(again[0])} was gathered more than once, as were {len(again) - 1} others: "
            "give every process its own share, and don't let a loader fill its last batch up"
        )
    if num_samples is not None and len(ids) != num_samples:
        raise ValueError(f"{len(ids)} samples were gathered, but there are {num_samples}: a process lost a batch")
    return columns
