"""Two models, or two checkpoints of a run, on the same images: where their clusters agree, and which images moved."""

from collections.abc import Generator, Mapping
from functools import lru_cache, partial
from typing import Any

import gradio as gr
from figures import heat_map
from markup import PLAIN, asset, escape, note, percent, plural, progress_bar, thumbnail
from shell import NOTHING_OPEN, QUIET, App
from view import READING, Setting, Visitor, changed, fitting

from ssl_zoo.explore.clusters import Clustering
from ssl_zoo.explore.compare import Comparison, Move, compare
from ssl_zoo.explore.models import check_model_name
from ssl_zoo.explore.offers import models_at_hand
from ssl_zoo.explore.pictures import spaced, strip
from ssl_zoo.explore.run_checkpoints import RunCheckpoint, list_run_checkpoints
from ssl_zoo.explore.workbench import ExploreError, Request


TITLE, ORDER = "Compare", 40
SETTINGS = {
    "other": Setting(),  # model to compare with
    "moved": Setting("1", in_address=False, of_model=True),  # page of images that moved
}

_MOVED = 24  # images on a page
_LARGEST = 40  # clusters in the picture


def build(app: App) -> None:
    """Lay out the page."""
    with gr.Row(elem_classes="controls", elem_id="compare-bar"):
        other = gr.Dropdown(
            models_at_hand(app.bench.rules),
            value="",
            label="Compare with",
            allow_custom_value=True,
            elem_id="other",
            elem_classes="field",
            scale=3,
        )
        slider = gr.Slider(
            0, 1, value=0, step=1, label="Checkpoint", visible=False, elem_id="checkpoint", buttons=[], scale=3
        )
        button = gr.Button("Compare", variant="primary", elem_id="compare", scale=0, min_width=110)
        cancel = gr.Button("Cancel", elem_id="compare-cancel", scale=0, min_width=110)
    progress = gr.HTML(elem_id="compare-progress", js_on_load=None, **PLAIN)
    page = gr.HTML(elem_id="comparison", js_on_load=asset("clusters.js"), **PLAIN)

    def opened(visitor: Visitor, name: str) -> Generator[str, None, None]:
        """Prepare the other model on the images that are open."""
        name = (name or "").strip()
        if not name:
            yield note("Name a model to compare with", kind="error")
            return
        visitor.change(partial(changed, other=name, moved=1))
        try:
            yield from prepare(app, visitor.request, visitor.view)
        except ExploreError as error:
            yield note(str(error), kind="error")
        else:
            yield ""

    by_name = gr.on([button.click, other.select], opened, [app.visitor, other], progress, **QUIET)

    def named(visitor: Visitor, place: float) -> list[Any]:
        """Name the checkpoint at the slider's place."""
        checkpoints = _checkpoints(app, visitor.request)
        if not 0 <= place < len(checkpoints):
            return [gr.skip(), gr.skip()]
        checkpoint = checkpoints[int(place)]
        return [
            gr.update(label=f"Checkpoint: {_progress(checkpoint)}"),
            gr.update(value=app.bench.rules.name_of(checkpoint.name)),
        ]

    def slid(visitor: Visitor, place: float) -> Generator[str, None, None]:
        checkpoints = _checkpoints(app, visitor.request)
        if 0 <= place < len(checkpoints):
            yield from opened(visitor, app.bench.rules.name_of(checkpoints[int(place)].name))

    # Moved by keys, the slider only names a checkpoint: otherwise each one on the way would be opened.
    slider.input(named, [app.visitor, slider], [slider, other], trigger_mode="always_last", **QUIET)
    by_step = slider.release(slid, [app.visitor, slider], progress, **QUIET)

    for event in (by_name, by_step):
        app.follow(event)
    # As in the bar, the style sheet shows the button that fits the progress bar.
    cancel.click(
        lambda: note("Stopped. What was done is kept: press Compare to continue."),
        None,
        progress,
        cancels=[by_name, by_step],
        **QUIET,
    )
    app.choose(page.select, _choose)
    app.draw(partial(_controls, app), [other, slider], uses=())
    app.draw(partial(_page, app), page, uses=(*READING, "other", "moved"), also=partial(_is_ready, app))


def prepare(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> Generator[str, None, None]:
    """Prepare the other model on the same images, if one is named.

    Yields:
        `str`: A progress bar.

    Raises:
        ExploreError: It can't be opened.
    """
    if not view["other"]:
        return
    if not request:
        raise ExploreError(NOTHING_OPEN)
    work = app.bench.open(Request.from_query(_asked(request, view["other"])))
    try:
        for step in work:
            yield progress_bar(step.task, step.done, step.total)
    finally:
        work.close()


def _is_ready(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> bool:
    if not request or not view["other"]:
        return False
    try:
        app.bench.get(Request.from_query(_asked(request, view["other"])))
    except ExploreError:
        return False
    return True


def _asked(request: Mapping[str, str], name: str) -> dict[str, str]:
    """The request with another model; its revision may follow an `@`."""
    model, _, revision = name.partition("@")
    return {**request, "model": model, "revision": revision}


def _choose(view: Mapping[str, str], event: gr.EventData) -> dict[str, str]:
    """Open a cluster of the first model, or another page of images."""
    if getattr(event, "at", None) is not None:
        return changed(view, moved=event.at)
    return changed(view, page="clusters", cluster=event.cluster)


def _checkpoints(app: App, request: Mapping[str, str]) -> list[RunCheckpoint]:
    if not request:
        return []
    try:
        place = check_model_name(Request.from_query(request).model, app.bench.rules)
    except ExploreError:
        return []
    return list_run_checkpoints(place)


def _progress(checkpoint: RunCheckpoint) -> str:
    parts = [] if checkpoint.epoch is None else [f"epoch {checkpoint.epoch:.3g}"]
    parts += [] if checkpoint.step is None else [f"step {checkpoint.step:,}"]
    return ", ".join([*parts, *(["finished"] if checkpoint.is_final else [])])


def _controls(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> list[Any]:
    """Offer the checkpoints of the run, if the open model is one of a run."""
    checkpoints = _checkpoints(app, request)
    names = [app.bench.rules.name_of(checkpoint.name) for checkpoint in checkpoints]
    place = names.index(view["other"]) if view["other"] in names else 0
    label = f"Checkpoint: {_progress(checkpoints[place]) if checkpoints else ''}"
    return [
        gr.update(value=view["other"]),
        gr.update(maximum=max(len(names) - 1, 1), value=place, visible=len(names) > 1, label=label),
    ]


def _page(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> str:
    name = view["other"]
    if not request:
        return note(NOTHING_OPEN)
    if not name:
        return note("Choose a second model, or a checkpoint of the same run, to compare with.")
    if not _is_ready(app, request, view):
        return note(f"'{name}' is not open: press Compare.")
    asked = _asked(request, name)
    comparison = _compared(app.clustering(request, view), app.clustering(asked, fitting(view, app.explained(asked))))
    facts = [
        f"<b>{percent(comparison.matched_share)}</b> of the images stay, {comparison.moved.size:,} move",
        f"NMI <b>{comparison.nmi:.2f}</b>",
        f"AMI <b>{comparison.ami:.2f}</b>",
        f"ARI <b>{comparison.ari:.2f}</b>",
    ]
    explanation = (
        "Clusters are matched one to one so that as many images as possible stay; an image has moved when it isn't in "
        "the partner of its cluster. Shades are shares of a row; the last row and column hold all other clusters."
    )
    return (
        f'<p class="status facts" role="status">{" · ".join(facts)}</p><div class="versus">'
        f'<div class="figures one">{_agreement(comparison, request["model"], name)}<p class="small">{explanation}</p>'
        f"</div><section>{_moved(comparison, request['model'], name, view)}</section></div>"
    )


@lru_cache(maxsize=8)
def _compared(first: Clustering, second: Clustering) -> Comparison:
    return compare(first, second)


def _agreement(comparison: Comparison, first: str, second: str) -> str:
    table = comparison.agreement(limit=_LARGEST)
    rows = ["all others" if row is None else f"#{row}" for row in table.rows]
    columns = ["all others" if column is None else f"#{column}" for column in table.columns]
    sizes = f"{len(comparison.first)} and {len(comparison.second)}"
    title = f"Agreement: partners on the diagonal, the largest of {sizes} clusters"
    return heat_map(title, table.counts.tolist(), rows, columns, across=second, down=first, labelled=False)


def _moved(comparison: Comparison, first: str, second: str, view: Mapping[str, str]) -> str:
    if not comparison.moved.size:
        return note("No image moved: both put the same images together.")
    pages = -(-comparison.moved.size // _MOVED)
    at = min(max(int(view["moved"]) if view["moved"].isdecimal() else 1, 1), pages)
    moves = comparison.moves((at - 1) * _MOVED, _MOVED)
    items = "".join(_move(comparison, move) for move in moves)
    ways = "".join(
        f'<button type="button" data-at="{to}"{"" if 1 <= to <= pages else " disabled"}>{name}</button>'
        for name, to in (("Earlier", at - 1), ("Later", at + 1))
    )
    nav = f'<nav class="pager" aria-label="Pages of images that moved">{ways}</nav>' if pages > 1 else ""
    return (
        f"<h3>{plural(comparison.moved.size, 'image')} moved, those that both models are confident about first"
        f"{f', page {at} of {pages}' if pages > 1 else ''}</h3>"
        f'<table class="moved"><thead><tr><th scope="col">image</th><th scope="col">{escape(first)}</th>'
        f'<th scope="col">{escape(second)}</th></tr></thead><tbody>{items}</tbody></table>{nav}'
    )


def _move(comparison: Comparison, move: Move) -> str:
    gallery = comparison.first.explained.gallery
    name = gallery.class_of(move.image) or f"image {gallery.sample_ids[move.image]}"
    expected = "" if move.expected is None else f"partner #{move.expected}"
    return (
        f'<tr><th scope="row">{thumbnail(gallery, move.image, side=56)}<span>{escape(name)}</span></th>'
        f"<td>{_side(comparison.first, move.first, move.image, expected, opens=True)}</td>"
        f"<td>{_side(comparison.second, move.second, move.image, '', opens=False)}</td></tr>"
    )


def _side(clustering: Clustering, number: int, image: int, expected: str, *, opens: bool) -> str:
    """The cluster that an image is in: other images of it, and how confident the model is."""
    gallery = clustering.explained.gallery
    others = [member for member in clustering.members(number).tolist() if member != image]
    shown = spaced(others, 5)
    title = f"#{number}"
    if opens:
        about = f'data-cluster="{number}" aria-label="Open cluster {number}"'
        title = f'<button type="button" class="to" {about}>#{number}</button>'
    picture = (
        f'<img src="{strip(gallery, shown, columns=5, rows=1, side=48)}" width="240" height="48" '
        f'alt="{escape(f"other images of cluster {number}")}">'
        if shown
        else '<span class="small">no other image</span>'
    )
    facts = " · ".join(part for part in (f"{clustering.confidence[image]:.2f}", expected) if part)
    return f'{picture}<p>{title} <span class="small">{escape(facts)}</span></p>'
