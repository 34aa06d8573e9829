"""The weights of a repository: checked against their models, and written with their configurations."""

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from ssl_zoo.hub.privacy import without_paths
from ssl_zoo.hub.sources import MARK, PREFIX, PRETRAINING_FOLDER, ExportError, Source
from ssl_zoo.models.registry import config_class_of, pretraining_class_of, public_classes
from ssl_zoo.nn.backbone import create_backbone


__all__ = ["WEIGHTS_FILE", "describe_weights", "entry_modules", "file_sha256", "write_weights"]

WEIGHTS_FILE = "model.safetensors"

_AUTO_CLASSES = {
    "Config": "AutoConfig",
    "Model": "AutoModel",
    "ForPreTraining": "AutoModelForPreTraining",
    "ForImageClassification": "AutoModelForImageClassification",
}


def write_weights(source: Source, out: Path, *, compact: bool = False) -> dict[str, Any]:
    """Write the backbone and, where there is one, the pretraining model; return the root `config.json`.

    The same tensors give the same bytes.

    Args:
        source ([`Source`]): What to publish.
        out (`Path`): Folder of the repository.
        compact: Leave out the parts that only further training needs and that begin as copies, such as MIRA's student.

    Raises:
        ExportError: for a tensor that is missing, unknown (the state of an optimiser, a bank) or of another shape.
    """
    config, tensors = source.config, source.tensors()
    with torch.device("meta"):
        backbone = create_backbone(
            config["architecture"], model_args=config["model_args"], small_image_stem=config["small_image_stem"]
        )
    weights = {name.removeprefix(PREFIX): tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    problem = f"'{source.folder}' doesn't hold the weights of a"
    _check(weights, backbone.state_dict(), set(), f"{problem} {config['architecture']}")
    root, full = _configurations(source, backbone)
    written = [(out, root, weights)]
    if source.complete:
        known, may_lack, rebuilt = _pretraining_tensors(source)
        _check(tensors, known, may_lack, f"{problem} {full['architectures'][0]}")
        if compact:
            tensors = {name: tensor for name, tensor in tensors.items() if name.partition(".")[0] not in rebuilt}
        written.append((out / PRETRAINING_FOLDER, full, tensors))
    elif len(weights) < len(tensors):
        heads = sorted(name for name in tensors if not name.startswith(PREFIX))
        raise ExportError(f"{problem} backbone alone, as its config.json says: it also holds {', '.join(heads[:3])}")
    for folder, content, state in written:
        folder.mkdir(exist_ok=True)
        # Contiguous copies: a view would be saved with the whole storage that it is a part of.
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
        text = json.dumps(content, indent=2, sort_keys=True) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
    return root


def _check(tensors: dict[str, torch.Tensor], known: dict[str, torch.Tensor], may_lack: set[str], problem: str) -> None:
    found = {name: tensor.shape for name, tensor in tensors.items()}
    expected = {name: tensor.shape for name, tensor in known.items()}
    names = {*expected, *found} - {name for name in may_lack if name not in found}
    wrong = sorted(name for name in names if expected.get(name) != found.get(name))
    if wrong:
        raise ExportError(
            f"{problem} as its config.json describes it: {len(wrong)} tensors are missing, unknown or of another "
            f"shape, among them {', '.join(wrong[:3])}"
        )


def _pretraining_tensors(source: Source) -> tuple[dict[str, torch.Tensor], set[str], tuple[str, ...]]:
    """Tensors of the published pretraining model, those a file may lack, and the submodules a compact file lacks."""
    config = config_class_of(source.method).from_dict(source.config)
    with torch.device("meta"):
        model = pretraining_class_of(source.method)(config)
    unsaved = set(model._keys_to_ignore_on_save or ())
    known = {name: tensor for name, tensor in model.state_dict().items() if name not in unsaved}
    patterns = model._keys_to_ignore_on_load_missing or ()
    may_lack = {
        name
        for name in known
        if name.partition(".")[0] in model._filled_from or any(re.search(pattern, name) for pattern in patterns)
    }
    return known, may_lack, model.rebuilt_parts


def _configurations(source: Source, backbone: nn.Module) -> tuple[dict[str, Any], dict[str, Any]]:
    """Make the two `config.json`: of the backbone in the root, and of the pretraining model."""
    config, method = source.config, source.method
    names = _class_names(method)
    if not source.complete:
        del names["ForPreTraining"]
    shared: dict[str, Any] = without_paths(
        {
            **{key: value for key, value in config.items() if not key.startswith("_")},
            "num_classes": 0,
            "num_features": backbone.num_features,
            "global_pool": _global_pool(backbone),
            "model_args": config["model_args"] or {},  # timm can't read a null here
            "pretrained_cfg": {**config["pretrained_cfg"], "num_classes": 0},
            "image_processor_type": "TimmWrapperImageProcessor",
            "auto_map": {_AUTO_CLASSES[ending]: f"{_module(method, ending)}.{name}" for ending, name in names.items()},
        }
    )
    if source.conversion is not None:
        shared[MARK] = source.conversion["source"]["sha256"]
    subfolder = PRETRAINING_FOLDER if source.complete else None
    root = {**shared, "architectures": [names["Model"]], "pretraining_subfolder": subfolder}
    return root, {**shared, "architectures": [names.get("ForPreTraining")], "pretraining_subfolder": None}


def _global_pool(backbone: nn.Module) -> str:
    """Name the pooling as timm does in its own exports; nothing reads it."""
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


def entry_modules(method: str) -> list[str]:
    """Modules with the classes of a method: the remote code is what they import."""
    return [f"ssl_zoo.models.{method}.{_module(method, ending)}" for ending in ("Config", "Model")]


def file_sha256(file: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def describe_weights(folder: Path) -> dict[str, dict[str, Any]]:
    """Digest and size of the weights of a repository: path -> `sha256`, `bytes`."""
    files = (folder / WEIGHTS_FILE, folder / PRETRAINING_FOLDER / WEIGHTS_FILE)
    return {
        file.relative_to(folder).as_posix(): {"sha256": file_sha256(file), "bytes": file.stat().st_size}
        for file in files
        if file.is_file()
    }
