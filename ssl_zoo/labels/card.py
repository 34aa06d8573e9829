"""The labels.json and the card of a data set of pseudo-labels."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, DatasetCardData

from ssl_zoo.data.label_files import HeadSummary
from ssl_zoo.models.registry import display_name
from ssl_zoo.provenance import command, commit, versions


__all__ = ["TEMPLATE", "describe_labels", "render_label_card"]


TEMPLATE = Path(__file__).with_name("dataset_card.md.jinja")
_SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")  # by a power of ten


def describe_labels(
    settings: dict[str, Any],
    *,
    files: dict[str, int],
    heads: Sequence[HeadSummary],
    skipped: Sequence[int],
    seconds: float,
) -> dict[str, Any]:
    """Make the content of labels.json.

    Args:
        settings (`dict`): `model`, `data`, `view`, `soft` and `clusters_per_head`.
        files (`dict[str, int]`): Rows of each file by its name.
        heads (`Sequence[HeadSummary]`): What the labels of each head are like.
        skipped (`Sequence[int]`): Ids of the rows without a readable image.
        seconds (`float`): What the labelling took, of the last run if there were several.
    """
    return {
        **settings,
        "files": files,
        "heads": [head._asdict() for head in heads],
        "num_labels": sum(files.values()),
        "skipped": list(skipped),
        "commit": commit(),
        "versions": versions(),
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
        "wall_seconds": round(seconds, 2),
    }


def render_label_card(about: dict[str, Any]) -> str:
    """Render the README.md of a data set of pseudo-labels from what `describe_labels` returned."""
    method, path = about["model"]["method"], about["data"]["path"]
    title = f"Pseudo-labels of {path} by {display_name(method)}"
    # No `configs`: with them `datasets` takes all folders of one name for the same data, and reads an old copy from
    # its cache. The names of the files say the split.
    metadata = DatasetCardData(
        pretty_name=title,
        annotations_creators=["machine-generated"],
        source_datasets=[path] if "/" in path else None,
        task_categories=["image-classification"],
        size_categories=[_SIZES[min(max(0, len(str(about["num_labels"])) - 3), len(_SIZES) - 1)]],
        tags=["ssl_zoo", "pseudo-labels", method],
    )
    card = DatasetCard.from_template(
        metadata, template_path=str(TEMPLATE), title=title, method=display_name(method), **about
    )
    return f"{card}\n"
