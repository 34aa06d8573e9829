"""Learning curves of runs: loss, diagnostics of the method and k-NN accuracy, against the number of images seen."""

import json
from collections.abc import Mapping
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure


__all__ = ["save_curves_picture"]

# Okabe and Ito's palette, which the common kinds of colour blindness leave apart.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
_GREY = "#6B7280"
_CURVES = {
    "loss": ("loss", ""),
    "mutual_information": ("mutual information of the assignments", "nats"),
    "labels_changed": ("share of labels changed by a solve", ""),
    "covariance_rank": ("effective rank of the covariance", ""),
    "purity": ("share of neighbours of the same class", ""),
    "pseudo_label_accuracy": ("accuracy of the pseudo-labels", ""),
    "effective_rank": ("effective rank of the features", ""),
    "knn_top1": ("k-NN accuracy during training", ""),
}


def save_curves_picture(path: str | Path, logs: Mapping[str, Path]) -> None:
    """Draw the logged curves of one or more runs; what no run logged is left out.

    Args:
        path (`str` or `Path`): PNG file to write.
        logs (`Mapping[str, Path]`): What a run is called -> its `metrics.jsonl`.

    Raises:
        ValueError: If no run logged anything to draw.
    """
    runs = {
        name: [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] for name, log in logs.items()
    }
    shown = [key for key in _CURVES if any(key in line for lines in runs.values() for line in lines)]
    if not shown:
        raise ValueError(f"none of {', '.join(str(log) for log in logs.values())} holds a curve to draw")
    figure = Figure(figsize=(3.6 * len(shown), 3.0), layout="constrained")
    for axes, key in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        for color, (name, lines) in zip(_COLORS * len(runs), runs.items(), strict=False):
            points = [(line["images_seen"] / 1000, line[key]) for line in lines if key in line]
            if points:
                x, y = zip(*points, strict=True)
                axes.plot(x, y, color=color, label=name, linewidth=1.6, marker="o" if len(points) < 12 else None)
        _style(axes, *_CURVES[key])
    if len(runs) > 1:
        figure.axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def _style(axes: Axes, title: str, unit: str) -> None:
    axes.set_title(title, fontsize=9, loc="left")
    axes.set_xlabel("thousand images seen", fontsize=8, color=_GREY)
    axes.set_ylabel(unit, fontsize=8, color=_GREY)
    axes.tick_params(labelsize=8, colors=_GREY)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
