"""Discs and squares on textured backgrounds, stored as detection data sets on the Hub are."""

import io
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from PIL import Image, ImageDraw


SHAPES = ("disc", "square")


def draw_shapes(seed: int, *, num_objects: int = 2) -> tuple[Image.Image, list[list[float]], list[int]]:
    """An image of 64 to 96 pixels a side, boxes (left, top, right, bottom) and classes; boxes don't overlap."""
    generator = np.random.default_rng(seed)
    width, height = (int(side) for side in generator.integers(8, 13, 2) * 8)
    coarse = generator.integers(60, 140, (8, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = generator.normal(0, 8, (height, width, 3))
    image = Image.fromarray(np.clip(np.asarray(image) + noise, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    boxes: list[list[float]] = []
    labels = []
    halves = [(0, width // 2), (width // 2, width)]  # one object in each half
    for start, stop in halves[:num_objects]:
        side = int(generator.integers(18, stop - start - 5))
        left = start + int(generator.integers(2, stop - start - side - 1))
        top = int(generator.integers(2, height - side - 2))
        label = int(generator.integers(2))
        color = (220, 60, 40) if label == 0 else (50, 90, 230)
        (draw.ellipse if label == 0 else draw.rectangle)((left, top, left + side, top + side), fill=color)
        boxes.append([left, top, left + side + 1, top + side + 1])
        labels.append(label)
    return image, boxes, labels


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_rows(folder: Path, rows: list[dict[str, Any]], *, split: str = "train", fields: Any = None) -> Path:
    """Rows of `image` (bytes) and `objects` (a dictionary of lists) as a parquet file with features."""
    fields = fields or {
        "bbox": datasets.List(datasets.Value("float32"), length=4),
        "category": datasets.ClassLabel(names=list(SHAPES)),
    }
    objects = {name: datasets.List(feature) for name, feature in fields.items()}
    features = datasets.Features({"image": datasets.Image(), "objects": objects})
    columns = {
        "image": [{"bytes": row["image"], "path": None} for row in rows],
        "objects": [row["objects"] for row in rows],
    }
    folder.mkdir(parents=True, exist_ok=True)
    number = len(list(folder.glob(f"{split}-*.parquet")))
    datasets.Dataset.from_dict(columns, features=features).to_parquet(folder / f"{split}-{number:05d}.parquet")
    return folder


def shape_rows(seeds: range, *, box_format: str = "xywh") -> list[dict[str, Any]]:
    """One row of shapes for each seed."""
    rows = []
    for seed in seeds:
        image, boxes, labels = draw_shapes(seed)
        if box_format == "xywh":
            boxes = [[left, top, right - left, bottom - top] for left, top, right, bottom in boxes]
        rows.append({"image": png(image), "objects": {"bbox": boxes, "category": labels}})
    return rows
