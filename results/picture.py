"""A picture that compares methods: a panel per measure, a row per method, a dot with its interval."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure


__all__ = ["Dot", "save_comparison_picture"]

# Of Okabe and Ito's palette, which the common kinds of colour blindness leave apart.
_COLORS = {"ours": "#0072B2", "rival": "#D55E00", "baseline": "#6B7280"}
_NAMES = {"ours": "this zoo", "rival": "rival, its own package", "baseline": "baseline"}
_INK, _GREY = "#1B1F24", "#6B7280"


@dataclass(frozen=True)
class Dot:
    """What was measured of one method.

    Attributes:
        value: The number.
        low: Lower end of its interval.
        high: Upper end of its interval.
    """

    value: float
    low: float
    high: float


def save_comparison_picture(
    path: str | Path,
    rows: Sequence[tuple[str, str]],
    panels: Sequence[tuple[str, Sequence[Dot | None]]],
    *,
    title: str,
) -> None:
    """Draw a dot plot.

    Args:
        path (`str` or `Path`): PNG file to write.
        rows (`Sequence` of `tuple`): Name and kind (`"ours"`, `"rival"` or `"baseline"`) of each method, top first.
        panels (`Sequence` of `tuple`): Title of each panel and its dots, one for each row or `None`.
        title: The picture's title.
    """
    height = 1.3 + 0.3 * len(rows)
    figure = Figure(figsize=(2.2 + 2.35 * len(panels), height))
    FigureCanvasAgg(figure)
    figure.subplots_adjust(
        left=1.9 / (2.2 + 2.35 * len(panels)), right=0.985, top=1 - 0.8 / height, bottom=0.45 / height, wspace=0.08
    )
    figure.text(0.012, 1 - 0.12 / height, title, fontsize=12, fontweight="bold", color=_INK, va="top")
    places = range(len(rows), 0, -1)
    for index, (axes, (name, dots)) in enumerate(
        zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True)
    ):
        for place, (_, kind), dot in zip(places, rows, dots, strict=True):
            if dot is not None:
                color = _COLORS[kind]
                axes.plot([dot.low, dot.high], [place, place], color=color, linewidth=2.2, solid_capstyle="round")
                axes.plot(dot.value, place, "o", color=color, markersize=6, label=_NAMES[kind])
        axes.set_title(name, fontsize=10, loc="left", color=_INK)
        axes.set_ylim(0.4, len(rows) + 0.6)
        axes.set_yticks(list(places), [name for name, _ in rows] if index == 0 else [])
        axes.tick_params(labelsize=9, colors=_GREY, length=0)
        for label in axes.get_yticklabels():
            label.set_color(_INK)
        axes.grid(axis="x", alpha=0.3)
        axes.grid(axis="y", alpha=0.15)
        for side in ("top", "right", "left", "bottom"):
            axes.spines[side].set_visible(False)
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    figure.legend(
        list(handles.values()),
        list(handles),
        loc="upper right",
        bbox_to_anchor=(0.99, 1.0 - 0.02 / height),
        ncols=len(handles),
        frameon=False,
        fontsize=9,
    )
    figure.savefig(path, dpi=130, metadata={"Software": None})
