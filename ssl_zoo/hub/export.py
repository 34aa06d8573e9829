"""The files of a published repository, made from a run's folder.

One repository serves four readers. The root is a timm model (weights by timm's names, timm's keys in `config.json`)
that transformers can load as well, because our models hold the timm backbone under their `base_model_prefix`. The full
pretraining model lies in `pretraining/`, and the `.py` files beside the root configuration serve both by
`trust_remote_code=True`.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file, save_file
from torch import nn

from ssl_zoo.hub.card import PICTURES, render_card
from ssl_zoo.hub.privacy import find_leaks, folder_name, is_local_folder, without_paths
from ssl_zoo.hub.remote_code import flatten
from ssl_zoo.models.registry import public_classes
from ssl_zoo.nn.backbone import create_backbone


PRETRAINING_FOLDER = "pretraining"
PREFIX = "timm_model."

_AUTO_CLASSES = {
    "Config": "AutoConfig",
    "Model": "AutoModel",
    "ForPreTraining": "AutoModelForPreTraining",
    "ForImageClassification": "AutoModelForImageClassification",
}


class ExportError(ValueError):
    """A run can't be published as it is; the message says what is wrong and what to do."""


def export_repo(
    run_dir: str | Path, out_dir: str | Path, *, repo_id: str = "org/name", revision: str | None = None
) -> list[Path]:
    """Write everything that a repository on the Hub holds.

    Args:
        run_dir (`str` or `Path`): Folder of a finished run (`recipe.yaml`, `model/`, and what else there is of
            `metrics.jsonl`, `results.jsonl`, pictures).
        out_dir (`str` or `Path`): Where to write; made if missing, must be empty.
        repo_id (`str`): Id that the model card's code loads from.
        revision (`str`, *optional*): Branch that the model card's code names.

    Returns:
        `list[Path]`: The files written, relative to `out_dir`, sorted.

    Raises:
        ExportError: for an unfinished run, weights that don't fit the configuration, or a file that would give away a
            path or a secret of this machine.
    """
    run, out = Path(run_dir), Path(out_dir)
    recipe, config = _read_run(run)
    out.mkdir(parents=True, exist_ok=True)
    if any(out.iterdir()):
        raise ExportError(f"'{out}' is not empty; give a new or an empty folder")

    root_config = _write_weights(run / "model", out, config, recipe["method"])
    for name, source in flatten(_entry_modules(recipe["method"])).items():
        (out / name).write_text(source, encoding="utf-8")
    shared_recipe, note = _shareable_recipe(recipe)
    text = yaml.safe_dump(shared_recipe, sort_keys=False, allow_unicode=True, width=110)
    (out / "recipe.yaml").write_text(f"{note}{text}", encoding="utf-8")
    metrics, results = (_copy_lines(run, out, name) for name in ("metrics.jsonl", "results.jsonl"))
    pictures = [name for name in PICTURES if (run / name).is_file()]
    for name in pictures:
        shutil.copyfile(run / name, out / name)
    card = render_card(
        shared_recipe,
        root_config,
        metrics=metrics,
        results=results,
        repo_id=repo_id,
        revision=revision,
        pictures=pictures,
    )
    (out / "README.md").write_text(card, encoding="utf-8")
    files = sorted(path.relative_to(out) for path in out.rglob("*") if path.is_file())
    _refuse_leaks(run, out, files)
    return files


def _read_run(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    for name in ("recipe.yaml", "model/config.json"):
        if not (run / name).is_file():
            raise ExportError(
                f"'{run}' holds no {name}: expected the folder of a finished run, as recipes/train.py writes it "
                f"(`model/` appears when training ends; continue the run to finish it)"
            )
    recipe = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    config = json.loads((run / "model" / "config.json").read_text(encoding="utf-8"))
    if recipe.get("method") != config.get("model_type"):
        raise ExportError(
            f"'{run}' mixes two runs: recipe.yaml is of method '{recipe.get('method')}', "
            f"model/config.json of '{config.get('model_type')}'"
        )
    return recipe, config


def _write_weights(model: Path, out: Path, config: dict[str, Any], method: str) -> dict[str, Any]:
    """Write both models with their configurations; return the root's."""
    shards = [load_file(file) for file in sorted(model.glob("model*.safetensors"))]
    tensors = {name: tensor for shard in shards for name, tensor in shard.items()}
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    backbone = create_backbone(
        config["architecture"], model_args=config["model_args"], small_image_stem=config["small_image_stem"]
    )
    _check_weights(weights, backbone, f"'{model}' doesn't hold the weights of a {config['architecture']}")
    root, full = _configurations(config, method, backbone)
    for folder, content, state in ((out, root, weights), (out / PRETRAINING_FOLDER, full, tensors)):
        folder.mkdir(exist_ok=True)
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
    return root


def _check_weights(weights: dict[str, torch.Tensor], backbone: nn.Module, problem: str) -> None:
    found = {name: tensor.shape for name, tensor in weights.items()}
    expected = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    wrong = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
    if wrong:
        raise ExportError(
            f"{problem} as its config.json describes it: {len(wrong)} tensors are missing, unknown or of another "
            f"shape, among them {', '.join(wrong[:3])}"
        )


def _configurations(config: dict[str, Any], method: str, backbone: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the two `config.json`: of the backbone in the root, and of the pretraining model."""
    names = _class_names(method)
    shared: dict[str, Any] = without_paths(
        {
            **{key: value for key, value in config.items() if not key.startswith("_")},
            "num_classes": 0,
            "num_features": backbone.num_features,
            "global_pool": _global_pool(backbone),
            "model_args": config["model_args"] or {},  # timm can't read a null here
            "pretrained_cfg": {**config["pretrained_cfg"], "num_classes": 0},
            "image_processor_type": "TimmWrapperImageProcessor",
            "auto_map": {auto: f"{_module(method, ending)}.{names[ending]}" for ending, auto in _AUTO_CLASSES.items()},
        }
    )
    root = {**shared, "architectures": [names["Model"]], "pretraining_subfolder": PRETRAINING_FOLDER}
    return root, {**shared, "architectures": [names["ForPreTraining"]], "pretraining_subfolder": None}


def _global_pool(backbone: nn.Module) -> str:
    """Name the pooling as timm does in its own exports; informative only."""
    for owner in (backbone, getattr(backbone, "head", None)):
        pool = getattr(owner, "global_pool", None)
        if pool is not None:
            return pool if isinstance(pool, str) else str(getattr(pool, "pool_type", "avg"))
    return "avg"


def _class_names(method: str) -> dict[str, str]:
    classes = [name for name, module in public_classes().items() if module.startswith(f"ssl_zoo.models.{method}.")]
    return {ending: next(name for name in classes if name.endswith(ending)) for ending in _AUTO_CLASSES}


def _module(method: str, ending: str) -> str:
    return f"{'configuration' if ending == 'Config' else 'modeling'}_{method}"


def _entry_modules(method: str) -> list[str]:
    return [f"ssl_zoo.models.{method}.{_module(method, ending)}" for ending in ("Config", "Model")]


def _shareable_recipe(recipe: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Replace a local data folder by its name; return the recipe and the comment that says so."""
    shared: dict[str, Any] = without_paths(recipe)
    path = str((recipe.get("data") or {}).get("path", ""))
    if not is_local_folder(path):
        return shared, ""
    name = shared["data"]["path"] = folder_name(path)
    return shared, f"# `data.path` was a folder on the machine that trained; set it to your copy of '{name}'.\n"


def _without_folder(line: dict[str, Any]) -> dict[str, Any]:
    data = line.get("data")
    if isinstance(data, dict) and is_local_folder(str(data.get("path", ""))):
        return {**line, "data": {**data, "path": folder_name(data["path"])}}
    return line


def _copy_lines(run: Path, out: Path, name: str) -> list[dict[str, Any]]:
    """Copy a JSON-lines file without paths; a last line that a crash cut short is left out."""
    if not (run / name).is_file():
        return []
    rows: list[dict[str, Any]] = []
    lines = (run / name).read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(_without_folder(without_paths(json.loads(line))))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ExportError(f"'{run / name}', line {number} is no JSON: {error}") from error
    (out / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return rows


def _refuse_leaks(run: Path, out: Path, files: list[Path]) -> None:
    for file in files:
        if file.suffix in (".json", ".jsonl", ".yaml", ".md", ".py"):
            leaks = find_leaks((out / file).read_text(encoding="utf-8"), paths=(run.absolute(),))
            if leaks:
                raise ExportError(f"{file} would give away {', '.join(leaks)}; take it out of the run's files first")
