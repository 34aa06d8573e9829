"""HTML that several pages use."""

import html
from pathlib import Path
from typing import Any

from ssl_zoo.explore.gallery import Gallery
from ssl_zoo.explore.pictures import data_uri


ASSETS = Path(__file__).parent / "assets"

PLAIN: dict[str, Any] = {"container": False, "apply_default_css": False}
"""HTML without gradio's frame and styles."""


def asset(name: str) -> str:
    """Text of a file of the page."""
    return (ASSETS / name).read_text(encoding="utf-8")


def escape(value: object) -> str:
    """The text of a value for HTML, also inside quotes."""
    return html.escape(str(value), quote=True)


def note(message: str, *, kind: str = "empty") -> str:
    """A message where there is nothing else to show."""
    role = "alert" if kind == "error" else "status"
    return f'<p class="note {kind}" role="{role}">{escape(message)}</p>'


def thumbnail(gallery: Gallery, number: int, *, side: int = 96, about: str = "") -> str:
    """A small picture of an image of the gallery, named by its row in the data set, its class and `about`."""
    name = ", ".join(part for part in (gallery.class_of(number), about) if part)
    alt = f"image {gallery.sample_ids[number]}" + (f", {name}" if name else "")
    return (
        f'<img src="{data_uri(gallery.small_images[number])}" width="{side}" height="{side}" alt="{escape(alt)}" '
        f'title="{escape(name)}">'
    )


def progress_bar(task: str = "opening", done: int = 0, total: int = 0) -> str:
    """Progress of long work."""
    share = 100 * done / total if total else 0
    count = f"{done:,} of {total:,}" if done else ""
    return (
        f'<div class="progress" role="progressbar" aria-valuenow="{share:.0f}" aria-valuemin="0" aria-valuemax="100" '
        f'aria-label="{escape(task)}"><span>{escape(task)}</span><span>{count}</span>'
        f'<i style="width:{share:.1f}%"></i></div>'
    )


def percent(share: float) -> str:
    """`83 %`; small shares have a decimal."""
    return f"{100 * share:.0f} %" if share >= 0.095 or share == 0 else f"{100 * share:.1f} %"


def plural(count: int, word: str) -> str:
    """`1 image`, `2 images`, `2 classes`."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}{'es' if word.endswith('s') else 's'}"
