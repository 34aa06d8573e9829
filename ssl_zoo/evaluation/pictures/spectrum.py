"""A picture of a spectrum: eigenvalues, effective rank, angles between images, and sizes of the clusters."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssl_zoo.evaluation.metrics.cluster_sizes import ClusterSizes
from ssl_zoo.evaluation.metrics.spectrum import Spectrum


__all__ = ["save_spectrum_picture"]

# Blue and orange of Okabe and Ito, which the common kinds of colour blindness leave apart.
_BLUE, _ORANGE, _INK, _GREY = "#0072B2", "#D55E00", "#1B1F24", "#6B7280"


def save_spectrum_picture(path: str | Path, spectrum: Spectrum, *, title: str) -> None:
    """Draw what [`measure_spectrum`] found; without clusters their panel is left out.

    Args:
        path (`str` or `Path`): PNG file to write.
        spectrum ([`Spectrum`]): What was measured.
        title: The picture's title.
    """
    num_panels = 4 if spectrum.clusters is not None else 3
    figure = Figure(figsize=(3.7 * num_panels, 3.6))
    figure.subplots_adjust(left=0.6 / (3.7 * num_panels), right=0.985, top=0.74, bottom=0.14, wspace=0.24)
    figure.text(0.012, 0.955, title, fontsize=12, fontweight="bold", color=_INK, va="top")
    panels = figure.subplots(1, num_panels)
    _draw_eigenvalues(panels[0], spectrum)
    _draw_singular_values(panels[1], spectrum)
    _draw_cosines(panels[2], spectrum)
    if spectrum.clusters is not None:
        _draw_clusters(panels[3], spectrum.clusters)
    figure.savefig(path, dpi=130, metadata={"Software": None})


def _draw_eigenvalues(axes: Axes, spectrum: Spectrum) -> None:
    positive = spectrum.eigenvalues[spectrum.eigenvalues > 0]
    numbers = f"participation ratio {spectrum.participation_ratio:.4g}"
    _style(axes, "Eigenvalues of the covariance", numbers, "number i")
    if not positive.size:
        _say(axes, "all features are equal")
        return
    axes.loglog(np.arange(1, positive.size + 1), positive, color=_BLUE, linewidth=1.6, label="eigenvalues")
    if spectrum.alpha is not None and spectrum.alpha_offset is not None:
        first, last = spectrum.alpha_range
        ends = np.array([first, last], dtype=np.float64)
        line = np.exp(spectrum.alpha_offset) * ends**-spectrum.alpha
        name = f"$i^{{{-spectrum.alpha:.2f}}}$, fitted from {first:,} to {last:,}"
        axes.loglog(ends, line, color=_ORANGE, linewidth=1.6, linestyle="--", label=name)
    axes.legend(frameon=False, fontsize=8, loc="lower left")


def _draw_singular_values(axes: Axes, spectrum: Spectrum) -> None:
    values = spectrum.singular_values
    numbers = f"effective rank (RankMe) {spectrum.rankme:.4g} of {len(values):,}"
    _style(axes, "Singular values, their shares added up", numbers, "number of singular values")
    if not values.any():
        _say(axes, "all features are 0")
        return
    shares = np.concatenate([[0.0], np.cumsum(values) / values.sum()])
    axes.plot(np.arange(len(shares)), shares, color=_BLUE, linewidth=1.6)
    axes.plot([0, len(values)], [0, 1], color=_GREY, linewidth=1.0, linestyle=":", label="all equal")
    axes.axvline(spectrum.rankme, color=_ORANGE, linewidth=1.2, linestyle="--", label="RankMe")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.set_ylim(0, 1.03)
    axes.set_xlim(0, len(values) * 1.02)


def _draw_cosines(axes: Axes, spectrum: Spectrum) -> None:
    counts = spectrum.cosine_counts
    numbers = f"mean {spectrum.mean_cosine:.3f}, uniformity {spectrum.uniformity:.2f}"
    if spectrum.alignment is not None:
        numbers += f", alignment {spectrum.alignment:.3f}"
    _style(axes, f"Cosine of two of {spectrum.num_pair_rows:,} images, share of pairs", numbers, "cosine")
    edges = np.linspace(-1, 1, len(counts) + 1)
    axes.stairs(counts / counts.sum(), edges, fill=True, color=_BLUE)
    used = np.flatnonzero(counts)
    # Collapsed features fill one bin: as wide as the panel, it would look like a spread.
    axes.set_xlim(max(-1.0, min(edges[used[0]] - 0.05, 0.5)), min(1.0, edges[used[-1] + 1] + 0.05))


def _draw_clusters(axes: Axes, clusters: ClusterSizes) -> None:
    sizes = np.sort(clusters.sizes)[::-1]
    num_overfull, num_used = clusters.num_overfull, len(sizes) - clusters.num_empty
    numbers = f"entropy {clusters.normalized_entropy:.3f} of 1, largest {clusters.largest_share:.1%} of the images"
    _style(axes, f"Images in each of {len(sizes):,} clusters", numbers, "clusters, largest first")
    axes.set_yscale("log")
    axes.set_ylim(0.7, 3 * float(sizes[0]))
    overfull = f"{num_overfull:,} over-full (more than 4 equal shares)"
    for first, last, color, label in ((num_overfull, num_used, _BLUE, None), (0, num_overfull, _ORANGE, overfull)):
        if last > first:
            edges = np.arange(first, last + 1)
            axes.stairs(sizes[first:last], edges, baseline=0.1, fill=True, color=color, label=label)
    if clusters.num_empty:
        axes.axvspan(num_used, len(sizes), color=_GREY, alpha=0.25, linewidth=0, label=f"{clusters.num_empty:,} empty")
    axes.axhline(clusters.overfull / 4, color=_INK, linewidth=1.0, linestyle=":", label="an equal share")
    axes.set_xlim(0, len(sizes))
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def _say(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=9, color=_GREY)
    axes.set_xticks([])
    axes.set_yticks([])


def _style(axes: Axes, title: str, numbers: str, x: str) -> None:
    axes.set_title(f"{title}\n", fontsize=9.5, loc="left", color=_INK)
    axes.text(0, 1.035, numbers, transform=axes.transAxes, fontsize=8, color=_GREY)
    axes.set_xlabel(x, fontsize=8, color=_GREY)
    axes.tick_params(which="both", labelsize=8, colors=_GREY)
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
