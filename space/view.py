"""What a visitor looks at: settings, the address that holds them, and the state of one visitor on the server."""

import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

from ssl_zoo.explore.clusters import modes
from ssl_zoo.explore.preparation import Explained


class Setting(NamedTuple):
    """Something that a visitor can set; its value is a text.

    Attributes:
        default (`str`): The value at first.
        in_address (`bool`): Whether the address holds it when it differs from the default.
        of_model (`bool`): Whether it goes back to the default when another model or other images are opened: a cluster
            of one model means nothing in another.
    """

    default: str = ""
    in_address: bool = True
    of_model: bool = False


SHARED = {
    "page": Setting(),  # its default is the first page
    "head": Setting("0", of_model=True),
    "mode": Setting("softmax", of_model=True),
    "temperature": Setting("1"),
}
"""Settings that all pages share; each page declares those of its own."""
TAB = "tab"
"""Name of the setting `page` in the address: Gradio itself takes `page` for another thing."""
READING = ("head", "mode", "temperature")
"""Settings that change the clusters themselves."""


class Visitor:
    """What one visitor has open, and how it is looked at.

    `gr.State` hands every event of a visitor the same object. Events that arrive at the same time each change only
    their own settings, and a drawing takes all changes into account that were made before it starts.

    Args:
        defaults (`Mapping[str, str]`): All settings with their values at first.

    Attributes:
        request (`dict[str, str]`): Query of what is open, `{}` before anything is.
        wish (`dict[str, str]`): Query of what was asked for last.
        view (`dict[str, str]`): All settings with their values.
        drawn (`dict`): Number of each drawing -> what it depended on when it was last drawn.
        answers (`int`): How many answers with drawings were sent.
        clicked (`float`): Time of the last click inside a widget that counted, by the page's clock.
        changing, drawing (`threading.Lock`): Held while settings change, and while pages are drawn.
    """

    def __init__(self, defaults: Mapping[str, str]) -> None:
        self._defaults = defaults
        self.request, self.wish, self.view = dict[str, str](), dict[str, str](), dict(defaults)
        self.drawn, self.answers = dict[int, Any](), 0
        self.clicked: float = 0
        self.changing, self.drawing = threading.Lock(), threading.Lock()

    def __deepcopy__(self, memo: object) -> Self:
        return type(self)(self._defaults)  # Gradio copies the first one for each visitor

    def change(self, change: Callable[[Mapping[str, str]], Mapping[str, str]], clicked: object = None) -> bool:
        """Replace the settings by what `change` returns for them, while no other event does.

        Args:
            change: Function of the view that returns the new one.
            clicked: Time of the click, by the page's clock. A busy server may handle quick clicks in another order:
                a click earlier than the last one that counted is ignored.

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
    """The settings with some of them changed."""
    return {**view, **{name: str(value) for name, value in settings.items()}}


def fitting(view: Mapping[str, str], explained: Explained) -> dict[str, str]:
    """The settings, with the default for head, mode and temperature where this model can't have the value."""
    fitted = dict(view)
    if not (view["head"].isdecimal() and int(view["head"]) < explained.num_heads):
        fitted["head"] = SHARED["head"].default
    if view["mode"] not in modes(explained):
        fitted["mode"] = SHARED["mode"].default
    try:
        fitted["temperature"] = f"{min(max(float(view['temperature']), 0.1), 5):g}"
    except ValueError:
        fitted["temperature"] = SHARED["temperature"].default
    return fitted


def link(request: Mapping[str, str], view: Mapping[str, str], settings: Mapping[str, Setting]) -> str:
    """The address of what is shown, without the server's: settings that have their default are left out."""
    shown = {
        TAB if name == "page" else name: view[name]
        for name, setting in settings.items()
        if setting.in_address and view[name] not in ("", setting.default)
    }
    return "?" + urlencode({**request, **shown}) if request else ""


def texts(values: Any) -> dict[str, str]:
    """A dictionary of texts from what a browser or client sent; empty if that isn't a dictionary."""
    return {str(key): str(value) for key, value in values.items()} if isinstance(values, dict) else {}
