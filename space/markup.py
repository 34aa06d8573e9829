"""Words and HTML that several pages use."""

import html
from pathlib import Path
from typing import Any


ASSETS = Path(__file__).parent / "assets"

PLAIN: dict[str, Any] = {"container": False, "apply_default_css": False}
"""HTML without gradio's frame and styles."""


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


def percent(share: float) -> str:
    """`83 %`; small shares have a decimal."""
    return f"{100 * share:.0f} %" if share >= 0.095 or share == 0 else f"{100 * share:.1f} %"


def plural(count: int, word: str) -> str:
    """`1 image`, `2 images`, `2 classes`."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}{'es' if word.endswith('s') else 's'}"
