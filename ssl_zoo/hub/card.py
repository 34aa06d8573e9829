"""The model card: rendered from the recipe and the measured results, never written by hand."""

import importlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelCardData

from ssl_zoo.hub.origin import branch_of, render_conversion, render_licence, render_training
from ssl_zoo.hub.privacy import is_local_folder
from ssl_zoo.hub.results import Row, collect, render_earlier, render_table, to_model_index
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
    recipe: dict[str, Any] | None,
    config: dict[str, Any],
    *,
    metrics: list[dict[str, Any]],
    results: list[dict[str, Any]],
    repo_id: str,
    revision: str | None = None,
    pictures: Sequence[str] = (),
    conversion: dict[str, Any] | None = None,
    earlier: Sequence[dict[str, Any]] = (),
) -> str:
    """Render the README.md of a published model.

    Args:
        recipe (`dict`, *optional*): The resolved recipe, free of this machine's paths; `None` for a converted model.
        config (`dict`): The root `config.json`.
        metrics (`list[dict]`): Lines of `metrics.jsonl`, may be empty.
        results (`list[dict]`): Lines of `results.jsonl`, may be empty: the card then says that nothing was measured.
        repo_id (`str`): Id that the code in the card loads from.
        revision (`str`, *optional*): Branch that the code in the card loads.
        pictures (`Sequence[str]`): Image files of the repository to show, of those in `PICTURES`.
        conversion (`dict`, *optional*): `conversion.json` of a model that was converted and not trained by us.
        earlier (`Sequence[dict]`): Lines of `earlier_results.jsonl`: results of weights that this branch held before.

    Returns:
        `str`: Metadata and text.
    """
    folder = recipe["method"] if recipe else (conversion or config)["method"]
    method = Method.of(folder)
    settings = config_class_of(folder).from_dict(config)
    has_clusters = _has_clusters(folder, settings, config)
    rows = collect(
        results,
        images_seen=metrics[-1].get("images_seen") if metrics else None,
        reported=(conversion or {}).get("reported", ()),
    )
    name = repo_id.split("/")[-1]
    before = render_earlier(earlier)
    sections = [
        f"# {name}",
        _introduction(method, recipe, settings, config, conversion),
        *(f"![{PICTURES[picture]}]({picture})" for picture in pictures),
        "## Load it",
        render_usage(repo_id, revision, config, method=method.name, has_clusters=has_clusters),
        "## Results",
        render_table(rows),
        _provenance(rows),
        *(["## Earlier versions", _EARLIER, before] if before else []),
        "## Training" if recipe else "## Origin",
        render_training(recipe, metrics) if recipe else render_conversion(conversion or {}),
        "## Limits",
        _limits(recipe, config, rows, conversion, has_clusters=has_clusters),
        "## Licence",
        render_licence(conversion),
        "## Citation",
        _citation(folder, method),
    ]
    body = "\n\n".join(section.strip("\n") for section in sections if section)
    metadata = _metadata(folder, recipe, conversion, rows, name)
    return str(ModelCard(f"---\n{metadata.to_yaml()}\n---\n\n{body}\n"))


_EARLIER = (
    "This branch held other weights before. This was measured of them (all lines in `earlier_results.jsonl`); "
    "`revision=` loads them:"
)


def _metadata(
    folder: str, recipe: dict[str, Any] | None, conversion: dict[str, Any] | None, rows: list[Row], name: str
) -> ModelCardData:
    data_path = str(((recipe or {}).get("data") or {}).get("path", ""))
    on_hub = re.fullmatch(r"[\w.-]+/[\w.-]+", data_path) is not None and not is_local_folder(data_path)
    results = to_model_index(rows)
    return ModelCardData(
        # The Hub's own word for weights whose owner has said nothing.
        license="apache-2.0" if conversion is None else conversion["license"]["id"] or "unknown",
        library_name="transformers",
        pipeline_tag="image-feature-extraction",
        tags=["ssl_zoo", "self-supervised-learning", "timm", folder],
        datasets=[data_path] if on_hub else None,
        model_name=name if results else None,
        eval_results=results or None,
    )


def _has_clusters(folder: str, settings: Any, config: dict[str, Any]) -> bool:
    """Whether the pretraining model, as it is configured, gives images pseudo-labels."""
    if not config["pretraining_subfolder"]:
        return False
    with torch.device("meta"):
        return hasattr(pretraining_class_of(folder)(settings), "pseudo_labels")


def _introduction(
    method: Method,
    recipe: dict[str, Any] | None,
    settings: Any,
    config: dict[str, Any],
    conversion: dict[str, Any] | None,
) -> str:
    heads = (
        f"the heads are in `{config['pretraining_subfolder']}/`"
        if config["pretraining_subfolder"]
        else "there are no heads in here"
    )
    what = (
        f"An image backbone (`{config['architecture']}`) that {method.name} trained {_supervision(recipe, settings)}: "
        f"{method.title} ([paper]({method.paper}))."
    )
    if conversion is None:
        return (
            f"{what} The weights in the root of this repository are the backbone that the paper evaluates; {heads}. "
            f"Made with `ssl_zoo`; every result below was measured by its recipes."
        )
    branch = branch_of(conversion)
    which = f"the {branch}'s backbone" if branch else "the backbone"
    return (
        f"{what} Its authors trained and released it; these are their weights, converted by `ssl_zoo`. The root of "
        f"this repository is {which}; {heads}. What the authors report and what was measured here stand in columns of "
        f"their own."
    )


def _supervision(recipe: dict[str, Any] | None, settings: Any) -> str:
    if not settings.learns_from_labels:
        return "without labels"
    data = (recipe or {}).get("data") or {}
    if recipe is None:
        return "with all labels" if getattr(settings, "supervision", "full") == "full" else "with some labels"
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


def _limits(
    recipe: dict[str, Any] | None,
    config: dict[str, Any],
    rows: list[Row],
    conversion: dict[str, Any] | None,
    *,
    has_clusters: bool,
) -> str:
    path = ((recipe or {}).get("data") or {}).get("path") or (conversion or {}).get("dataset")
    size = config["pretrained_cfg"].get("input_size", [3, None, None])[-1]
    measured = [row for row in rows if row.measured]
    data = f"`{path}`" if path else "images that the file does not name"
    lines = [
        f"It learned from {data} alone, at {size} x {size} pixels."
        if recipe
        else f'It learned from {data}. What stands under "reported by the authors" was copied, not measured again.',
        "Other images: only what the table shows is known." if measured else "Nobody here has evaluated it.",
        "There is no classifier in it. k-NN accuracy says how close images of a class lie, not what a head reaches.",
        "What the training images show too often or too rarely, the features do too; nobody has looked for bias.",
    ]
    if has_clusters:
        lines.append("Pseudo-labels are numbers of clusters, not classes: a class may have several and the reverse.")
    if path == "embedded":
        lines.insert(
            0,
            "It is a demonstration: the images are small ones that the package renders, not photographs.",
        )
    if measured and max(len(seeds) for row in measured for seeds in row.measured.values()) == 1:
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
