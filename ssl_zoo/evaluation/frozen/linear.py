"""Linear probe on frozen features: a grid of learning rates trained at once, the best chosen on validation rows."""

import math
from collections.abc import Callable

import torch
from tqdm.auto import tqdm

from ssl_zoo.evaluation.frozen.linear_heads import LinearHeads
from ssl_zoo.evaluation.frozen.rows import FeatureRows, ProbeMetric, Table, choose_rows
from ssl_zoo.evaluation.frozen.scoring import ProbeResult, is_edge, score_heads
from ssl_zoo.evaluation.protocols.linear import LinearProbe
from ssl_zoo.functional.distributed import rank


__all__ = ["linear_probe"]

# Of the mean variance, added to each: a feature that hardly ever fires must not become the loudest when standardised.
_VARIANCE_FLOOR = 1e-4


def linear_probe(
    train: Table,
    test: Table,
    validation: Table | None = None,
    *,
    settings: LinearProbe | None = None,
    metric: ProbeMetric = "top1",
    device: torch.device | str = "cpu",
    description: str = "linear probe",
) -> ProbeResult:
    """Train linear classifiers on frozen features and test the one that is best on validation rows.

    All rates of the grid are trained at once on the training rows without the validation rows. The rate with the best
    validation score (the lowest of equals) is trained anew on both, and that head alone meets the test rows, once.

    Args:
        train (`Table`): Features and labels; rows with label -1 are left out.
        test (`Table`): The same of the test split.
        validation (`Table`, *optional*): Rows for the choice; a share of the training rows by default.
        settings ([`LinearProbe`], *optional*): The protocol.
        metric: What is chosen by and reported; see `ProbeMetric`.
        device: Where to compute.
        description: What the progress bars say.

    Returns:
        [`ProbeResult`]: the same on every process that calls it, and every time.

    Raises:
        ValueError: If shapes, labels or features don't fit; the message says which.
    """
    settings = settings or LinearProbe()
    known, held_out, everything, tested = choose_rows(
        train, validation, test, share=settings.validation_share, seed=settings.seed, metric=metric, device=device
    )
    num_classes = everything.num_classes
    rates = settings.learning_rates
    heads = _fit(known, rates, num_classes, settings, f"{description}, {len(rates)} rates")
    found, _, _ = score_heads(heads, held_out, num_heads=len(rates), num_classes=num_classes)
    best = max(range(len(rates)), key=found.__getitem__)
    head = _fit(everything, rates[best : best + 1], num_classes, settings, f"{description}, best rate")
    score, top1, top5 = score_heads(head, tested, num_heads=1, num_classes=num_classes)
    return ProbeResult(
        metric=metric,
        chosen=rates[best],
        candidates=rates,
        validation_scores=tuple(found),
        at_grid_edge=is_edge(best, len(rates)),
        test_score=score[0],
        test_top1=top1[0],
        test_top5=top5[0],
        num_train=len(known),
        num_validation=len(held_out),
        num_test=len(tested),
    )


def _fit(
    data: FeatureRows, rates: tuple[float, ...], num_classes: int, settings: LinearProbe, description: str
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Train heads on rows; returns what scores features."""
    heads = LinearHeads(
        rates,
        data.width,
        num_classes,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        multi_hot=data.labels.ndim == 2,
        device=data.device,
        dtype=data.dtype,
    )
    shift = torch.zeros(data.width, dtype=data.dtype, device=data.device)
    scale = torch.ones_like(shift)
    if settings.standardize:
        mean, variance = data.moments()
        variance += _VARIANCE_FLOOR * variance.mean()
        shift, scale = mean.to(data.dtype), torch.where(variance > 0, variance.rsqrt(), 0.0).to(data.dtype)
    num_batches = math.ceil(len(data) / settings.batch_size)
    generator = torch.Generator().manual_seed(settings.seed)
    step = 0
    epochs = tqdm(
        range(settings.epochs), desc=description, unit="epoch", disable=rank() != 0, leave=False, dynamic_ncols=True
    )
    for _ in epochs:
        for rows in torch.randperm(len(data), generator=generator).tensor_split(num_batches):
            features, labels = data.take(rows)
            cosine = 0.5 * (1 + math.cos(math.pi * step / (settings.epochs * num_batches)))
            heads.step((features - shift) * scale, labels, cosine)
            step += 1
    return lambda features: heads.scores((features - shift) * scale)
