"""Measured results, as the card shows them: one row a protocol, one column a subject, nothing that nobody measured."""

import json
import math
import statistics
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult

from ssl_zoo.evaluation.results import METRICS, telling_parameters


SUBJECTS = {"trained": "this model", "random_init": "random init", "raw_pixels": "raw pixels"}
NOT_MEASURED = "not measured"

# What the Hub calls a metric, where that isn't our name.
_HUB_METRICS = {name: "accuracy" for name in ("knn_top1", "linear_top1", "logistic_top1", "finetune_top1")}


@dataclass
class Row:
    """Results that may be compared: one metric by one protocol on the same data.

    Args:
        metric (`str`): As it is named in `results.jsonl`.
        protocol (`dict`): `name` and parameters.
        data (`dict`): `path`, `revision`, `train_split`, `test_split`, `num_train`, `num_test`.
        measured (`dict`): Subject -> seed -> the line of `results.jsonl`, the last one for that seed.
    """

    metric: str
    protocol: dict[str, Any]
    data: dict[str, Any]
    measured: dict[str, dict[Any, dict[str, Any]]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What readers call the metric."""
        return METRICS.get(self.metric, self.metric)

    def value(self, subject: str) -> str:
        """Format the value of a subject: a number, mean and standard deviation over seeds, or that there is none."""
        values = [line["value"] for line in self.measured.get(subject, {}).values()]
        if not values:
            return NOT_MEASURED
        if len(values) == 1:
            return f"{values[0]:.4g}"
        return f"{statistics.mean(values):.4g} ± {statistics.stdev(values):.2g} ({len(values)} seeds)"


def collect(results: list[dict[str, Any]], *, images_seen: int | None = None) -> list[Row]:
    """Sort the lines of `results.jsonl` into rows; lines without a finite value are left out.

    Args:
        results (`list[dict]`): In the order in which they were measured; a later line replaces an equal earlier one.
        images_seen (`int`, *optional*): What the published model was trained on. Results of the run at another time
            (of a checkpoint, or from before training went on) say nothing about it and are left out.

    Returns:
        `list[Row]`: In order of first appearance.
    """
    rows: dict[str, Row] = {}
    for line in results:
        value = line.get("value")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            continue
        if line["subject"] == "trained" and None not in (images_seen, line.get("images_seen")):
            if line["images_seen"] != images_seen:
                continue
        protocol, data = line.get("protocol") or {}, line.get("data") or {}
        key = json.dumps([line["metric"], protocol, data], sort_keys=True)
        row = rows.setdefault(key, Row(line["metric"], protocol, data))
        row.measured.setdefault(line["subject"], {})[line.get("seed")] = line
    return list(rows.values())


def render_table(rows: list[Row]) -> str:
    """Render rows as a Markdown table, or a sentence that says that there is nothing to show."""
    if not rows:
        return "Not measured. `recipes/evaluate.py` measures a run and this card then shows what it found."
    lines = [
        "| metric | protocol | data | " + " | ".join(SUBJECTS.values()) + " |",
        "|---|---|---|" + "---|" * len(SUBJECTS),
    ]
    for row in rows:
        parameters = telling_parameters(row.protocol) if row.protocol.get("name") != "knn" else row.protocol
        protocol = ", ".join(f"{name} {value}" for name, value in parameters.items() if name != "name")
        cells = [row.title, protocol or "-", describe_data(row.data), *(row.value(subject) for subject in SUBJECTS)]
        lines.append("| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def describe_data(data: dict[str, Any]) -> str:
    """Say on what was measured: data set, splits, numbers of images."""
    parts = [f"`{data['path']}`"] if data.get("path") else []
    for role in ("train", "test"):
        split, count = data.get(f"{role}_split"), data.get(f"num_{role}")
        if split:
            parts.append(
                f"{'neighbours' if role == 'train' else 'tested on'} `{split}`" + (f" ({count})" if count else "")
            )
    return ", ".join(parts) or "-"


def to_model_index(rows: list[Row]) -> list[EvalResult]:
    """Turn what was measured of the trained model into the Hub's model-index; baselines are only in the table."""
    found = []
    for row in rows:
        lines = list(row.measured.get("trained", {}).values())
        if not lines:
            continue
        last, data = lines[-1], row.data
        path = str(data.get("path") or "unknown")
        found.append(
            EvalResult(
                task_type="image-feature-extraction",
                task_name="Image feature extraction",
                dataset_type=path,
                dataset_name=path,
                dataset_split=data.get("test_split"),
                dataset_revision=data.get("revision"),
                dataset_args=_known({key: data.get(key) for key in ("train_split", "num_train", "num_test")}),
                metric_type=_HUB_METRICS.get(row.metric, row.metric),
                metric_name=row.title,
                metric_value=lines[0]["value"] if len(lines) == 1 else row.value("trained"),
                metric_args=_known(
                    {
                        "protocol": row.protocol,
                        "seed": [line.get("seed") for line in lines] if len(lines) > 1 else last.get("seed"),
                        **{key: last.get(key) for key in ("images_seen", "commit", "versions", "command", "date")},
                    }
                ),
            )
        )
    return found


def _known(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
