"""Numbers of a detector as lines of `results.jsonl`, as a table and as a picture."""

import dataclasses
from pathlib import Path
from typing import Any, Literal

from ssl_zoo.data.label_table import data_name
from ssl_zoo.detection.coco import DetectionScores, DetectionTable
from ssl_zoo.detection.picture import choose_images, save_detections_picture
from ssl_zoo.detection.source import DetectionSource
from ssl_zoo.evaluation.results import Result
from ssl_zoo.provenance import command, commit, versions


__all__ = ["describe_detection_data", "draw_detections", "make_results", "render_scores"]


def describe_detection_data(train: DetectionSource, test: DetectionSource) -> dict[str, Any]:
    """What identifies the data of a result; of a local folder only its name."""
    return {
        "path": data_name(test.parts[0].path),
        "revision": test.parts[0].revision,
        "train_path": " + ".join(data_name(part.path) for part in train.parts),
        "train_revision": " + ".join(str(part.revision) for part in train.parts),
        "train_split": " + ".join(part.split for part in train.parts),
        "test_split": test.parts[0].split,
        "num_train": train.num_rows,
        "num_test": test.num_rows,
    }


def make_results(
    scores: DetectionScores,
    *,
    subject: Literal["trained", "random_init"],
    protocol: dict[str, Any],
    data: dict[str, Any],
    seed: int,
    wall_seconds: float,
) -> list[Result]:
    """One result for each number that exists: `detection_ap`, `detection_ap50`, ..., `detection_voc_ap`, ...

    Args:
        scores ([`DetectionScores`]): Of the test images.
        subject: Whether the backbone was pretrained.
        protocol: Its name and all that defines the result.
        data: From `describe_detection_data`.
        seed: Of the fine-tuning.
        wall_seconds: What training and measuring took.
    """
    provenance: dict[str, Any] = {"commit": commit(), "versions": versions(), "command": command()}
    return [
        Result(
            metric=f"detection_{name}",
            value=value,
            subject=subject,
            protocol=protocol,
            data=data,
            seed=seed,
            images_seen=None,  # of pretraining: the model's own record says
            wall_seconds=wall_seconds,
            **provenance,
        )
        for name, value in dataclasses.asdict(scores).items()
        if value is not None
    ]


def render_scores(scores: DetectionScores) -> str:
    """A table for a terminal, in percent."""
    rows = {
        "COCO": (scores.ap, scores.ap50, scores.ap75),
        "VOC 2007 (11 recalls)": (scores.voc_ap, scores.voc_ap50, scores.voc_ap75),
    }
    lines = [f"{'%':<22}{'AP':>7}{'AP50':>7}{'AP75':>7}"]
    lines += [f"{name:<22}" + "".join(f"{100 * value:7.2f}" for value in values) for name, values in rows.items()]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def draw_detections(path: Path, test: DetectionSource, table: DetectionTable, scores: DetectionScores) -> None:
    """Save a PNG picture of the first test images with their boxes; the caption shows the scores."""
    caption = (
        f"solid: found, with a score of 0.5 or more; dashed: annotated.  AP {100 * scores.ap:.1f}, "
        f"AP50 {100 * scores.ap50:.1f} on {len(table.images)} images"
    )
    save_detections_picture(
        path,
        choose_images(test, table),
        title="What was found",
        caption=caption,
        class_names=[test.class_name(label) for label in range(test.num_classes)],
    )
