import numpy as np
import pytest

from ssl_zoo.evaluation.metrics.clustering import normalized_mutual_information
from ssl_zoo.evaluation.metrics.intervals import accuracy_interval, resampled_interval


@pytest.mark.parametrize(("share", "num_samples"), [(0.5, 10000), (0.9, 400), (0.02, 1000)])
def test_an_accuracys_interval_is_that_of_the_binomial(share, num_samples):
    """Against resampling the answers one by one."""
    answers = np.arange(num_samples) < round(share * num_samples)
    rng = np.random.default_rng(1)
    means = [rng.choice(answers, num_samples).mean() for _ in range(2000)]
    assert accuracy_interval(share, num_samples) == pytest.approx(tuple(np.percentile(means, (2.5, 97.5))), rel=0.03)


def test_the_edges():
    assert accuracy_interval(1.0, 50) == (1.0, 1.0)
    assert accuracy_interval(0.0, 50) == (0.0, 0.0)


def test_a_mean_gets_the_interval_of_the_bootstrap():
    """The halves without replacement spread as whole samples with replacement do."""
    values = np.random.default_rng(0).normal(size=500)
    low, high = resampled_interval(np.mean, [values], num_resamples=2000)
    half_width = 1.96 * values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - half_width, abs=0.1 * half_width)
    assert high == pytest.approx(values.mean() + half_width, abs=0.1 * half_width)


def test_agreement_by_chance_is_not_made_to_look_like_more():
    """Rows that occur twice, as in the ordinary bootstrap, agree with themselves: its interval misses the value."""
    rng = np.random.default_rng(0)
    columns = [rng.integers(0, 10, 600), rng.integers(0, 60, 600)]
    value = normalized_mutual_information(*columns)
    low, high = resampled_interval(normalized_mutual_information, columns)
    assert low < value < high
    repeated = [
        normalized_mutual_information(*(column[rows] for column in columns))
        for rows in rng.integers(0, 600, (100, 600))
    ]
    assert value < np.percentile(repeated, 2.5)
    assert resampled_interval(normalized_mutual_information, columns) == (low, high)
