"""Colours that stay distinct with the common kinds of colour blindness.

Up to seven categories get the colours of Okabe and Ito (https://jfly.uni-koeln.de/color/), without black, which is
invisible on a dark page. Nobody can distinguish many colours: a figure with more than seven must also give the number
of the category as text, on hover and in a list.
"""

import math
from functools import cache


__all__ = ["CATEGORICAL", "NEUTRAL", "color_of", "ramp", "sequential"]

# Blue, orange, bluish green, reddish purple, sky blue, vermilion, yellow.
CATEGORICAL = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
"""For up to seven categories; the first ones differ most."""

NEUTRAL = "#8A8F98"
"""For no category, or for all others together; contrast of at least 3 : 1 to white and to black."""

_GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))
# Consecutive numbers also differ in lightness, which everyone sees.
_LIGHTNESS = (0.62, 0.78, 0.50)
_CHROMA = 0.13
# Lightness, green-red and blue-yellow of Oklab: from dark blue over grey to yellow, as in cividis. Red-green colour
# blindness doesn't change this line.
_DARK, _LIGHT = (0.28, -0.01, -0.11), (0.91, -0.03, 0.15)


@cache
def color_of(label: int) -> str:
    """Colour `#RRGGBB` of a category by its number, always the same one; `NEUTRAL` for a negative number.

    The first seven are `CATEGORICAL`; from there on hues turn by the golden angle in OKLCH, at three lightnesses in
    turn.
    """
    if label < 0:
        return NEUTRAL
    if label < len(CATEGORICAL):
        return CATEGORICAL[label]
    number = label - len(CATEGORICAL)
    hue, lightness, chroma = number * _GOLDEN_ANGLE, _LIGHTNESS[number % len(_LIGHTNESS)], _CHROMA
    while not _is_displayable(color := _linear(lightness, chroma * math.cos(hue), chroma * math.sin(hue))):
        chroma *= 0.95
    return _hex(color)


def ramp(value: float) -> str:
    """Colour `#RRGGBB` of a number in [0, 1]: dark blue for 0, yellow for 1, lightness rising evenly in between.

    Outside [0, 1] it is the colour of the nearer end, for NaN `NEUTRAL`.
    """
    if math.isnan(value):
        return NEUTRAL
    share = min(max(value, 0.0), 1.0)
    oklab = (start + share * (end - start) for start, end in zip(_DARK, _LIGHT, strict=True))
    red, green, blue = (min(max(part, 0.0), 1.0) for part in _linear(*oklab))
    return _hex((red, green, blue))


def sequential(count: int) -> list[str]:
    """Colours of `ramp` in equal steps from 0 to 1, for a legend or a table of colours in JavaScript."""
    if count < 2:
        raise ValueError(f"`count` must be >= 2, got {count}")
    return [ramp(number / (count - 1)) for number in range(count)]


def _linear(lightness: float, green_red: float, blue_yellow: float) -> tuple[float, float, float]:
    """Oklab to linear sRGB (Björn Ottosson, https://bottosson.github.io/posts/oklab/)."""
    long = (lightness + 0.3963377774 * green_red + 0.2158037573 * blue_yellow) ** 3
    medium = (lightness - 0.1055613458 * green_red - 0.0638541728 * blue_yellow) ** 3
    short = (lightness - 0.0894841775 * green_red - 1.2914855480 * blue_yellow) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def _is_displayable(color: tuple[float, float, float]) -> bool:
    return all(0.0 <= part <= 1.0 for part in color)


def _hex(color: tuple[float, float, float]) -> str:
    """`#RRGGBB` of linear sRGB."""
    parts = (12.92 * part if part <= 0.0031308 else 1.055 * part ** (1 / 2.4) - 0.055 for part in color)
    return "#" + "".join(f"{round(255 * part):02X}" for part in parts)
