"""Average precision by pycocotools, the field's own library, from boxes in memory."""

import contextlib
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


__all__ = ["DetectionScores", "DetectionTable", "score_detections"]

_NEVER_COUNTED = -1.0  # an area outside every range: pycocotools then neither asks for the box nor punishes finding it


@dataclass(frozen=True)
class DetectionTable:
    """Annotated boxes and detections of a set of images; float64, ordered by image.

    Attributes:
        images (`torch.Tensor` of shape `(images, 3)`): Sample id, width, height.
        truth (`torch.Tensor` of shape `(boxes, 9)`): Sample id, left, top, right, bottom, class, area, iscrowd,
            difficult.
        detections (`torch.Tensor` of shape `(detections, 7)`): Sample id, left, top, right, bottom, score, class.
    """

    images: torch.Tensor
    truth: torch.Tensor
    detections: torch.Tensor


@dataclass(frozen=True)
class DetectionScores:
    """Average precisions in [0, 1], means over the classes that occur.

    Attributes:
        ap: Mean over IoU thresholds 0.50, 0.55, ..., 0.95, precision read at 101 recalls: COCO's.
        ap50: At 0.50.
        ap75: At 0.75.
        ap_small: Of objects up to 32^2 pixels; `None` where there are none, as the next two.
        ap_medium: Up to 96^2.
        ap_large: Above.
        voc_ap: As `ap`, with precision read at 11 recalls: what detectron2 reports for VOC 2007.
        voc_ap50: At 0.50: VOC 2007's own measure.
        voc_ap75: At 0.75.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    voc_ap: float
    voc_ap50: float
    voc_ap75: float


def score_detections(table: DetectionTable, *, num_classes: int) -> DetectionScores:
    """Compute the average precisions of detections.

    Boxes marked `difficult` needn't be found, and finding them once is no error, as in VOC; crowds are COCO's.

    Args:
        table ([`DetectionTable`]): Of all images.
        num_classes: Classes are 0 to `num_classes - 1`.

    Raises:
        ValueError: No box to find, an image twice, or a number that isn't finite.
    """
    ids = table.images[:, 0]
    if len(ids.unique()) != len(ids):
        raise ValueError("an image was measured twice: `images` must hold each sample id once")
    if not table.detections.isfinite().all():
        raise ValueError("a detection isn't finite: the detector has diverged; try a lower --learning-rate")
    counted = (table.truth[:, 7] == 0) & (table.truth[:, 8] == 0)
    if not bool(counted.any()):
        raise ValueError("the test images hold no box that counts, so there is no average precision")
    truth = [
        {**_annotation(number, row[:5], row[5]), "area": _NEVER_COUNTED if row[8] else row[6], "iscrowd": int(row[7])}
        for number, row in enumerate(table.truth.tolist(), start=1)
    ]
    detections = [
        {
            **_annotation(number, row[:5], row[6]),
            "area": (row[3] - row[1]) * (row[4] - row[2]),
            "iscrowd": 0,
            "score": row[5],
        }
        for number, row in enumerate(table.detections.tolist(), start=1)
    ]
    precision = _precision(table.images, truth, detections, num_classes)
    every, small, medium, large = range(4)

    def mean(values: Any) -> float | None:
        existing = values[values > -1]
        return float(existing.mean()) if existing.size else None

    at_50, at_75 = 0, 5  # among the thresholds 0.50, 0.55, ...
    eleven = precision[:, ::10, :, every]
    return DetectionScores(
        ap=mean(precision[..., every]) or 0.0,
        ap50=mean(precision[at_50, ..., every]) or 0.0,
        ap75=mean(precision[at_75, ..., every]) or 0.0,
        ap_small=mean(precision[..., small]),
        ap_medium=mean(precision[..., medium]),
        ap_large=mean(precision[..., large]),
        voc_ap=mean(eleven) or 0.0,
        voc_ap50=mean(eleven[at_50]) or 0.0,
        voc_ap75=mean(eleven[at_75]) or 0.0,
    )


def _annotation(number: int, place: list[float], label: float) -> dict[str, Any]:
    image, left, top, right, bottom = place
    return {
        "id": number,  # from 1: pycocotools takes 0 for "no match"
        "image_id": int(image),
        "category_id": int(label),
        "bbox": [left, top, right - left, bottom - top],
    }


def _precision(images: torch.Tensor, truth: list[Any], detections: list[Any], num_classes: int) -> Any:
    """Precision `(10 thresholds, 101 recalls, classes, 4 areas)` with up to 100 boxes an image; -1 for no object."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    head = {
        "images": [{"id": int(number), "width": width, "height": height} for number, width, height in images.tolist()],
        "categories": [{"id": label, "name": str(label)} for label in range(num_classes)],
    }
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        sides = []
        for annotations in (truth, detections):
            sides.append(COCO())
            sides[-1].dataset = {**head, "annotations": annotations}
            sides[-1].createIndex()
        evaluation = COCOeval(sides[0], sides[1], "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"])[..., -1]
