"""Galleries and a model's outputs for them, made by hand: no image is decoded and no model runs."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from ssl_zoo.explore.gallery import Gallery
from ssl_zoo.explore.preparation import Explained


def make_gallery(folder: Path, labels: list[int] | np.ndarray, class_names: list[str] | None = None) -> Gallery:
    """A gallery of equal grey pictures with these classes."""
    folder.mkdir(parents=True)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "grey").save(buffer, "JPEG")
    count, picture = len(labels), buffer.getvalue()
    table = pa.table(
        {
            "sample_id": pa.array(range(count), pa.int64()),
            "label": pa.array([int(label) for label in labels], pa.int64()),
            "image": pa.array([picture] * count, pa.binary()),
            "small": pa.array([picture] * count, pa.binary()),
        }
    )
    pq.write_table(table, folder / "part-00000.parquet")
    (folder / "gallery.json").write_text(json.dumps({"class_names": class_names, "corrupt": 0}))
    return Gallery(folder)


def explain(
    folder: Path, gallery: Gallery, log_probabilities: np.ndarray, features: np.ndarray | None = None, **about: object
) -> Explained:
    """Log-probabilities `(images, heads, clusters)` and features `(images, width)` as a preparation leaves them."""
    folder.mkdir(parents=True)
    heads, clusters = log_probabilities.shape[1:]
    features = np.random.default_rng(0).normal(size=(len(gallery), 8)) if features is None else features
    np.save(folder / "scores.npy", log_probabilities.astype(np.float16))
    np.save(folder / "features.npy", features.astype(np.float32))
    known = {"model": "made", "title": "made", "method": None, "kmeans": False}
    counts = {"num_heads": heads, "num_clusters": clusters}
    (folder / "about.json").write_text(json.dumps(known | counts | about))
    return Explained(gallery, folder, folder / "features.npy")


def sure_of(labels: np.ndarray, clusters: int, confidence: float | np.ndarray = 0.9) -> np.ndarray:
    """Log-probabilities `(images, 1, clusters)` that give each image this cluster with this confidence."""
    confidence = np.broadcast_to(confidence, len(labels))
    found = np.repeat(np.log((1 - confidence) / (clusters - 1))[:, None], clusters, axis=1)
    found[np.arange(len(labels)), labels] = np.log(confidence)
    return found[:, None]
