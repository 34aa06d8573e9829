"""The distribution over clusters of each image, summarised: its cluster, the probability of that, the entropy."""

from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.explore.preparation import Explained
from ssl_zoo.explore.workbench import ExploreError
from ssl_zoo.functional.assignment import mira_assignment


__all__ = ["COLDEST", "HOTTEST", "Distributions", "Mode", "check_settings", "distributions", "modes", "probabilities"]

Mode = Literal["softmax", "assignment"]

COLDEST, HOTTEST = 0.01, 100.0
"""Temperatures that may be asked for."""

_BLOCK_ROWS = 512
# The paper's iterations, fewer where nothing moves any more.
_ITERATIONS, _TOLERANCE = 30, 1e-3


class Distributions(NamedTuple):
    """Summary of the distributions, which would be large.

    Attributes:
        pseudo_labels (`numpy.ndarray` of shape `(images,)`): The most probable cluster; of a tie the first.
        confidence (`numpy.ndarray` of shape `(images,)`): Its probability, float32.
        entropy (`numpy.ndarray` of shape `(images,)`): In nats, float32.
        marginal (`numpy.ndarray` of shape `(clusters,)`): Mean over the images, float64.
    """

    pseudo_labels: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float32]
    entropy: npt.NDArray[np.float32]
    marginal: npt.NDArray[np.float64]


def modes(explained: Explained) -> list[Mode]:
    """Ways to put images into clusters: MIRA's assignment only if MIRA trained the model."""
    return ["softmax", "assignment"] if "beta" in explained.about else ["softmax"]


def check_settings(explained: Explained, head: int, mode: str, temperature: float) -> None:
    """Raise an [`ExploreError`] if the model has no such head or mode, or the temperature is out of range."""
    if not 0 <= head < explained.num_heads:
        raise ExploreError(f"There is no head {head}: the model has {explained.num_heads}, counted from 0")
    if mode not in modes(explained):
        title = explained.about["title"]
        raise ExploreError(f"'{title}' has no mode '{mode}': choose one of {', '.join(modes(explained))}")
    if not COLDEST <= temperature <= HOTTEST:
        raise ExploreError(f"`temperature` must lie between {COLDEST:g} and {HOTTEST:g}, got {temperature}")


def distributions(explained: Explained, *, head: int, mode: Mode, temperature: float) -> Distributions:
    """Put the images of a gallery into clusters.

    With log-probabilities l of the model, p = softmax(l / temperature). Mode `softmax` takes p; mode `assignment`
    MIRA's mutual information regularised assignment of the whole gallery to p, see `mira_assignment`. The assignment
    at temperature 1 is cached on the disk: it takes seconds for 10,000 images in 3,000 clusters.
    """
    if mode == "softmax":
        return _of_softmax(explained.log_probabilities(head), temperature)
    file = explained.folder / f"assigned-{head}.npz"
    if temperature == 1.0 and file.is_file():
        with np.load(file) as kept:
            return Distributions(*(kept[name] for name in Distributions._fields))
    assigned = _of_assignment(explained, head, temperature)
    if temperature == 1.0:
        with replace_atomically(file, concurrent=True) as partial:  # two visitors may do this at once
            np.savez(partial, **assigned._asdict())
    return assigned


def probabilities(
    explained: Explained,
    log_probabilities: torch.Tensor,
    *,
    mode: Mode,
    temperature: float,
    marginal: npt.NDArray[np.float64],
) -> torch.Tensor:
    """Distribution over clusters of any image.

    Args:
        explained ([`Explained`]): The gallery.
        log_probabilities (`torch.Tensor` of shape `(..., clusters)`): Of the model, for the image.
        mode: `softmax` or `assignment`.
        temperature: See `distributions`.
        marginal (`numpy.ndarray` of shape `(clusters,)`): Of the gallery; mode `assignment` weights clusters by it, as
            if the image was one more of many in the gallery:
            W_j ~ p_j^(1 / (1 - beta)) Wbar_j^(-beta / (1 - beta)).

    Returns:
        `torch.Tensor` of shape `(..., clusters)`: float32, sums to 1.
    """
    logits = log_probabilities.double() / temperature
    if mode == "assignment":
        beta = float(explained.about["beta"])
        weights = np.log(np.maximum(marginal, np.finfo(np.float32).tiny))
        logits = (logits - beta * torch.from_numpy(weights)) / (1.0 - beta)
    return torch.softmax(logits, dim=-1).float()


def _of_softmax(log_probabilities: npt.NDArray[np.float16], temperature: float) -> Distributions:
    starts = range(0, len(log_probabilities), _BLOCK_ROWS)
    blocks = (log_probabilities[start : start + _BLOCK_ROWS].astype(np.float32) for start in starts)
    return _joined([_summary(torch.log_softmax(torch.from_numpy(block) / temperature, dim=1)) for block in blocks])


def _of_assignment(explained: Explained, head: int, temperature: float) -> Distributions:
    scores = torch.from_numpy(explained.log_probabilities(head).astype(np.float32))
    beta = float(explained.about["beta"])
    assigned = mira_assignment(scores, temperature=temperature, beta=beta, num_iters=_ITERATIONS, tolerance=_TOLERANCE)
    tiny = torch.finfo(torch.float32).tiny
    return _joined([_summary(block.clamp_min(tiny).log_()) for block in assigned.split(_BLOCK_ROWS)])


def _summary(logs: torch.Tensor) -> Distributions:
    """Of logarithms `(rows, clusters)`; `marginal` is the sum here."""
    pseudo_labels = logs.argmax(dim=1)  # of a tie the first, which `max` doesn't promise
    weights = logs.exp()
    confidence = weights.gather(1, pseudo_labels.unsqueeze(1)).squeeze(1)
    entropy = (-(weights * logs).sum(dim=1)).clamp_min(0.0)
    sums = weights.sum(dim=0, dtype=torch.float64)
    return Distributions(pseudo_labels.numpy(), confidence.numpy(), entropy.numpy(), sums.numpy())


def _joined(parts: list[Distributions]) -> Distributions:
    labels, confidence, entropy, sums = zip(*parts, strict=True)
    pseudo_labels = np.concatenate(labels)
    marginal = np.asarray(np.sum(sums, axis=0) / len(pseudo_labels))
    return Distributions(pseudo_labels, np.concatenate(confidence), np.concatenate(entropy), marginal)
