"""Photographs as encoded files: those of `tests/photos`, and ImageNet's where a developer has a sample of it."""

import itertools
from pathlib import Path

import datasets
import pyarrow.parquet as pq


_ROOT = Path(__file__).resolve().parents[2]
_IMAGENET = _ROOT.parent / "shared" / "data" / "imagenet-sample-240" / "data"


def photographs() -> list[bytes]:
    """JPEGs of many kinds: `tests/photos/README.md` lists them."""
    return [file.read_bytes() for file in sorted((_ROOT / "tests" / "photos").glob("*.jpg"))] + _imagenet(12)


def _imagenet(number: int) -> list[bytes]:
    cells = [cell for file in sorted(_IMAGENET.glob("*.parquet")) for cell in pq.read_table(file)["image"].to_pylist()]
    return [cell["bytes"] for cell in cells[:: max(1, len(cells) // number)][:number]]


def write_photographs(file: Path, number: int, *, image: str = "image", num_classes: int = 10) -> None:
    """A parquet shard of a number of photographs, repeated in turn, with labels in turn; `image` names the column."""
    names = [f"n{label:08d}" for label in range(num_classes)]
    features = datasets.Features({image: datasets.Image(), "label": datasets.ClassLabel(names=names)})
    contents = itertools.islice(itertools.cycle(photographs()), number)
    columns = {
        image: [{"bytes": content, "path": None} for content in contents],
        "label": [row % num_classes for row in range(number)],
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    datasets.Dataset.from_dict(columns, features=features).to_parquet(file)
