"""Colours are distinct to people with common kinds of colour blindness."""

import math
from itertools import pairwise

import numpy as np
import pytest

from ssl_zoo.explore.palette import CATEGORICAL, NEUTRAL, color_of, ramp, sequential


# Machado, Oliveira, Fernandes 2009 (https://doi.org/10.1109/TVCG.2009.113), severity 1, on linear sRGB.
PROTANOPIA = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTERANOPIA = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
EYES = pytest.mark.parametrize(
    "eyes", [np.eye(3), np.array(PROTANOPIA), np.array(DEUTERANOPIA)], ids=["all", "protan", "deutan"]
)


def linear(color):
    values = np.array([int(color[start : start + 2], 16) for start in (1, 3, 5)]) / 255
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(values):
    """CIE L*a*b* of linear sRGB, D65."""
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ np.clip(
        values, 0, 1
    )
    x, y, z = np.cbrt(np.maximum(xyz / [0.95047, 1, 1.08883], 1e-9))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def luminance(color):
    return float(np.array([0.2126, 0.7152, 0.0722]) @ linear(color))


@EYES
def test_the_ramp_gets_lighter_evenly(eyes):
    lightness = np.array([lab(eyes @ linear(color))[0] for color in sequential(33)])
    assert (np.diff(lightness) > 1).all()
    assert lightness[-1] - lightness[0] > 65


def test_the_ramps_ends_and_beyond():
    assert ramp(-3) == ramp(0) == sequential(5)[0]
    assert ramp(7) == ramp(1) == sequential(5)[-1]
    assert ramp(0.5) == sequential(5)[2]
    assert ramp(math.nan) == NEUTRAL
    with pytest.raises(ValueError, match="count"):
        sequential(1)


@EYES
def test_categories_differ_for_all_eyes(eyes):
    assert len(set(CATEGORICAL)) == 7
    seen = [lab(eyes @ linear(color)) for color in CATEGORICAL]
    distances = [np.linalg.norm(one - other) for number, one in enumerate(seen) for other in seen[:number]]
    assert min(distances) > 10


def test_many_categories_have_their_own_colours():
    colors = [color_of(label) for label in range(300)]
    assert tuple(colors[:7]) == CATEGORICAL
    assert len(set(colors)) == 300
    assert all(len(color) == 7 and int(color[1:], 16) >= 0 for color in colors)
    # Neighbours in number differ in lightness, which needs no colour vision.
    for one, other in pairwise(colors[7:]):
        assert abs(lab(linear(one))[0] - lab(linear(other))[0]) > 8
    assert color_of(-1) == NEUTRAL


@pytest.mark.parametrize("page", [0.0, 1.0])
def test_the_neutral_colour_is_seen_on_light_and_dark(page):
    low, high = sorted([luminance(NEUTRAL), page])
    assert (high + 0.05) / (low + 0.05) >= 3
