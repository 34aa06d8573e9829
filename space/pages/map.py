"""The map: every image a point, similar ones close together; hovering shows an image, a region lists its images."""

import base64
from collections.abc import Mapping
from typing import Any

import numpy as np
from shell import App
from view import texts

from ssl_zoo.explore.clusters import Clustering
from ssl_zoo.explore.map import NAMES, Map, Maps, map_methods
from ssl_zoo.explore.palette import color_of, sequential
from ssl_zoo.explore.pictures import data_uri


TITLE, ORDER = "Map", 20

_MAX_PICTURES = 60  # in an answer
_SHADES = 64


def build(app: App) -> None:
    """Lay out the page."""
    maps = Maps()

    def map_open(question: dict[str, Any]) -> dict[str, Any]:
        """The map with what its points are coloured by; `step` while it isn't done."""
        clustering = app.clustering(texts(question.get("request")), texts(question.get("view")))
        done = maps.advance(clustering.explained, str(question.get("method") or "auto"))  # type: ignore[arg-type]
        return _described(done, clustering) if isinstance(done, Map) else {"step": done._asdict()}

    def map_images(question: dict[str, Any]) -> dict[str, Any]:
        gallery = app.explained(texts(question.get("request"))).gallery
        asked = question.get("numbers")
        asked = asked[:_MAX_PICTURES] if isinstance(asked, list) else []
        numbers = [number for number in asked if isinstance(number, int) and 0 <= number < len(gallery)]
        return {"images": [[number, data_uri(gallery.small_images[number])] for number in numbers]}

    app.widget("map", _methods, [map_open, map_images])


def _methods(request: Mapping[str, str], view: Mapping[str, str]) -> dict[str, Any]:
    return {"methods": [[name, NAMES[name]] for name in map_methods()]}


def _described(done: Map, clustering: Clustering) -> dict[str, Any]:
    gallery = clustering.explained.gallery
    present = sorted({int(label) for label in gallery.labels if label >= 0})
    low, high = np.percentile(
        clustering.confidence, [2, 98]
    )  # a few confident images would leave all others one colour
    return {
        "method": done.method,
        "description": done.description,
        "points": _packed(np.round(done.points * 32767), "<i2"),
        "clusters": _packed(clustering.pseudo_labels, "<i4"),
        "classes": _packed(gallery.labels, "<i4") if present else None,
        "confidence": _packed(clustering.confidence, "<f4"),
        "low": float(low),
        "high": float(high),
        "cluster_classes": [cluster.majority_name for cluster in clustering.clusters],
        "cluster_colors": [color_of(number) for number in range(len(clustering))],
        "class_names": {str(label): gallery.class_name(label) for label in present},
        "class_colors": {str(label): color_of(label) for label in (-1, *present)},
        "shades": sequential(_SHADES),
    }


def _packed(values: np.ndarray, kind: str) -> str:
    """Numbers as their bytes: reading 10,000 of them from text would take a second."""
    return base64.b64encode(np.asarray(values).astype(kind).tobytes()).decode()
