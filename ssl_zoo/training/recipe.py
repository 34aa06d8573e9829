"""A recipe: every value that changes a result, in one flat YAML file.

Reading is strict, so that a misspelt key can't silently train something else: an unknown key, a wrong type or a
malformed override is an error that names the key, what was expected and the nearest valid key.
"""

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.data.source import DataConfig
from ssl_zoo.data.views import ViewsConfig
from ssl_zoo.models.configuration_base import SSLConfig
from ssl_zoo.models.registry import config_class_of, method_names
from ssl_zoo.nearest import nearest
from ssl_zoo.settings import strict_yaml
from ssl_zoo.settings.declare import plain
from ssl_zoo.settings.given import Given, describe_settings, unknown_key
from ssl_zoo.settings.hints import SettingsError, describe_value
from ssl_zoo.training.config import EvaluationConfig, OptimConfig, RecipeError, TrainConfig


__all__ = [
    "SECTIONS",
    "DataConfig",
    "EvaluationConfig",
    "OptimConfig",
    "Recipe",
    "RecipeError",
    "TrainConfig",
    "ViewsConfig",
    "describe_keys",
    "load_recipe",
    "recipe_from_dict",
]

SECTIONS: dict[str, type] = {
    "data": DataConfig,
    "views": ViewsConfig,
    "optim": OptimConfig,
    "train": TrainConfig,
    "evaluation": EvaluationConfig,
}
_TOP_LEVEL = ("method", "model", *SECTIONS)
# Fields of a model's configuration that building or publishing the model fills in.
_NOT_IN_RECIPES = {"num_features", "pretraining_subfolder", "image_processor_type"}


@dataclass
class Recipe:
    """A complete, resolved recipe: five sections, and the model.

    Args:
        method (`str`): folder name under `ssl_zoo/models`.
        model (`dict[str, Any]`): every field of the method's configuration.
    """

    method: str
    model: dict[str, Any]
    data: DataConfig
    views: ViewsConfig
    optim: OptimConfig
    train: TrainConfig
    evaluation: EvaluationConfig

    def model_config(self) -> SSLConfig:
        """Build the configuration that the method's model classes take."""
        config: SSLConfig = config_class_of(self.method)(**self.model)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, complete: the form in which a recipe is saved and compared."""
        data: dict[str, Any] = plain(self)
        return data

    def to_yaml(self) -> str:
        """Return the complete recipe as the text of a recipe file."""
        return "# Resolved: every key, with the value that the run used.\n" + strict_yaml.dump(self.to_dict())

    def save(self, path: str | Path) -> None:
        """Write the complete recipe; `load_recipe(path)` gives an equal one."""
        with replace_atomically(path) as partial:
            partial.write_text(self.to_yaml(), encoding="utf-8")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe. Missing keys get their defaults, a null `train.output_dir` the name of the file.

    Args:
        path (`str` or `Path`): a YAML file.
        overrides (`Sequence[str]`): `dotted.key=value`, later ones win; the value is read as YAML.

    Raises:
        RecipeError: for a missing file, an unknown key, a wrong type or an impossible value, with the place.
    """
    path = Path(path)
    try:
        data, lines = strict_yaml.parse(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        near = nearest(path.name, [other.name for other in path.parent.glob("*.yaml")])
        hint = f"; the nearest one there is '{path.parent / near}'" if near else ""
        raise RecipeError(f"there is no recipe file '{path}'{hint}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path.name}: a recipe is a UTF-8 text file, this one isn't") from error
    except SettingsError as error:
        raise RecipeError(f"{path.name}, {error}") from error
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise RecipeError(f"{path.name}: expected sections ({', '.join(_TOP_LEVEL)}), got {describe_value(data)}")
    given = _given(data, place=path.name, lines=lines)
    for override in overrides:
        given.override(override)
    recipe = _build(given)
    if recipe.train.output_dir is None:
        recipe.train.output_dir = f"runs/{recipe.method}-{path.stem}"
    return recipe


def recipe_from_dict(data: Mapping[str, Any]) -> Recipe:
    """Check plain data, sections by name, and fill in the defaults; errors as for `load_recipe`."""
    return _build(_given(dict(data), place="recipe", lines={}))


def _given(data: dict[str, Any], *, place: str, lines: Mapping[str, int]) -> Given:
    return Given(data, keys=_all_keys(data.get("method")), place=place, lines=lines, error=RecipeError)


def _build(given: Given) -> Recipe:
    data, where = given.data, given.where
    for name in data:
        if name not in _TOP_LEVEL and name != "results":  # which files of older runs hold, and which changes nothing
            raise RecipeError(f"{where(str(name))}: {unknown_key(str(name), given.keys)}")
    if "method" not in data:
        raise RecipeError(f"{where('method')}: `method` is missing; one of {', '.join(method_names())}")
    method = data["method"]
    if method not in method_names():
        raise RecipeError(
            f"{where('method')}: `method` must be one of {', '.join(method_names())}, got {describe_value(method)}"
        )
    config_class = config_class_of(method)
    hints = _model_hints(config_class)

    def configure(**values: Any) -> SSLConfig:
        try:
            config: SSLConfig = config_class(**values)
        except StrictDataclassError as error:  # wraps what a validator raised
            raise ValueError(str(error.__cause__ or error)) from error
        return config

    given.keys = _all_keys(method)  # an override may have changed the method
    config = given.build("model", configure, hints)
    sections: dict[str, Any] = {section: given.replace(section, cls()) for section, cls in SECTIONS.items()}
    model = {name: plain(getattr(config, name)) for name in hints}
    recipe = Recipe(method=method, model=model, **sections)
    if recipe.optim.warmup_epochs > recipe.train.epochs:
        raise RecipeError(
            f"{where('optim.warmup_epochs')}: `optim.warmup_epochs` must be at most train.epochs = "
            f"{recipe.train.epochs}, got {recipe.optim.warmup_epochs}"
        )
    return recipe


def describe_keys(methods: Sequence[str] | None = None) -> str:
    """Document every key of every section with its type, default and meaning: the text of `train.py --help`.

    Args:
        methods (`Sequence[str]`, *optional*): Methods whose `model` section is wanted; all of them by default.
    """
    lines = [f"method: str, required\n    the method to train: {', '.join(method_names())}"]
    for method in methods or method_names():
        config_class = config_class_of(method)
        lines.append(f"\nmodel (method: {method})")
        lines += describe_settings("model", config_class(), _model_hints(config_class))
    for section, cls in SECTIONS.items():
        lines += [f"\n{section}", *describe_settings(section, cls())]
    return "\n".join(lines)


def _all_keys(method: object) -> list[str]:
    """Every key that a recipe may have; those of all methods' `model` sections if `method` is none of them."""
    methods = [name for name in method_names() if name == method] or method_names()
    keys = ["method"]
    for name in methods:
        keys += [f"model.{item}" for item in _model_hints(config_class_of(name))]
    for section, cls in SECTIONS.items():
        keys += [f"{section}.{item.name}" for item in dataclasses.fields(cls)]
    return keys


def _model_hints(config_class: type) -> dict[str, Any]:
    """Map the fields of a method's configuration that a recipe may set to their type hints, ours only."""
    hints: dict[str, Any] = {}
    for base in reversed(config_class.__mro__):  # transformers' own fields are not a recipe's business
        if base.__module__.startswith("ssl_zoo."):
            hints |= inspect.get_annotations(base, eval_str=True)
    fields = {field.name for field in dataclasses.fields(config_class)} - _NOT_IN_RECIPES
    return {name: hint for name, hint in hints.items() if name in fields}
