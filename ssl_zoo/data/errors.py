"""The one error that data problems raise, in words a user can act on."""

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """A problem with the data or its description; the message says what, what was expected and the cure."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A " Did you mean 'x'?" for a misspelt `name`, or nothing when no valid name comes close."""
    matches = difflib.get_close_matches(name, list(valid), n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""
