"""The linear probe of the method's own paper: a classifier on the frozen backbone, trained on crops and flips."""

from typing import TYPE_CHECKING

from ssl_zoo.evaluation.protocols.finetune import FinetuneSettings, finetune_results
from ssl_zoo.evaluation.protocols.linear import METRICS
from ssl_zoo.protocol import Protocol


if TYPE_CHECKING:
    from ssl_zoo.evaluation.evaluation import Evaluation
    from ssl_zoo.evaluation.results import Result


__all__ = ["PROTOCOL", "measure"]


def measure(evaluation: "Evaluation", settings: FinetuneSettings) -> "list[Result]":
    """Top-1 and top-5; what differs from the defaults wins over the paper's value."""
    from ssl_zoo.evaluation.paper_probes import paper_probe

    chosen, paper = paper_probe(evaluation.subject.method, settings, num_classes=evaluation.num_classes)
    return finetune_results(evaluation, chosen, {"name": "linear_paper", "paper": paper}, prefix="linear")


PROTOCOL = Protocol(
    settings=FinetuneSettings(frozen=True),
    metrics=METRICS,
    measure=measure,
    subjects=("trained",),  # a baseline has no paper
)
