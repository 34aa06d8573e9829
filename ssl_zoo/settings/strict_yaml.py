"""YAML as recipes use it: the scalars of YAML 1.2, no duplicate keys, no aliases, and line numbers.

PyYAML follows YAML 1.1, where `1e-3` is a string, `no` is a bool and a second `learning_rate:` silently wins.
"""

import re
from collections.abc import Hashable
from typing import Any

import yaml

from ssl_zoo.settings.hints import SettingsError


__all__ = ["dump", "parse"]


_RESOLVERS: dict[str, list[tuple[str, re.Pattern[str]]]] = {}
for _tag, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9][0-9_]*", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9][0-9_]*(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    for _character in _first:
        _RESOLVERS.setdefault(_character, []).append((f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$")))


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = _RESOLVERS

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise SettingsError(f"line {event.start_mark.line + 1}: write the value out instead of `*{event.anchor}`")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: dict[str, int] = {}
        for key, _ in node.value:
            if key.value in seen:
                line = key.start_mark.line + 1
                raise SettingsError(
                    f"line {line}: `{key.value}` is given a second time (first in line {seen[key.value]})"
                )
            seen[key.value] = key.start_mark.line + 1
        return super().construct_mapping(node, deep=True)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers = _RESOLVERS  # quotes exactly those strings that the loader would read as something else


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(node.value)  # PyYAML's own reads 010 as octal


def _construct_float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(node.value.replace(".inf", "inf").replace(".nan", "nan"))


def _represent_list(dumper: _Dumper, value: list[Any]) -> yaml.Node:
    nested = any(isinstance(item, (list, dict)) for item in value)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=not nested)


_Loader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _construct_float)
_Dumper.add_representer(list, _represent_list)


def parse(text: str) -> tuple[Any, dict[str, int]]:
    """Read one YAML document.

    Args:
        text (`str`): the document.

    Returns:
        `tuple[Any, dict[str, int]]`: the data, and the line (from 1) of every dotted key.

    Raises:
        SettingsError: with the line, when the text is no YAML, repeats a key or asks for Python objects.
    """
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines = _key_lines(node) if node is not None else {}
        return (loader.construct_document(node) if node is not None else None), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        line = f"line {mark.line + 1}: " if mark is not None else ""
        raise SettingsError(f"{line}not valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"not valid YAML: {error}") from error
    finally:
        loader.dispose()


def dump(data: dict[str, Any]) -> str:
    """Write data so that `parse` gives it back: block style, lists of scalars in one line, order kept."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def _key_lines(node: yaml.Node, prefix: str = "") -> dict[str, int]:
    lines: dict[str, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines[f"{prefix}{key.value}"] = key.start_mark.line + 1
            lines |= _key_lines(value, f"{prefix}{key.value}.")
    return lines
