"""The bar above the pages: what to open, how far that is, and how the clusters are read."""

import logging
from collections.abc import Generator, Mapping
from functools import partial
from typing import Any

import gradio as gr
from markup import asset, escape, note, plural, progress_bar
from shell import QUIET, App
from view import READING, SETTINGS, TAB, VIEW, Visitor, changed

from pages.compare import open_other
from ssl_zoo.explore.clusters import modes
from ssl_zoo.explore.offers import data_at_hand, look_at_data, models_at_hand
from ssl_zoo.explore.workbench import ExploreError, Request


Changes = Generator[dict[Any, Any], None, None]

_log = logging.getLogger(__name__)
_MODES = {"softmax": "softmax", "assignment": "MIRA's assignment"}
_WORDS = ("model", "revision", "data", "config", "split", "image_column", "label_column")
FIELDS = (*_WORDS, "images", "clusters")
"""What a visitor fills in, in the order of the components."""


def build(app: App, demo: gr.Blocks, default: Request) -> None:
    """Lay out the bar, open what the address asks for, and keep the address up to date."""
    own = {"allow_custom_value": True, "elem_classes": "field"}
    with gr.Row(elem_classes="controls sources"):
        model = gr.Dropdown(
            models_at_hand(app.bench.rules), value=default.model, label="Model", scale=4, elem_id="model", **own
        )
        data = gr.Dropdown(
            data_at_hand(app.bench.rules), value=default.data, label="Images", scale=4, elem_id="data", **own
        )
        split = gr.Dropdown([default.split], value=default.split, label="Split", min_width=90, elem_id="split", **own)
        number = gr.Number(
            default.images,
            label="First",
            precision=0,
            minimum=1,
            min_width=80,
            elem_id="images",
            elem_classes="field",
        )
        with gr.Row(scale=0, elem_classes="buttons"):
            open_button = gr.Button("Open", variant="primary", size="md", elem_id="open")
            cancel = gr.Button("Cancel", size="md", elem_id="cancel")
    with (
        gr.Accordion("Revision, configuration, columns, k-means", open=False, elem_classes="more", elem_id="more"),
        gr.Row(elem_classes="controls"),
    ):
        revision = gr.Textbox(
            label="Revision of the model", placeholder="branch, tag or commit", max_lines=1, elem_classes="field"
        )
        config = gr.Dropdown([""], value="", label="Configuration of the data set", **own)
        image_column = gr.Dropdown([""], value="", label="Image column, found by type if empty", **own)
        label_column = gr.Dropdown([""], value="", label="Label column, found by type if empty", **own)
        clusters = gr.Number(
            default.clusters,
            label="k-means clusters, for models without",
            precision=0,
            minimum=2,
            elem_classes="field",
        )
    progress = gr.HTML(elem_id="progress", js_on_load=asset("bar.js"), container=False)
    with gr.Row(elem_classes="controls reading"):
        status = gr.HTML(elem_id="status", container=False, scale=4)
        head = gr.Dropdown([("1", "0")], value="0", label="Head", visible=False, elem_id="head", min_width=70)
        mode = gr.Radio(
            [(words, key) for key, words in _MODES.items()],
            value="softmax",
            label="Clusters by",
            visible=False,
            elem_id="mode",
            min_width=260,
        )
        temperature = gr.Slider(
            0.1,
            5,
            value=1,
            step=0.1,
            label="Temperature",
            visible=False,
            elem_id="temperature",
            min_width=250,
            buttons=[],
        )
    again = gr.Button(visible="hidden", elem_id="again")
    fetch = gr.Button(visible="hidden", elem_id="fetch")  # see stream.js

    def settings(request: Mapping[str, str], view: Mapping[str, str]) -> list[Any]:
        """Offer what can be switched, as it is set."""
        if not request:
            return [gr.skip()] * 3
        explained = app.explained(request)
        heads = [(str(one + 1), str(one)) for one in range(explained.num_heads)]
        return [
            gr.update(choices=heads, value=view["head"], visible=len(heads) > 1),
            gr.update(value=view["mode"], visible=len(modes(explained)) > 1),
            gr.update(value=float(view["temperature"]), visible=True),
        ]

    app.draw(None, settings, [head, mode, temperature], uses=())
    app.draw(None, lambda request, view: _summary(app, request, view), status)

    filled = [model, revision, data, config, split, image_column, label_column, number, clusters]
    offered = [config, split, image_column, label_column]

    def opening(visitor: Visitor, query: dict[str, str]) -> Changes:
        """Open what was asked for, and on the page that compares, what it is compared with; say how far that is.

        No page is drawn here: of what a generator gives, Gradio's page may lose what changes back quickly, and at the
        end it gets the last of it once more.
        """
        visitor.wish = query
        try:
            request = Request.from_query(query).to_query()
            work = app.bench.open(Request.from_query(query))
            try:
                for step in work:
                    yield {progress: progress_bar(app.said(step.words), step.done, step.total)}
            finally:
                work.close()
            if visitor.wish is not query:
                return  # something else was asked for since
            app.opened(visitor, request)
            other = visitor.view.get("other")
            if other and visitor.view["page"] == "compare":
                for bar in open_other(app, request, other):
                    yield {progress: bar}
            yield {progress: ""}
        except ValueError as error:
            yield {progress: note(app.said(error), kind="error")}
        except Exception:
            _log.exception("%s could not be opened", query)
            yield {
                progress: note("Something went wrong while opening this; the server's log says what.", kind="error")
            }

    def pressed(visitor: Visitor, *values: Any) -> Changes:
        asked = dict(zip(FIELDS, map(_text, values), strict=True))
        query = _adapted(app, visitor.request, asked)
        first = {part: query[name] for part, name in zip(filled, FIELDS, strict=True) if query[name] != asked[name]}
        yield {**first, progress: gr.skip()}
        yield from opening(visitor, query)

    def arrived(visitor: Visitor, request: gr.Request) -> dict[Any, Any]:
        """Fill in what the address asks for, and show it if it is ready."""
        query = dict(request.query_params)
        found = {name: query.get(name) or getattr(default, name) or "" for name in FIELDS}
        for name in ("images", "clusters"):
            value = str(found[name])
            found[name] = int(value) if value.isascii() and value.isdecimal() else getattr(default, name)
        query["page"] = query.get(TAB) or VIEW["page"]
        visitor.change(partial(changed, **{name: query[name] for name in SETTINGS if query.get(name)}))
        visitor.wish = {name: _text(value) for name, value in found.items()}
        changes = dict[Any, Any](zip(filled, found.values(), strict=True))
        if query["page"] != VIEW["page"]:
            changes[app.tabs] = gr.update(selected=query["page"])
        try:
            wish = Request.from_query(visitor.wish)
            app.bench.get(wish)
            app.opened(visitor, wish.to_query())
        except ExploreError:
            return {**changes, progress: progress_bar()}  # opening it says what is wrong
        return {**changes, **app.update(visitor)}

    def goes_on(visitor: Visitor) -> Changes:
        yield from opening(visitor, visitor.wish)

    def offers(visitor: Visitor) -> dict[Any, Any]:
        return {**app.update(visitor), **_offers(app, visitor.wish, offered)}

    long = {"concurrency_limit": 4, **QUIET}
    opened = gr.on(
        [open_button.click, model.select, data.select, split.select, number.submit, revision.submit],
        pressed,
        [app.visitor, *filled],
        [progress, *filled],
        trigger_mode="multiple",  # once is not enough: after Cancel, the work that was left counts as going on
        **long,
    )
    first = demo.load(arrived, app.visitor, [*app.outputs, progress, *filled, app.tabs], **QUIET)
    first = first.then(goes_on, app.visitor, progress, **long)
    for event in (opened, first):
        event.then(offers, app.visitor, [*app.outputs, *offered], **QUIET)
    data.input(lambda name: _offers(app, {"data": _text(name)}, offered), data, offered, **QUIET)

    # The buttons are always there for Gradio, whose page loses one of two quick changes; the style sheet shows the one
    # that goes with the progress bar.
    cancel.click(
        lambda: note("Stopped. What was done is kept: Open goes on from there."),
        None,
        progress,
        cancels=[opened, first],
        **QUIET,
    )
    again.click(app.again, app.visitor, app.outputs, trigger_mode="multiple", **QUIET)
    fetch.click(app.update, app.visitor, app.outputs, trigger_mode="multiple", **QUIET)
    app.address.change(None, app.address, None, js=asset("address.js"))
    for name, control in zip(READING, (head, mode, temperature), strict=True):
        app.set(control.input, partial(_read, name), control)


def _adapted(app: App, request: Mapping[str, str], asked: dict[str, str]) -> dict[str, str]:
    """What was asked for, where another data set was chosen: split and columns of the last one give way."""
    before = Request.from_query(request)
    if not request or asked["data"] == before.data:
        return asked
    found = dict(asked)
    for name in ("config", "image_column", "label_column"):
        if found[name] == (getattr(before, name) or ""):
            found[name] = ""
    try:
        splits = look_at_data(found["data"], found["config"], app.bench.rules).splits
    except ExploreError:
        return found  # opening says why
    if splits and found["split"] == before.split and before.split not in splits:
        found["split"] = splits[0]
    return found


def _read(name: str, view: Mapping[str, str], value: Any) -> Mapping[str, str]:
    return changed(view, **{name: _text(value)})


def _offers(app: App, query: Mapping[str, str], offered: list[Any]) -> dict[Any, Any]:
    """Fill the lists with what the data set has; where it can't be asked they stay as they are: opening says why."""
    try:
        offer = look_at_data(query["data"], query.get("config"), app.bench.rules)
    except ExploreError:
        return {component: gr.skip() for component in offered}
    config, split, image_column, label_column = offered
    changes: dict[Any, Any] = {
        config: gr.update(choices=["", *offer.configs]),
        image_column: gr.update(choices=["", *offer.images]),
        label_column: gr.update(choices=["", *offer.labels]),
    }
    if offer.splits:
        # Before anything is opened, a split that isn't there gives way to one that is.
        other = {} if query.get("split", "test") in offer.splits or "split" in query else {"value": offer.splits[0]}
        changes[split] = gr.update(choices=list(offer.splits), **other)
    return changes


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value).strip()


def _summary(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> str:
    """One line that says what is open."""
    if not request:
        return ""
    try:
        found = app.clustering(request, view)
    except ExploreError as error:
        return note(str(error), kind="error")
    explained, sizes = found.explained, found.sizes
    used = len(sizes.sizes) - sizes.num_empty
    words = [
        f"<b>{escape(explained.about['title'])}</b>",
        f"{plural(len(explained.gallery), 'image')} of {escape(request['data'])}",
        f"{used:,} of {plural(len(sizes.sizes), 'cluster')} used"
        + (" (k-means)" if explained.about["kmeans"] else ""),
    ]
    if sizes.num_empty:
        words.append(f'<span class="dead">{sizes.num_empty:,} dead</span>')
    if sizes.num_overfull:
        words.append(f'<span class="full">{sizes.num_overfull:,} over-full</span>')
    if found.nmi is not None:
        words.append(f'<span title="normalised mutual information with the classes">NMI {found.nmi:.2f}</span>')
    corrupt = explained.gallery.about["corrupt"]
    if corrupt:
        words.append(f"{plural(corrupt, 'corrupt image')} left out")
    parts = " · ".join(f"<span>{part}</span>" for part in words)
    return f'<p class="status" role="status">{parts}</p>'
