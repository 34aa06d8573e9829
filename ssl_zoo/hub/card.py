"""The model card: rendered from the recipe and the measured results, never written by hand."""

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData

from ssl_zoo.hub.privacy import is_local_folder
from ssl_zoo.hub.results import NOT_MEASURED, Row, collect, render_table, to_model_index
from ssl_zoo.hub.usage import render_usage
from ssl_zoo.models.registry import config_class_of, pretraining_class_of


PICTURES = {
    "clusters.png": "Images of the clusters the model found",
    "curves.png": "Curves of the training run",
}
"""Pictures of a run that are published -> what they show."""


@dataclass
class Method:
    """What a method's configuration says about it in the first line of its docstring: "NAME: title (paper)."."""

    name: str
    title: str
    paper: str

    @classmethod
    def of(cls, method: str) -> "Method":
        """Read the docstring.

        Raises:
            ValueError: if the first line has another form.
        """
        config_class = config_class_of(method)
        first = (config_class.__doc__ or "").strip().splitlines()[0]
        match = re.fullmatch(r"(?P<name>[^:]+): (?P<title>.+) \((?P<paper>https://\S+)\)\.?", first)
        if match is None:
            raise ValueError(
                f"the docstring of {config_class.__name__} must begin 'NAME: title (https://...).', got '{first}'"
            )
        return cls(**match.groupdict())


def render_card(
    recipe: dict[str, Any],
    config: dict[str, Any],
    *,
    metrics: list[dict[str, Any]],
    results: list[dict[str, Any]],
    repo_id: str,
    revision: str | None = None,
    pictures: Sequence[str] = (),
) -> str:
    """Render the README.md of a published model.

    Args:
        recipe (`dict`): The resolved recipe, free of this machine's paths.
        config (`dict`): The root `config.json`.
        metrics (`list[dict]`): Lines of `metrics.jsonl`, may be empty.
        results (`list[dict]`): Lines of `results.jsonl`, may be empty: the card then says that nothing was measured.
        repo_id (`str`): Id that the code in the card loads from.
        revision (`str`, *optional*): Branch that the code in the card loads.
        pictures (`Sequence[str]`): Image files of the repository to show, of those in `PICTURES`.

    Returns:
        `str`: Metadata and text.
    """
    method = Method.of(recipe["method"])
    rows = collect(results, images_seen=metrics[-1].get("images_seen") if metrics else None)
    data_path = str((recipe.get("data") or {}).get("path", ""))
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", data_path) is not None and not is_local_folder(data_path)
    metadata = ModelCardData(
        license="apache-2.0",
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["ssl_zoo", "self-supervised-learning", "timm", recipe["method"]],
        datasets=[data_path] if on_hub else None,
        model_name=repo_id.split("/")[-1] if rows else None,
        eval_results=to_model_index(rows) or None,
    )
    sections = [
        f"# {repo_id.split('/')[-1]}",
        _introduction(method, recipe, config),
        *(f"![{PICTURES[name]}]({name})" for name in pictures),
        "## Load it",
        render_usage(repo_id, revision, config, method=method.name, has_clusters=_has_clusters(recipe)),
        "## Results",
        render_table(rows),
        _provenance(rows),
        "## Training",
        _training(recipe, metrics),
        "## Limits",
        _limits(recipe, config, rows),
        "## Licence",
        "Apache-2.0, code and weights. The licence of the training images is their publisher's.",
        "## Citation",
        _citation(recipe["method"], method),
    ]
    body = "\n\n".join(section.strip("\n") for section in sections if section)
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}\n"))


def _introduction(method: Method, recipe: dict[str, Any], config: dict[str, Any]) -> str:
    return (
        f"An image backbone (`{config['architecture']}`) that {method.name} trained {_supervision(recipe)}: "
        f"{method.title} ([paper]({method.paper})). The weights in the root of this repository are the backbone that "
        f"the paper evaluates; the heads are in `{config['pretraining_subfolder']}/`. Made with `ssl_zoo`; every "
        f"result below was measured by its recipes."
    )


def _has_clusters(recipe: dict[str, Any]) -> bool:
    """Whether the pretraining model, as it is configured, gives images pseudo-labels."""
    config = config_class_of(recipe["method"])(**(recipe.get("model") or {}))
    with torch.device("meta"):
        return hasattr(pretraining_class_of(recipe["method"])(config), "pseudo_labels")


def _supervision(recipe: dict[str, Any]) -> str:
    fields = recipe.get("model") or {}
    if not config_class_of(recipe["method"])(**fields).learns_from_labels:
        return "without labels"
    data = recipe.get("data") or {}
    if data.get("labelled_ids"):
        return "with the labels of some images (a list of them)"
    share = data.get("labelled_share", 1.0)
    return "with all labels" if share == 1 else f"with {100 * share:g} % of the labels"


def _provenance(rows: list[Row]) -> str:
    lines = [line for row in rows for seeds in row.measured.values() for line in seeds.values()]
    if not lines:
        return ""
    found = []
    for name, key in (("Command", "command"), ("Commit", "commit"), ("Seed", "seed"), ("Date", "date")):
        values = list(dict.fromkeys(f"`{line[key]}`" for line in lines if line.get(key) is not None))
        found.append(f"- {name}: {', '.join(values) if values else 'not recorded'}")
    versions = next((line["versions"] for line in reversed(lines) if line.get("versions")), None)
    text = ", ".join(f"{name} {version}" for name, version in versions.items()) if versions else "not recorded"
    return "Measured so (all lines in `results.jsonl`):\n\n" + "\n".join([*found, f"- Versions: {text}"])


def _training(recipe: dict[str, Any], metrics: list[dict[str, Any]]) -> str:
    data, train = recipe.get("data") or {}, recipe.get("train") or {}
    path, revision = data.get("path"), data.get("revision")
    local = " (a local folder)" if path and not re.fullmatch(r"[\w.-]+/[\w.-]+|embedded", path) else ""
    seen = metrics[-1].get("images_seen") if metrics else None
    seconds = _training_seconds(metrics)
    rows = [
        ("data", f"`{path}`{local}, split `{data.get('split')}`"),
        ("revision of the data", f"`{revision}`" if revision else "not pinned"),
        (
            "planned",
            f"{train.get('epochs')} epochs, {train.get('global_batch_size')} images a step, seed {train.get('seed')}",
        ),
        ("images seen", f"{seen:,}" if seen is not None else NOT_MEASURED),
        ("time in training steps", f"{_duration(seconds)}, from the logged throughput" if seconds else NOT_MEASURED),
        ("log", "`metrics.jsonl`" if metrics else "none"),
    ]
    table = "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])
    where = (
        f"\n\nSet `data.path` to your copy of `{path}` first: it was a folder on the machine that trained."
        if local
        else ""
    )
    return (
        f"{table}\n\nEvery value that the run used is in [`recipe.yaml`](recipe.yaml). To train again, in a checkout "
        f"of `ssl_zoo`:\n\n```bash\naccelerate launch recipes/train.py recipe.yaml\n```{where}"
    )


def _training_seconds(metrics: list[dict[str, Any]]) -> float:
    """Add up the time of the logged steps: each line with a throughput gives it since the line before."""
    total, last = 0.0, 0
    for line in metrics:
        throughput = line.get("images_per_second")
        if throughput:
            total += (line["images_seen"] - last) / throughput
            last = line["images_seen"]
    return total


def _duration(seconds: float) -> str:
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _limits(recipe: dict[str, Any], config: dict[str, Any], rows: list[Row]) -> str:
    path = (recipe.get("data") or {}).get("path")
    size = config["pretrained_cfg"].get("input_size", [3, None, None])[-1]
    lines = [
        f"It learned from `{path}` alone, at {size} x {size} pixels.",
        "Other images: only what the table shows is known." if rows else "Nobody has evaluated it.",
        "There is no classifier in it. k-NN accuracy says how close images of a class lie, not what a head reaches.",
        "What the training images show too often or too rarely, the features do too; nobody has looked for bias.",
    ]
    if _has_clusters(recipe):
        lines.append("Pseudo-labels are numbers of clusters, not classes: a class may have several and the reverse.")
    if path == "embedded":
        lines.insert(
            0,
            "It is a demonstration: the images are small ones that the package renders, not photographs.",
        )
    if rows and max(len(seeds) for row in rows for seeds in row.measured.values()) == 1:
        lines.append("The results are of one seed: no statement about their spread is possible.")
    if config["small_image_stem"]:
        lines.append("Its stem is for small images: on large ones it is slow and untested, and timm can't load it.")
    return "\n".join(f"- {line}" for line in lines)


def _citation(folder: str, method: Method) -> str:
    text = vars(importlib.import_module(f"ssl_zoo.models.{folder}")).get("CITATION")
    if text:
        return f"```bibtex\n{text.strip()}\n```"
    identifier = method.paper.rstrip("/").split("/")[-1]
    return f"Please cite the paper of {method.name}: [arXiv:{identifier}](https://arxiv.org/abs/{identifier})."
