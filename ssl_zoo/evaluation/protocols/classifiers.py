"""k-NN, linear probe and logistic regression on frozen features."""

import time
from collections.abc import Sequence
from typing import Any

import torch

from ssl_zoo.evaluation.frozen.knn import WeightedKnn
from ssl_zoo.evaluation.frozen.linear import linear_probe
from ssl_zoo.evaluation.frozen.logistic import logistic_regression
from ssl_zoo.evaluation.frozen.rows import Metric, Table
from ssl_zoo.evaluation.frozen.scoring import ProbeResult
from ssl_zoo.evaluation.metrics.intervals import accuracy_interval
from ssl_zoo.evaluation.protocols.evaluation import Evaluation, on_main_process, plain_parameters
from ssl_zoo.evaluation.results import Result
from ssl_zoo.functional.distributed import all_reduce_sum_, rank, world_size


__all__ = ["knn", "linear", "logistic", "logistic_results"]


def knn(evaluation: Evaluation) -> list[Result]:
    """Weighted k-NN; the processes share the test rows."""
    start, settings = time.perf_counter(), evaluation.settings.knn
    bank, test = evaluation.labelled(evaluation.train), evaluation.labelled(evaluation.test)
    device = torch.device(evaluation.reading.device)
    classifier = WeightedKnn(bank.features, bank.labels, temperature=settings.temperature, device=device)
    classifier.check_k(settings.k)
    share = slice(rank() * len(test.labels) // world_size(), (rank() + 1) * len(test.labels) // world_size())
    found = classifier.predict(test.features[share], k=settings.k).to(device)
    correct = all_reduce_sum_((found == test.labels[share].to(device)).sum(dim=1)).tolist()
    seconds, total = time.perf_counter() - start, len(test.labels)
    return [
        evaluation.result(
            "knn_top1",
            right / total,
            {"name": "knn", "k": k, "temperature": settings.temperature},
            seconds,
            interval=accuracy_interval(right / total, total),
        )
        for k, right in zip(settings.k, correct, strict=True)
    ]


def linear(evaluation: Evaluation) -> list[Result]:
    """The common linear probe, on the main process."""
    start, settings = time.perf_counter(), evaluation.settings.linear
    train, test, *validation = evaluation.tables()
    with on_main_process() as is_main:
        if not is_main:
            return []
        found = linear_probe(
            train,
            test,
            validation=validation[0] if validation else None,
            settings=settings,
            device=evaluation.reading.device,
            description=f"Linear probe of {evaluation.subject.name.replace('_', ' ')}",
        )
    protocol, seconds = {"name": "linear", **plain_parameters(settings)}, time.perf_counter() - start
    values = {"linear_top1": found.test_top1, "linear_top5": found.test_top5}
    return [
        evaluation.result(
            name,
            value,
            protocol,
            seconds,
            interval=accuracy_interval(value, found.num_test),
            details=_chosen(found),
        )
        for name, value in values.items()
        if value is not None
    ]


def logistic(evaluation: Evaluation) -> list[Result]:
    """Logistic regression by L-BFGS over a grid of strengths, on the main process."""
    start = time.perf_counter()
    description = f"Logistic regression of {evaluation.subject.name.replace('_', ' ')}"
    return logistic_results(evaluation, evaluation.tables(), metric="top1", start=start, description=description)


def logistic_results(
    evaluation: Evaluation, tables: Sequence[Table], *, metric: Metric, start: float, description: str
) -> list[Result]:
    """Logistic regression on tables of training, test and perhaps validation rows.

    Args:
        evaluation ([`Evaluation`]): Names subject, data and parameters.
        tables (`Sequence[Table]`): Two or three.
        metric: Of the choice and of the result.
        start: `time.perf_counter()` when the measurement began.
        description: What the progress bar says.
    """
    settings = evaluation.settings.logistic
    train, test, *validation = tables
    with on_main_process() as is_main:
        if not is_main:
            return []
        found = logistic_regression(
            train,
            test,
            validation=validation[0] if validation else None,
            settings=settings,
            metric=metric,
            device=evaluation.reading.device,
            description=description,
        )
    protocol, seconds = {"name": "logistic", **plain_parameters(settings)}, time.perf_counter() - start
    # A mean over classes or precisions is no share of answers: no binomial stands behind it.
    interval = accuracy_interval(found.test_score, found.num_test) if metric == "top1" else None
    return [
        evaluation.result(
            f"logistic_{metric}", found.test_score, protocol, seconds, interval=interval, details=_chosen(found)
        )
    ]


def _chosen(found: ProbeResult) -> dict[str, Any]:
    return {"chosen": found.chosen, "at_grid_edge": found.at_grid_edge, "num_validation": found.num_validation}
