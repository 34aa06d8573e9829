"""The one error that data problems raise, in words a user can act on."""

__all__ = ["DataError"]


class DataError(ValueError):
    """A problem with the data or its description; the message says what, what was expected and the cure."""
