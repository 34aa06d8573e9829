"""What ties the pages together: which of their parts depend on what, and the events that draw them again."""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import wraps
from typing import Any, NamedTuple

import gradio as gr
from markup import PLAIN, asset, note
from registry import Page
from view import READING, Setting, Visitor, changed, fitting, link

from ssl_zoo.explore.clusters import Clustering, clustering
from ssl_zoo.explore.preparation import Explained
from ssl_zoo.explore.workbench import ExploreError, NotReady, Request, Workbench


Render = Callable[[Mapping[str, str], Mapping[str, str]], Any]
Change = Callable[..., Mapping[str, str]]

QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""Options of events that only redraw: no veil over the page, no public endpoint."""

NOTHING_OPEN = "Nothing is open: name a model and images above, then press Open"

_log = logging.getLogger(__name__)


class Drawing(NamedTuple):
    """Part of a page, and what it depends on besides what is open."""

    page: str | None
    render: Render
    outputs: tuple[Any, ...]
    uses: tuple[str, ...]
    also: Render | None


@dataclass(frozen=True)
class App:
    """Handed to every page.

    Attributes:
        bench (`Workbench`): Opens models and images, for all visitors.
        visitor (`gr.State`): The [`Visitor`] whose event it is.
        tabs (`gr.Tabs`): The pages.
        address (`gr.Textbox`): Number of the answer and the address of what is shown; hidden.
        pages (`Mapping[str, Page]`), settings (`Mapping[str, Setting]`): All of them by name.
        page (`str`, *optional*): The page that is being built; `None` for what is always on the screen.
        drawings (`list` of `Drawing`): All parts that depend on what is open and on the settings.
        listeners (`list`): Functions that connect the events.
    """

    bench: Workbench
    visitor: gr.State
    tabs: gr.Tabs
    address: gr.Textbox
    pages: Mapping[str, Page]
    settings: Mapping[str, Setting]
    page: str | None = None
    drawings: list[Drawing] = field(default_factory=list)
    listeners: list[Callable[[], Any]] = field(default_factory=list)

    def draw(
        self,
        render: Render,
        outputs: Any | Sequence[Any],
        *,
        uses: Sequence[str] = READING,
        also: Render | None = None,
    ) -> None:
        """Declare a part of this page that depends on what is open and on settings.

        It is drawn only while its page is open, and only when something it depends on has changed.

        Args:
            render: Function of request and view that returns the value of the output, or a list with one for each.
                When it raises [`ExploreError`], a single output shows the message; several stay as they are.
            outputs: One component or several.
            uses: Settings that it depends on, besides the request.
            also: Function of request and view; it is drawn again when the value of this function changes, too.
        """
        several = tuple(outputs) if isinstance(outputs, (list, tuple)) else (outputs,)
        self.drawings.append(Drawing(self.page, render, several, tuple(uses), also))

    def set(self, event: Any, change: Change, *inputs: Any, **options: Any) -> None:
        """Have a control change settings; the answer holds all that is drawn again.

        While one answer is awaited, Gradio's page keeps back what follows and then sends the last value.

        Args:
            event: The control's event.
            change: Function of the view and the values of `inputs` that returns the new view.
            inputs: Components.
            options: Of the event.
        """

        def answer(visitor: Visitor, *values: Any) -> dict[Any, Any]:
            # Controls also send events when they are built or left; then there is nothing to draw.
            return self.update(visitor) if visitor.change(lambda view: change(view, *values)) else self.nothing

        options = {"trigger_mode": "always_last", **QUIET, **options}
        self.listeners.append(lambda: event(answer, [self.visitor, *inputs], self.outputs, **options))

    def choose(self, event: Any, change: Change) -> None:
        """Have a click inside a widget change settings; each click counts, and may lead to another page.

        Args:
            event: The widget's event.
            change: Function of the view and the event's data that returns the new view.
        """

        def answer(visitor: Visitor, chosen: gr.EventData) -> dict[Any, Any]:
            before = visitor.view["page"]
            visitor.change(lambda view: change(view, chosen), getattr(chosen, "clicked", None))
            page = visitor.view["page"]
            turn = {self.tabs: gr.update(selected=page)} if page != before else {}
            return {**self.update(visitor), **turn}

        self.listeners.append(
            lambda: event(answer, self.visitor, [*self.outputs, self.tabs], trigger_mode="multiple", **QUIET)
        )

    def widget(
        self, name: str, state: Render, functions: Sequence[Callable[[dict[str, Any]], dict[str, Any]]]
    ) -> None:
        """Lay out a widget with HTML and a script of its own, `assets/<name>.html` and `assets/<name>.js`.

        Its script reads `props.value`: the request, the settings `READING`, and what `state` returns. A click on a
        cluster (the script's event `select` with `cluster`) opens that cluster.

        Args:
            name: Of the two files; the widget's `elem_id`, too.
            state: Function of request and view that returns what else the script has to know.
            functions: What the script may call by `server.<name>`. When one raises, the answer is
                `{"error": message}`.
        """

        def value(request: Mapping[str, str], view: Mapping[str, str]) -> dict[str, Any]:
            settings = {setting: view[setting] for setting in READING}
            return {"request": dict(request), "view": settings, **state(request, view)}

        widget = gr.HTML(
            value=value({}, self.defaults),
            html_template=asset(f"{name}.html"),
            js_on_load=asset(f"{name}.js"),
            server_functions=[_answering(function) for function in functions],
            elem_id=name,
            **PLAIN,
        )
        self.draw(value, widget)
        # Gradio passes on only what differs from the last value, so this one does.
        widget.ready(
            lambda visitor: {**value(visitor.request, visitor.view), "asked": time.time()},
            self.visitor,
            widget,
            **QUIET,
        )
        self.choose(widget.select, open_cluster)

    def endpoint(self, function: Callable[..., Any], **options: Any) -> None:
        """Offer a function to programs (gradio_client) by its name; a `ValueError` becomes an error of Gradio's."""

        @wraps(function)
        def answer(*values: Any, **named: Any) -> Any:
            try:
                return function(*values, **named)
            except ValueError as error:  # an ExploreError is one, too
                raise gr.Error(str(error), print_exception=False) from None

        gr.api(answer, api_name=function.__name__, **options)

    def follow(self, event: Any) -> None:
        """Draw what an event of long work has changed, when it ends."""
        self.listeners.append(lambda: event.then(self.update, self.visitor, self.outputs, **QUIET))

    @property
    def defaults(self) -> dict[str, str]:
        """The settings with their values at first."""
        return {name: setting.default for name, setting in self.settings.items()}

    @property
    def outputs(self) -> list[Any]:
        """The components that `update` may change."""
        return [self.address, *(output for drawing in self.drawings for output in drawing.outputs)]

    @property
    def nothing(self) -> dict[Any, Any]:
        """Answer of an event that changes nothing."""
        return {self.address: gr.skip()}

    def update(self, visitor: Visitor) -> dict[Any, Any]:
        """Draw what has changed on the page that is open.

        Answers are numbered: a page that gets an older one last asks for all of them again.
        """
        with visitor.drawing:
            with visitor.changing:
                request, view = visitor.request, visitor.view
            changes = dict[Any, Any]()
            for number, drawing in enumerate(self.drawings):
                if drawing.page not in (None, view["page"]):
                    continue
                key = [dict(request), *(view[name] for name in drawing.uses)]
                key += [drawing.also(request, view)] if drawing.also else []
                if visitor.drawn.get(number) == key:
                    continue
                changes |= zip(drawing.outputs, _values(drawing, request, view), strict=True)
                visitor.drawn[number] = key
            shown = link(request, view, self.settings)
            if changes or visitor.drawn.get(-1) != shown:
                visitor.drawn[-1] = shown
                visitor.answers += 1
                changes[self.address] = f"{visitor.answers} {shown}"
            return changes or self.nothing

    def again(self, visitor: Visitor) -> dict[Any, Any]:
        """Draw all of the page that is open, drawn before or not; controls stay as the visitor has set them."""
        with visitor.drawing:
            controls = {number for number, drawing in enumerate(self.drawings) if not drawing.uses}
            visitor.drawn = {number: key for number, key in visitor.drawn.items() if number in controls}
        return self.update(visitor)

    def opened(self, visitor: Visitor, request: dict[str, str]) -> None:
        """Make what was prepared the thing that the visitor looks at.

        Raises:
            ExploreError: It isn't prepared.
        """
        explained = self.explained(request)
        with visitor.changing:
            if not visitor.request:
                visitor.view = fitting(visitor.view, explained)
            elif visitor.request != request:
                of_model = {name: setting.default for name, setting in self.settings.items() if setting.of_model}
                visitor.view = {**visitor.view, **of_model}
            visitor.request = request

    def connect(self) -> None:
        """Connect the events; to be called once, when all pages are laid out."""
        for listen in self.listeners:
            listen()

    def explained(self, request: Mapping[str, str]) -> Explained:
        """What is open; what is no longer in memory is read from the disk.

        Raises:
            ExploreError: Nothing is open, or it can't be opened any more.
        """
        if not request:
            raise NotReady(NOTHING_OPEN)
        wanted = Request.from_query(request)
        try:
            return self.bench.get(wanted)
        except NotReady:
            return finished(self.bench.open(wanted))

    def clustering(self, request: Mapping[str, str], view: Mapping[str, str]) -> Clustering:
        """The clusters that a visitor looks at.

        Raises:
            ExploreError: Nothing is open, or the model can't have these settings.
        """
        explained = self.explained(request)
        head, mode, temperature = ({**self.defaults, **view}[name] for name in READING)
        try:
            numbers = int(head), float(temperature)
        except ValueError:
            raise ExploreError(f"Head and temperature must be numbers, got '{head}' and '{temperature}'") from None
        return clustering(explained, head=numbers[0], mode=mode, temperature=numbers[1])  # type: ignore[arg-type]


def open_cluster(view: Mapping[str, str], event: gr.EventData) -> dict[str, str]:
    """What a click on a cluster outside the page of the clusters changes."""
    return changed(view, page="clusters", cluster=int(event.cluster))


def finished(work: Any) -> Any:
    """Run a generator to its end.

    Returns:
        What it returns.
    """
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value


def _values(drawing: Drawing, request: Mapping[str, str], view: Mapping[str, str]) -> list[Any]:
    """One value for each output of a drawing."""
    try:
        values = drawing.render(request, view)
    except ExploreError as error:
        if len(drawing.outputs) > 1:
            return [gr.skip()] * len(drawing.outputs)
        return [note(str(error), kind="error" if request else "empty")]
    return values if len(drawing.outputs) > 1 else [values]


def _answering(function: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The function, with errors as answers: a script can't catch what is raised on the server."""

    @wraps(function)
    def answer(question: dict[str, Any]) -> dict[str, Any]:
        try:
            return function(question)
        except ExploreError as error:
            return {"error": str(error)}
        except Exception:
            _log.exception("%s failed", function.__name__)
            return {"error": "Something went wrong on the server; its log has the details"}

    return answer
