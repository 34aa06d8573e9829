"""Try an image: its clusters, the images most like it, and where changed views of it land."""

import io
import logging
import math
import threading
import time
from collections.abc import Mapping
from typing import Any

import gradio as gr
from markup import asset, escape, plural
from PIL import Image
from shell import QUIET, App
from view import changed, texts

from ssl_zoo.explore.clusters import Cluster, Clustering
from ssl_zoo.explore.pictures import data_uri, spaced
from ssl_zoo.explore.preparation import Explorer
from ssl_zoo.explore.query import Found, Hit, Neighbour, Views, augmented, look_at, model_picture
from ssl_zoo.explore.uploads import decode_base64, read_upload
from ssl_zoo.explore.workbench import ExploreError, Request


_EXAMPLES = 12
_BARS, _NEIGHBOURS, _VIEWS = 10, 12, 6
_GRIDS, _MEMBERS = 3, 12  # clusters whose images are shown, and how many of each
_PREVIEW, _SEEN = 320, 96
_AT_ONCE = 2  # images that are looked at at the same time; more would each wait for the same processor
_SETTINGS = {"head": "0", "mode": "softmax", "temperature": "1"}

_log = logging.getLogger(__name__)


def build(app: App) -> None:
    """Lay out the page."""
    turns = threading.BoundedSemaphore(_AT_ONCE)

    def try_image(question: dict[str, Any]) -> dict[str, Any]:
        try:
            return _answer(app, turns, question)
        except ExploreError as error:
            return {"error": str(error)}
        except Exception:
            _log.exception("an image could not be looked at")
            return {"error": "Something went wrong while looking at this image; the server's log says what."}

    widget = gr.HTML(
        value=_shown(app, {}, {}),
        html_template=asset("query.html"),
        js_on_load=asset("query.js"),
        server_functions=[try_image],
        apply_default_css=False,
        container=False,
        elem_id="query",
    )
    app.draw("query", lambda request, view: _shown(app, request, view), widget)
    # Gradio hands on only what differs from the last value, so this one does.
    widget.ready(
        lambda visitor: {**_shown(app, visitor.request, visitor.view), "asked": time.time()},
        app.visitor,
        widget,
        **QUIET,
    )
    app.choose(widget.select, _open_cluster)
    gr.api(_endpoint(app, turns), api_name="try_image", concurrency_limit=_AT_ONCE)


def _shown(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> dict[str, Any]:
    """What the page knows: what is open, the settings that matter here, and images of the gallery to choose from."""
    examples: list[dict[str, Any]] = []
    if request:
        try:
            gallery = app.explained(request).gallery
        except ExploreError:
            gallery = None  # the bar says what is wrong
        if gallery is not None:
            for number in spaced(range(len(gallery)), _EXAMPLES):
                alt = f"image {number}" + _class_of(gallery.labels[number], gallery.class_name)
                examples.append({"number": number, "alt": alt, "src": data_uri(gallery.small_images[number])})
    settings = {name: view.get(name, value) for name, value in _SETTINGS.items()}
    return {"request": dict(request), "view": settings, "examples": examples}


def _open_cluster(view: Mapping[str, str], event: gr.EventData) -> dict[str, str]:
    return changed(view, page="clusters", cluster=int(event.cluster))


def _answer(app: App, turns: threading.BoundedSemaphore, question: dict[str, Any]) -> dict[str, Any]:
    """Answer the page; `part` is `look` or `views`."""
    found, explorer = _opened(app, texts(question.get("request")), texts(question.get("view")))
    with turns:
        image, known = _brought(found, question.get("image"), question.get("example"))
        if question.get("part") == "views":
            seed = question.get("seed")
            seed = seed if isinstance(seed, int) else 0
            return {"html": _views_html(found, augmented(image, explorer, found, num_views=_VIEWS, seed=seed))}
        seen = look_at(image, explorer, found, num_clusters=_BARS, num_neighbours=_NEIGHBOURS, known=known)
    gallery = found.explained.gallery
    alt = "the image that was brought"
    if known is not None:
        alt = f"image {known} of the gallery" + _class_of(gallery.labels[known], gallery.class_name)
    return {
        "html": _found_html(found, seen, model_picture(image, explorer)),
        "picture": _picture(image, _PREVIEW),
        "alt": alt,
        "words": f"Most likely in cluster {seen.hits[0].number}.",
    }


def _opened(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> tuple[Clustering, Explorer]:
    """The clusters that are looked at, and the model; opening them may take long, so it takes nobody's turn."""
    if not request:
        raise ExploreError("Nothing is open yet: open a model and images first.")
    return app.clustering(request, view), app.bench.explorer(Request.from_query(request))


def _brought(found: Clustering, content: Any, example: Any) -> tuple[Image.Image, int | None]:
    """The image, and its number if it is one of the gallery."""
    gallery = found.explained.gallery
    if isinstance(content, str):
        return read_upload(decode_base64(content)), None
    if isinstance(example, int) and 0 <= example < len(gallery):
        return gallery.image(example), example
    raise ExploreError("There is no image to look at: choose one first.")


def _endpoint(app: App, turns: threading.BoundedSemaphore) -> Any:
    def try_image(
        image: str, request: dict[str, str], view: dict[str, str] | None = None, views: int = 0, seed: int = 0
    ) -> dict[str, Any]:
        """Look at an image with a model that is open.

        Args:
            image: The image file as base64, or as a data URL; nothing is stored.
            request: What is open, as in the page's address: model, data, split, images.
            view: Head, mode and temperature, as in the page's address.
            views: Changed views to look at, too.
            seed: Of the views.
        """
        try:
            found, explorer = _opened(app, texts(request), texts(view))
            with turns:
                picture, _ = _brought(found, image, None)
                seen = look_at(picture, explorer, found)
                changes = augmented(picture, explorer, found, num_views=views, seed=seed) if views else None
        except ValueError as error:  # ours are, too
            raise gr.Error(str(error), print_exception=False) from None
        name = found.explained.gallery.class_name
        return {
            "clusters": [
                {"cluster": hit.number, "probability": hit.probability, "class": found[hit.number].majority_name}
                for hit in seen.hits
            ],
            "entropy": seen.entropy,
            "neighbours": [
                {**each._asdict(), "class": name(int(found.explained.gallery.labels[each.image]))}
                for each in seen.neighbours
            ],
            "views": [
                {"cluster": each.cluster, "probability": each.probability, "similarity": each.similarity}
                for each in (changes.landings if changes else [])
            ],
        }

    return try_image


def _found_html(found: Clustering, seen: Found, picture: Image.Image) -> str:
    """Bars, neighbours and the likeliest clusters."""
    most = math.log(len(found))
    largest = max(seen.hits[0].probability, 1e-9)
    bars = "".join(_bar(found, hit, largest) for hit in seen.hits)
    words = f"Entropy {seen.entropy:.2f} of at most {most:.2f} nats"
    if len(found) > len(seen.hits):
        rest = max(1 - sum(hit.probability for hit in seen.hits), 0.0)
        words += f"; {plural(len(found) - len(seen.hits), 'other cluster')} share {_percent(rest)}"
    near = "".join(_neighbour(found, each) for each in seen.neighbours)
    grids = "".join(_grid(found, found[hit.number], hit.probability) for hit in seen.hits[:_GRIDS])
    return (
        f'<div class="query-columns"><section><h3>Clusters</h3><ol class="query-bars">{bars}</ol>'
        f'<p class="query-small">{words}.</p></section>'
        f'<figure class="query-seen"><img src="{_picture(picture, _SEEN, enlarge=True)}" width="{_SEEN}" '
        f'height="{_SEEN}" alt="the part of the image that the model sees">'
        f"<figcaption>what the model sees, {picture.width} x {picture.height}</figcaption></figure></div>"
        f'<h3>Nearest images <small>cosine similarity, class, cluster</small></h3><ul class="query-grid">{near}</ul>'
        f'<h3>Likeliest clusters</h3><div class="query-clusters">{grids}</div>'
    )


def _bar(found: Clustering, hit: Hit, largest: float) -> str:
    """A cluster and its probability; the bars are relative to the largest."""
    width = 100 * hit.probability / largest
    return (
        f'<li>{_link(found[hit.number])}<span class="query-bar"><span style="width:{width:.1f}%"></span></span>'
        f"<data>{_percent(hit.probability)}</data></li>"
    )


def _neighbour(found: Clustering, each: Neighbour) -> str:
    """An image of the gallery with its similarity, class and cluster."""
    gallery = found.explained.gallery
    label = int(gallery.labels[each.image])
    name = escape(gallery.class_name(label)) if label >= 0 else ""
    return (
        f"<li><figure>{_image(found, each.image)}<figcaption><b>{each.similarity:.3f}</b> {name} "
        f"{_link(found[each.cluster], short=True)}</figcaption></figure></li>"
    )


def _grid(found: Clustering, cluster: Cluster, probability: float) -> str:
    """The most confident images of a cluster."""
    members = found.members(cluster.number)[:_MEMBERS].tolist()
    words = [_percent(probability), plural(cluster.size, "image")]
    if cluster.confidence is not None:
        words.append(f"confidence {cluster.confidence:.2f}")
    images = "".join(_image(found, number) for number in members)
    grid = f'<div class="query-strip">{images}</div>' if images else '<p class="query-small">No image is in it.</p>'
    return f"<section><p>{_link(cluster)} <small>{' · '.join(words)}</small></p>{grid}</section>"


def _views_html(found: Clustering, views: Views) -> str:
    """The changed views and where each lands."""
    items = "".join(_view(found, views, number) for number in range(len(views.landings)))
    kind = "changed as in its training" if views.of_recipe else "changed as SimCLR does, since the model has no recipe"
    return (
        f"<h3>Changed views <small>similarity to the image, probability, cluster</small></h3>"
        f'<p class="query-small"><span role="status">{views.stay} of {len(views.landings)} views stay in cluster '
        f"{views.cluster}</span>; {kind}. "
        f'<button type="button" data-do="again">Other views</button></p><ul class="query-grid">{items}</ul>'
    )


def _view(found: Clustering, views: Views, number: int) -> str:
    """One view; it is marked where it lands in another cluster than the image."""
    each = views.landings[number]
    moved = each.cluster != views.cluster
    return (
        f'<li{" class=query-moved" if moved else ""}><figure><img src="{_picture(each.picture, _SEEN, enlarge=True)}" '
        f'width="{_SEEN}" height="{_SEEN}" alt="changed view {number + 1}"><figcaption><b>{each.similarity:.3f}</b> '
        f"{_percent(each.probability)} {_link(found[each.cluster], short=True)}"
        f"{' <em>moved</em>' if moved else ''}</figcaption></figure></li>"
    )


def _link(cluster: Cluster, *, short: bool = False) -> str:
    """A button that opens a cluster."""
    name = f"#{cluster.number}"
    if not short and cluster.majority_name is not None and cluster.purity is not None:
        name += f" <span>{escape(cluster.majority_name)} {100 * cluster.purity:.0f} %</span>"
    return (
        f'<button type="button" class="query-link" data-cluster="{cluster.number}" '
        f'title="open cluster {cluster.number}">{name}</button>'
    )


def _image(found: Clustering, number: int) -> str:
    """A small picture of an image of the gallery."""
    gallery = found.explained.gallery
    alt = f"image {number}" + _class_of(gallery.labels[number], gallery.class_name)
    return f'<img src="{data_uri(gallery.small_images[number])}" width="96" height="96" alt="{escape(alt)}">'


def _class_of(label: int, class_name: Any) -> str:
    return f", {class_name(int(label))}" if label >= 0 else ""


def _percent(share: float) -> str:
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


def _picture(image: Image.Image, side: int, *, enlarge: bool = False) -> str:
    """An image as an address, no larger than `side`; small ones are enlarged so that their pixels stay visible."""
    if max(image.size) > side:
        image = image.copy()
        image.thumbnail((side, side))
    elif enlarge and max(image.size) * 2 <= side:
        factor = side // max(image.size)
        image = image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if enlarge else "JPEG", **({} if enlarge else {"quality": 88}))
    return data_uri(buffer.getvalue(), "png" if enlarge else "jpeg")
