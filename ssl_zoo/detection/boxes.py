"""From the annotation of one image, as data sets store it, to boxes that can be trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from ssl_zoo.data.errors import DataError
from ssl_zoo.nearest import did_you_mean


__all__ = ["BoxFormat", "ImageBoxes", "ObjectFields", "flip_boxes", "read_boxes", "to_corners"]

BoxFormat = Literal["xywh", "xyxy"]

_SMALLEST_SIDE = 1e-3  # in pixels: below, a box has no area worth the name
_ROUNDING = 2.0  # annotators' boxes may reach over the border by this many pixels


@dataclass(frozen=True)
class ObjectFields:
    """Where a data set keeps its boxes.

    Attributes:
        objects: Column of the annotations: a struct of lists or a list of structs.
        bbox: Its field of the four numbers.
        category: Its field of the class.
        box_format: `"xywh"` (left, top, width, height: COCO) or `"xyxy"` (left, top, right, bottom), in pixels.
    """

    objects: str = "objects"
    bbox: str = "bbox"
    category: str = "category"
    box_format: BoxFormat = "xywh"


@dataclass(frozen=True)
class ImageBoxes:
    """The boxes of one image.

    Attributes:
        boxes (`torch.Tensor` of shape `(boxes, 4)`): Left, top, right, bottom in pixels, inside the image, float32.
        labels (`torch.Tensor` of shape `(boxes,)`): Classes from 0, int64.
        area (`torch.Tensor` of shape `(boxes,)`): In square pixels, as annotated (COCO: of the mask), float32.
        iscrowd (`torch.Tensor` of shape `(boxes,)`): COCO's mark of a group of objects, bool.
        difficult (`torch.Tensor` of shape `(boxes,)`): VOC's mark of what needn't be found, bool.
        dropped: A sentence on each box that was left out.
        num_cut: Boxes that reached over the border by more than two pixels, dropped ones included.
    """

    boxes: torch.Tensor
    labels: torch.Tensor
    area: torch.Tensor
    iscrowd: torch.Tensor
    difficult: torch.Tensor
    dropped: tuple[str, ...] = ()
    num_cut: int = 0

    def select(self, keep: torch.Tensor) -> "ImageBoxes":
        """The boxes that a mask of shape `(boxes,)` names."""
        return ImageBoxes(
            self.boxes[keep], self.labels[keep], self.area[keep], self.iscrowd[keep], self.difficult[keep]
        )


def to_corners(boxes: torch.Tensor, box_format: BoxFormat) -> torch.Tensor:
    """Boxes of shape `(boxes, 4)` in a format of `ObjectFields` as left, top, right, bottom."""
    if box_format == "xyxy":
        return boxes
    return torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1)


def flip_boxes(boxes: torch.Tensor, width: float) -> torch.Tensor:
    """Mirror boxes of shape `(boxes, 4)` with their image, left to right."""
    left, top, right, bottom = boxes.unbind(1)
    return torch.stack([width - right, top, width - left, bottom], dim=1)


def read_boxes(value: Any, fields: ObjectFields, *, width: int, height: int, num_classes: int) -> ImageBoxes:
    """Read, convert and check the annotation of one image.

    Boxes are cut at the border; what then has no area, or isn't finite, is left out and described.

    Args:
        value: The value of the column: a struct of lists, a list of structs, or `None` for an image without a box.
        fields ([`ObjectFields`]): Names and format.
        width: Of the image, in pixels.
        height: Of the image, in pixels.
        num_classes: Classes are 0 to `num_classes - 1`.

    Raises:
        DataError: A field is missing, a box hasn't four numbers, or a class is out of range.
    """
    columns = _as_columns(value)
    for name in (fields.bbox, fields.category):
        if columns and name not in columns:
            raise DataError(
                f"`{fields.objects}` has no field {name!r}; it has {sorted(columns)}: name the right one with "
                f"--bbox-field or --category-field{did_you_mean(name, columns)}"
            )
    listed = columns.get(fields.bbox) or []
    if any(box is None or len(box) != 4 for box in listed):
        raise DataError(f"a box in `{fields.objects}.{fields.bbox}` hasn't four numbers: {listed}")
    raw = torch.tensor(listed, dtype=torch.float64).reshape(-1, 4)
    labels = torch.tensor(columns.get(fields.category) or [], dtype=torch.int64)
    if len(labels) != len(raw):
        raise DataError(f"`{fields.objects}` has {len(raw)} boxes, but {len(labels)} classes")
    if len(labels) and not (0 <= int(labels.min()) and int(labels.max()) < num_classes):
        raise DataError(
            f"`{fields.objects}.{fields.category}` holds class {sorted(set(labels.tolist()))}, expected 0 to "
            f"{num_classes - 1}: set --num-classes to the largest class plus one"
        )
    full = to_corners(raw, fields.box_format)
    limits = torch.tensor([width, height, width, height], dtype=torch.float64)
    boxes = torch.minimum(full.clamp(min=0), limits)
    cut = ((full - boxes).abs() > _ROUNDING).any(dim=1)
    sides = boxes[:, 2:] - boxes[:, :2]
    keep = full.isfinite().all(dim=1) & (sides >= _SMALLEST_SIDE).all(dim=1)
    areas = sides.prod(dim=1) if "area" not in columns else _numbers(columns["area"], len(raw))
    iscrowd, difficult = (_numbers(columns.get(name), len(raw)) > 0 for name in ("iscrowd", "difficult"))
    kept = ImageBoxes(boxes.float(), labels, areas.float(), iscrowd, difficult).select(keep)
    dropped = tuple(
        f"box {listed[index]} ({fields.box_format}) has no area inside an image of {width} x {height}"
        for index in (~keep).nonzero().flatten().tolist()
    )
    return replace(kept, dropped=dropped, num_cut=int(cut.sum()))


def _as_columns(value: Any) -> dict[str, Sequence[Any]]:
    if value is None:
        return {}
    if isinstance(value, Mapping):
        return {str(name): column for name, column in value.items() if column is not None}
    names = value[0] if value else ()
    return {str(name): [row[name] for row in value] for name in names}


def _numbers(values: Sequence[Any] | None, count: int) -> torch.Tensor:
    """A field that may be absent or hold nothing for some boxes."""
    return torch.tensor([float(value or 0) for value in values or [0] * count], dtype=torch.float64)
