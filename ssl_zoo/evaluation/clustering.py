"""How well pseudo-labels agree with classes."""

from typing import Any

import datasets
import evaluate
import numpy as np
import numpy.typing as npt


__all__ = ["ClusteringAgreement", "normalized_mutual_information"]


def normalized_mutual_information(references: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """Mutual information of two labellings over the arithmetic mean of their entropies.

    Args:
        references (array of shape `(samples,)`): Classes.
        predictions (array of shape `(samples,)`): Pseudo-labels; any numbers, only which ones are equal counts.

    Returns:
        `float`: in [0, 1], symmetric; 1 for the same partition, and for two that have one part only.

    Raises:
        ValueError: If there are no samples or the numbers of them differ.
    """
    first, second = np.asarray(references), np.asarray(predictions)
    if first.ndim != 1 or first.shape != second.shape or first.size == 0:
        raise ValueError(
            f"`references` and `predictions` must be vectors of one length > 0, got {first.shape}, {second.shape}"
        )
    rows, columns = (np.unique(labels, return_inverse=True)[1] for labels in (first, second))
    joint = np.zeros((rows.max() + 1, columns.max() + 1))
    np.add.at(joint, (rows, columns), 1.0 / first.size)
    entropies = _entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))
    if max(entropies) == 0.0:
        return 1.0
    mutual_information = sum(entropies) - _entropy(joint.ravel())
    return float(np.clip(2.0 * mutual_information / sum(entropies), 0.0, 1.0))


def _entropy(probabilities: npt.NDArray[np.float64]) -> float:
    positive = probabilities[probabilities > 0]
    return float(-(positive * np.log(positive)).sum()) if positive.size > 1 else 0.0


class ClusteringAgreement(evaluate.Metric):  # type: ignore[misc]  # evaluate ships no types
    """`evaluate` metric: NMI of pseudo-labels (`predictions`) and classes (`references`).

    Instantiate it; nothing is downloaded. On several processes gather the labels first: the NMI of a part is no
    average of the whole.

    Example:
        >>> ClusteringAgreement(keep_in_memory=True).compute(predictions=[7, 7, 3], references=[0, 0, 1])
        {'nmi': 1.0}
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Normalised mutual information (arithmetic mean) of pseudo-labels and classes.",
            citation="",
            inputs_description="predictions: pseudo-labels; references: classes",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"nmi": normalized_mutual_information(references, predictions)}
