"""Linear probe on frozen features: a grid of learning rates trained at once, the best chosen on validation rows."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from tqdm.auto import tqdm

from ssl_zoo.evaluation.frozen.rows import FeatureRows, ProbeMetric, Table, choose_rows
from ssl_zoo.evaluation.frozen.scoring import ProbeResult, score_choice, score_heads
from ssl_zoo.evaluation.protocols.linear import LinearProbe
from ssl_zoo.functional.distributed import rank


__all__ = ["LinearHeads", "linear_probe"]

# Of the mean variance, added to each: a feature that hardly ever fires must not become the loudest when standardised.
_VARIANCE_FLOOR = 1e-4


class LinearHeads:
    """Linear classifiers that see the same batches at different learning rates, each as if it were alone.

    Softmax cross-entropy, or for multi-hot labels the sum over classes of the sigmoid's, averaged over the rows of a
    batch. SGD with momentum, as `torch.optim.SGD`. Weights and biases start at 0: the problem is convex.

    Args:
        learning_rates: One head each, for batches of 256 rows.
        num_features: Width of the features.
        num_classes: Number of classes.
        momentum: Of SGD.
        weight_decay: Of SGD, weights only.
        multi_hot: Labels are `(batch, classes)` of 1, 0, -1 (does not count) instead of `(batch,)`.
        device: Where to compute.
        dtype: Of weights and features.
    """

    def __init__(
        self,
        learning_rates: Sequence[float],
        num_features: int,
        num_classes: int,
        *,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        multi_hot: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self._rates = torch.tensor(learning_rates, dtype=torch.float64, device=device)[:, None, None]
        self._momentum, self._weight_decay = momentum, weight_decay
        self._multi_hot, heads = multi_hot, len(learning_rates)
        self.weights = torch.zeros(heads, num_features, num_classes, device=device, dtype=dtype)
        self.biases = torch.zeros(heads, 1, num_classes, device=device, dtype=dtype)
        self._velocities = torch.zeros_like(self.weights), torch.zeros_like(self.biases)

    @torch.no_grad()
    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Features `(batch, features)` -> logits `(heads, batch, classes)`."""
        # One product per head, so that a head gets the bits that it would get alone.
        inputs = features.to(self.weights.dtype).expand(len(self.weights), -1, -1)
        return torch.baddbmm(self.biases, inputs, self.weights)

    @torch.no_grad()
    def step(self, features: torch.Tensor, labels: torch.Tensor, learning_rate_scale: float = 1.0) -> torch.Tensor:
        """Learn from one batch.

        Args:
            features (`torch.Tensor` of shape `(batch, features)`): On the device.
            labels (`torch.Tensor` of shape `(batch,)` or `(batch, classes)`): -1 does not count.
            learning_rate_scale: Factor of the schedule at this step; multiplies all rates.

        Returns:
            `torch.Tensor` of shape `(heads,)`: mean loss of each head before the step, over the rows of the gradient.
        """
        features = features.to(self.weights.dtype)
        losses, errors, num_rows = self._errors(self.scores(features), labels)
        size = int(num_rows)
        if size == 0:
            return losses
        gradients = features.T.expand(len(errors), -1, -1) @ errors / size, errors.sum(dim=1, keepdim=True) / size
        if self._weight_decay:
            gradients[0].add_(self.weights, alpha=self._weight_decay)
        rates = (self._rates * (size / 256 * learning_rate_scale)).to(features.dtype)
        for value, velocity, gradient in zip((self.weights, self.biases), self._velocities, gradients, strict=True):
            value.sub_(rates * velocity.mul_(self._momentum).add_(gradient))
        return losses / size

    def _errors(self, logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Summed loss `(heads,)`, its derivative by the logits, and the number of rows that count."""
        labelled = labels >= 0
        if self._multi_hot:
            targets = labels.clamp_min(0).to(logits.dtype)
            losses = F.binary_cross_entropy_with_logits(logits, targets.expand_as(logits), reduction="none")
            losses = torch.where(labelled, losses, 0.0).sum(dim=(1, 2))
            return losses, torch.where(labelled, logits.sigmoid() - targets, 0.0), labelled.any(dim=1).sum()
        targets = F.one_hot(labels.clamp_min(0), logits.shape[2]).to(logits.dtype) * labelled[:, None]
        log_shares = logits.log_softmax(dim=2)
        return -(log_shares * targets).sum(dim=(1, 2)), log_shares.exp() * labelled[:, None] - targets, labelled.sum()


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
    rows = choose_rows(
        train, validation, test, share=settings.validation_share, seed=settings.seed, metric=metric, device=device
    )
    rates = settings.learning_rates
    heads = _fit(rows.training, rates, rows.num_classes, settings, f"{description}, {len(rates)} rates")
    scores, _, _ = score_heads(heads, rows.held_out, num_heads=len(rates), num_classes=rows.num_classes)
    best = max(range(len(rates)), key=scores.__getitem__)
    head = _fit(rows.everything, rates[best : best + 1], rows.num_classes, settings, f"{description}, best rate")
    return score_choice(rows, rates, scores, best, head)


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
    generator, step = torch.Generator().manual_seed(settings.seed), 0
    epochs = range(settings.epochs)
    for _ in tqdm(epochs, desc=description, unit="epoch", disable=rank() != 0, leave=False, dynamic_ncols=True):
        for rows in torch.randperm(len(data), generator=generator).tensor_split(num_batches):
            features, labels = data.take(rows)
            cosine = 0.5 * (1 + math.cos(math.pi * step / (settings.epochs * num_batches)))
            heads.step((features - shift) * scale, labels, cosine)
            step += 1
    return lambda features: heads.scores((features - shift) * scale)
