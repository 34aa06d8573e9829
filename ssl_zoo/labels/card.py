"""What stands beside pseudo-labels: where they come from, as data for programs and as a page for people."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from huggingface_hub import DatasetCardData

from ssl_zoo.data.label_files import HeadSummary
from ssl_zoo.models.registry import display_name
from ssl_zoo.provenance import command, commit, versions


__all__ = ["describe_labels", "render_label_card"]

_NAMED_SKIPPED = 20


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

    Returns:
        `dict`: JSON data.
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
    """Render the README.md of a data set of pseudo-labels.

    Args:
        about (`dict`): What `describe_labels` returned.

    Returns:
        `str`: Markdown with the Hub's metadata.
    """
    model, data = about["model"], about["data"]
    method, split = display_name(model["method"]), data["split"]
    on_hub = "/" in data["path"]
    metadata = DatasetCardData(
        pretty_name=f"Pseudo-labels of {data['path']} by {method}",
        annotations_creators=["machine-generated"],
        source_datasets=[data["path"]] if on_hub else None,
        task_categories=["image-classification"],
        size_categories=[_size(about["num_labels"])],
        tags=["ssl_zoo", "pseudo-labels", model["method"]],
    )
    # No `configs`: with them `datasets` takes all folders of one name for the same data, and reads an old copy from
    # its cache. The names of the files say the split.
    labelled = f"the first {data['num_rows']:,} rows" if data["limit"] else f"all {data['num_rows']:,} rows"
    parts = [
        f"---\n{metadata.to_yaml()}\n---\n",
        f"# Pseudo-labels of {data['path']} by {method}\n",
        f"What the model `{model['name']}` ({method}, {model['architecture']}) makes of {labelled} of the split "
        f"`{split}` of `{data['path']}`. There are no images in here: a row is found by its `sample_id`, the number "
        f"of the image's row in file order, counted from 0.\n",
        _columns(about),
        _heads(about),
        _use(split),
        _origin(about),
        "## Licence\n\nThe labels were made from the images by the model, and the terms of both may apply to them; "
        "see there. They are no ground truth: what the model confuses, they confuse.\n",
    ]
    return "\n".join(parts)


def _size(rows: int) -> str:
    steps = ["n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B"]
    return steps[min(max(0, len(str(rows)) - 3), len(steps) - 1)]


def _columns(about: dict[str, Any]) -> str:
    rows = [
        ("sample_id", "int64", "row of the image"),
        ("pseudo_label_H", "int32", "most likely cluster of head H"),
        ("confidence_H", "float32", "its probability"),
    ]
    if about["soft"] == "all" or about["soft"]:
        count = "all clusters" if about["soft"] == "all" else f"the {about['soft']} most likely clusters"
        rows += [
            ("soft_labels_H", "list of int32", f"{count}, most likely first"),
            ("soft_probabilities_H", "list of float32", "their probabilities"),
        ]
    lines = [f"| `{name}` | {kind} | {meaning} |" for name, kind, meaning in rows]
    return "\n".join(["## Columns\n", "| column | type | meaning |", "|---|---|---|", *lines, ""])


def _heads(about: dict[str, Any]) -> str:
    lines = [
        f"| {number} | {head['num_clusters']:,} | {head['num_used']:,} | {100 * head['largest_share']:.2f} % | "
        f"{head['mean_confidence']:.3f} |"
        for number, head in enumerate(about["heads"])
    ]
    title = "| head | clusters | with an image | share of the largest | mean confidence |"
    skipped = about["skipped"]
    named = ", ".join(map(str, skipped[:_NAMED_SKIPPED])) + (", ..." if len(skipped) > _NAMED_SKIPPED else "")
    corrupt = f"Rows without a readable image, and so without a label ({len(skipped):,}): {named}." if skipped else ""
    return "\n".join([f"## {about['num_labels']:,} labels\n", title, "|---|---|---|---|---|", *lines, "", corrupt, ""])


def _use(split: str) -> str:
    return (
        "## Use\n\n```python\nfrom datasets import load_dataset\n\n"
        f'labels = load_dataset("FOLDER_OR_REPOSITORY", split="{split}")\n```\n\n'
        "To train on them with ssl_zoo, the images being those of `data.path`:\n\n```bash\n"
        "accelerate launch recipes/train.py recipes/supervised/cifar10_small_cpu_labels.yaml "
        "data.label_table=FOLDER_OR_REPOSITORY\n```\n"
    )


def _origin(about: dict[str, Any]) -> str:
    model, data = about["model"], about["data"]
    rows = {
        "model": f"`{model['name']}`",
        "revision of the model": model["revision"],
        "SHA-256 of its weights": f"`{model['weights_sha256']}`",
        "images": f"`{data['path']}`" + (f", configuration `{data['name']}`" if data["name"] else ""),
        "revision of the images": data["revision"],
        "view (size, short side, interpolation, mean and std)": f"`{about['view']}`",
        "commit of ssl_zoo": about["commit"],
        "versions": ", ".join(f"{name} {version}" for name, version in about["versions"].items()),
        "command": f"`{about['command']}`",
        "date": about["date"],
    }
    lines = [f"| {name} | {value or 'unknown'} |" for name, value in rows.items()]
    return "\n".join(["## Where they come from\n", "| what | which |", "|---|---|", *lines, ""])
