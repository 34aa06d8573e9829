"""The bar above the pages: what to open, the progress of opening it, and how the clusters are read."""

import logging
from collections.abc import Generator, Mapping
from dataclasses import fields
from functools import partial
from typing import Any

import gradio as gr
from markup import asset, escape, note, plural, progress_bar
from shell import QUIET, App
from view import READING, TAB, Visitor, changed

from ssl_zoo.explore.clusters import modes
from ssl_zoo.explore.offers import data_at_hand, look_at_data, models_at_hand
from ssl_zoo.explore.workbench import ExploreError, Request


Changes = Generator[dict[Any, Any], None, None]

_log = logging.getLogger(__name__)
_MODES = {"softmax": "softmax", "assignment": "MIRA's assignment"}
_FIELDS = tuple(field.name for field in fields(Request))


def build(app: App, demo: gr.Blocks, default: Request) -> None:
    """Lay out the bar, open what the address asks for, and keep the address up to date."""
    editable = {"allow_custom_value": True, "elem_classes": "field"}
    with gr.Row(elem_classes="controls sources"):
        model = gr.Dropdown(
            models_at_hand(app.bench.rules), value=default.model, label="Model", scale=4, elem_id="model", **editable
        )
        data = gr.Dropdown(
            data_at_hand(app.bench.rules), value=default.data, label="Images", scale=4, elem_id="data", **editable
        )
        split = gr.Dropdown(
            [default.split], value=default.split, label="Split", min_width=90, elem_id="split", **editable
        )
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
        config = gr.Dropdown([""], value="", label="Configuration of the data set", **editable)
        image_column = gr.Dropdown([""], value="", label="Image column, found by type if empty", **editable)
        label_column = gr.Dropdown([""], value="", label="Label column, found by type if empty", **editable)
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
            [(title, key) for key, title in _MODES.items()],
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

    app.draw(settings, [head, mode, temperature], uses=())
    app.draw(lambda request, view: _summary(app, request, view), status)

    filled = [model, revision, data, config, split, image_column, label_column, number, clusters]  # as in _FIELDS
    offered = [config, split, image_column, label_column]

    def opening(visitor: Visitor, query: dict[str, str]) -> Changes:
        """Open what was asked for, and what the current page needs besides; report the progress.

        No page is drawn here: of the values of a generator, Gradio's page may lose those that change back quickly,
        and at the end it gets the last one a second time.
        """
        visitor.wish = query
        try:
            request = Request.from_query(query).to_query()
            work = app.bench.open(Request.from_query(query))
            try:
                for step in work:
                    yield {progress: progress_bar(step.task, step.done, step.total)}
            finally:
                work.close()
            if visitor.wish is not query:
                return  # something else was asked for since
            app.opened(visitor, request)
            page = app.pages[visitor.view["page"]]
            if page.prepare is not None:
                for html in page.prepare(app, request, visitor.view):
                    yield {progress: html}
            yield {progress: ""}
        except ValueError as error:
            yield {progress: note(str(error), kind="error")}
        except Exception:
            _log.exception("%s could not be opened", query)
            message = "Something went wrong while opening this; the server's log has the details"
            yield {progress: note(message, kind="error")}

    def pressed(visitor: Visitor, *values: Any) -> Changes:
        asked = dict(zip(_FIELDS, map(_text, values), strict=True))
        query = _adapted(app, visitor.request, asked)
        first = {part: query[name] for part, name in zip(filled, _FIELDS, strict=True) if query[name] != asked[name]}
        yield {**first, progress: gr.skip()}
        yield from opening(visitor, query)

    def arrived(visitor: Visitor, request: gr.Request) -> dict[Any, Any]:
        """Fill in what the address asks for, and show it if it is ready."""
        query = dict(request.query_params)
        asked = {name: query.get(name) or getattr(default, name) or "" for name in _FIELDS}
        for name in ("images", "clusters"):
            number = str(asked[name])
            asked[name] = int(number) if number.isascii() and number.isdecimal() else getattr(default, name)
        query["page"] = query[TAB] if query.get(TAB) in app.pages else app.defaults["page"]
        in_address = (name for name, setting in app.settings.items() if setting.in_address and query.get(name))
        visitor.change(partial(changed, **{name: query[name] for name in in_address}))
        visitor.wish = {name: _text(value) for name, value in asked.items()}
        changes = dict[Any, Any](zip(filled, asked.values(), strict=True))
        if query["page"] != app.defaults["page"]:
            changes[app.tabs] = gr.update(selected=query["page"])
        try:
            wish = Request.from_query(visitor.wish)
            app.bench.get(wish)
            app.opened(visitor, wish.to_query())
        except ExploreError:
            return {**changes, progress: progress_bar()}  # opening it reports the error
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
        trigger_mode="multiple",  # with `once`, what Cancel stopped would still count as going on
        **long,
    )
    first = demo.load(arrived, app.visitor, [*app.outputs, progress, *filled, app.tabs], **QUIET)
    first = first.then(goes_on, app.visitor, progress, **long)
    for event in (opened, first):
        event.then(offers, app.visitor, [*app.outputs, *offered], **QUIET)
    data.input(lambda name: _offers(app, {"data": _text(name)}, offered), data, offered, **QUIET)

    # For Gradio, whose page loses one of two quick changes, both buttons are always visible; the style sheet shows the
    # one that fits the progress bar.
    cancel.click(
        lambda: note("Stopped. What was done is kept: press Open to continue."),
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
    """The query, where another data set was chosen without the split and columns of the last one."""
    before = Request.from_query(request)
    if not request or asked["data"] == before.data:
        return asked
    query = dict(asked)
    for name in ("config", "image_column", "label_column"):
        if query[name] == (getattr(before, name) or ""):
            query[name] = ""
    try:
        splits = look_at_data(query["data"], query["config"], app.bench.rules).splits
    except ExploreError:
        return query  # opening it reports the error
    if splits and query["split"] == before.split and before.split not in splits:
        query["split"] = splits[0]
    return query


def _read(name: str, view: Mapping[str, str], value: Any) -> Mapping[str, str]:
    return changed(view, **{name: _text(value)})


def _offers(app: App, query: Mapping[str, str], offered: list[Any]) -> dict[Any, Any]:
    """Fill the lists with what the data set has. If it can't be read they stay, and opening it reports that."""
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
        # Before anything is opened, a split that isn't there is replaced by one that is.
        value = {} if query.get("split", "test") in offer.splits or "split" in query else {"value": offer.splits[0]}
        changes[split] = gr.update(choices=list(offer.splits), **value)
    return changes


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:g}" if isinstance(value, float) else str(value).strip()


def _summary(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> str:
    """One line that says what is open."""
    if not request:
        return ""
    clusters = app.clustering(request, view)
    explained, sizes = clusters.explained, clusters.sizes
    used = len(sizes.sizes) - sizes.num_empty
    facts = [
        f"<b>{escape(explained.about['title'])}</b>",
        f"{plural(len(explained.gallery), 'image')} of {escape(request['data'])}",
        f"{used:,} of {plural(len(sizes.sizes), 'cluster')} used"
        + (" (k-means)" if explained.about["kmeans"] else ""),
    ]
    if sizes.num_empty:
        facts.append(f'<span class="dead">{sizes.num_empty:,} dead</span>')
    if sizes.num_overfull:
        facts.append(f'<span class="full">{sizes.num_overfull:,} over-full</span>')
    if clusters.nmi is not None:
        facts.append(f'<span title="normalised mutual information with the classes">NMI {clusters.nmi:.2f}</span>')
    corrupt = explained.gallery.about["corrupt"]
    if corrupt:
        facts.append(f"{plural(corrupt, 'corrupt image')} left out")
    parts = " · ".join(f"<span>{fact}</span>" for fact in facts)
    return f'<p class="status" role="status">{parts}</p>'
