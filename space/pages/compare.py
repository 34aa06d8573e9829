"""Two models, or two checkpoints of a run, on the same images: where their clusters agree, and what moved."""

from collections.abc import Generator, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import gradio as gr
from figures import heat_map
from markup import PLAIN, asset, escape, note, percent, plural, progress_bar
from shell import QUIET, App
from view import READING, Visitor, changed, fitting

from ssl_zoo.explore.clusters import Clustering
from ssl_zoo.explore.compare import Comparison, Move, compare
from ssl_zoo.explore.models import check_model_name
from ssl_zoo.explore.offers import models_at_hand
from ssl_zoo.explore.pictures import data_uri, spaced, strip
from ssl_zoo.explore.run_checkpoints import RunCheckpoint, list_run_checkpoints
from ssl_zoo.explore.workbench import ExploreError, Request, Rules


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
            yield note("Name a model to compare with.", kind="error")
            return
        visitor.change(partial(changed, other=name, moved=1))
        try:
            yield from open_other(app, visitor.request, name)
        except ExploreError as error:
            yield note(app.said(error), kind="error")
        else:
            yield ""

    by_name = gr.on([button.click, other.select], opened, [app.visitor, other], progress, **QUIET)

    def named(visitor: Visitor, place: float) -> list[Any]:
        """Name the checkpoint under the slider."""
        found = _checkpoints(app, visitor.request)
        if not 0 <= place < len(found):
            return [gr.skip(), gr.skip()]
        checkpoint = found[int(place)]
        return [
            gr.update(label=f"Checkpoint: {_words(checkpoint)}"),
            gr.update(value=_short(checkpoint.name, app.bench.rules)),
        ]

    def slid(visitor: Visitor, place: float) -> Generator[str, None, None]:
        found = _checkpoints(app, visitor.request)
        if 0 <= place < len(found):
            yield from opened(visitor, _short(found[int(place)].name, app.bench.rules))

    # By keys, the slider only names a checkpoint: each step in between would be opened otherwise.
    slider.input(named, [app.visitor, slider], [slider, other], trigger_mode="always_last", **QUIET)
    by_step = slider.release(slid, [app.visitor, slider], progress, **QUIET)

    for event in (by_name, by_step):
        app.follow(event)
    # As in the bar, the style sheet shows the button that goes with the progress bar.
    cancel.click(
        lambda: note("Stopped. What was done is kept: Compare goes on from there."),
        None,
        progress,
        cancels=[by_name, by_step],
        **QUIET,
    )
    app.choose(page.select, _choose)
    app.draw("compare", partial(_controls, app), [other, slider], uses=())
    app.draw("compare", partial(_page, app), page, uses=(*READING, "other", "moved"), also=partial(_is_ready, app))


def open_other(app: App, request: Mapping[str, str], name: str) -> Generator[str, None, None]:
    """Prepare another model on the same images.

    Yields:
        `str`: A bar of how far that is.

    Raises:
        ExploreError: It can't be opened.
    """
    if not request:
        raise ExploreError("Nothing is open: name a model and images above, then press Open.")
    work = app.bench.open(Request.from_query(_asked(request, name)))
    try:
        for step in work:
            yield progress_bar(app.said(step.words), step.done, step.total)
    finally:
        work.close()


def _is_ready(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> bool:
    if not request or not view.get("other"):
        return False
    try:
        app.bench.get(Request.from_query(_asked(request, view["other"])))
    except ExploreError:
        return False
    return True


def _asked(request: Mapping[str, str], name: str) -> dict[str, str]:
    """The request with another model; its revision may stand behind an `@`."""
    model, _, revision = name.partition("@")
    found = {**request, "model": model}
    found.pop("revision", None)
    return {**found, "revision": revision} if revision else found


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


def _short(name: str, rules: Rules) -> str:
    """A folder as visitors name it: without the part that is the server's."""
    for root in rules.folders:
        if Path(name).is_relative_to(root):
            return str(Path(name).relative_to(root))
    return name


def _words(checkpoint: RunCheckpoint) -> str:
    words = [f"step {checkpoint.step:,}"] if checkpoint.step is not None else []
    if checkpoint.epoch is not None:
        words.insert(0, f"epoch {checkpoint.epoch:.3g}")
    return ", ".join([*words, *(["finished"] if checkpoint.is_final else [])])


def _controls(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> list[Any]:
    """Offer the checkpoints of the run, where it is one's model that is open."""
    found = _checkpoints(app, request)
    names = [_short(checkpoint.name, app.bench.rules) for checkpoint in found]
    place = names.index(view["other"]) if view.get("other") in names else 0
    words = _words(found[place]) if found else ""
    return [
        gr.update(value=view.get("other", "")),
        gr.update(maximum=max(len(found) - 1, 1), value=place, visible=len(found) > 1, label=f"Checkpoint: {words}"),
    ]


def _page(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> str:
    name = view.get("other", "")
    if not request:
        return note("Nothing is open: name a model and images above, then press Open.")
    if not name:
        return note("Choose a second model, or a checkpoint of the same run: both are put side by side here.")
    if not _is_ready(app, request, view):
        return note(f"'{name}' is not open: press Compare.")
    try:
        asked = _asked(request, name)
        found = _compared(app.clustering(request, view), app.clustering(asked, fitting(view, app.explained(asked))))
    except ExploreError as error:
        return note(str(error), kind="error")
    facts = [
        f"<b>{percent(found.matched_share)}</b> of the images stay, {found.moved.size:,} move",
        f"NMI <b>{found.nmi:.2f}</b>",
        f"AMI <b>{found.ami:.2f}</b>",
        f"ARI <b>{found.ari:.2f}</b>",
    ]
    words = (
        "Clusters are paired one to one so that as many images as possible stay; an image has moved when it isn't in "
        "its cluster's partner. Shades are shares of a row; the last row and column hold all other clusters."
    )
    return (
        f'<p class="status facts" role="status">{" · ".join(facts)}</p><div class="versus">'
        f'<div class="figures one">{_agreement(found, request["model"], name)}<p class="small">{words}</p></div>'
        f"<section>{_moved(found, request['model'], name, view)}</section></div>"
    )


@lru_cache(maxsize=8)
def _compared(first: Clustering, second: Clustering) -> Comparison:
    return compare(first, second)


def _agreement(found: Comparison, first: str, second: str) -> str:
    table = found.agreement(limit=_LARGEST)
    rows = ["all others" if row is None else f"#{row}" for row in table.rows]
    columns = ["all others" if column is None else f"#{column}" for column in table.columns]
    title = f"Agreement: partners on the diagonal, the largest of {len(found.first)} and {len(found.second)} clusters"
    return heat_map(title, table.counts.tolist(), rows, columns, across=second, down=first, labelled=False)


def _moved(found: Comparison, first: str, second: str, view: Mapping[str, str]) -> str:
    if not found.moved.size:
        return note("No image moved: both put the same images together.")
    pages = -(-found.moved.size // _MOVED)
    asked = view.get("moved", "1")
    at = min(max(int(asked) if asked.isdecimal() else 1, 1), pages)
    moves = found.moves((at - 1) * _MOVED, _MOVED)
    items = "".join(_move(found, move) for move in moves)
    ways = "".join(
        f'<button type="button" data-at="{to}"{"" if 1 <= to <= pages else " disabled"}>{words}</button>'
        for words, to in (("Earlier", at - 1), ("Later", at + 1))
    )
    nav = f'<nav class="pager" aria-label="Pages of images that moved">{ways}</nav>' if pages > 1 else ""
    return (
        f"<h3>{plural(found.moved.size, 'image')} moved, those that both are sure of first"
        f"{f', page {at} of {pages}' if pages > 1 else ''}</h3>"
        f'<table class="moved"><thead><tr><th scope="col">image</th><th scope="col">{escape(first)}</th>'
        f'<th scope="col">{escape(second)}</th></tr></thead><tbody>{items}</tbody></table>{nav}'
    )


def _move(found: Comparison, move: Move) -> str:
    gallery = found.first.explained.gallery
    label = int(gallery.labels[move.image])
    name = gallery.class_name(label) if label >= 0 else f"image {gallery.sample_ids[move.image]}"
    picture = data_uri(gallery.small_images[move.image])
    expected = "" if move.expected is None else f"partner #{move.expected}"
    return (
        f'<tr><th scope="row"><img src="{picture}" width="56" height="56" '
        f'alt="{escape(f"image {move.image}, {name}")}"><span>{escape(name)}</span></th>'
        f"<td>{_side(found.first, move.first, move.image, expected, opens=True)}</td>"
        f"<td>{_side(found.second, move.second, move.image, '', opens=False)}</td></tr>"
    )


def _side(found: Clustering, number: int, image: int, words: str, *, opens: bool) -> str:
    """A cluster an image is in: what else is in it, and how sure the model is of that."""
    gallery = found.explained.gallery
    others = [member for member in found.members(number).tolist() if member != image]
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
    facts = " · ".join(part for part in (f"{found.confidence[image]:.2f}", words) if part)
    return f'{picture}<p>{title} <span class="small">{escape(facts)}</span></p>'
