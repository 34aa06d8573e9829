"""L2-regularised logistic regression on frozen features, by L-BFGS over a path of strengths.

The transfer protocol of Kornblith et al. (https://huggingface.co/papers/1805.08974): 45 strengths from 1e-6 to 1e5,
the best chosen on validation rows, the classifier trained anew on training and validation rows.
"""

from dataclasses import dataclass
from functools import partial

import torch
from tqdm.auto import tqdm

from ssl_zoo.evaluation.frozen.rows import FeatureRows, ProbeMetric, Table, choose_rows
from ssl_zoo.evaluation.frozen.scoring import ProbeResult, score_choice, score_heads
from ssl_zoo.evaluation.protocols.logistic import LogisticRegression
from ssl_zoo.functional.distributed import rank


__all__ = ["LinearClassifier", "fit_logistic", "logistic_loss", "logistic_regression"]


@dataclass(frozen=True)
class LinearClassifier:
    """A fitted classifier.

    Attributes:
        weights (`torch.Tensor` of shape `(features, classes)`): float64.
        biases (`torch.Tensor` of shape `(classes,)`): float64, for features without their `shift`.
        shift (`torch.Tensor` of shape `(features,)`): Subtracted from the features first. As biases are free, this
            changes no solution, but products in float32 are more exact and L-BFGS needs fewer steps.
    """

    weights: torch.Tensor
    biases: torch.Tensor
    shift: torch.Tensor

    def scores(self, features: torch.Tensor) -> torch.Tensor:
        """Features `(batch, features)` -> logits `(batch, classes)`, computed in the features' dtype."""
        dtype = features.dtype
        return torch.addmm(self.biases.to(dtype), features - self.shift.to(dtype), self.weights.to(dtype))

    def all_scores(self, features: torch.Tensor) -> torch.Tensor:
        """The same as the only one of several heads, `(1, batch, classes)`, for `score_heads`."""
        return self.scores(features)[None]


def logistic_loss(
    classifier: LinearClassifier, data: FeatureRows, *, strength: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Mean cross-entropy + strength / 2 * sum of squared weights, and its gradient; biases are not regularised.

    With C = 1 / (strength * rows), scikit-learn's `LogisticRegression` has the same solution (for two classes it has
    one vector of weights, and C = 2 / (strength * rows) fits). Multi-hot labels: the sum over classes of the mean
    sigmoid cross-entropy of the rows that count for the class, which is a logistic regression for each class.

    Args:
        classifier ([`LinearClassifier`]): Where to evaluate.
        data ([`FeatureRows`]): Read in chunks; products in the rows' dtype, sums over chunks in float64.
        strength: Of the regularisation, >= 0.

    Returns:
        `tuple` of `torch.Tensor`: the loss, and its gradient by weights and biases, float64.
    """
    weights, biases, shift = (tensor.to(data.dtype) for tensor in vars(classifier).values())
    loss = 0.5 * strength * classifier.weights.square().sum()
    slope, lift = strength * classifier.weights, torch.zeros_like(classifier.biases)
    multi_hot = data.labels.ndim == 2
    counts = data.labels.ge(0).sum(dim=0).clamp_min(1).to(data.device) if multi_hot else len(data)
    for features, labels in data.chunks(values_per_row=4 * len(biases)):
        features = features - shift
        logits = torch.addmm(biases, features, weights)
        if multi_hot:
            labelled, targets = labels >= 0, labels.clamp_min(0).to(logits.dtype)
            losses = torch.nn.functional.softplus(logits) - logits * targets
            loss = loss + (torch.where(labelled, losses, 0.0).sum(dim=0, dtype=torch.float64) / counts).sum()
            errors = torch.where(labelled, logits.sigmoid() - targets, 0.0) / counts
        else:
            log_shares = logits.log_softmax(dim=1)
            loss = loss - log_shares.gather(1, labels[:, None]).sum(dtype=torch.float64) / counts
            errors = log_shares.exp().scatter_add(1, labels[:, None], log_shares.new_full((len(labels), 1), -1.0))
            errors /= counts
        slope = slope + (features.T @ errors).double()
        lift = lift + errors.sum(dim=0, dtype=torch.float64)
    return loss, slope, lift


def fit_logistic(
    data: FeatureRows,
    strength: float,
    *,
    num_classes: int,
    settings: LogisticRegression | None = None,
    start: LinearClassifier | None = None,
    moments: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> LinearClassifier:
    """Minimise `logistic_loss` by L-BFGS with a strong Wolfe line search.

    Args:
        data ([`FeatureRows`]): Rows to learn from.
        strength: Of the regularisation, > 0.
        num_classes: Classes to tell apart.
        settings ([`LogisticRegression`], *optional*): When to stop.
        start ([`LinearClassifier`], *optional*): Where to begin, for instance the solution of another strength.
        moments: `data.moments()`, if they are known.

    Returns:
        [`LinearClassifier`]: the last point.
    """
    settings = settings or LogisticRegression()
    mean, variance = moments or data.moments()
    # L-BFGS works on variables in which the loss curves about equally in all directions: where all classes are equally
    # likely, the diagonal of the Hessian is variance * share * (1 - share) + strength.
    curve = (num_classes - 1) / num_classes**2 if data.labels.ndim == 1 else 0.25
    scale = torch.cat([(variance * curve + strength).rsqrt(), variance.new_tensor([curve]).rsqrt()])[:, None]
    point = torch.zeros(data.width + 1, num_classes, dtype=torch.float64, device=data.device)
    if start is not None:
        biases = start.biases + (mean - start.shift) @ start.weights
        point = torch.cat([start.weights, biases[None]]) / scale
    point.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [point],
        max_iter=settings.max_iters,
        max_eval=2 * settings.max_iters,
        tolerance_grad=settings.tolerance,
        tolerance_change=1e-14 if data.dtype == torch.float64 else 1e-9,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def evaluate() -> torch.Tensor:
        current = point * scale
        loss, slope, lift = logistic_loss(LinearClassifier(current[:-1], current[-1], mean), data, strength=strength)
        point.grad = torch.cat([slope, lift[None]]) * scale
        return loss

    optimizer.step(evaluate)
    solution = (point * scale).detach()
    return LinearClassifier(solution[:-1], solution[-1], mean)


def logistic_regression(
    train: Table,
    test: Table,
    validation: Table | None = None,
    *,
    settings: LogisticRegression | None = None,
    metric: ProbeMetric = "top1",
    device: torch.device | str = "cpu",
    description: str = "logistic regression",
) -> ProbeResult:
    """Fit logistic regressions to frozen features and test the one that is best on validation rows.

    The strength with the best validation score (the strongest of equals) is fitted anew to training and validation
    rows, and that classifier alone meets the test rows, once. Features are taken as they are, not standardised.

    Args:
        train (`Table`): Features and labels; rows with label -1 are left out.
        test (`Table`): The same of the test split.
        validation (`Table`, *optional*): Rows for the choice; a share of the training rows by default.
        settings ([`LogisticRegression`], *optional*): The protocol.
        metric: What is chosen by and reported; see `ProbeMetric`.
        device: Where to compute; it must know float64.
        description: What the progress bar says.

    Returns:
        [`ProbeResult`]: the same on every process that calls it, and every time.

    Raises:
        ValueError: If shapes, labels or features don't fit; the message says which.
    """
    settings = settings or LogisticRegression()
    rows = choose_rows(
        train, validation, test, share=settings.validation_share, seed=settings.seed, metric=metric, device=device
    )
    strengths, moments = settings.strengths, rows.training.moments()
    scores: dict[float, float] = {}
    current: LinearClassifier | None = None
    best: tuple[float, LinearClassifier] | None = None
    fit = partial(fit_logistic, num_classes=rows.num_classes, settings=settings)
    path, hidden = sorted(strengths, reverse=True), rank() != 0
    for strength in tqdm(path, desc=description, unit="strength", disable=hidden, leave=False, dynamic_ncols=True):
        current = fit(rows.training, strength, start=current, moments=moments)
        ranked = score_heads(current.all_scores, rows.held_out, num_heads=1, num_classes=rows.num_classes)
        [scores[strength]] = ranked[0]
        if best is None or scores[strength] > scores[best[0]]:
            best = strength, current
    chosen, start = best or (strengths[-1], None)  # there is one strength at least
    final = fit(rows.everything, chosen, start=start)
    in_order = [scores[strength] for strength in strengths]
    return score_choice(rows, strengths, in_order, strengths.index(chosen), final.all_scores)
