"""A recipe: every value that changes a result, in one flat YAML file.

Reading is strict, so that a misspelt key can't silently train something else: an unknown key, a wrong type or a
malformed override is an error that names the key, what was expected and the nearest valid key.
"""

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
from ssl_zoo.settings.given import Given, unknown_key
from ssl_zoo.settings.hints import SettingsError, describe_value
from ssl_zoo.training.config import EvaluationConfig, OptimConfig, RecipeError, TrainConfig
from ssl_zoo.training.recipe_keys import SECTIONS, TOP_LEVEL, all_keys, describe_keys, model_hints


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
    except SettingsError as error:
        raise RecipeError(f"{path.name}, {error}") from error
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise RecipeError(f"{path.name}: expected sections ({', '.join(TOP_LEVEL)}), got {describe_value(data)}")
    given = _given(data, place=path.name, lines=lines)
    for override in overrides:
        given.override(override)
    recipe = _build(given)
    if recipe.train.output_dir is None:
        recipe.train.output_dir = f"runs/{recipe.method}-{path.stem}"
    return recipe


def recipe_from_dict(data: Mapping[str, Any]) -> Recipe:
    """Check plain data, such as the content of a YAML file, and fill in the defaults.

    Args:
        data (`Mapping[str, Any]`): sections by name.

    Returns:
        `Recipe`: complete.

    Raises:
        RecipeError: as for `load_recipe`.
    """
    return _build(_given(dict(data), place="recipe", lines={}))


def _given(data: dict[str, Any], *, place: str, lines: Mapping[str, int]) -> Given:
    return Given(data, keys=all_keys(data.get("method")), place=place, lines=lines, error=RecipeError)


def _build(given: Given) -> Recipe:
    data, where = given.data, given.where
    for name in data:
        if name not in TOP_LEVEL and name != "results":  # which files of older runs hold, and which changes nothing
            raise RecipeError(f"{where(str(name))}: {unknown_key(str(name), given.keys)}")
    if "method" not in data:
        raise RecipeError(f"{where('method')}: `method` is missing; one of {', '.join(method_names())}")
    method = data["method"]
    if method not in method_names():
        raise RecipeError(
            f"{where('method')}: `method` must be one of {', '.join(method_names())}, got {describe_value(method)}"
        )
    config_class = config_class_of(method)
    hints = model_hints(config_class)

    def configure(**values: Any) -> SSLConfig:
        try:
            config: SSLConfig = config_class(**values)
        except StrictDataclassError as error:  # wraps what a validator raised
            raise ValueError(str(error.__cause__ or error)) from error
        return config

    given.keys = all_keys(method)  # an override may have changed the method
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
