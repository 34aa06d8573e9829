"""What a visitor looks at: settings, the address that says them, and the state of one visitor on the server."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, Self
from urllib.parse import urlencode

from ssl_zoo.explore.clusters import modes
from ssl_zoo.explore.preparation import Explained


VIEW = {"page": "clusters", "head": "0", "mode": "softmax", "temperature": "1", "sort": "size", "at": "1"}
"""Settings of the pages and what they are at first."""
SETTINGS = (*VIEW, "cluster", "find", "only", "other")
"""All that the address holds; those that aren't in `VIEW` are empty at first."""
TAB = "tab"
"""What the address calls the page: gradio itself takes `page` for another thing."""
READING = ("head", "mode", "temperature")
"""Settings that change the clusters themselves."""


class Visitor:
    """What one visitor has open, and how it is looked at.

    `gr.State` hands every event of a visitor the same one. Events that came at the same time each change only what
    they are about, and what is drawn is drawn for all that has changed by then.

    Attributes:
        request (`dict[str, str]`): Query of what is open, `{}` before that.
        wish (`dict[str, str]`): Query of what was asked for last.
        view (`dict[str, str]`): Settings of the pages, see `VIEW`.
        drawn (`dict`): What each drawing was last made of.
        answers (`int`): How many drawings were sent.
        clicked (`float`): When the last click inside a widget was that counted, by the page's clock.
        changing, drawing (`threading.Lock`): To be held while settings change, and while pages are drawn.
    """

    def __init__(self) -> None:
        self.request, self.wish, self.view = dict[str, str](), dict[str, str](), dict(VIEW)
        self.drawn, self.answers = dict[int, Any](), 0
        self.clicked: float = 0
        self.changing, self.drawing = threading.Lock(), threading.Lock()

    def __deepcopy__(self, memo: object) -> Self:
        return type(self)()  # Gradio copies the first one for each visitor

    def change(self, change: Callable[[Mapping[str, str]], Mapping[str, str]], clicked: object = None) -> bool:
        """Replace the settings by what `change` makes of them, while nobody else does.

        Args:
            change: Function of the view that gives the new one.
            clicked: When, by the page's clock. A busy server may come to quick clicks in another order: an earlier
                one than that which counted last is left out.

        Returns:
            `bool`: Whether the settings differ from before.
        """
        with self.changing:
            if isinstance(clicked, int | float):
                if clicked < self.clicked:
                    return False
                self.clicked = clicked
            before, self.view = self.view, dict(change(self.view))
            return self.view != before


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
