"""SeLa's pseudo-labels as a data set: the format of recipes/label.py, made of a table that the authors saved.

They differ from what a model says of images: they are the assignments of equal size that it was trained on, so they
have no probabilities, and their numbering is the authors' order of the images, which a copy on the Hub may lack.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from huggingface_hub import DatasetCardData

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.data.label_files import LABELS_FILE, HeadSummary
from ssl_zoo.provenance import command, commit, versions


__all__ = ["write_label_table"]

_FILE = "data/train-00000-of-00001.parquet"
_ROW_GROUP = 2**17
_IMAGEFOLDER = (
    "their places in torchvision's ImageFolder of train/: class folders sorted by name, files sorted in each"
)
_CAVEAT = (
    " Class folders as they are read here come in the same order, unless one's name is the beginning of another's, "
    "which no class of ImageNet is."
)
# Number of training images -> name under which the data must be given, and what their ids are.
_ORDERS = {
    1_281_167: ("imagenet-1k-imagefolder", _IMAGEFOLDER),
    50_000: (
        "cifar-in-batches",
        "their places in the original files of CIFAR, data_batch_1 to 5, or train of CIFAR-100",
    ),
}


def write_label_table(table: torch.Tensor, folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Write the labels of all training images as recipes/label.py would, whole or not at all.

    Args:
        table (`torch.Tensor` of shape `(heads, images)`): Clusters, whole numbers from 0.
        folder (`Path`): Folder to make, such as `OUT/labels`; replaced if it is there.
        about (`Mapping`): Content of `conversion.json`, perhaps with `architecture` and `num_clusters`.

    Returns:
        `dict`: content of labels.json.

    Raises:
        ValueError: if the table isn't a table of clusters.
    """
    if table.ndim != 2 or table.is_floating_point() or not table.numel() or int(table.min()) < 0:
        raise ValueError(
            f"a table of labels must have whole numbers from 0 and the shape (heads, images), got {table.dtype} of "
            f"{list(table.shape)}"
        )
    labels = table.to(torch.int32).cpu().numpy()
    num_clusters = int(about.get("num_clusters") or labels.max() + 1)
    columns: dict[str, pa.Array] = {"sample_id": pa.array(np.arange(labels.shape[1]), pa.int64())}
    heads = []
    for number, head in enumerate(labels):
        columns[f"pseudo_label_{number}"] = pa.array(head, pa.int32())
        columns[f"confidence_{number}"] = pa.nulls(len(head), pa.float32())
        counts = np.bincount(head, minlength=num_clusters)
        used, largest = int((counts > 0).sum()), float(counts.max() / len(head))
        heads.append(HeadSummary(num_clusters, used, largest, 0.0)._asdict() | {"mean_confidence": None})
    content = _describe(about, heads, num_rows=labels.shape[1])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(folder) as made:
        (made / "data").mkdir(parents=True)
        pq.write_table(pa.table(columns), made / _FILE, row_group_size=_ROW_GROUP)
        (made / LABELS_FILE).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (made / "README.md").write_text(_render_card(content), encoding="utf-8")
    return content


def _describe(about: Mapping[str, Any], heads: list[dict[str, Any]], *, num_rows: int) -> dict[str, Any]:
    """Content of labels.json: what `read_label_table` compares, and where the labels come from."""
    path, order = _ORDERS.get(num_rows, ("images-in-imagefolder-order", _IMAGEFOLDER))
    source = dict(about.get("source") or {})
    return {
        "model": {
            "name": about.get("entry") or source.get("file"),
            "revision": None,
            "method": about.get("method", "sela"),
            "architecture": about.get("architecture"),
            "weights_sha256": None,
        },
        # The name is no data set's on purpose: nothing else would tell a copy of the same images in another order.
        "data": {
            "path": path,
            "name": None,
            "revision": None,
            "split": "train",
            "num_rows": num_rows,
            "limit": None,
            "order": order,
        },
        "view": None,
        "soft": 0,
        "clusters_per_head": [head["num_clusters"] for head in heads],
        "source": source,
        "license": about.get("license"),
        "paper": about.get("paper"),
        "files": {_FILE: num_rows},
        "heads": heads,
        "num_labels": num_rows,
        "skipped": [],
        "commit": commit(),
        "versions": versions(),
        "command": command(),
        "date": datetime.now(UTC).date().isoformat(),
    }


def _render_card(content: Mapping[str, Any]) -> str:
    """The README.md: metadata of the Hub, then what a person must know before using the labels."""
    data, source, licence = content["data"], content["source"], content["license"] or {}
    metadata = DatasetCardData(
        license=licence.get("id"),
        pretty_name="Pseudo-labels of SeLa, the authors' own",
        annotations_creators=["machine-generated"],
        task_categories=["image-classification"],
        tags=["ssl_zoo", "pseudo-labels", content["model"]["method"]],
    )
    lines = [
        f"| {number} | {head['num_clusters']:,} | {head['num_used']:,} | {100 * head['largest_share']:.3f} % |"
        for number, head in enumerate(content["heads"])
    ]
    origin = {
        "model": content["model"]["name"],
        "architecture": content["model"]["architecture"],
        "file": source.get("file"),
        "SHA-256 of the file": source.get("sha256"),
        "address of the file": source.get("url"),
        "paper": content["paper"],
        "commit of ssl_zoo": content["commit"],
        "command": f"`{content['command']}`",
        "date": content["date"],
    }
    return "\n".join(
        [
            f"---\n{metadata.to_yaml()}\n---\n",
            "# Pseudo-labels of SeLa, the authors' own\n",
            f"The labels of {content['num_labels']:,} training images on which SeLa's authors trained the model of "
            f"`{source.get('file')}`, taken out of that file. They are what its label solves came to: for each head, "
            f"clusters of about equal size, found by optimal transport. They aren't predictions, so they have no "
            f"probability: the columns `confidence_H` are empty. There are no images in here.\n",
            "## The order of the images\n",
            f"`sample_id` numbers the images from 0 by {data['order']}. **A copy of the same images on the Hub need "
            f"not have this order**, and nothing in the file tells: in another order every label would belong to "
            f"another image. So these labels are refused for any data set but a folder named `{data['path']}` with "
            f"{data['num_rows']:,} images in its `train/`. Name your copy so if it has this order, or write its name "
            f"as `path` under `data` into {LABELS_FILE}.{_CAVEAT if data['order'] == _IMAGEFOLDER else ''}\n",
            "## Heads\n",
            "| head | clusters | with an image | share of the largest |",
            "|---|---|---|---|",
            *lines,
            "\n## Use\n",
            "```bash\naccelerate launch recipes/train.py recipes/supervised/imagenet1k_alexnet_labels.yaml \\\n"
            f"  data.path={data['path']} data.image_column=null data.label_column=null data.label_table=FOLDER "
            "data.label_table_column=pseudo_label_0\n```\n",
            "## Where they come from\n",
            "| what | which |",
            "|---|---|",
            *(f"| {name} | {value or 'unknown'} |" for name, value in origin.items()),
            "\n## Licence\n",
            f"That of the authors' release: {licence.get('name') or 'none is stated there'} "
            f"({licence.get('where') or 'unknown'}). The terms of the images may apply, too.\n",
        ]
    )
