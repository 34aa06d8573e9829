"""A recipe: every value that changes a result, in one flat YAML file.

Reading is strict, so that a misspelt key can't silently train something else: an unknown key, a wrong type or a
malformed override is an error that names the key, what was expected and the nearest valid key.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_type_hints

from huggingface_hub.errors import StrictDataclassError

from ssl_zoo.data.source import DataConfig
from ssl_zoo.data.views import ViewsConfig
from ssl_zoo.models.configuration_base import SSLConfig
from ssl_zoo.models.registry import config_class_of, method_names
from ssl_zoo.training import strict_yaml
from ssl_zoo.training.config import EvaluationConfig, OptimConfig, RecipeError, TrainConfig
from ssl_zoo.training.recipe_keys import (
    SECTIONS,
    TOP_LEVEL,
    describe_keys,
    model_hints,
    plain,
    unknown_key,
)
from ssl_zoo.training.schema import WrongTypeError, check_value, describe_value, nearest


@dataclass
class Recipe:
    """A complete, resolved recipe.

    Args:
        method (`str`): folder name under `ssl_zoo/models`.
        model (`dict[str, Any]`): every field of the method's configuration.
        data (`DataConfig`): which images, and how they are read.
        views (`ViewsConfig`): augmentation.
        optim (`OptimConfig`): optimiser and learning rate.
        train (`TrainConfig`): length, batch, checkpoints, logging.
        evaluation (`EvaluationConfig`): k-NN protocol.
        results (`list[dict]`): measured results; nothing in it changes a run.
    """

    method: str
    model: dict[str, Any]
    data: DataConfig
    views: ViewsConfig
    optim: OptimConfig
    train: TrainConfig
    evaluation: EvaluationConfig
    results: list[dict[str, Any]] = field(default_factory=list)

    def model_config(self) -> SSLConfig:
        """Build the configuration that the method's model classes take."""
        config: SSLConfig = config_class_of(self.method)(**self.model)
        return config

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, complete: the form in which a recipe is saved and compared."""
        data: dict[str, Any] = plain(dataclasses.asdict(self))
        return data

    def to_yaml(self) -> str:
        """Return the complete recipe as the text of a recipe file."""
        return "# Resolved: every key, with the value that the run used.\n" + strict_yaml.dump(self.to_dict())

    def save(self, path: str | Path) -> None:
        """Write the complete recipe; `load_recipe(path)` gives an equal one."""
        Path(path).write_text(self.to_yaml(), encoding="utf-8")


def load_recipe(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe; keys that the file leaves out get their defaults.

    Args:
        path (`str` or `Path`): a YAML file.
        overrides (`Sequence[str]`): `dotted.key=value`, later ones win; the value is read as YAML.

    Returns:
        `Recipe`: complete; `train.output_dir` is filled in from the file's name when it was null.

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
    except RecipeError as error:
        raise RecipeError(f"{path.name}, {error}") from error
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise RecipeError(f"{path.name}: expected sections ({', '.join(TOP_LEVEL)}), got {describe_value(data)}")

    texts: dict[str, str] = {}
    for override in overrides:
        _apply_override(data, override, texts)

    def where(key: str) -> str:
        origin = next((name for name in reversed(texts) if f"{key}.".startswith((f"{name}.", f"{name}["))), None)
        origin = origin or next((name for name in reversed(texts) if name.startswith(f"{key}.")), None)
        if origin is not None:
            return f"override '{origin}={texts[origin]}'"
        while key and key not in lines:  # an entry of a list stands in its key's line
            key = key.rpartition("[")[0] or key.rpartition(".")[0]
        return f"{path.name}, line {lines[key]}" if key else path.name

    recipe = recipe_from_dict(data, where=where, texts=texts)
    if recipe.train.output_dir is None:
        recipe.train.output_dir = f"runs/{recipe.method}-{path.stem}"
    return recipe


def recipe_from_dict(
    data: Mapping[str, Any],
    *,
    where: Callable[[str], str] = lambda key: "recipe",
    texts: Mapping[str, str] | None = None,
) -> Recipe:
    """Check plain data, such as the content of a YAML file, and fill in the defaults.

    Args:
        data (`Mapping[str, Any]`): sections by name.
        where (`Callable`): place of a dotted key, put before error messages.
        texts (`Mapping[str, str]`, *optional*): dotted key -> value as typed; stands in where a string is expected.

    Returns:
        `Recipe`: complete.

    Raises:
        RecipeError: as for `load_recipe`.
    """
    for name in data:
        if name not in TOP_LEVEL:
            raise RecipeError(f"{where(str(name))}: {unknown_key(str(name), data.get('method'))}")
    if "method" not in data:
        raise RecipeError(f"{where('method')}: `method` is missing; one of {', '.join(method_names())}")
    method = data["method"]
    if method not in method_names():
        raise RecipeError(
            f"{where('method')}: `method` must be one of {', '.join(method_names())}, got {describe_value(method)}"
        )
    try:
        results = check_value(data.get("results") or [], list[dict[str, Any]])
    except WrongTypeError as error:
        raise RecipeError(f"{where('results')}: `results{error.where}`: {error}") from error

    config_class = config_class_of(method)
    hints, context = model_hints(config_class), (where, texts or {}, method)
    config = _build("model", config_class, data, hints, {}, context)
    sections = {}
    for section, cls in SECTIONS.items():
        lengths = {item.name: item.metadata.get("length") for item in dataclasses.fields(cls)}
        sections[section] = _build(section, cls, data, get_type_hints(cls), lengths, context)
    model = {name: plain(getattr(config, name)) for name in hints}
    recipe = Recipe(method=method, model=model, results=results, **sections)
    if recipe.optim.warmup_epochs > recipe.train.epochs:
        raise RecipeError(
            f"{where('optim.warmup_epochs')}: `optim.warmup_epochs` must be at most train.epochs = "
            f"{recipe.train.epochs}, got {recipe.optim.warmup_epochs}"
        )
    return recipe


_Context = tuple[Callable[[str], str], Mapping[str, str], str]


def _build(
    section: str,
    cls: type,
    data: Mapping[str, Any],
    hints: Mapping[str, Any],
    lengths: Mapping[str, int | None],
    context: _Context,
) -> Any:
    where, texts, method = context
    given = data.get(section)
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise RecipeError(f"{where(section)}: `{section}` is a section of keys, got {describe_value(given)}")
    values = {}
    for name, value in given.items():
        key = f"{section}.{name}"
        if name not in hints:
            raise RecipeError(f"{where(key)}: {unknown_key(key, method)}")
        try:
            values[name] = _check_override(value, hints[name], lengths.get(name), texts.get(key))
        except WrongTypeError as error:
            raise RecipeError(f"{where(key + error.where)}: `{key}{error.where}`: {error}") from error
    try:
        return cls(**values)
    except (ValueError, TypeError, StrictDataclassError) as error:
        cause = error.__cause__ or error  # huggingface_hub's @strict wraps what a validator raised
        named = re.search(r"`(?:\w+\.)?(\w+)`", str(cause))
        key = f"{section}.{named[1]}" if named and named[1] in hints else section
        text = str(cause) if f"`{section}." in str(cause) else f"{section}: {cause}"
        raise RecipeError(f"{where(key)}: {text}") from error


def _check_override(value: Any, hint: Any, length: int | None, text: str | None) -> Any:
    try:
        return check_value(value, hint, length=length)
    except WrongTypeError:
        if text is None or value is None:
            raise
    try:  # `data.revision=1234567` is a number for YAML, but a string is wanted: take it as typed
        return check_value(text, hint, length=length)
    except WrongTypeError:
        return check_value(value, hint, length=length)


def _apply_override(data: dict[str, Any], override: str, texts: dict[str, str]) -> None:
    key, equals, text = override.partition("=")
    key = key.strip()
    parts = key.split(".")
    if not equals or not all(parts):
        raise RecipeError(f"override '{override}': expected dotted.key=value, such as optim.learning_rate=0.1")
    if parts[0] not in TOP_LEVEL:
        raise RecipeError(f"override '{override}': {unknown_key(key, data.get('method'))}")
    if parts[0] == "results":
        raise RecipeError(f"override '{override}': `results` are measured, not set")
    if len(parts) == 1 and key != "method":
        raise RecipeError(f"override '{override}': `{key}` is a section; set its keys, such as {key}.name=value")
    try:
        value, _ = strict_yaml.parse(text)
    except RecipeError as error:
        raise RecipeError(f"override '{override}': {error}") from error
    target = data
    for part in parts[:-1]:
        if not isinstance(target.get(part), dict):
            target[part] = {}
        target = target[part]
    target[parts[-1]] = value
    texts.pop(key, None)
    texts[key] = text


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
