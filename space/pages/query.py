"""Try an image: its clusters, the most similar images of the gallery, and the clusters of augmented views."""

import io
import math
import threading
from collections.abc import Mapping
from typing import Any

from markup import escape, plural, thumbnail
from PIL import Image
from shell import App
from view import texts

from ssl_zoo.explore.clusters import Cluster, Clustering
from ssl_zoo.explore.gallery import Gallery
from ssl_zoo.explore.pictures import data_uri, spaced
from ssl_zoo.explore.preparation import Explorer
from ssl_zoo.explore.query import AugmentedViews, Hit, ImageReport, Neighbor, augmented, look_at, model_picture
from ssl_zoo.explore.uploads import decode_base64, read_upload
from ssl_zoo.explore.workbench import ExploreError, Request


TITLE, ORDER = "Try an image", 30

_EXAMPLES = 12
_BARS, _NEIGHBORS, _VIEWS = 10, 12, 6
_GRIDS, _MEMBERS = 3, 12  # clusters whose images are shown, and how many of each
_PREVIEW, _SEEN = 320, 96
_AT_ONCE = 2  # images that are processed at the same time; more would wait for the same processor


def build(app: App) -> None:
    """Lay out the page."""
    turns = threading.BoundedSemaphore(_AT_ONCE)

    def answer(question: dict[str, Any]) -> dict[str, Any]:
        return _answer(app, turns, question)

    answer.__name__ = "try_image"
    app.widget("query", lambda request, view: {"examples": _examples(app, request)}, [answer])

    def try_image(
        image: str, request: dict[str, str], view: dict[str, str] | None = None, views: int = 0, seed: int = 0
    ) -> dict[str, Any]:
        """Process an image with a model that is open.

        Args:
            image: The image file as base64, or as a data URL; nothing is stored.
            request: What is open, as in the page's address: model, data, split, images.
            view: Head, mode and temperature, as in the page's address.
            views: Number of augmented views to process, too.
            seed: Of the views.
        """
        clustering, explorer = _opened(app, texts(request), texts(view))
        with turns:
            picture, _ = _brought(clustering, image, None)
            report = look_at(picture, explorer, clustering)
            changes = augmented(picture, explorer, clustering, num_views=views, seed=seed) if views else None
        gallery = clustering.explained.gallery
        return {
            "clusters": [
                {"cluster": hit.number, "probability": hit.probability, "class": clustering[hit.number].majority_name}
                for hit in report.hits
            ],
            "entropy": report.entropy,
            "neighbours": [
                {**each._asdict(), "class": gallery.class_name(int(gallery.labels[each.image]))}
                for each in report.neighbors
            ],
            "views": [
                {"cluster": each.cluster, "probability": each.probability, "similarity": each.similarity}
                for each in (changes.landings if changes else [])
            ],
        }

    app.endpoint(try_image, concurrency_limit=_AT_ONCE)


def _examples(app: App, request: Mapping[str, str]) -> list[dict[str, Any]]:
    """Images of the gallery to choose from."""
    try:
        gallery = app.explained(request).gallery
    except ExploreError:
        return []  # the bar reports the error
    numbers = spaced(range(len(gallery)), _EXAMPLES)
    return [
        {"number": number, "alt": _alt(gallery, number), "src": data_uri(gallery.small_images[number])}
        for number in numbers
    ]


def _answer(app: App, turns: threading.BoundedSemaphore, question: dict[str, Any]) -> dict[str, Any]:
    """Answer the page; `part` is `look` or `views`."""
    clustering, explorer = _opened(app, texts(question.get("request")), texts(question.get("view")))
    with turns:
        image, number = _brought(clustering, question.get("image"), question.get("example"))
        if question.get("part") == "views":
            seed = question.get("seed")
            seed = seed if isinstance(seed, int) else 0
            views = augmented(image, explorer, clustering, num_views=_VIEWS, seed=seed)
            return {"html": _views_html(clustering, views)}
        report = look_at(
            image, explorer, clustering, num_clusters=_BARS, num_neighbors=_NEIGHBORS, gallery_number=number
        )
    gallery = clustering.explained.gallery
    return {
        "html": _report_html(clustering, report, model_picture(image, explorer)),
        "picture": _picture(image, _PREVIEW),
        "alt": "the image that you chose" if number is None else _alt(gallery, number),
        "words": f"Most likely in cluster {report.hits[0].number}.",
    }


def _alt(gallery: Gallery, number: int) -> str:
    """Name of an image of the gallery, as plain text."""
    return ", ".join(part for part in (f"image {number} of the gallery", gallery.class_of(number)) if part)


def _opened(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> tuple[Clustering, Explorer]:
    """The clusters and the model. Opening them may take long, so it is done before waiting for a turn."""
    return app.clustering(request, view), app.bench.explorer(Request.from_query(request))


def _brought(clustering: Clustering, content: Any, example: Any) -> tuple[Image.Image, int | None]:
    """The image, and its number if it is one of the gallery."""
    gallery = clustering.explained.gallery
    if isinstance(content, str):
        return read_upload(decode_base64(content)), None
    if isinstance(example, int) and 0 <= example < len(gallery):
        return gallery.image(example), example
    raise ExploreError("There is no image to process: choose one first")


def _report_html(clustering: Clustering, report: ImageReport, picture: Image.Image) -> str:
    """Bars, neighbours and the likeliest clusters."""
    most = math.log(len(clustering))
    largest = max(report.hits[0].probability, 1e-9)
    bars = "".join(_bar(clustering, hit, largest) for hit in report.hits)
    summary = f"Entropy {report.entropy:.2f} of at most {most:.2f} nats"
    if len(clustering) > len(report.hits):
        rest = max(1 - sum(hit.probability for hit in report.hits), 0.0)
        summary += f"; {plural(len(clustering) - len(report.hits), 'other cluster')} share {_percent(rest)}"
    near = "".join(_neighbor(clustering, each) for each in report.neighbors)
    grids = "".join(_grid(clustering, clustering[hit.number], hit.probability) for hit in report.hits[:_GRIDS])
    return (
        f'<div class="query-columns"><section><h3>Clusters</h3><ol class="query-bars">{bars}</ol>'
        f'<p class="query-small">{summary}.</p></section>'
        f'<figure class="query-seen"><img src="{_picture(picture, _SEEN, enlarge=True)}" width="{_SEEN}" '
        f'height="{_SEEN}" alt="the part of the image that the model sees">'
        f"<figcaption>what the model sees, {picture.width} x {picture.height}</figcaption></figure></div>"
        f'<h3>Nearest images <small>cosine similarity, class, cluster</small></h3><ul class="query-grid">{near}</ul>'
        f'<h3>Likeliest clusters</h3><div class="query-clusters">{grids}</div>'
    )


def _bar(clustering: Clustering, hit: Hit, largest: float) -> str:
    """A cluster and its probability; the bars are relative to the largest."""
    width = 100 * hit.probability / largest
    return (
        f'<li>{_link(clustering[hit.number])}<span class="query-bar"><span style="width:{width:.1f}%"></span></span>'
        f"<data>{_percent(hit.probability)}</data></li>"
    )


def _neighbor(clustering: Clustering, each: Neighbor) -> str:
    """An image of the gallery with its similarity, class and cluster."""
    gallery = clustering.explained.gallery
    name = escape(gallery.class_of(each.image))
    return (
        f"<li><figure>{thumbnail(gallery, each.image)}<figcaption><b>{each.similarity:.3f}</b> {name} "
        f"{_link(clustering[each.cluster], short=True)}</figcaption></figure></li>"
    )


def _grid(clustering: Clustering, cluster: Cluster, probability: float) -> str:
    """The most confident images of a cluster."""
    members = clustering.members(cluster.number)[:_MEMBERS].tolist()
    facts = [_percent(probability), plural(cluster.size, "image")]
    if cluster.confidence is not None:
        facts.append(f"confidence {cluster.confidence:.2f}")
    images = "".join(thumbnail(clustering.explained.gallery, number) for number in members)
    grid = f'<div class="query-strip">{images}</div>' if images else '<p class="query-small">No image is in it.</p>'
    return f"<section><p>{_link(cluster)} <small>{' · '.join(facts)}</small></p>{grid}</section>"


def _views_html(clustering: Clustering, views: AugmentedViews) -> str:
    """The augmented views and the cluster of each."""
    items = "".join(_view(clustering, views, number) for number in range(len(views.landings)))
    kind = (
        "augmented as in its training" if views.of_recipe else "augmented as in SimCLR, since the model has no recipe"
    )
    return (
        f"<h3>Augmented views <small>similarity to the image, probability, cluster</small></h3>"
        f'<p class="query-small"><span role="status">{views.stay} of {len(views.landings)} views stay in cluster '
        f"{views.cluster}</span>; {kind}. "
        f'<button type="button" data-do="again">Other views</button></p><ul class="query-grid">{items}</ul>'
    )


def _view(clustering: Clustering, views: AugmentedViews, number: int) -> str:
    """One view; it is marked when its cluster isn't the image's."""
    each = views.landings[number]
    moved = each.cluster != views.cluster
    return (
        f'<li{" class=query-moved" if moved else ""}><figure><img src="{_picture(each.picture, _SEEN, enlarge=True)}" '
        f'width="{_SEEN}" height="{_SEEN}" alt="augmented view {number + 1}"><figcaption><b>{each.similarity:.3f}</b> '
        f"{_percent(each.probability)} {_link(clustering[each.cluster], short=True)}"
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
