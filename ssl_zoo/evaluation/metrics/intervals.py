"""95 % bootstrap intervals of numbers that are measured on a test split."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt


__all__ = ["accuracy_interval", "resampled_interval"]

_LOW_HIGH = (2.5, 97.5)  # per cent


def accuracy_interval(share: float, num_samples: int, *, num_resamples: int = 10000) -> tuple[float, float]:
    """Percentile bootstrap of a share of right answers.

    Of n resampled answers, Binomial(n, share) are right: the answers themselves are not needed.

    Args:
        share: Share that is right, in [0, 1].
        num_samples: Answers.
        num_resamples: Resamples.

    Returns:
        `tuple[float, float]`: between which 95 % of the resamples lie; the same for the same arguments.
    """
    drawn = np.random.default_rng(0).binomial(num_samples, share, size=num_resamples) / num_samples
    low, high = np.percentile(drawn, _LOW_HIGH)
    return float(low), float(high)


def resampled_interval(
    statistic: Callable[..., float], columns: Sequence[npt.NDArray[np.generic]], *, num_resamples: int = 100
) -> tuple[float, float]:
    """Percentile bootstrap of a statistic of rows, such as the agreement of pseudo-labels and classes.

    Half of the rows are drawn without replacement, and the spread is scaled to all of them: rows that occur twice
    would look like agreement to a measure of agreement.

    Args:
        statistic (`Callable`): Columns -> number.
        columns (`Sequence` of arrays of shape `(rows,)`): Each with as many rows.
        num_resamples: Resamples.

    Returns:
        `tuple[float, float]`: around the statistic of all rows; the same for the same arguments.
    """
    rng, num_rows = np.random.default_rng(0), len(columns[0])
    whole = statistic(*columns)
    halves = [rng.permutation(num_rows)[: max(1, num_rows // 2)] for _ in range(num_resamples)]
    drawn = np.array([statistic(*(column[rows] for column in columns)) for rows in halves])
    # Of half the rows, without replacement, the variance is that of all rows drawn with replacement (Politis et al.,
    # 1999, section 2.2: scale n_half / n / (1 - n_half / n) = 1); the shift of a smaller sample is taken out.
    low, high = np.percentile(drawn - drawn.mean(), _LOW_HIGH)
    return float(whole + low), float(whole + high)
