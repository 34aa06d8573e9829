"""Converts an authors' checkpoint to a folder that loads, evaluates and publishes like our own models."""

import json
import logging
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import save_file

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.conversion.corinfomax import CorinfomaxBackboneLayout, CorinfomaxLayout
from ssl_zoo.conversion.layout import Checkpoint, Conversion, ConversionError, Layout, model_tensors, saved_class
from ssl_zoo.conversion.mean_shift import MeanShiftLayout, ambiguity
from ssl_zoo.conversion.mira import MiraLayout
from ssl_zoo.conversion.reading import read_checkpoint
from ssl_zoo.conversion.record import describe, point_to_entries, refuse_another
from ssl_zoo.conversion.sela import SELA_LAYOUTS
from ssl_zoo.hub.export import ExportError, export_repo
from ssl_zoo.zoo.entries import ZooEntry, find_entry


__all__ = ["AUTO", "LAYOUTS", "Converted", "convert_checkpoint"]


logger = logging.getLogger(__name__)

LAYOUTS: tuple[Layout, ...] = (
    MiraLayout(),
    CorinfomaxLayout(),
    CorinfomaxBackboneLayout(),
    *(MeanShiftLayout(name) for name in ("msf", "cmsf-self", "cmsf-semi", "cmsf-sup")),
    *SELA_LAYOUTS,
)
"""All that can be read. A new one is a class in a module of its own and a line here."""

AUTO = "auto"


@dataclass(frozen=True)
class Converted:
    """What was made.

    Args:
        folder: The folder, laid out as a repository.
        conversion: What its `conversion.json` says.
        architecture: Of the backbone, as timm names it.
        complete: Whether there is a pretraining model beside the backbone.
        files: All files, relative to `folder`, sorted.
    """

    folder: Path
    conversion: dict[str, Any]
    architecture: str
    complete: bool
    files: tuple[Path, ...]


def convert_checkpoint(
    name: str, file: str | Path, out: str | Path, *, branch: str | None = None, repo_id: str | None = None
) -> Converted:
    """Convert an authors' checkpoint, completely or not at all.

    Args:
        name (`str`): What it is: an entry of the zoo (`"mira-resnet50.imagenet1k-800ep"`), a method (`"mira"`), a
            layout (`"cmsf-sup"`), or `"auto"` to tell by the names of the tensors.
        file (`str` or `Path`): The file as it was downloaded.
        out (`str` or `Path`): Folder to make; must be missing or empty.
        branch (`str`, *optional*): Which network becomes the backbone, such as `"student"`; the layout's default is
            the one that the authors evaluate.
        repo_id (`str`, *optional*): Id that the code in the card loads from; `org/` and the model's name by default.

    Returns:
        `Converted`: where it is, and what was and wasn't carried over.

    Raises:
        ConversionError: saying in one sentence what is wrong; `out` is then as it was.
    """
    out = Path(out)
    entry, candidates = _candidates(name)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConversionError(f"'{out}' is not empty; give a new or an empty folder as OUT")
    if branch is not None and not any(branch in layout.branches for layout in candidates):
        branches = sorted({name for layout in candidates for name in layout.branches})
        several, single = f"must be one of {', '.join(branches)}", "must be left out (there is one network)"
        choices = several if len(branches) > 1 else single
        raise ConversionError(f"--branch {choices} for '{name}', got '{branch}'")
    checkpoint = read_checkpoint(file)
    layout, note = _recognise(name, candidates, checkpoint)
    logger.info("%s has the layout '%s' (%d tensors)", checkpoint.file.name, layout.name, len(checkpoint.state))
    if note:
        logger.warning("%s", note)
    try:
        conversion = layout.convert(checkpoint, branch=branch)
    except (ValueError, StrictDataclassError) as error:
        if isinstance(error, ConversionError):
            raise
        where = f"'{checkpoint.file}' gives no valid configuration of {layout.method}"
        raise ConversionError(f"{where}: {error}") from error
    if entry is None:
        point_to_entries(checkpoint, layout.method)
    else:
        refuse_another(entry, checkpoint, conversion)
    about = describe(entry, layout, checkpoint, conversion, note)
    tensors = model_tensors(conversion, checkpoint)
    config: Any = conversion.config
    if repo_id is None:
        repo_id = f"org/{entry.repository if entry else f'{layout.method}-{config.architecture}'}"
    files = _write(tensors, conversion, about, out, repo_id)
    written = json.loads((out / "conversion.json").read_text(encoding="utf-8"))
    return Converted(out, written, config.architecture, conversion.complete, tuple(files))


def _candidates(name: str) -> tuple[ZooEntry | None, list[Layout]]:
    """The zoo's entry, if one was named, and the layouts that a name leaves to choose from."""
    if name == AUTO:
        return None, list(LAYOUTS)
    named = [layout for layout in LAYOUTS if name in (layout.name, layout.method)]
    # A layout's own name is narrower than a method's of the same name only where the method has several.
    exact = [layout for layout in named if layout.name == name and layout.method != name]
    if named:
        return None, exact or named
    try:
        entry = find_entry(name)
    except ValueError as error:
        methods = ", ".join(sorted({layout.method for layout in LAYOUTS}))
        expected = f"`auto`, a method ({methods}) or an entry of the zoo"
        raise ConversionError(f"NAME must be {expected}, got '{name}': {error}") from error
    layouts = [layout for layout in LAYOUTS if layout.name == entry.layout]
    if not layouts:
        if entry.origin == "ours":
            raise ConversionError(f"'{name}' is our own and needs no conversion; `recipes/train.py {entry.recipe}`")
        raise ConversionError(f"no converter reads the checkpoint of '{name}': {entry.notes or 'see docs/zoo.md'}")
    return entry, layouts


def _recognise(name: str, candidates: Collection[Layout], checkpoint: Checkpoint) -> tuple[Layout, str]:
    """The layout that a checkpoint has, and what must be said if its names alone didn't decide."""
    keys = checkpoint.state.keys()
    recognised = [layout for layout in LAYOUTS if layout.recognises(keys)]
    fitting = [layout for layout in recognised if layout in candidates]
    if not fitting:
        begins = ", ".join(list(keys)[:4])
        if recognised:
            others = " or ".join(f"'{layout.name}'" for layout in recognised)
            raise ConversionError(
                f"'{checkpoint.file}' has the layout {others}, not one of '{name}' (its names begin with {begins}): "
                f"give {' or '.join(sorted({layout.method for layout in recognised}))}, or `auto`, as NAME"
            )
        raise ConversionError(
            f"'{checkpoint.file}' has none of the known layouts ({', '.join(layout.name for layout in LAYOUTS)}): its "
            f"{len(keys)} names begin with {begins}; docs/converting.md lists what each layout must have"
        )
    note = ambiguity(fitting[0].name, [layout.name for layout in fitting])
    if len(fitting) > 1 and not note:
        names = ", ".join(layout.name for layout in fitting)
        raise ConversionError(f"'{checkpoint.file}' fits several layouts; give one of {names} as NAME")
    return fitting[0], note


def _write(
    tensors: dict[str, torch.Tensor], conversion: Conversion, about: dict[str, Any], out: Path, repo_id: str
) -> list[Path]:
    out = out.absolute()
    out.parent.mkdir(parents=True, exist_ok=True)
    with (
        replace_atomically(out, overwrite=False) as made,
        tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as name,
    ):
        source = Path(name)
        model = source / "model"
        model.mkdir()
        save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
        conversion.config.architectures = [saved_class(conversion).__name__]
        conversion.config.save_pretrained(model)
        text = json.dumps(about, indent=2, ensure_ascii=False) + "\n"
        (source / "conversion.json").write_text(text, encoding="utf-8")
        try:
            export_repo(source, made, repo_id=repo_id)
        except ExportError as error:
            raise ConversionError(str(error)) from error
        if conversion.label_table is not None:
            _write_labels(conversion.label_table, made / "labels", about, conversion.config)
        return sorted(path.relative_to(made) for path in made.rglob("*") if path.is_file())


def _write_labels(table: torch.Tensor, folder: Path, about: dict[str, Any], config: Any) -> None:
    # Reading and writing parquet is in the extra `train`; only SeLa's checkpoints hold labels.
    from ssl_zoo.conversion.sela_labels import write_label_table

    about = {**about, "architecture": config.architecture, "num_clusters": config.num_clusters}
    try:
        write_label_table(table, folder, about)
    except ValueError as error:
        raise ConversionError(str(error)) from error
