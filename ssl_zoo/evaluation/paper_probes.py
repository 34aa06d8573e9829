"""The linear probes of the methods' own papers: a classifier on a frozen backbone, trained on crops and flips.

Rates are per 256 images, as `FinetuneSettings` has them: 0.075 with a batch of 1024 is 0.01875 here.
"""

import dataclasses

from ssl_zoo.evaluation.protocols.finetune import FinetuneSettings


__all__ = ["PAPER_PROBES", "paper_probe"]

_FROZEN = FinetuneSettings(frozen=True)

# MSF's and CMSF's released eval_linear.py: defaults of its options. It normalises features to unit length and then by
# their mean and variance over the training set; here batch norm estimates those.
_MEAN_SHIFT = FinetuneSettings(
    frozen=True,
    epochs=40,
    batch_size=256,
    head_learning_rate=0.01,
    decay_epochs=(15, 30),
    weight_decay=1e-4,
    nesterov=False,
    normalize="unit_batch_norm",
)

PAPER_PROBES: dict[str, FinetuneSettings] = {
    # The paper, appendix: SGD, 0.075 with a batch of 1024, cosine, no weight decay.
    "mira": FinetuneSettings(
        frozen=True, epochs=100, batch_size=1024, head_learning_rate=0.01875, nesterov=False, weight_decay=0.0
    ),
    # The released eval_resnet.py: 0.1 with a batch of 1024, a tenth from epochs 85 and 128 on, 146 epochs.
    "sela": FinetuneSettings(
        frozen=True,
        epochs=146,
        batch_size=1024,
        head_learning_rate=0.025,
        decay_epochs=(85, 128),
        weight_decay=0.0,
        nesterov=False,
    ),
    # The authors' command for CIFAR and Tiny-ImageNet; it ends at 0.002 instead of 0.
    "corinfomax": FinetuneSettings(
        frozen=True, epochs=100, batch_size=256, head_learning_rate=0.2, weight_decay=0.0, nesterov=False
    ),
    "msf": _MEAN_SHIFT,
    "cmsf": _MEAN_SHIFT,
    # The paper, appendix C.1: 80 epochs, Nesterov, batch 1024, the best of 0.05, 0.1, 0.2, 0.3 and 0.4 on a
    # validation split: this is the middle one; others by linear_paper.head_learning_rate (a quarter of the paper's).
    "byol": FinetuneSettings(frozen=True, epochs=80, batch_size=1024, head_learning_rate=0.05, weight_decay=0.0),
}
"""`model_type` -> settings; PAWS reports no linear probe."""

# The authors' command for ImageNet: 25 with a batch of 256, a tenth every 20 epochs.
_CORINFOMAX_IMAGENET = dataclasses.replace(
    PAPER_PROBES["corinfomax"], head_learning_rate=25.0, decay_epochs=(20, 40, 60, 80)
)


def paper_probe(method: str | None, settings: FinetuneSettings, *, num_classes: int) -> tuple[FinetuneSettings, str]:
    """The settings of a method's paper.

    Args:
        method: `model_type` of the model.
        settings ([`FinetuneSettings`]): What differs from the defaults here wins over the paper's value.
        num_classes: Classes of the data: CorInfoMax's authors use other settings on ImageNet.

    Returns:
        `tuple`: the settings, and the method's name.

    Raises:
        ValueError: If the method's paper has no linear probe.
    """
    if method not in PAPER_PROBES:
        raise ValueError(
            f"'{method}' has no linear probe of its own paper (those that have: {', '.join(PAPER_PROBES)}); use the "
            "common one, --protocol linear"
        )
    paper = _CORINFOMAX_IMAGENET if method == "corinfomax" and num_classes == 1000 else PAPER_PROBES[method]
    changed = {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if getattr(settings, field.name) != getattr(_FROZEN, field.name)
    }
    return dataclasses.replace(paper, **changed), method
