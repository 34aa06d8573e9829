"""Settings as a file and a command line give them, turned into dataclasses; errors say where a value came from."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, get_type_hints

from ssl_zoo.nearest import nearest
from ssl_zoo.settings import strict_yaml
from ssl_zoo.settings.declare import documented_fields, plain
from ssl_zoo.settings.hints import SettingsError, WrongTypeError, check_value, describe_type, describe_value


__all__ = ["Given", "describe_settings", "read_value", "unknown_key"]

T = TypeVar("T")

_SHOWN_ENTRIES = 12


class Given:
    """Values for sections of settings, from a file, a command line or both.

    Args:
        data (`dict`, *optional*): Section -> name -> value, such as the content of a YAML file; changed by overrides.
        keys (`Iterable[str]`): Every valid key: `section.name`, or a name alone where it stands in no section.
        place (`str`): What `data` is called in messages.
        lines (`Mapping[str, int]`, *optional*): Line of each dotted key in the file.
        error (`type[SettingsError]`): What is raised.
    """

    def __init__(
        self,
        data: dict[str, Any] | None = None,
        *,
        keys: Iterable[str],
        place: str = "settings",
        lines: Mapping[str, int] | None = None,
        error: type[SettingsError] = SettingsError,
    ) -> None:
        self.data, self.keys, self.error = {} if data is None else data, list(keys), error
        self._place, self._lines = place, lines or {}
        self._texts: dict[str, str] = {}

    def override(self, assignment: str) -> None:
        """Put `dotted.key=value` over the data; the value is read as YAML, and later ones win.

        Raises:
            SettingsError: If it is malformed, or names no section. Other keys are checked by [`build`].
        """
        key, equals, text = assignment.partition("=")
        key = key.strip()
        parts, place = key.split("."), f"override '{assignment}'"
        if not equals or not all(parts):
            example = next(name for name in self.keys if "." in name)
            raise self.error(f"{place}: expected dotted.key=value, such as {example}=...")
        if parts[0] not in _sections(self.keys):
            raise self.error(f"{place}: {unknown_key(key, self.keys)}")
        if len(parts) == 1 and key not in self.keys:
            raise self.error(f"{place}: `{key}` is a section; set its keys, such as {key}.name=value")
        try:
            value, _ = strict_yaml.parse(text)
        except SettingsError as error:
            raise self.error(f"{place}: {error}") from error
        target = self.data
        for part in parts[:-1]:
            if not isinstance(target.get(part), dict):
                target[part] = {}
            target = target[part]
        target[parts[-1]] = value
        self._texts.pop(key, None)
        self._texts[key] = text

    def where(self, key: str) -> str:
        """Where the value of a dotted key came from: an override, or a line of the file."""
        texts = reversed(self._texts)
        origin = next((name for name in texts if f"{key}.".startswith((f"{name}.", f"{name}["))), None)
        origin = origin or next((name for name in reversed(self._texts) if name.startswith(f"{key}.")), None)
        if origin is not None:
            return f"override '{origin}={self._texts[origin]}'"
        while key and key not in self._lines:  # an entry of a list stands in its key's line
            key = key.rpartition("[")[0] or key.rpartition(".")[0]
        return f"{self._place}, line {self._lines[key]}" if key else self._place

    def build(self, section: str, make: Callable[..., T], hints: Mapping[str, Any]) -> T:
        """Build a section from its values.

        Args:
            section (`str`): Its name.
            make (`Callable`): Takes the values as keyword arguments, and fills in the others.
            hints (`Mapping[str, Any]`): Type hint of each name.

        Raises:
            SettingsError: For an unknown name, a wrong type or an impossible value, with its place.
        """
        given = self.data.get(section)
        given = {} if given is None else given
        if not isinstance(given, dict):
            raise self.error(f"{self.where(section)}: `{section}` is a section of keys, got {describe_value(given)}")
        values = {}
        for name, value in given.items():
            key = f"{section}.{name}"
            if name not in hints:
                raise self.error(f"{self.where(key)}: {unknown_key(key, self.keys)}")
            try:
                values[name] = _check_typed(value, hints[name], self._texts.get(key))
            except WrongTypeError as error:
                raise self.error(f"{self.where(key + error.where)}: `{key}{error.where}`: {error}") from error
        try:
            return make(**values)
        except (ValueError, TypeError) as error:
            named = re.search(r"`(?:\w+\.)?(\w+)`", str(error))
            key = f"{section}.{named[1]}" if named and named[1] in hints else section
            text = str(error) if f"`{section}." in str(error) else f"{section}: {error}"
            raise self.error(f"{self.where(key)}: {text}") from error

    def replace(self, section: str, defaults: T) -> T:
        """Build a section from a dataclass instance and the values that differ from it; errors as for [`build`]."""
        kind: Any = type(defaults)
        hints = {name: hint for name, hint in get_type_hints(kind).items() if name in kind.__dataclass_fields__}
        return self.build(section, lambda **values: dataclasses.replace(defaults, **values), hints)  # type: ignore[type-var]


def read_value(text: str, hint: Any) -> Any:
    """Read what was typed as a value of a type: YAML, a text as it is, or a list with or without its brackets.

    Raises:
        SettingsError: If it is no YAML.
        WrongTypeError: If it doesn't fit; names what was expected and what was given.
    """
    return _check_typed(strict_yaml.parse(text)[0], hint, text)


def _check_typed(value: Any, hint: Any, text: str | None) -> Any:
    """Check a value; what was typed for it stands in where a text or a list is wanted."""
    try:
        return check_value(value, hint)
    except WrongTypeError as error:
        if text is None or (value is None and text.strip()):
            raise
        wrong = error
    alternatives = [text] if text.strip() else []  # `revision=1234567` is a number for YAML
    if not text.lstrip().startswith("["):
        try:
            alternatives.append(strict_yaml.parse(f"[{text}]")[0])  # `k=1,20` or `k=20`
        except SettingsError:
            pass
    for alternative in alternatives:
        try:
            return check_value(alternative, hint)
        except WrongTypeError as error:
            wrong = error if error.where else wrong
    raise wrong


def unknown_key(key: str, keys: Iterable[str]) -> str:
    """Say that a dotted key is none of the valid `keys`, which one is nearest, or which ones its section has."""
    keys = list(keys)
    section, _, name = key.rpartition(".")
    siblings = {other.rpartition(".")[2]: other for other in keys if other.rpartition(".")[0] == section}
    elsewhere = [other for other in keys if other.rpartition(".")[2] == name]
    initials = ["".join(word[0] for word in other.split("_")) for other in siblings]
    if not section:
        siblings = {other: other for other in _sections(keys)}
    if elsewhere:
        near: str | None = nearest(key, elsewhere) or elsewhere[0]
    elif name in initials:  # lr
        near = list(siblings.values())[initials.index(name)]
    else:
        near = siblings.get(nearest(name, siblings) or "") or nearest(key, [*_sections(keys), *keys])
    if near is None:
        place = f"`{section}` has" if siblings and section else "there are"
        return f"unknown key `{key}`; {place}: {', '.join(siblings or _sections(keys))}"
    return f"unknown key `{key}`; the nearest valid key is `{near}`"


def _sections(keys: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(key.partition(".")[0] for key in keys))


def describe_settings(section: str, defaults: Any, hints: Mapping[str, Any] | None = None) -> list[str]:
    """Document the settings of a section: two lines each, with type, default and meaning.

    Args:
        section (`str`): Its name.
        defaults (`Any`): An instance with the defaults.
        hints (`Mapping[str, Any]`, *optional*): Type hint of each name that is shown; all fields by default.
    """
    hints = get_type_hints(type(defaults)) if hints is None else hints
    help_lines, lines = documented_fields(type(defaults)), []
    for name, hint in hints.items():
        key, default = f"{section}.{name}", plain(getattr(defaults, name))
        if isinstance(default, list) and len(default) > _SHOWN_ENTRIES:
            shown = f"{key}: [{default[0]:g}, ..., {default[-1]:g}] ({len(default)} values)"
        else:
            shown = f"{key}: {default}" if default in ({}, []) else " ".join(strict_yaml.dump({key: default}).split())
        lines += [f"  {shown}    ({describe_type(hint)})", f"      {help_lines.get(name, '')}"]
    return lines
