"""The error that all data problems raise."""

__all__ = ["DataError"]


class DataError(ValueError):
    """A problem with the data or its description; the message says what, what was expected and the cure."""
