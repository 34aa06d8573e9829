"""Fine-tuning on few or all labels, and the papers' own linear probes."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ssl_zoo.data.labelled import choose_labelled
from ssl_zoo.evaluation.metrics.intervals import accuracy_interval
from ssl_zoo.evaluation.protocols.evaluation import Evaluation, plain_parameters
from ssl_zoo.evaluation.protocols.finetune import FinetuneSettings, finetune, labelled_source
from ssl_zoo.evaluation.protocols.paper_probes import paper_probe
from ssl_zoo.evaluation.results import Result


__all__ = ["linear_paper", "tuned"]


def tuned(protocol: str) -> Callable[[Evaluation], list[Result]]:
    """The protocol that fine-tunes with the settings of this name, on all processes."""

    def measure(evaluation: Evaluation) -> list[Result]:
        settings: FinetuneSettings = getattr(evaluation.settings, protocol)
        return _finetune(evaluation, settings, name="finetune")

    return measure


def linear_paper(evaluation: Evaluation) -> list[Result]:
    """The linear probe of the method's own paper, on augmented views, on all processes."""
    settings, paper = paper_probe(
        evaluation.subject.method, evaluation.settings.linear_paper, num_classes=evaluation.num_classes
    )
    return _finetune(evaluation, settings, name="linear_paper", paper=paper)


def _finetune(evaluation: Evaluation, settings: FinetuneSettings, *, name: str, **extra: Any) -> list[Result]:
    start, train = time.perf_counter(), evaluation.train
    for source in (train, evaluation.test):
        if source.label_column is None:
            evaluation.labelled(source)  # says what is missing
    if settings.share < 1 or settings.labelled_ids is not None:
        wanted = replace(
            evaluation.data,
            split=train.split,
            labelled_share=settings.share,
            labelled_seed=settings.labelled_seed,
            labelled_ids=settings.labelled_ids,
        )
        train = labelled_source(train, choose_labelled(train, wanted))
    found = finetune(
        evaluation.subject.copy_of_backbone(),
        train,
        evaluation.test,
        evaluation.subject.view,
        settings,
        num_classes=evaluation.num_classes,
        reading=evaluation.reading,
        description=f"Training on {train.num_rows:,} labels",
    )
    protocol = {"name": name, **extra, **plain_parameters(settings)}
    details = {"num_labels": found.num_train, "final_loss": round(found.final_loss, 5)}
    seconds = time.perf_counter() - start
    prefix = "finetune" if name == "finetune" else "linear"
    values = {f"{prefix}_top1": found.top1, f"{prefix}_top5": found.top5}
    return [
        evaluation.result(
            metric, value, protocol, seconds, interval=accuracy_interval(value, found.num_test), details=details
        )
        for metric, value in values.items()
        if value is not None
    ]
