"""The linear probes of the methods' own papers: a classifier on a frozen backbone, trained on crops and flips."""

import dataclasses

from ssl_zoo.evaluation.protocols.finetune import FinetuneSettings
from ssl_zoo.models.registry import find_method, method_names


__all__ = ["paper_probe"]

_FROZEN = FinetuneSettings(frozen=True)


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
    changed = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if getattr(settings, field.name) != getattr(_FROZEN, field.name)
    }
    imagenet = probes[method].linear_probe_imagenet if num_classes == 1000 else {}
    return dataclasses.replace(_FROZEN, **{**(probes[method].linear_probe or {}), **imagenet, **changed}), method
