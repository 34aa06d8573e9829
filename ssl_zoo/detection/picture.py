"""A picture of detections: test images with the boxes that were found and, dashed, those that are there."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ssl_zoo.data.decode import decode_image
from ssl_zoo.detection.coco import DetectionTable
from ssl_zoo.detection.source import DetectionSource


__all__ = ["PicturedImage", "choose_images", "save_detections_picture"]

# Okabe and Ito's palette, which the common kinds of colour blindness leave apart; a class keeps its colour.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
_LIGHT = {"#E69F00", "#56B4E9", "#F0E442"}
_INK, _GREY = "#1B1F24", "#6B7280"
_INCHES, _DPI = 2.7, 130


@dataclass(frozen=True)
class PicturedImage:
    """One image to draw.

    Attributes:
        image (`PIL.Image.Image`): RGB.
        truth (`torch.Tensor` of shape `(boxes, 9)`): As in `DetectionTable`.
        detections (`torch.Tensor` of shape `(detections, 7)`): As in `DetectionTable`, confident ones only.
    """

    image: Image.Image
    truth: torch.Tensor
    detections: torch.Tensor


def choose_images(
    source: DetectionSource, table: DetectionTable, *, num_images: int = 12, min_score: float = 0.5
) -> list[PicturedImage]:
    """The first images of a source that hold a box, with what was found on them.

    Args:
        source ([`DetectionSource`]): Where the table's ids come from.
        table ([`DetectionTable`]): Of all its images.
        num_images: Images at most.
        min_score: Less confident detections aren't drawn.
    """
    wanted = table.truth[:, 0].unique()[:num_images].long().tolist()
    ends = np.cumsum(source.shard_lengths)
    reader, chosen = source.reader(), []
    for number in wanted:
        shard = int(np.searchsorted(ends, number, side="right"))
        row = number - int(ends[shard] - source.shard_lengths[shard])
        image = decode_image(next(iter(reader.read(shard, row, row + 1))).image)
        detections = table.detections[(table.detections[:, 0] == number) & (table.detections[:, 5] >= min_score)]
        chosen.append(PicturedImage(image, table.truth[table.truth[:, 0] == number], detections))
    return chosen


def save_detections_picture(
    path: str | Path, images: Sequence[PicturedImage], *, title: str, caption: str, class_names: Sequence[str]
) -> None:
    """Draw images in a grid.

    Args:
        path (`str` or `Path`): PNG file to write.
        images (`Sequence[PicturedImage]`): At least one.
        title: One line above.
        caption: One line below the title.
        class_names (`Sequence[str]`): Of all classes.

    Raises:
        ValueError: There is no image.
    """
    if not images:
        raise ValueError("there is no image with a box to draw")
    columns = min(4, len(images))
    rows = -(-len(images) // columns)
    width, height = max(columns, 3) * _INCHES, rows * _INCHES + 0.75
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.1 / width, 1 - 0.24 / height, title, fontsize=13, fontweight="bold", color=_INK, va="center")
    figure.text(0.1 / width, 1 - 0.52 / height, caption, fontsize=8.5, color=_GREY, va="center")
    for number, pictured in enumerate(images):
        row, column = divmod(number, columns)
        place = (column * _INCHES + 0.06, height - 0.7 - (row + 1) * _INCHES + 0.06)
        side = _INCHES - 0.12
        axes = figure.add_axes((place[0] / width, place[1] / height, side / width, side / height))
        _draw(axes, pictured, class_names)
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})


def _draw(axes: Axes, pictured: PicturedImage, class_names: Sequence[str]) -> None:
    side = max(pictured.image.size)
    scale = (_INCHES - 0.12) * _DPI / side
    size = (round(pictured.image.width * scale), round(pictured.image.height * scale))
    # Resampled here: matplotlib's own resampling of a small image is blurred at its edges.
    axes.imshow(
        np.asarray(pictured.image.resize(size, Image.Resampling.BICUBIC)),
        extent=(0, pictured.image.width, pictured.image.height, 0),
        interpolation="nearest",
    )
    axes.set(xlim=(0, pictured.image.width), ylim=(pictured.image.height, 0))
    axes.axis("off")
    for _, *box in pictured.truth[:, :5].tolist():
        for color, style in (("black", "-"), ("white", (0, (4, 3)))):  # seen on dark and on light
            _outline(axes, box, edgecolor=color, linestyle=style, linewidth=1.1)
    for _, left, top, right, bottom, score, label in sorted(pictured.detections.tolist(), key=lambda row: row[5]):
        color = _COLORS[int(label) % len(_COLORS)]
        _outline(axes, [left, top, right, bottom], edgecolor=color, linewidth=2.0)
        above = top > 0.09 * side  # else the words would leave the image
        axes.text(
            max(left, 0.01 * side),
            top if above else top + 0.01 * side,
            f"{class_names[int(label)]} {score:.2f}",
            fontsize=6.5,
            color=_INK if color in _LIGHT else "white",
            va="bottom" if above else "top",
            clip_on=True,
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1.2},
        )


def _outline(axes: Axes, box: list[float], **style: Any) -> None:
    left, top, right, bottom = box
    axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, **style))
