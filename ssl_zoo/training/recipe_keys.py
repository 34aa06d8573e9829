"""The keys that a recipe may have: their types, defaults and help, and the nearest one to a misspelt key."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any, get_type_hints

from ssl_zoo.data.source import DataConfig
from ssl_zoo.data.views import ViewsConfig
from ssl_zoo.models.registry import config_class_of, method_names
from ssl_zoo.training import strict_yaml
from ssl_zoo.training.config import EvaluationConfig, OptimConfig, TrainConfig
from ssl_zoo.training.schema import describe_type, documented_fields, nearest


SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "views": ViewsConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
}
TOP_LEVEL = ("method", "model", *SECTIONS, "results")
# Fields of a model's configuration that building or publishing the model fills in.
_NOT_IN_RECIPES = {"num_features", "pretraining_subfolder", "image_processor_type"}


def describe_keys(methods: Sequence[str] | None = None) -> str:
    """Document every key of every section with its type, default and meaning: the text of `train.py --help`.

    Args:
        methods (`Sequence[str]`, *optional*): Methods whose `model` section is wanted; all of them by default.
    """
    lines = [f"method: str, required\n    the method to train: {', '.join(method_names())}"]
    for method in methods or method_names():
        config_class = config_class_of(method)
        defaults, docs = config_class(), documented_fields(config_class)
        lines.append(f"\nmodel (method: {method})")
        for name, hint in model_hints(config_class).items():
            lines.append(_describe_key(f"model.{name}", hint, None, getattr(defaults, name), docs.get(name, "")))
    for section, cls in SECTIONS.items():
        hints, defaults, docs = get_type_hints(cls), cls(), documented_fields(cls)
        lines.append(f"\n{section}")
        for item in dataclasses.fields(cls):
            length, default = item.metadata.get("length"), getattr(defaults, item.name)
            lines.append(
                _describe_key(f"{section}.{item.name}", hints[item.name], length, default, docs.get(item.name, ""))
            )
    lines.append(
        "\nresults: list of mappings\n    measured results, written by recipes/record.py; can't be overridden"
    )
    return "\n".join(lines)


def _describe_key(key: str, hint: Any, length: int | None, default: Any, text: str) -> str:
    shown = strict_yaml.dump({key: plain(default)}).strip() if default not in ({}, []) else f"{key}: {default}"
    return f"  {' '.join(shown.split())}    ({describe_type(hint, length=length)})\n      {text}"


def unknown_key(key: str, method: object) -> str:
    """Say that a dotted key doesn't exist, which valid one is nearest, and which ones its section has."""
    valid = _all_keys(method)
    section, _, name = key.rpartition(".")
    siblings = {other.rpartition(".")[2]: other for other in valid if other.rpartition(".")[0] == section}
    elsewhere = [other for other in valid if other.rpartition(".")[2] == name]
    initials = ["".join(word[0] for word in other.split("_")) for other in siblings]
    if elsewhere:
        near: str | None = nearest(key, elsewhere) or elsewhere[0]
    elif name in initials:  # lr
        near = list(siblings.values())[initials.index(name)]
    else:
        near = siblings.get(nearest(name, siblings) or "") or nearest(key, valid)
    if near is None:
        place = f"`{section}` has" if siblings and section else "there are"
        return f"unknown key `{key}`; {place}: {', '.join(siblings or TOP_LEVEL)}"
    return f"unknown key `{key}`; the nearest valid key is `{near}`"


def _all_keys(method: object) -> list[str]:
    methods = [name for name in method_names() if name == method] or method_names()
    keys = list(TOP_LEVEL)
    for name in methods:
        keys += [f"model.{item}" for item in model_hints(config_class_of(name))]
    for section, cls in SECTIONS.items():
        keys += [f"{section}.{item.name}" for item in dataclasses.fields(cls)]
    return keys


def model_hints(config_class: type) -> dict[str, Any]:
    """Map the fields of a method's configuration that a recipe may set to their type hints, ours only."""
    hints: dict[str, Any] = {}
    for base in reversed(config_class.__mro__):  # transformers' own fields are not a recipe's business
        if base.__module__.startswith("ssl_zoo."):
            hints |= inspect.get_annotations(base, eval_str=True)
    return {name: hint for name, hint in hints.items() if name not in _NOT_IN_RECIPES and name != "model_type"}


def plain(value: Any) -> Any:
    """Turn tuples into lists, all the way down, as YAML has them."""
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


__all__ = ["SECTIONS", "TOP_LEVEL", "describe_keys", "model_hints", "plain", "unknown_key"]
