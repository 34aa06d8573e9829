"""The map: every image a point, those alike close together; hovering shows one, a region lists its images."""

import base64
import logging
import time
from collections.abc import Mapping
from typing import Any

import gradio as gr
import numpy as np
from markup import asset
from shell import QUIET, App
from view import changed, texts

from ssl_zoo.explore.clusters import Clustering
from ssl_zoo.explore.map import NAMES, Map, Maps, map_methods
from ssl_zoo.explore.palette import color_of, sequential
from ssl_zoo.explore.pictures import data_uri
from ssl_zoo.explore.workbench import ExploreError


_AT_ONCE = 60  # pictures in an answer
_SHADES = 64
_SETTINGS = {"head": "0", "mode": "softmax", "temperature": "1"}

_log = logging.getLogger(__name__)


def build(app: App) -> None:
    """Lay out the page."""
    maps = Maps()

    def map_open(question: dict[str, Any]) -> dict[str, Any]:
        try:
            return _answer(app, maps, question)
        except ExploreError as error:
            return {"error": str(error)}
        except Exception:
            _log.exception("a map could not be made")
            return {"error": "Something went wrong while making this map; the server's log says what."}

    def map_images(question: dict[str, Any]) -> dict[str, Any]:
        try:
            gallery = app.explained(texts(question.get("request"))).gallery
        except ExploreError as error:
            return {"error": str(error)}
        asked = question.get("numbers")
        asked = asked[:_AT_ONCE] if isinstance(asked, list) else []
        numbers = [number for number in asked if isinstance(number, int) and 0 <= number < len(gallery)]
        return {"images": [[number, data_uri(gallery.small_images[number])] for number in numbers]}

    widget = gr.HTML(
        value=_known({}, {}),
        html_template=asset("map.html"),
        js_on_load=asset("map.js"),
        server_functions=[map_open, map_images],
        apply_default_css=False,
        container=False,
        elem_id="map",
    )
    app.draw("map", _known, widget)
    # Gradio hands on only what differs from the last value, so this one does.
    widget.ready(
        lambda visitor: {**_known(visitor.request, visitor.view), "asked": time.time()}, app.visitor, widget, **QUIET
    )
    app.choose(widget.select, _open_cluster)


def _known(request: Mapping[str, str], view: Mapping[str, str]) -> dict[str, Any]:
    """What the page has to know: what is open, and the settings that change its colours."""
    settings = {name: view.get(name, value) for name, value in _SETTINGS.items()}
    return {"request": dict(request), "view": settings, "methods": [[name, NAMES[name]] for name in map_methods()]}


def _open_cluster(view: Mapping[str, str], event: gr.EventData) -> dict[str, str]:
    return changed(view, page="clusters", cluster=int(event.cluster))


def _answer(app: App, maps: Maps, question: dict[str, Any]) -> dict[str, Any]:
    """The map with what its points are coloured by; `step` while it isn't done."""
    request, view = texts(question.get("request")), texts(question.get("view"))
    found = app.clustering(request, view)
    done = maps.advance(found.explained, str(question.get("method") or "auto"))  # type: ignore[arg-type]
    if not isinstance(done, Map):
        return {"step": done._asdict()}
    return _described(done, found)


def _described(done: Map, found: Clustering) -> dict[str, Any]:
    gallery = found.explained.gallery
    present = sorted({int(label) for label in gallery.labels if label >= 0})
    low, high = np.percentile(found.confidence, [2, 98])  # a few sure images would leave all others one colour
    return {
        "method": done.method,
        "words": done.words,
        "points": _packed(np.round(done.points * 32767), "<i2"),
        "clusters": _packed(found.labels, "<i4"),
        "classes": _packed(gallery.labels, "<i4") if present else None,
        "confidence": _packed(found.confidence, "<f4"),
        "low": float(low),
        "high": float(high),
        "cluster_classes": [cluster.majority_name for cluster in found.clusters],
        "cluster_colors": [color_of(number) for number in range(len(found))],
        "class_names": {str(label): gallery.class_name(label) for label in present},
        "class_colors": {str(label): color_of(label) for label in (-1, *present)},
        "shades": sequential(_SHADES),
    }


def _packed(values: np.ndarray, kind: str) -> str:
    """Numbers as their bytes: 10,000 of them as text would take a second to read."""
    return base64.b64encode(np.asarray(values).astype(kind).tobytes()).decode()
