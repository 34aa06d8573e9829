"""What all pages share: what is open, how it is looked at, the address that says both, and who draws what."""

import html
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlencode

import gradio as gr

from ssl_zoo.explore.clusters import Clustering, clustering, modes
from ssl_zoo.explore.preparation import Explained
from ssl_zoo.explore.workbench import ExploreError, NotReady, Request, Workbench


ASSETS = Path(__file__).parent / "assets"

VIEW = {"page": "clusters", "head": "0", "mode": "softmax", "temperature": "1", "sort": "size", "at": "1"}
"""Settings of the pages and what they are at first."""
SETTINGS = (*VIEW, "cluster", "find", "only", "other")
"""All that the address holds; those that aren't in `VIEW` are empty at first."""
TAB = "tab"
"""What the address calls the page: gradio itself takes `page` for another thing."""
READING = ("head", "mode", "temperature")
"""Settings that change the clusters themselves."""

Drawn = dict[str, Any]
Render = Callable[[Mapping[str, str], Mapping[str, str]], Any]


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
        request (`gr.State`): Query of what this visitor has open, `{}` before that; changes when something is opened.
        view (`gr.State`): Settings of the pages, `dict[str, str]`; see `VIEW`.
        drawn (`gr.State`): What each drawing was last made of.
        tabs (`gr.Tabs`): The pages.
        drawings (`list` of `Drawing`): All parts that follow `request` and `view`.
        followed (`list`): Events after which is drawn anew what they have changed otherwise.
    """

    bench: Workbench
    request: gr.State
    view: gr.State
    drawn: gr.State
    tabs: gr.Tabs
    drawings: list[Drawing] = field(default_factory=list)
    followed: list[Any] = field(default_factory=list)

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

    def follow(self, event: Any) -> None:
        """Draw after this event, too: it makes something ready that isn't in `request` or `view`."""
        self.followed.append(event)

    @property
    def outputs(self) -> list[Any]:
        """What `redraw` may change."""
        return [self.drawn, self.view, *(output for drawing in self.drawings for output in drawing.outputs)]

    def redraw(self, request: Mapping[str, str], view: Mapping[str, str], drawn: Drawn) -> dict[Any, Any]:
        """Draw what has changed on the page that is open."""
        now, changes = dict(drawn), dict[Any, Any]()
        settled = self.settled(request, view)
        if settled != view:
            view = changes[self.view] = settled
        for number, drawing in enumerate(self.drawings):
            if drawing.page not in (None, view.get("page", VIEW["page"])):
                continue
            key = [dict(request), *(view.get(name, VIEW.get(name, "")) for name in drawing.uses)]
            key += [drawing.also(request, view)] if drawing.also else []
            if now.get(str(number)) == key:
                continue
            values = drawing.render(request, view)
            changes |= zip(drawing.outputs, values if len(drawing.outputs) > 1 else [values], strict=True)
            now[str(number)] = key
        return {**changes, self.drawn: now}

    def settled(self, request: Mapping[str, str], view: Mapping[str, str]) -> Mapping[str, str]:
        """Settings that fit what is open: another model has other heads, and other clusters by the same numbers."""
        of = urlencode(request)
        if not request or view.get("of") == of:
            return view
        if "of" in view:
            return {**changed(view, cluster="", head=0, mode="softmax", at=1, moved=1), "of": of}
        try:
            return {**fitting(view, self.explained(request)), "of": of}
        except ExploreError:
            return view  # whoever draws says what is wrong

    def connect(self) -> None:
        """Have all drawings follow; to be called once, when all pages are laid out."""
        # One event for both: a second change while the first is being drawn finds nothing left to do.
        gr.on(
            [self.request.change, self.view.change],
            self.redraw,
            [self.request, self.view, self.drawn],
            self.outputs,
            trigger_mode="always_last",
            **QUIET,
        )
        for event in self.followed:
            event.then(self.redraw, [self.request, self.view, self.drawn], self.outputs, **QUIET)

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


PLAIN: dict[str, Any] = {"container": False, "apply_default_css": False}
"""HTML without gradio's frame and styles."""


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


def asset(name: str) -> str:
    """Text of a file of the page."""
    return (ASSETS / name).read_text(encoding="utf-8")


def escape(value: object) -> str:
    """Text that may stand in HTML, inside quotes too."""
    return html.escape(str(value), quote=True)


def note(words: str, *, kind: str = "empty") -> str:
    """A sentence in the place of what isn't there."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="note {kind}" role="{role}">{escape(words)}</p>'


def progress_bar(words: str = "opening", done: int = 0, total: int = 0) -> str:
    """How far long work is."""
    share = 100 * done / total if total else 0
    count = f"{done:,} of {total:,}" if done else ""
    return (
        f'<div class="progress" role="progressbar" aria-valuenow="{share:.0f}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-label="{escape(words)}"><span>{escape(words)}</span><span>{count}</span>'
        f'<i style="width:{share:.1f}%"></i></div>'
    )


def changed(view: Mapping[str, str], **settings: Any) -> dict[str, str]:
    """The settings with some of them changed; an empty one is taken out."""
    found = {**view, **{name: str(value) for name, value in settings.items()}}
    return {name: value for name, value in found.items() if value != ""}


def fitting(view: Mapping[str, str], explained: Explained) -> dict[str, str]:
    """Settings of an address, without those that this model doesn't have."""
    found = dict(view)
    if not (found["head"].isdecimal() and int(found["head"]) < explained.num_heads):
        found["head"] = VIEW["head"]
    if found["mode"] not in modes(explained):
        found["mode"] = VIEW["mode"]
    try:
        found["temperature"] = f"{min(max(float(found['temperature']), 0.1), 5):g}"
    except ValueError:
        found["temperature"] = VIEW["temperature"]
    return found


def link(request: Mapping[str, str], view: Mapping[str, str]) -> str:
    """The address of what is shown, without the server: only what isn't so by itself."""
    shown = {name: value for name, value in view.items() if name in SETTINGS and VIEW.get(name) != value}
    if "page" in shown:
        shown[TAB] = shown.pop("page")
    return "?" + urlencode({**request, **shown}) if request else ""


def texts(values: Any) -> dict[str, str]:
    """What a browser or client sent as a dictionary of texts; nothing else is one."""
    return {str(key): str(value) for key, value in values.items()} if isinstance(values, dict) else {}


def percent(share: float) -> str:
    """`83 %`; small shares have a decimal."""
    return f"{100 * share:.0f} %" if share >= 0.095 or share == 0 else f"{100 * share:.1f} %"


def plural(count: int, word: str) -> str:
    """`1 image`, `2 images`, `2 classes`."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}{'es' if word.endswith('s') else 's'}"
