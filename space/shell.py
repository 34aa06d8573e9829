"""What ties the pages together: which of their parts follow what, and the events that draw them anew."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import gradio as gr
from view import READING, VIEW, Visitor, changed, fitting, link

from ssl_zoo.explore.clusters import Clustering, clustering
from ssl_zoo.explore.preparation import Explained
from ssl_zoo.explore.workbench import ExploreError, NotReady, Request, Workbench


Render = Callable[[Mapping[str, str], Mapping[str, str]], Any]
Change = Callable[..., Mapping[str, str]]


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
        drawings (`list` of `Drawing`): All parts that follow what is open and the settings.
        listeners (`list`): What `connect` makes events of.
    """

    bench: Workbench
    visitor: gr.State
    tabs: gr.Tabs
    address: gr.Textbox
    drawings: list[Drawing] = field(default_factory=list)
    listeners: list[Callable[[], Any]] = field(default_factory=list)

    def draw(
        self,
        page: str | None,
        render: Render,
        outputs: Any | Sequence[Any],
        *,
        uses: Sequence[str] = READING,
        also: Render | None = None,
    ) -> None:
        """Have a part of a page follow what is open and how it is looked at.

        It is drawn only while its page is open, and only when something it depends on has changed.

        Args:
            page: Name of the page; `None` for what is always on the screen.
            render: Function of request and view that gives the value of the output, or a list with one for each.
            outputs: One component or several.
            uses: Settings of `view` that it depends on, besides the request.
            also: Function of request and view; what it gives is another thing that it depends on.
        """
        several = tuple(outputs) if isinstance(outputs, (list, tuple)) else (outputs,)
        self.drawings.append(Drawing(page, render, several, tuple(uses), also))

    def set(self, event: Any, change: Change, *inputs: Any, **options: Any) -> None:
        """Have a control change settings; its answer holds all that is drawn anew.

        While one answer is awaited, Gradio's page keeps back what follows and then sends the last value.

        Args:
            event: The control's event.
            change: Function of the view and the values of `inputs` that gives the new view.
            inputs: Components.
            options: Of the event.
        """

        def answer(visitor: Visitor, *values: Any) -> dict[Any, Any]:
            # Controls also speak up when they are built or left; then there is nothing to draw.
            return self.update(visitor) if visitor.change(lambda view: change(view, *values)) else self.nothing

        options = {"trigger_mode": "always_last", **QUIET, **options}
        self.listeners.append(lambda: event(answer, [self.visitor, *inputs], self.outputs, **options))

    def choose(self, event: Any, change: Change) -> None:
        """Have a click inside a widget change settings; each one counts, and may lead to another page.

        Args:
            event: The widget's event.
            change: Function of the view and the event's data that gives the new view.
        """

        def answer(visitor: Visitor, chosen: gr.EventData) -> dict[Any, Any]:
            before = visitor.view["page"]
            visitor.change(lambda view: change(view, chosen), getattr(chosen, "clicked", None))
            page = visitor.view["page"]
            leads = {self.tabs: gr.update(selected=page)} if page != before else {}
            return {**self.update(visitor), **leads}

        self.listeners.append(
            lambda: event(answer, self.visitor, [*self.outputs, self.tabs], trigger_mode="multiple", **QUIET)
        )

    def follow(self, event: Any) -> None:
        """Draw what an event of long work has changed, when it ends."""
        self.listeners.append(lambda: event.then(self.update, self.visitor, self.outputs, **QUIET))

    @property
    def outputs(self) -> list[Any]:
        """What `update` may change."""
        return [self.address, *(output for drawing in self.drawings for output in drawing.outputs)]

    @property
    def nothing(self) -> dict[Any, Any]:
        """Answer of an event after which all stays as it is."""
        return {self.address: gr.skip()}

    def update(self, visitor: Visitor) -> dict[Any, Any]:
        """Draw what has changed on the page that is open.

        Answers are numbered one after the other: a page that gets an older one last asks for all of them again.
        """
        with visitor.drawing:
            with visitor.changing:
                request, view = visitor.request, visitor.view
            changes = dict[Any, Any]()
            for number, drawing in enumerate(self.drawings):
                if drawing.page not in (None, view["page"]):
                    continue
                key = [dict(request), *(view.get(name, VIEW.get(name, "")) for name in drawing.uses)]
                key += [drawing.also(request, view)] if drawing.also else []
                if visitor.drawn.get(number) == key:
                    continue
                values = drawing.render(request, view)
                changes |= zip(drawing.outputs, values if len(drawing.outputs) > 1 else [values], strict=True)
                visitor.drawn[number] = key
            shown = link(request, view)
            if changes or visitor.drawn.get(-1) != shown:
                visitor.drawn[-1] = shown
                visitor.answers += 1
                changes[self.address] = f"{visitor.answers} {shown}"
            return changes or self.nothing

    def again(self, visitor: Visitor) -> dict[Any, Any]:
        """Draw all of the page that is open, whatever was drawn before; controls stay as the visitor has set them."""
        with visitor.drawing:
            controls = {number for number, drawing in enumerate(self.drawings) if not drawing.uses}
            visitor.drawn = {number: key for number, key in visitor.drawn.items() if number in controls}
        return self.update(visitor)

    def opened(self, visitor: Visitor, request: dict[str, str]) -> None:
        """Put what was prepared before a visitor: another model has other heads, and other clusters by a number.

        Raises:
            ExploreError: It isn't prepared.
        """
        explained = self.explained(request)
        with visitor.changing:
            if not visitor.request:
                visitor.view = fitting(visitor.view, explained)
            elif visitor.request != request:
                visitor.view = changed(visitor.view, cluster="", head=0, mode="softmax", at=1, moved=1)
            visitor.request = request

    def connect(self) -> None:
        """Make the events; to be called once, when all pages are laid out."""
        for listen in self.listeners:
            listen()

    def said(self, words: object) -> str:
        """A message without the folders of this server; what is inside them is named as visitors name it."""
        text = str(words)
        for root in self.bench.rules.folders:
            text = text.replace(f"{root}{os.sep}", "")
        return text

    def explained(self, request: Mapping[str, str]) -> Explained:
        """What is open; what was put away since is fetched from the disk.

        Raises:
            ExploreError: Nothing is open, or it can't be opened any more.
        """
        if not request:
            raise NotReady("Nothing is open: name a model and images above, then press Open.")
        wanted = Request.from_query(request)
        try:
            return self.bench.get(wanted)
        except NotReady:
            return finished(self.bench.open(wanted))

    def clustering(self, request: Mapping[str, str], view: Mapping[str, str]) -> Clustering:
        """The clusters that a visitor looks at.

        Raises:
            ExploreError: Nothing is open, or the settings don't fit.
        """
        explained = self.explained(request)
        settings = {**VIEW, **view}
        try:
            head, temperature = int(settings["head"]), float(settings["temperature"])
        except ValueError:
            raise ExploreError(
                f"Head and temperature must be numbers, got '{settings['head']}' and '{settings['temperature']}'."
            ) from None
        return clustering(explained, head=head, mode=settings["mode"], temperature=temperature)  # type: ignore[arg-type]


QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
"""How events run that only redraw: no veil over the page, no endpoint."""


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
