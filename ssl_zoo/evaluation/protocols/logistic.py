"""L2-regularised logistic regression on frozen features by L-BFGS, the strength chosen on validation rows.

The transfer protocol of Kornblith et al. (https://huggingface.co/papers/1805.08974): 45 strengths from 1e-6 to 1e5.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssl_zoo.evaluation.results import Result
from ssl_zoo.protocol import Metric, Protocol
from ssl_zoo.settings.declare import plain, require, setting


if TYPE_CHECKING:
    from ssl_zoo.evaluation.evaluation import Evaluation
    from ssl_zoo.evaluation.frozen.rows import ProbeMetric, Table


__all__ = ["PROTOCOL", "LogisticRegression", "logistic_results", "measure"]


@dataclass(frozen=True)
class LogisticRegression:
    """Each fit goes on from the solution of the next stronger regularisation.

    One that stops at `max_iters`, as those of the weakest strengths may, is only regularised a little more.
    """

    strengths: tuple[float, ...] = setting(
        tuple(10 ** (-6 + 11 * step / 44) for step in range(45)), "strengths of the regularisation, increasing"
    )
    max_iters: int = setting(200, "iterations of L-BFGS for each strength")
    tolerance: float = setting(1e-5, "a fit ends when no entry of the scaled gradient is larger")
    validation_share: float = setting(0.1, "share of each class to choose by, where no validation split is given")
    seed: int = setting(0, "seed of the draw of validation rows; nothing else is random")

    def __post_init__(self) -> None:
        """Refuse values that no fit can use."""
        strengths = self.strengths
        increasing = bool(strengths) and min(strengths) > 0 and list(strengths) == sorted(set(strengths))
        require(increasing, "strengths", "> 0, increasing and at least one", strengths)
        require(self.max_iters >= 1, "max_iters", ">= 1", self.max_iters)
        require(0 < self.tolerance < math.inf, "tolerance", "> 0", self.tolerance)


def measure(evaluation: "Evaluation", settings: LogisticRegression) -> list[Result]:
    """Top-1, on the main process."""
    description = f"Logistic regression of {evaluation.subject.name.replace('_', ' ')}"
    return logistic_results(evaluation, settings, evaluation.tables(), metric="top1", description=description)


def logistic_results(
    evaluation: "Evaluation",
    settings: LogisticRegression,
    tables: "Sequence[Table]",
    *,
    metric: "ProbeMetric",
    description: str,
) -> list[Result]:
    """Logistic regression on tables of training, test and perhaps validation rows, on the main process.

    Args:
        evaluation ([`Evaluation`]): Names subject and data.
        settings ([`LogisticRegression`]): The parameters.
        tables (`Sequence[Table]`): Two or three.
        metric: Of the choice and of the result.
        description: What the progress bar says.
    """
    from ssl_zoo.evaluation.evaluation import on_main_process
    from ssl_zoo.evaluation.frozen.logistic import logistic_regression

    with on_main_process() as is_main:
        if not is_main:
            return []
        result = logistic_regression(
            *tables, settings=settings, metric=metric, device=evaluation.reading.device, description=description
        )
    return [
        evaluation.result(
            f"logistic_{metric}",
            result.test_score,
            {"name": "logistic", **plain(settings)},
            # A mean over classes or precisions is no share of answers: no binomial distribution stands behind it.
            num_answers=result.num_test if metric == "top1" else None,
            details=result.details(),
        )
    ]


PROTOCOL = Protocol(
    settings=LogisticRegression(),
    metrics=(
        Metric("logistic_top1", "logistic top-1", unit="%", hub_type="accuracy", parameters=("task",)),
        Metric("logistic_mean_per_class", "logistic, mean per class", unit="%", parameters=("task",)),
        Metric("logistic_voc_map", "logistic, mAP", unit="%", parameters=("task",)),
    ),
    measure=measure,
)
