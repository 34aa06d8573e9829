from itertools import pairwise

import pytest

from ssl_zoo.functional import cosine, warmup_cosine


def test_cosine_hits_its_ends_exactly_and_its_middle():
    assert cosine(0.75, 2 / 3, 0.0) == 0.75
    assert cosine(0.75, 2 / 3, 1.0) == 2 / 3
    assert cosine(0.99, 1.0, 0.5) == pytest.approx(0.995)
    assert cosine(0.0, 1.0, 1 / 3) == pytest.approx(0.25)


def test_cosine_outside_the_run_keeps_its_ends():
    assert cosine(1.0, 0.1, -0.5) == 1.0
    assert cosine(1.0, 0.1, 1.5) == 0.1


def test_warmup_rises_linearly_then_falls_to_the_end():
    factors = [
        warmup_cosine(step, total_steps=110, warmup_steps=10, start_factor=0.2, end_factor=0.0) for step in range(111)
    ]
    assert factors[0] == 0.2
    assert factors[5] == pytest.approx(0.6)
    assert factors[10] == 1.0
    assert factors[60] == pytest.approx(0.5)
    assert factors[110] == 0.0
    assert all(left < right for left, right in pairwise(factors[:11]))
    assert all(left > right for left, right in pairwise(factors[10:]))


def test_no_warmup_starts_at_the_peak():
    assert warmup_cosine(0, total_steps=10) == 1.0
    assert warmup_cosine(10, total_steps=10, warmup_steps=10) == 1.0


def test_the_end_is_kept_after_the_run():
    assert warmup_cosine(25, total_steps=20, warmup_steps=5, end_factor=0.1) == 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"total_steps": 0}, "`total_steps` must be > 0, got 0"),
        ({"total_steps": 10, "warmup_steps": 11}, r"`warmup_steps` must lie in \[0, total_steps=10\], got 11"),
        ({"total_steps": 10, "warmup_steps": -1}, "`warmup_steps`"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        warmup_cosine(0, **arguments)
