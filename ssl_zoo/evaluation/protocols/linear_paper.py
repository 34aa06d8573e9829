"""The linear probe of the method's own paper: a classifier on the frozen backbone, trained on crops and flips."""

import dataclasses
from typing import TYPE_CHECKING

from ssl_zoo.evaluation.protocols.finetune import FinetuneSettings, finetune_results
from ssl_zoo.evaluation.protocols.linear import METRICS
from ssl_zoo.evaluation.results import Result
from ssl_zoo.models.registry import find_method, method_names
from ssl_zoo.protocol import Protocol


if TYPE_CHECKING:
    from ssl_zoo.evaluation.evaluation import Evaluation


__all__ = ["PROTOCOL", "measure", "paper_probe"]

_DEFAULTS = FinetuneSettings(frozen=True)


def measure(evaluation: "Evaluation", settings: FinetuneSettings) -> list[Result]:
    """Top-1 and top-5; what differs from the defaults wins over the paper's value."""
    chosen, paper = paper_probe(evaluation.subject.method, settings, num_classes=evaluation.num_classes)
    return finetune_results(evaluation, chosen, {"name": "linear_paper", "paper": paper}, prefix="linear")


def paper_probe(method: str | None, settings: FinetuneSettings, *, num_classes: int) -> tuple[FinetuneSettings, str]:
    """The settings of a method's paper, which the method's folder declares as `METHOD.linear_probe`.

    Args:
        method: `model_type` of the model.
        settings ([`FinetuneSettings`]): What differs from the defaults here wins over the paper's value.
        num_classes: Classes of the data: some papers have other settings for the 1000 of ImageNet.

    Returns:
        `tuple`: the settings, and the method's name.

    Raises:
        ValueError: If the method's paper has no linear probe.
    """
    probes = {name: declared for name in method_names() if (declared := find_method(name)).linear_probe is not None}
    if method not in probes:
        raise ValueError(
            f"'{method}' has no linear probe of its own paper (those that have: {', '.join(probes)}); use the "
            "common one, --protocol linear"
        )
    defaults = vars(_DEFAULTS)
    changed = {name: value for name, value in vars(settings).items() if value != defaults[name]}
    imagenet = probes[method].linear_probe_imagenet if num_classes == 1000 else {}
    return dataclasses.replace(_DEFAULTS, **{**(probes[method].linear_probe or {}), **imagenet, **changed}), method


# Only the trained model is measured: a baseline has no paper.
PROTOCOL = Protocol(settings=_DEFAULTS, metrics=METRICS, measure=measure, subjects=("trained",))
