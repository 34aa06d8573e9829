"""What a misspelt name was probably meant to be."""

import difflib
from collections.abc import Iterable


__all__ = ["did_you_mean", "nearest"]


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """Find the choice that `word` was probably meant to be, `None` when nothing is similar."""
    return next(iter(_nearest(word, choices, 1)), None)


def did_you_mean(word: str, choices: Iterable[str], *, most: int = 1) -> str:
    """Return the end of an error message, `; did you mean 'x' or 'y'?`, or nothing when nothing is similar.

    Args:
        word (`str`): What was asked for.
        choices (`Iterable[str]`): What there is.
        most (`int`): How many choices are named at most.
    """
    near = _nearest(word, choices, most)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _nearest(word: str, choices: Iterable[str], most: int) -> list[str]:
    """Choices that begin with the word, else those that are spelt alike, nearest first."""
    choices = list(choices)
    beginning = [choice for choice in choices if word and choice.startswith(word)]
    return beginning[:most] or difflib.get_close_matches(word, choices, n=most)
