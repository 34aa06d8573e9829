"""The model card: model_card.md.jinja, filled in from the recipe, the log and the measured results."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from ssl_zoo.hub.privacy import is_local_folder
from ssl_zoo.hub.results import Row, collect, collect_earlier, to_model_index
from ssl_zoo.models.registry import config_class_of, find_method, pretraining_class_of
from ssl_zoo.nn.backbone import loads_in_timm


__all__ = ["PICTURES", "TEMPLATE", "render_card"]


TEMPLATE = Path(__file__).with_name("model_card.md.jinja")

PICTURES = {"clusters.png": "Images of the clusters the model found", "curves.png": "Curves of the training run"}
"""Pictures of a run that are published -> what they show."""


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
    """
    folder = recipe["method"] if recipe else (conversion or config)["method"]
    settings = config_class_of(folder).from_dict(config)
    images_seen = metrics[-1].get("images_seen") if metrics else None
    rows = collect(results, images_seen=images_seen, reported=(conversion or {}).get("reported", ()))
    name = repo_id.split("/")[-1]
    data_path = str(((recipe or {}).get("data") or {}).get("path") or (conversion or {}).get("dataset") or "")
    on_hub = bool(recipe and re.fullmatch(r"[\w.-]+/[\w.-]+", data_path)) and not is_local_folder(data_path)
    eval_results = to_model_index(rows)
    card = ModelCard.from_template(
        ModelCardData(
            # "unknown" is the Hub's term for weights whose owner states no licence.
            license="apache-2.0" if conversion is None else conversion["license"]["id"] or "unknown",
            library_name="transformers",
            pipeline_tag="image-feature-extraction",
            tags=["ssl_zoo", "self-supervised-learning", "timm", folder],
            datasets=[data_path] if on_hub else None,
            model_name=name if eval_results else None,
            eval_results=eval_results or None,
        ),
        template_path=str(TEMPLATE),
        name=name,
        repo_id=repo_id,
        revision=revision,
        config=config,
        recipe=recipe,
        conversion=conversion,
        method=find_method(folder),
        supervision=_supervision(recipe, settings),
        pictures=pictures,
        captions=PICTURES,
        in_timm=loads_in_timm(config["architecture"], small_image_stem=config["small_image_stem"]),
        has_clusters=bool(config["pretraining_subfolder"]) and pretraining_class_of(folder).has_clusters(settings),
        rows=rows,
        measurements=_measurements(rows),
        num_seeds=max((len(seeds) for row in rows for seeds in row.measured.values()), default=0),
        earlier=collect_earlier(earlier),
        data_path=data_path,
        on_hub=on_hub,
        image_size=config["pretrained_cfg"].get("input_size", [3, None, None])[-1],
        images_seen=images_seen,
        duration=_duration(metrics),
        has_log=bool(metrics),
    )
    return f"{card}\n"


def _supervision(recipe: dict[str, Any] | None, settings: Any) -> str:
    if not settings.learns_from_labels:
        return "without labels"
    if recipe is None:
        return "with all labels" if getattr(settings, "supervision", "full") == "full" else "with some labels"
    data = recipe.get("data") or {}
    if data.get("labelled_ids"):
        return "with the labels of some images (a list of them)"
    share = data.get("labelled_share", 1.0)
    return "with all labels" if share == 1 else f"with {100 * share:g} % of the labels"


def _measurements(rows: list[Row]) -> dict[str, list[str]]:
    """How the results were measured: what is told -> its values, without duplicates."""
    lines = [line for row in rows for seeds in row.measured.values() for line in seeds.values()]
    if not lines:
        return {}
    told = {
        key.title(): list(dict.fromkeys(f"`{line[key]}`" for line in lines if line.get(key) is not None))
        for key in ("command", "commit", "seed", "date")
    }
    versions: dict[str, str] = next((line["versions"] for line in reversed(lines) if line.get("versions")), {})
    return {**told, "Versions": [f"{name} {version}" for name, version in versions.items()]}


def _duration(metrics: list[dict[str, Any]]) -> str:
    """Time of the logged steps: each line with a throughput gives it since the line before."""
    seconds, last = 0.0, 0
    for line in metrics:
        if throughput := line.get("images_per_second"):
            seconds += (line["images_seen"] - last) / throughput
            last = line["images_seen"]
    minutes = seconds / 60
    if minutes < 1:
        return f"{seconds:.0f} s" if seconds else ""
    return f"{minutes:.1f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
