"""The clusters: a card for each with some of its images; an open one shows its images and the nearest clusters."""

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import gradio as gr
from markup import PLAIN, asset, escape, note, plural, thumbnail
from shell import App
from view import READING, Setting, changed, texts

from ssl_zoo.explore.clusters import Cluster, Clustering
from ssl_zoo.explore.palette import color_of
from ssl_zoo.explore.pictures import spaced, strip
from ssl_zoo.explore.workbench import ExploreError


TITLE, ORDER = "Clusters", 10
SETTINGS = {
    "sort": Setting("size"),
    "find": Setting(),
    "only": Setting(),  # "1": dead and over-full clusters only
    "at": Setting("1", of_model=True),  # page of cards
    "cluster": Setting(of_model=True),  # the open one
}

_PER_PAGE = 24
_COLUMNS, _ROWS, _SIDE = 6, 2, 72
_SHOWN = 24  # most and least confident images of an open cluster
_BARS = 12

# Value of `sort` -> its name in the list, the attribute of a cluster, and whether the largest comes first.
ORDERS: dict[str, tuple[str, str, bool]] = {
    "size": ("largest", "size", True),
    "-size": ("smallest", "size", False),
    "purity": ("purest", "purity", True),
    "-purity": ("least pure", "purity", False),
    "confidence": ("most confident", "confidence", True),
    "-confidence": ("least confident", "confidence", False),
    "-entropy": ("fewest classes (entropy)", "entropy", False),
    "entropy": ("most mixed classes (entropy)", "entropy", True),
    "number": ("by number", "number", False),
}
_OF_CLASSES = ("purity", "entropy")  # attributes that need classes


def build(app: App) -> None:
    """Lay out the page."""
    with gr.Row(elem_classes="controls"):
        sort = gr.Dropdown(
            [(title, key) for key, (title, _, _) in ORDERS.items()],
            value="size",
            label="Sort",
            elem_id="sort",
            elem_classes="field",
            scale=1,
            min_width=150,
        )
        find = gr.Textbox(
            label="Find",
            placeholder="class or cluster number",
            max_lines=1,
            max_length=100,
            elem_id="find",
            elem_classes="field",
            scale=2,
        )
        only = gr.Checkbox(label="Dead and over-full only", elem_id="only", scale=0, min_width=210)
    detail = gr.HTML(elem_id="cluster-detail", js_on_load=asset("clusters.js"), **PLAIN)
    cards = gr.HTML(elem_id="cluster-cards", js_on_load=asset("clusters.js"), **PLAIN)

    def restore(request: Mapping[str, str], view: Mapping[str, str]) -> list[object]:
        has_classes = bool(request) and bool((app.explained(request).gallery.labels >= 0).any())
        orders = [(title, key) for key, (title, by, _) in ORDERS.items() if has_classes or by not in _OF_CLASSES]
        order = view["sort"] if view["sort"] in dict(orders).values() else SETTINGS["sort"].default
        return [
            gr.update(value=order, choices=orders),
            gr.update(value=view["find"]),
            gr.update(value=bool(view["only"])),
        ]

    app.draw(restore, [sort, find, only], uses=())
    app.draw(partial(_detail, app), detail, uses=(*READING, "cluster"))
    app.draw(partial(_cards, app), cards, uses=(*READING, "sort", "find", "only", "at"))
    app.set(sort.input, partial(_listed, "sort"), sort)
    app.set(find.change, partial(_listed, "find"), find)  # gradio's `input` misses deleted letters
    app.set(only.input, partial(_listed, "only"), only)
    for widget in (cards, detail):
        app.choose(widget.select, _choose)

    def clusters(request: dict[str, str], view: dict[str, str] | None = None) -> list[dict[str, Any]]:
        """List the clusters in the order of the page, dead ones included.

        Args:
            request: What to open, as in the page's address: model, data, split, images.
            view: Head, mode, temperature, sort and find, as in the page's address.
        """
        settings = texts(view)
        return [asdict(cluster) for cluster in _ordered(app.clustering(texts(request), settings), settings)]

    app.endpoint(clusters)


def _listed(name: str, view: Mapping[str, str], value: Any) -> Mapping[str, str]:
    """Another choice of cards starts at its first page; a control that is only left changes nothing."""
    text = str(value or "").strip() if not isinstance(value, bool) else "1" if value else ""
    return view if text == view[name] else changed(view, **{name: text}, at=1)


def _choose(view: Mapping[str, str], event: gr.EventData) -> dict[str, str]:
    """What a click on a card, on a link to a cluster or on a page number changes."""
    clicked = {name: getattr(event, name, None) for name in ("cluster", "at")}
    return changed(view, **{name: value for name, value in clicked.items() if value is not None})


def _ordered(clustering: Clustering, view: Mapping[str, str]) -> list[Cluster]:
    """The clusters that a visitor searched for, sorted."""
    _, sort, descending = ORDERS.get(view.get("sort", ""), ORDERS["size"])
    return clustering.ordered(sort, descending=descending, text=view.get("find", ""))  # type: ignore[arg-type]


def _cards(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> str:
    clustering, only, text = app.clustering(request, view), view["only"], view["find"]
    # Dead clusters have nothing to show beside others: they are listed when a visitor searches for them.
    clusters = [
        cluster
        for cluster in _ordered(clustering, view)
        if (not only or cluster.is_dead or cluster.is_overfull) and (only or text or not cluster.is_dead)
    ]
    if not clusters:
        where = f" for '{text}'" if text else ""
        return note(f"No {'dead or over-full ' if only else ''}cluster{where}.")
    pages = -(-len(clusters) // _PER_PAGE)
    at = min(max(int(view["at"]) if view["at"].isdecimal() else 1, 1), pages)
    part = clusters[(at - 1) * _PER_PAGE : at * _PER_PAGE]
    items = "".join(f"<li>{_card(clustering, cluster)}</li>" for cluster in part)
    count = f"{plural(len(clusters), 'cluster')}" + (f", page {at} of {pages}" if pages > 1 else "")
    return f'<p class="count" role="status">{count}</p><ul class="cards">{items}</ul>{_pager(at, pages)}'


def _card(clustering: Clustering, cluster: Cluster) -> str:
    gallery = clustering.explained.gallery
    numbers = spaced(clustering.members(cluster.number).tolist(), _COLUMNS * _ROWS)
    picture = '<div class="blank">no image</div>'
    if numbers:
        alt = f"{len(numbers)} images of cluster {cluster.number}" + _mostly(cluster)
        picture = (
            f'<img src="{strip(gallery, numbers, columns=_COLUMNS, rows=_ROWS, side=_SIDE)}" alt="{escape(alt)}" '
            f'width="{_COLUMNS * _SIDE}" height="{_ROWS * _SIDE}">'
        )
    facts = [plural(cluster.size, "image")]
    if cluster.majority is not None:
        facts.append(f"{escape(cluster.majority_name)} {100 * (cluster.purity or 0):.0f} %")
    if cluster.confidence is not None:
        facts.append(f"conf. {cluster.confidence:.2f}")
    bar = ""
    if cluster.purity is not None and cluster.majority is not None:
        bar = (
            f'<span class="bar"><span style="width:{100 * cluster.purity:.1f}%;'
            f'background:{color_of(cluster.majority)}"></span></span>'
        )
    return (
        f'<button type="button" class="card" data-cluster="{cluster.number}" '
        f'aria-label="{escape(_summary(cluster))}" title="{" · ".join(facts)}">{picture}'
        f'<span class="line"><b>#{cluster.number}</b>{_marks(cluster)}<span>{" · ".join(facts)}</span></span>'
        f"{bar}</button>"
    )


def _mostly(cluster: Cluster) -> str:
    return f", mostly {cluster.majority_name}" if cluster.majority_name is not None else ""


def _summary(cluster: Cluster) -> str:
    state = ", dead" if cluster.is_dead else ", over-full" if cluster.is_overfull else ""
    return f"Open cluster {cluster.number}: {plural(cluster.size, 'image')}{_mostly(cluster)}{state}"


def _marks(cluster: Cluster) -> str:
    if cluster.is_dead:
        return '<span class="mark dead" title="No image is in it.">dead</span>'
    if cluster.is_overfull:
        return '<span class="mark full" title="More than four times an equal share of the images.">over-full</span>'
    return ""


def _pager(at: int, pages: int) -> str:
    if pages == 1:
        return ""
    near = sorted({1, pages, *range(max(1, at - 2), min(pages, at + 2) + 1)})
    buttons, last = [], 0
    for number in near:
        if number > last + 1:
            buttons.append("<span>…</span>")
        here = ' aria-current="page"' if number == at else ""
        buttons.append(f'<button type="button" data-at="{number}"{here} aria-label="Page {number}">{number}</button>')
        last = number
    return f'<nav class="pager" aria-label="Pages of clusters">{"".join(buttons)}</nav>'


def _detail(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> str:
    number = view["cluster"]
    if not request or not number:
        return ""
    try:
        clustering = app.clustering(request, view)
        if not (number.isascii() and number.isdecimal()):
            raise ExploreError(f"A cluster is named by its number, got '{number}'")
        return _open(clustering, clustering[int(number)])
    except ExploreError as error:
        return f'<section class="detail">{_close()}{note(str(error), kind="error")}</section>'


def _close() -> str:
    return '<button type="button" class="close" data-cluster="" aria-label="Close the cluster">&times;</button>'


def _open(clustering: Clustering, cluster: Cluster) -> str:
    members = clustering.members(cluster.number).tolist()
    facts = [plural(cluster.size, "image"), f"{100 * cluster.share:.1f} % of all"]
    if cluster.confidence is not None:
        facts.append(f"mean confidence {cluster.confidence:.2f}")
    if cluster.purity is not None:
        facts += [f"purity {100 * cluster.purity:.0f} %", f"entropy of classes {cluster.entropy:.2f} nats"]
    head = f"<header><h2>Cluster {cluster.number}</h2>{_marks(cluster)}<p>{' · '.join(facts)}</p>{_close()}</header>"
    if cluster.is_dead:
        return (
            f'<section class="detail" aria-label="Cluster {cluster.number}">{head}'
            f"{note('No image is in this cluster: it is the most probable one of none.')}</section>"
        )
    rows = [("Most confident", members[:_SHOWN])]
    if len(members) > _SHOWN:
        rows.append(("Least confident", members[max(_SHOWN, len(members) - _SHOWN) :][::-1]))
    images = "".join(
        f'<h3>{title}</h3><ul class="images">{"".join(_image(clustering, cluster, number) for number in numbers)}</ul>'
        for title, numbers in rows
    )
    aside = "".join(part(clustering, cluster) for part in (_classes, _confidences, _near))
    return (
        f'<section class="detail" aria-label="Cluster {cluster.number}">{head}<div class="columns">'
        f"<div>{images}</div><aside>{aside}</aside></div></section>"
    )


def _image(clustering: Clustering, cluster: Cluster, number: int) -> str:
    gallery = clustering.explained.gallery
    other = "other" if gallery.labels[number] >= 0 and gallery.labels[number] != cluster.majority else ""
    picture = thumbnail(gallery, number, about=f"confidence {clustering.confidence[number]:.2f}")
    return f'<li class="{other}">{picture}</li>'


def _classes(clustering: Clustering, cluster: Cluster) -> str:
    counts = clustering.class_histogram(cluster.number)
    if not counts:
        return ""
    rows = "".join(
        f'<tr><th scope="row">{escape(count.name)}</th><td><span class="bar"><span '
        f'style="width:{100 * count.share:.1f}%;background:{color_of(count.label)}"></span></span></td>'
        f"<td>{count.size:,}</td></tr>"
        for count in counts[:_BARS]
    )
    rest = f'<p class="small">and {plural(len(counts) - _BARS, "other class")}</p>'
    return f'<h3>Classes</h3><table class="bars">{rows}</table>{rest if len(counts) > _BARS else ""}'


def _confidences(clustering: Clustering, cluster: Cluster) -> str:
    counts, edges = clustering.confidence_histogram(cluster.number)
    highest = max(int(counts.max()), 1)
    bars = "".join(
        f'<rect x="{5 * place}" y="{40 - 40 * count / highest:.1f}" width="4.4" height="{40 * count / highest:.1f}">'
        f"<title>{edges[place]:.2f} to {edges[place + 1]:.2f}: {plural(int(count), 'image')}</title></rect>"
        for place, count in enumerate(counts.tolist())
    )
    return (
        f'<h3>Confidence</h3><svg class="histogram" viewBox="0 0 100 40" preserveAspectRatio="none" role="img" '
        f'aria-label="Images of the cluster by confidence, from {edges[0]:.2f} to {edges[-1]:.2f}">{bars}</svg>'
        f'<p class="small axis"><span>{edges[0]:.2f}</span><span>{edges[-1]:.2f}</span></p>'
    )


def _near(clustering: Clustering, cluster: Cluster) -> str:
    gallery = clustering.explained.gallery
    items = ""
    for near in clustering.nearest(cluster.number, limit=6):
        picture = strip(gallery, clustering.members(near.number)[:4].tolist(), columns=4, rows=1, side=48)
        name = escape(_mostly(clustering[near.number]).removeprefix(", mostly "))
        items += (
            f'<li><button type="button" class="near" data-cluster="{near.number}" '
            f'aria-label="Open cluster {near.number}, cosine {near.cosine:.2f}"><img src="{picture}" width="192" '
            f'height="48" alt=""><span>#{near.number} {name}</span><span>{near.cosine:.2f}</span></button></li>'
        )
    return f'<h3>Nearest clusters, cosine of centres</h3><ul class="nearest">{items}</ul>' if items else ""
