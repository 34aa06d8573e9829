"""Hints at what a misspelt name was meant to be."""

import pytest

from ssl_zoo.nearest import did_you_mean, nearest


CHOICES = ["learning_rate", "momentum", "weight_decay", "warmup_epochs", "weight_decay_end"]


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("momentun", "momentum"),
        ("learnin_rate", "learning_rate"),
        ("weight", "weight_decay"),
        ("xyz", None),
        ("", None),
    ],
)
def test_nearest(word, expected):
    assert nearest(word, CHOICES) == expected


def test_one_form_of_hint():
    assert did_you_mean("momentun", iter(CHOICES)) == "; did you mean 'momentum'?"
    assert did_you_mean("weight_", CHOICES, most=3) == "; did you mean 'weight_decay' or 'weight_decay_end'?"
    assert did_you_mean("wieght_decay", CHOICES, most=2) == "; did you mean 'weight_decay' or 'weight_decay_end'?"
    assert did_you_mean("xyz", CHOICES) == ""
    assert did_you_mean("momentun", []) == ""
