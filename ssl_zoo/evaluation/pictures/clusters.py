"""A picture of what a model found: rows of images that share a pseudo-label, with size and purity of each cluster."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from PIL import Image, ImageOps

from ssl_zoo.data.decode import decode_image
from ssl_zoo.data.source import ImageSource
from ssl_zoo.labels.assign import PseudoLabels


__all__ = ["ClusterRow", "choose_clusters", "draw_clusters", "read_images", "save_cluster_picture"]

# Blue and orange of Okabe and Ito, which the common kinds of colour blindness leave apart.
_BLUE, _ORANGE, _INK, _GREY, _TRACK = "#0072B2", "#D55E00", "#1B1F24", "#6B7280", "#E5E7EB"
_LABEL_WIDTH, _BAR_WIDTH, _GAP = 1.9, 2.9, 0.08
_INCHES, _DPI = 0.62, 150


@dataclass(frozen=True)
class ClusterRow:
    """One row of the picture.

    Attributes:
        pseudo_label: Number of the cluster.
        size: Images in it.
        samples (`numpy.ndarray` of shape `(columns,)` at most): Positions of the images to show, most confident first.
        majority: Its most frequent class; `None` without labels.
        purity: Share of its images that are of that class; `None` without labels.
    """

    pseudo_label: int
    size: int
    samples: npt.NDArray[np.int64]
    majority: int | None
    purity: float | None


def choose_clusters(
    pseudo_labels: npt.ArrayLike,
    confidence: npt.ArrayLike,
    labels: npt.ArrayLike | None = None,
    *,
    num_rows: int = 10,
    num_columns: int = 14,
) -> list[ClusterRow]:
    """Choose clusters to show, and images evenly spaced from the most to the least confident of each.

    Without labels the largest clusters are taken. With labels, those with most images of their majority class, of
    every class one before a second of any.

    Args:
        pseudo_labels (array of shape `(samples,)`): Cluster of each image.
        confidence (array of shape `(samples,)`): Orders the images of a cluster.
        labels (array of shape `(samples,)`, *optional*): Classes, >= 0.
        num_rows: Clusters at most.
        num_columns: Images of each at most.

    Returns:
        `list[ClusterRow]`: ordered by class, then size; by size alone without labels. The same for the same arguments.

    Raises:
        ValueError: If the arrays differ in length or are empty.
    """
    clusters, certainty = np.asarray(pseudo_labels), np.asarray(confidence)
    classes = None if labels is None else np.asarray(labels)
    arrays = [certainty] if classes is None else [certainty, classes]
    if clusters.size == 0 or any(array.shape != clusters.shape for array in arrays):
        raise ValueError("`pseudo_labels`, `confidence` and `labels` must be vectors of one length > 0")
    rows = []
    for cluster in np.unique(clusters):
        members = np.flatnonzero(clusters == cluster)
        members = members[np.argsort(-certainty[members], kind="stable")]
        spaced = np.linspace(0, len(members) - 1, min(num_columns, len(members))).round().astype(np.int64)
        majority = purity = None
        if classes is not None:
            counts = np.bincount(classes[members])
            majority, purity = int(counts.argmax()), float(counts.max() / len(members))
        rows.append(ClusterRow(int(cluster), len(members), members[spaced], majority, purity))
    rows.sort(key=lambda row: (-row.size * (1.0 if row.purity is None else row.purity), row.pseudo_label))
    seen: dict[int | None, int] = {}
    rounds = []
    for row in rows:
        rounds.append(seen.get(row.majority, 0) if classes is not None else 0)
        seen[row.majority] = rounds[-1] + 1
    chosen = [rows[index] for index in sorted(range(len(rows)), key=lambda index: (rounds[index], index))[:num_rows]]
    return sorted(chosen, key=lambda row: (-1 if row.majority is None else row.majority, -row.size, row.pseudo_label))


def read_images(source: ImageSource, sample_ids: Sequence[int], *, size: int = 64) -> list[Image.Image]:
    """Read images of a source by their ids, each shard once and from its first wanted row to the last.

    Args:
        source (`ImageSource`): Where the ids come from.
        sample_ids (`Sequence[int]`): Global row numbers, in any order.
        size: Side of the square that is cut from the middle of each and resized, in pixels.

    Returns:
        `list[PIL.Image.Image]`: RGB, in the order of `sample_ids`.
    """
    wanted, images = sorted(set(sample_ids)), {}
    shards = np.searchsorted(source.offsets, wanted, side="right") - 1
    for shard in np.unique(shards):
        ids = {wanted[index] for index in np.flatnonzero(shards == shard)}
        offset = int(source.offsets[shard])
        for row in source.rows(int(shard), min(ids) - offset, max(ids) - offset + 1):
            if row.sample_id in ids:
                images[row.sample_id] = ImageOps.fit(decode_image(row.image), (size, size), Image.Resampling.BICUBIC)
    return [images[number] for number in sample_ids]


def save_cluster_picture(
    path: str | Path,
    rows: Sequence[ClusterRow],
    images: Sequence[Sequence[Image.Image]],
    *,
    title: str,
    caption: str,
    labels: Sequence[Sequence[int]] | None = None,
    class_names: Sequence[str] | None = None,
) -> None:
    """Draw clusters as rows of thumbnails, with a bar that shows the purity of each when there are classes.

    Args:
        path (`str` or `Path`): PNG file to write.
        rows (`Sequence[ClusterRow]`): From `choose_clusters`.
        images (`Sequence` of `Sequence` of `PIL.Image.Image`): Square thumbnails, for every row those of its samples.
        title: One line above.
        caption: One line below the title: how the picture was made.
        labels (`Sequence` of `Sequence[int]`, *optional*): Class of each thumbnail; a corner marks minorities.
        class_names (`Sequence[str]`, *optional*): Names of the classes; numbers otherwise.
    """
    columns = max(len(row) for row in images)
    with_bars = rows[0].purity is not None
    width = _LABEL_WIDTH + columns + (_BAR_WIDTH if with_bars else 0.2)
    top, bottom = 1.35, 0.75 if with_bars else 0.3
    height = top + len(rows) + bottom
    figure = Figure(figsize=(width * _INCHES, height * _INCHES), dpi=_DPI, facecolor="white")
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(height, 0), aspect="equal")
    axes.axis("off")
    axes.text(0.3, 0.52, title, fontsize=15, fontweight="bold", color=_INK, va="center")
    axes.text(0.3, 1.0, caption, fontsize=8.5, color=_GREY, va="center")
    if with_bars:
        x = _LABEL_WIDTH + columns + 0.25
        axes.text(x, 1.0, "majority class", fontsize=8.5, color=_GREY, va="center")
        axes.text(x + _BAR_WIDTH - 0.5, 1.0, "purity", fontsize=8.5, color=_GREY, va="center", ha="right")
    for index, (row, thumbnails) in enumerate(zip(rows, images, strict=True)):
        y = top + index
        axes.text(0.3, y + 0.42, f"#{row.pseudo_label}", fontsize=11, fontweight="bold", color=_INK, va="center")
        axes.text(0.3, y + 0.70, f"{row.size:,} images", fontsize=7, color=_GREY, va="center")
        for column, thumbnail in enumerate(thumbnails):
            other = labels is not None and labels[index][column] != row.majority
            _draw_thumbnail(axes, thumbnail, _LABEL_WIDTH + column, y, marked=other)
        if row.purity is not None and row.majority is not None:
            name = class_names[row.majority] if class_names else f"class {row.majority}"
            _draw_bar(axes, row.purity, str(name), _LABEL_WIDTH + columns + 0.25, y)
    if labels is not None:
        x, y = _LABEL_WIDTH + _GAP, height - bottom + 0.38
        axes.fill([x, x + 0.28, x + 0.28], [y - 0.14, y - 0.14, y + 0.14], color=_ORANGE, linewidth=0)
        axes.text(x + 0.4, y, "not of the cluster's majority class", fontsize=8, color=_GREY, va="center")
        source = "majority class: by the labels of the data set"
        axes.text(width - 0.25, y, source, fontsize=8, color=_GREY, va="center", ha="right")
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def _draw_thumbnail(axes: Axes, image: Image.Image, x: float, y: float, *, marked: bool) -> None:
    left, right, upper, lower = x + _GAP / 2, x + 1 - _GAP / 2, y + _GAP / 2, y + 1 - _GAP / 2
    # Resampled here: matplotlib's own resampling of a small image is blurred at its edges.
    side = round((1 - _GAP) * _INCHES * _DPI)
    pixels = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC))
    axes.imshow(pixels, extent=(left, right, lower, upper), interpolation="nearest")
    if marked:
        axes.fill([right, right - 0.3, right], [upper, upper, upper + 0.3], color="white", linewidth=0)
        axes.fill([right, right - 0.25, right], [upper, upper, upper + 0.25], color=_ORANGE, linewidth=0)


def _draw_bar(axes: Axes, purity: float, name: str, x: float, y: float) -> None:
    full = _BAR_WIDTH - 0.5
    style = "round,pad=0,rounding_size=0.07"
    axes.text(x, y + 0.36, name, fontsize=9, color=_INK, va="center")
    axes.text(x + full, y + 0.36, f"{100 * purity:.0f} %", fontsize=9, color=_INK, va="center", ha="right")
    for length, color in ((full, _TRACK), (max(purity * full, 0.15), _BLUE)):
        axes.add_patch(FancyBboxPatch((x, y + 0.58), length, 0.16, boxstyle=style, color=color, linewidth=0))


def draw_clusters(assigned: PseudoLabels, source: ImageSource, path: Path, title: str) -> None:
    """Draw rows of images that share a pseudo-label.

    Args:
        assigned ([`PseudoLabels`]): Of the images of `source`.
        source (`ImageSource`): The images.
        path (`Path`): PNG file to write.
        title: The picture's title.
    """
    classes = assigned.labels.numpy() if bool((assigned.labels >= 0).all()) else None
    rows = choose_clusters(assigned.pseudo_labels.numpy(), assigned.confidence.numpy(), classes)
    ids = [[int(assigned.sample_ids[position]) for position in row.samples] for row in rows]
    pictures = dict(zip(flat := [number for row in ids for number in row], read_images(source, flat), strict=True))
    num_clusters = len(assigned.pseudo_labels.unique())
    chosen = ""
    if len(rows) < num_clusters:
        chosen = " (the largest)" if classes is None else " (those with most images of one class, every class first)"
    save_cluster_picture(
        path,
        rows,
        [[pictures[number] for number in row] for row in ids],
        title=title,
        caption=f"{len(rows)} of {num_clusters} clusters of {len(assigned.labels):,} test images{chosen}; "
        "each row from the most to the least certain image",
        labels=None if classes is None else [classes[row.samples].tolist() for row in rows],
        class_names=source.class_names,
    )
