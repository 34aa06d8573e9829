"""Checks values against type hints, and describes both as recipes write them.

Stricter than Python: a bool is no int, a number must be finite, and `null` passes only where the hint allows `None`.
Kinder in one place: an int passes for a float.
"""

import math
import types
from typing import Any, Literal, Union, get_args, get_origin


__all__ = ["SettingsError", "WrongTypeError", "check_value", "describe_type", "describe_value"]


class SettingsError(ValueError):
    """Settings can't be used; the message names the key, what was expected and the nearest valid choice."""


class WrongTypeError(TypeError):
    """A value doesn't fit its hint; `where` names the entry inside a list or mapping, empty for the value itself."""

    def __init__(self, expected: str, value: object, where: str = "") -> None:
        super().__init__(f"expected {expected}, got {describe_value(value)}")
        self.where = where


def check_value(value: Any, hint: Any) -> Any:
    """Return `value` as the hint wants it: an int given for a float becomes one, a list given for a tuple too.

    Args:
        value (`Any`): what YAML gave: None, bool, int, float, str, list or dict.
        hint (`Any`): a type, `X | None`, `list[X]`, `tuple[X, Y]`, `tuple[X, ...]`, `dict[str, X]`, `Literal[...]`
            or `Any`.

    Raises:
        WrongTypeError: naming what was expected and what was given.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _check_union(value, hint)
    if origin is Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
    elif hint is float:
        if type(value) in (int, float) and math.isfinite(value):
            return float(value)
    elif hint in (bool, int, str, type(None)):
        if type(value) is (type(None) if hint is None else hint):
            return value
    elif list in (hint, origin):
        if isinstance(value, list):
            entry = arguments[0] if arguments else Any
            return [_check_entry(item, entry, f"[{number}]") for number, item in enumerate(value)]
    elif origin is tuple:
        if arguments[-1] is Ellipsis and isinstance(value, (list, tuple)):
            arguments = arguments[:1] * len(value)
        if isinstance(value, (list, tuple)) and len(value) == len(arguments):
            pairs = enumerate(zip(value, arguments, strict=True))
            return tuple(_check_entry(item, entry, f"[{number}]") for number, (item, entry) in pairs)
    elif dict in (hint, origin):
        if isinstance(value, dict) and all(isinstance(name, str) for name in value):
            entry = arguments[1] if arguments else Any
            return {name: _check_entry(item, entry, f".{name}") for name, item in value.items()}
    else:
        raise AssertionError(f"no rule for the type hint {hint!r}")
    raise WrongTypeError(describe_type(hint), value)


def _check_union(value: Any, hint: Any) -> Any:
    members = get_args(hint)
    if type(value) in members:  # keeps an int an int in `float | int`
        return value if isinstance(value, int) else check_value(value, type(value))
    failure: WrongTypeError | None = None
    for member in members:
        try:
            return check_value(value, member)
        except WrongTypeError as error:  # an entry of a list that is otherwise right says more than the whole union
            failure = error if error.where else failure
    raise failure or WrongTypeError(describe_type(hint), value)


def _check_entry(value: Any, hint: Any, where: str) -> Any:
    try:
        return check_value(value, hint)
    except WrongTypeError as error:
        error.where = where + error.where
        raise


def describe_type(hint: Any) -> str:
    """Name a type hint as recipes do: `float or null`, `list of 2 floats`, `one of sgd, lars`."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        members = [member for member in arguments if not (member is int and float in arguments)]
        return " or ".join(describe_type(member) for member in members)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if hint in (None, type(None)):
        return "null"
    if list in (hint, origin) or origin is tuple:
        count = f"{len(arguments)} " if origin is tuple and arguments[-1] is not Ellipsis else ""
        return f"list of {count}{describe_type(arguments[0]) if arguments else 'value'}s"
    if dict in (hint, origin):
        return "mapping"
    names = {bool: "true or false", int: "int", float: "float", str: "str", Any: "any value"}
    return names.get(hint, str(hint))


def describe_value(value: object) -> str:
    """Show a value of a recipe with the type YAML gave it: `'abc' (a str)`, `null`, `true`."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"{value!r} (a list of {len(value)})"
    kind = "mapping" if isinstance(value, dict) else type(value).__name__
    return f"{value!r} (a{'n' if kind == 'int' else ''} {kind})"
