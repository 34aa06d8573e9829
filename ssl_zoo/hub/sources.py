"""What can be published: the folder of a run, a conversion, or the files of a repository."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file

from ssl_zoo.models.registry import method_names


__all__ = ["CONVERSION_FILE", "MARK", "PREFIX", "PRETRAINING_FOLDER", "RECIPE_FILE", "ExportError", "Source"]

PRETRAINING_FOLDER = "pretraining"
CONVERSION_FILE = "conversion.json"
RECIPE_FILE = "recipe.yaml"
PREFIX = "timm_model."
MARK = "converted_from_sha256"
"""Key of `config.json` that marks converted weights; transformers keeps it when it saves them again."""


class ExportError(ValueError):
    """A folder can't be published as it is; the message says why, and the cure."""


@dataclass(frozen=True)
class Source:
    """Weights and their origin: a recipe or a conversion, never both.

    Attributes:
        folder: As given.
        config: `config.json` of the pretraining model, or of the backbone where there are no heads.
        weights: Files of the tensors.
        complete: Whether they are a pretraining model; a backbone alone otherwise.
        exported: Whether `export_repo` wrote the folder.
        recipe: The run's recipe.
        conversion: What `conversion.json` says.
    """

    folder: Path
    config: dict[str, Any]
    weights: tuple[Path, ...]
    complete: bool
    exported: bool
    recipe: dict[str, Any] | None
    conversion: dict[str, Any] | None

    @property
    def method(self) -> str:
        """Folder name of the method."""
        return str(self.config["model_type"])

    @property
    def is_unlicensed(self) -> bool:
        """Whether these are converted weights whose release states no licence."""
        return self.conversion is not None and (self.conversion["license"]["id"] or "unknown") == "unknown"

    @classmethod
    def read(cls, folder: str | Path) -> "Source":
        """Tell what a folder holds.

        Args:
            folder (`str` or `Path`): A run (`recipe.yaml`, `model/`), a conversion (`conversion.json`, `model/`) or a
                repository's files (one of the two, and `config.json` in the root).

        Raises:
            ExportError: for any other folder, for one that mixes two models, and for converted weights without
                `conversion.json`.
        """
        folder = Path(folder)
        recipe, conversion = _read_recipe(folder), _read_conversion(folder)
        exported = not (folder / "model").is_dir() and (folder / "config.json").is_file()
        if (recipe is None and conversion is None) or not (exported or (folder / "model" / "config.json").is_file()):
            missing = f"{RECIPE_FILE} or {CONVERSION_FILE}" if recipe is conversion is None else "model/config.json"
            raise ExportError(
                f"'{folder}' holds no {missing}: expected the folder of a finished run, as recipes/train.py writes it "
                f"(`model/` appears when training ends; continue the run to finish it), or what recipes/convert.py "
                f"or recipes/publish.py --out wrote"
            )
        if recipe is not None and conversion is not None:
            raise ExportError(
                f"'{folder}' holds {RECIPE_FILE} and {CONVERSION_FILE}: weights are trained here or converted: "
                f"remove the file that isn't theirs"
            )
        model = folder / "model"
        if exported:
            model = folder / PRETRAINING_FOLDER if (folder / PRETRAINING_FOLDER).is_dir() else folder
        config = _read_json(model / "config.json")
        _check_origin(folder, config, recipe, conversion)
        weights = tuple(sorted(model.glob("model*.safetensors")))
        if not weights:
            raise ExportError(f"'{model}' holds no model.safetensors: weights are published in this format only")
        if exported:
            complete = model != folder
        else:
            complete = any(str(name).endswith("ForPreTraining") for name in config.get("architectures") or [])
        return cls(folder, config, weights, complete, exported, recipe, conversion)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Read the weights, by the names of the pretraining model (`timm_model.` and the heads).

        Raises:
            ExportError: for a damaged file, and for a repository whose two files differ in the backbone.
        """
        tensors = {name: tensor for file in self.weights for name, tensor in _load(file).items()}
        if not self.exported:
            return tensors
        if not self.complete:
            return {f"{PREFIX}{name}": tensor for name, tensor in tensors.items()}
        root = _load(self.folder / "model.safetensors")
        inside = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
        if root.keys() != inside.keys() or not all(torch.equal(root[name], inside[name]) for name in root):
            raise ExportError(
                f"'{self.folder}' mixes two models: model.safetensors isn't the backbone of "
                f"{PRETRAINING_FOLDER}/model.safetensors: export the run or the conversion again"
            )
        return tensors


def _read_recipe(folder: Path) -> dict[str, Any] | None:
    if not (folder / RECIPE_FILE).is_file():
        return None
    try:
        recipe = yaml.safe_load((folder / RECIPE_FILE).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ExportError(f"'{folder / RECIPE_FILE}' is not valid YAML: {error}") from error
    if not isinstance(recipe, dict):
        raise ExportError(f"'{folder / RECIPE_FILE}' is not a mapping: expected the recipe that the run used")
    return recipe


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"'{file}' is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ExportError(f"'{file}' is not a JSON object")
    return content


def _read_conversion(folder: Path) -> dict[str, Any] | None:
    if not (folder / CONVERSION_FILE).is_file():
        return None
    conversion = _read_json(folder / CONVERSION_FILE)
    parts = {name: conversion.get(name) for name in ("source", "license")}
    lacking = [name for name, part in parts.items() if not isinstance(part, dict)]
    if "license" not in lacking and "id" not in conversion["license"]:
        lacking.append("license.id")
    if "source" not in lacking and not re.fullmatch(r"[0-9a-f]{64}", str(conversion["source"].get("sha256"))):
        lacking.append("source.sha256")
    if lacking:
        raise ExportError(
            f"'{folder / CONVERSION_FILE}' lacks {' and '.join(lacking)}: convert the checkpoint again by "
            f"recipes/convert.py"
        )
    return conversion


def _check_origin(
    folder: Path, config: dict[str, Any], recipe: dict[str, Any] | None, conversion: dict[str, Any] | None
) -> None:
    """Refuse a folder whose files belong to different models."""
    method = config.get("model_type")
    name, said = (RECIPE_FILE, recipe or {}) if conversion is None else (CONVERSION_FILE, conversion)
    if method not in method_names():
        raise ExportError(f"'{folder}' holds a model of type '{method}': expected one of {', '.join(method_names())}")
    if said.get("method") != method:
        raise ExportError(
            f"'{folder}' mixes two runs: {name} is of method '{said.get('method')}', config.json of '{method}'"
        )
    mark = config.get(MARK)
    if mark is not None and (conversion is None or conversion["source"]["sha256"] != mark):
        raise ExportError(
            f"'{folder}' holds weights that were converted from a checkpoint (SHA-256 {str(mark)[:12]}...), and no "
            f"{CONVERSION_FILE} that states their origin and licence: convert it again by "
            f"recipes/convert.py"
        )


def _load(file: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise ExportError(f"'{file}' is missing or damaged ({error}): make it or copy it again") from error
