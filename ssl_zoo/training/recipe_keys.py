"""The keys that a recipe may have, with their types, defaults and help."""

import dataclasses
import inspect
from collections.abc import Sequence
from typing import Any

from ssl_zoo.data.source import DataConfig
from ssl_zoo.data.views import ViewsConfig
from ssl_zoo.models.registry import config_class_of, method_names
from ssl_zoo.settings.given import describe_settings
from ssl_zoo.training.config import EvaluationConfig, OptimConfig, TrainConfig


__all__ = ["SECTIONS", "TOP_LEVEL", "all_keys", "describe_keys", "model_hints"]

SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "views": ViewsConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
}
TOP_LEVEL = ("method", "model", *SECTIONS)
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
        lines.append(f"\nmodel (method: {method})")
        lines += describe_settings("model", config_class(), model_hints(config_class))
    for section, cls in SECTIONS.items():
        lines += [f"\n{section}", *describe_settings(section, cls())]
    return "\n".join(lines)


def all_keys(method: object) -> list[str]:
    """Every key that a recipe may have; those of all methods' `model` sections if `method` is none of them."""
    methods = [name for name in method_names() if name == method] or method_names()
    keys = ["method"]
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
    fields = {field.name for field in dataclasses.fields(config_class)} - _NOT_IN_RECIPES
    return {name: hint for name, hint in hints.items() if name in fields}
