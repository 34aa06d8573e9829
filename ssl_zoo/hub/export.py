"""The files of a published repository, made from a run's folder or a conversion.

Four libraries read one repository. The root is a timm model (timm's names of weights, timm's keys in `config.json`)
that transformers can load as well, because our models hold the timm backbone under their `base_model_prefix`. The full
pretraining model is in `pretraining/`; the `.py` files beside the root configuration serve both by
`trust_remote_code=True`.
"""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.hub.card import PICTURES, render_card
from ssl_zoo.hub.history import History, merge_results
from ssl_zoo.hub.privacy import file_leaks, folder_name, is_local_folder, without_paths
from ssl_zoo.hub.remote_code import flatten
from ssl_zoo.hub.sources import CONVERSION_FILE, PRETRAINING_FOLDER, RECIPE_FILE, ExportError, Source
from ssl_zoo.hub.weights import WEIGHTS_FILE, describe_weights, entry_modules, write_weights


__all__ = [
    "CODE_MARK",
    "EARLIER_FILE",
    "METRICS_FILE",
    "PERMISSION",
    "RESULTS_FILE",
    "WRITTEN",
    "ExportError",
    "export_repo",
]


PERMISSION = "published_with_permission"
"""Key of `conversion.json`: the day from which weights without a licence are public."""

METRICS_FILE, RESULTS_FILE, EARLIER_FILE = "metrics.jsonl", "results.jsonl", "earlier_results.jsonl"

WRITTEN = frozenset(
    {
        *("README.md", RECIPE_FILE, CONVERSION_FILE, METRICS_FILE, RESULTS_FILE, EARLIER_FILE, *PICTURES),
        *(f"{folder}{name}" for folder in ("", f"{PRETRAINING_FOLDER}/") for name in ("config.json", WEIGHTS_FILE)),
    }
)
"""Paths of all files that an export may hold, except the code."""

CODE_MARK = "# Made from ssl_zoo/"
"""First words of each file of code in an export."""


def export_repo(
    run_dir: str | Path,
    out_dir: str | Path,
    *,
    repo_id: str = "org/name",
    revision: str | None = None,
    history: History | None = None,
    with_permission: bool = False,
    compact: bool = False,
) -> list[Path]:
    """Write everything that a repository on the Hub holds, or nothing.

    Args:
        run_dir (`str` or `Path`): Folder of a finished run (`recipe.yaml`, `model/`), of a conversion
            (`conversion.json`, `model/`), or one that this function wrote. `metrics.jsonl`, `results.jsonl` and
            pictures are read where present; nothing else is.
        out_dir (`str` or `Path`): Where to write; must be empty or missing.
        repo_id (`str`): Id that the model card's code loads from.
        revision (`str`, *optional*): Branch that the model card's code names.
        history ([`History`], *optional*): What that branch holds now; its results are kept.
        with_permission (`bool`): Record that the publisher has the authors' permission, where there is no licence.
        compact (`bool`): Leave out of the pretraining model what only further training needs and begins as a copy.

    Returns:
        `list[Path]`: The files written, relative to `out_dir`, sorted.

    Raises:
        ExportError: for an unfinished run, weights that don't fit the configuration or are others than a conversion
            made, converted weights without their `conversion.json`, or a file with a path or a secret of this machine.
    """
    out = Path(out_dir).absolute()
    source = Source.read(run_dir)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"'{out}' is not empty: name a new or an empty folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(out, overwrite=False) as unfinished:
        unfinished.mkdir()
        config = write_weights(source, unfinished, compact=compact)
        facts = _write_facts(source, unfinished, history, with_permission=with_permission)
        card = render_card(config=config, repo_id=repo_id, revision=revision, **facts)
        (unfinished / "README.md").write_text(card, encoding="utf-8")
        files = sorted(path.relative_to(unfinished) for path in unfinished.rglob("*") if path.is_file())
        _refuse_leaks(source.folder, unfinished, files)
    return files


def _write_facts(source: Source, out: Path, history: History | None, *, with_permission: bool) -> dict[str, Any]:
    """Write all but the weights and the card; return what the card tells of it."""
    for name, code in flatten(entry_modules(source.method)).items():
        (out / name).write_text(code, encoding="utf-8")
    weights = describe_weights(out)
    recipe = None if source.recipe is None else _write_recipe(source, out)
    conversion = None
    if source.conversion is not None:
        conversion = _conversion(source, weights, history, with_permission=with_permission)
        text = json.dumps(conversion, indent=2, ensure_ascii=False) + "\n"
        (out / CONVERSION_FILE).write_text(text, encoding="utf-8")
    metrics = _read_lines(source.folder / METRICS_FILE)
    results, earlier = merge_results(
        _read_lines(source.folder / RESULTS_FILE),
        _read_lines(source.folder / EARLIER_FILE),
        weights_sha256=weights[WEIGHTS_FILE]["sha256"],
        history=history,
    )
    for name, rows in ((METRICS_FILE, metrics), (RESULTS_FILE, results), (EARLIER_FILE, earlier)):
        if rows:
            (out / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    pictures = [name for name in PICTURES if (source.folder / name).is_file()]
    for name in pictures:
        shutil.copyfile(source.folder / name, out / name)
    return {
        "recipe": recipe,
        "conversion": conversion,
        "metrics": metrics,
        "results": results,
        "earlier": earlier,
        "pictures": pictures,
    }


def _write_recipe(source: Source, out: Path) -> dict[str, Any]:
    """Write the recipe without this machine's folders; the recipe of an earlier export stays as it is."""
    recipe: dict[str, Any] = source.recipe or {}
    if source.exported:
        shutil.copyfile(source.folder / RECIPE_FILE, out / RECIPE_FILE)
        return recipe
    shared, note = _shareable_recipe(recipe)
    text = yaml.safe_dump(shared, sort_keys=False, allow_unicode=True, width=110)
    (out / RECIPE_FILE).write_text(f"{note}{text}", encoding="utf-8")
    return shared


def _shareable_recipe(recipe: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Replace a local data folder by its name; return the recipe and a comment that says so."""
    shared: dict[str, Any] = without_paths(recipe)
    shared.pop("results", None)  # in runs of earlier versions: those of the recipe, not of this run
    path = str((recipe.get("data") or {}).get("path", ""))
    if not is_local_folder(path):
        return shared, ""
    name = shared["data"]["path"] = folder_name(path)
    return shared, f"# `data.path` was a folder on the machine that trained; set it to your copy of '{name}'.\n"


def _conversion(
    source: Source, weights: dict[str, Any], history: History | None, *, with_permission: bool
) -> dict[str, Any]:
    """Complete `conversion.json`: digests of the weights, and the permission to publish where there is no licence."""
    conversion: dict[str, Any] = without_paths(source.conversion)
    made = conversion.get("result")
    if source.exported and made and made != weights:
        raise ExportError(
            f"'{source.folder}' holds other weights than the conversion made (SHA-256 of model.safetensors "
            f"{weights[WEIGHTS_FILE]['sha256'][:12]}..., {CONVERSION_FILE} says "
            f"{str((made.get(WEIGHTS_FILE) or {}).get('sha256'))[:12]}...): convert the checkpoint again"
        )
    conversion["result"] = weights
    conversion.pop(PERMISSION, None)
    if with_permission and source.is_unlicensed:
        before = (history and history.conversion) or {}
        same = (before.get("source") or {}).get("sha256") == conversion["source"]["sha256"]
        today = datetime.now(UTC).date().isoformat()
        conversion[PERMISSION] = (before.get(PERMISSION) if same else None) or today
    return conversion


def _read_lines(file: Path) -> list[dict[str, Any]]:
    """Read a JSON-lines file, without paths of this machine; a last line that a crash cut short is left out."""
    if not file.is_file():
        return []
    rows: list[dict[str, Any]] = []
    lines = file.read_text(encoding="utf-8").splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = without_paths(json.loads(line))
        except json.JSONDecodeError as error:
            if number < len(lines):
                raise ExportError(f"'{file}', line {number} is not valid JSON: {error}") from error
            break
        if isinstance(row.get("data"), dict) and is_local_folder(str(row["data"].get("path", ""))):
            row["data"]["path"] = folder_name(row["data"]["path"])
        rows.append(row)
    return rows


def _refuse_leaks(folder: Path, out: Path, files: list[Path]) -> None:
    for file in files:
        if leaks := file_leaks(out / file, paths=(folder.absolute(),)):
            raise ExportError(f"{file} would give away {', '.join(leaks)}: take it out of the run's files first")
