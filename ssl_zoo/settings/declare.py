"""Declares settings: typed dataclass fields, each with a default and one line of help."""

import copy
import dataclasses
import inspect
import re
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints


__all__ = ["documented_fields", "plain", "require", "require_choices", "setting"]

T = TypeVar("T")


def setting(default: T, help: str, *, off: bool = False) -> T:
    """Declare a field of a dataclass of settings.

    Args:
        default (`T`): Value that applies when no other is given; a list or mapping is copied for every instance.
        help (`str`): The line that `--help` prints; states the unit.
        off (`bool`): The default switches something off, so that recipes of papers may leave the key out.
    """
    metadata = {"help": help, "off": off}
    if isinstance(default, (list, dict)):
        return dataclasses.field(default_factory=lambda: copy.copy(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def require(condition: bool, name: str, expected: str, value: object) -> None:
    """Raise a `ValueError` that names a setting, what was expected and what was given, unless the condition holds."""
    if not condition:
        raise ValueError(f"`{name}` must be {expected}, got {value!r}")


def require_choices(settings: Any) -> None:
    """Raise a `ValueError` for a field of a dataclass that is none of the choices of its `Literal` hint."""
    for name, hint in get_type_hints(type(settings)).items():
        if get_origin(hint) is Literal:
            choices, value = get_args(hint), getattr(settings, name)
            require(value in choices, name, f"one of {', '.join(choices)}", value)


def documented_fields(cls: type) -> dict[str, str]:
    """Map every field to its help line, from [`setting`] or from the `Args:` of the docstrings of class and bases.

    Configurations of models are documented in their docstrings, as those of transformers are.
    """
    lines: dict[str, str] = {}
    for base in cls.__mro__:
        section = re.search(r"^(?:Args|Attributes):\n((?:[ \t]+.*\n?|\n)+)", inspect.getdoc(base) or "", re.MULTILINE)
        for name, text in re.findall(
            r"^    (\w+)(?: \([^\n]*?\))?: (.*(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE
        ):
            lines.setdefault(name, " ".join(text.split()))
    if dataclasses.is_dataclass(cls):
        lines |= {item.name: item.metadata["help"] for item in dataclasses.fields(cls) if "help" in item.metadata}
    return lines


def plain(value: Any) -> Any:
    """Turn settings into dictionaries and tuples into lists, all the way down, as YAML and JSON have them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: plain(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
