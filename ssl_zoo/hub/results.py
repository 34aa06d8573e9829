"""Results as the card shows them: what the authors report beside what was measured, in columns of their own."""

import json
import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from huggingface_hub import EvalResult

from ssl_zoo.protocol import find_metric


__all__ = ["Row", "collect", "collect_earlier", "to_model_index"]


_SHORT = 7  # characters of a commit


@dataclass
class Row:
    """Results that may be compared: one metric by one protocol on the same data.

    Args:
        metric (`str`): As it is named in `results.jsonl`.
        protocol (`dict`): `name` and parameters.
        data (`dict`): `path`, `revision`, `train_split`, `test_split`, `num_train`, `num_test`.
        measured (`dict`): Subject -> seed -> the line of `results.jsonl`, the last one for that seed.
        reported (`dict`, *optional*): What the authors report: `value` as they print it, `where`, `protocol` in words.
    """

    metric: str
    protocol: dict[str, Any]
    data: dict[str, Any]
    measured: dict[str, dict[Any, dict[str, Any]]] = field(default_factory=dict)
    reported: dict[str, Any] | None = None

    @property
    def title(self) -> str:
        """What readers call the metric, with its unit."""
        metric = find_metric(self.metric)
        return f"{metric.title}, {metric.unit}" if metric.unit else metric.title

    def value(self, subject: str) -> str:
        """Format the value of a subject: a number, mean and standard deviation over seeds, or that there is none."""
        scale = find_metric(self.metric).scale
        return _over_seeds([scale * line["value"] for line in self.measured.get(subject, {}).values()])

    @property
    def parameters(self) -> str:
        """The protocol: its parameters, or its name."""
        if not self.measured and self.reported:
            return str(self.reported.get("protocol") or "-")
        telling = find_metric(self.metric).telling(self.protocol)
        parameters = self.protocol if self.protocol.get("name") == "knn" else telling
        named = [f"{name} {value}" for name, value in parameters.items() if name != "name"]
        return ", ".join(named) or str(self.protocol.get("name", "-"))

    @property
    def dataset(self) -> str:
        """The data: its path and revision, splits, numbers of images."""
        parts = []
        if self.data.get("path"):
            revision = str(self.data.get("revision") or "")
            parts.append(f"`{self.data['path']}`" + (f" at `{revision[:_SHORT]}`" if revision else ""))
        for role, verb in (("train", "learned from"), ("test", "tested on")):
            split, count = self.data.get(f"{role}_split"), self.data.get(f"num_{role}")
            if split:
                parts.append(f"{verb} `{split}`" + (f" ({count})" if count else ""))
        return ", ".join(parts) or "-"

    @property
    def commits(self) -> str:
        """Commits of the package that measured the model."""
        lines = self.measured.get("trained", {}).values()
        return ", ".join(dict.fromkeys(f"`{line['commit'][:_SHORT]}`" for line in lines if line.get("commit"))) or "-"


def _over_seeds(values: Sequence[float]) -> str:
    if not values:
        return "not measured"
    if len(values) == 1:
        return f"{values[0]:.4g}"
    return f"{statistics.mean(values):.4g} ± {statistics.stdev(values):.2g} ({len(values)} seeds)"


def collect(
    results: Sequence[dict[str, Any]], *, images_seen: int | None = None, reported: Sequence[dict[str, Any]] = ()
) -> list[Row]:
    """Sort the lines of `results.jsonl` into rows; lines without a finite value are left out.

    Args:
        results (sequence of `dict`): In the order in which they were measured; a later line replaces an equal one.
        images_seen (`int`, *optional*): What the published model was trained on. Results of the run at another time
            (of a checkpoint, or from before training went on) say nothing about it and are left out.
        reported (sequence of `dict`): The authors' numbers, as `conversion.json` has them. One stands in the row of
            our measurement of the same metric on the same data (k-NN: with the same k), or in a row of its own.

    Returns:
        `list[Row]`: The reported ones first, the others in order of first appearance.
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
    measured, unmeasured = list(rows.values()), []
    for number in reported:
        same = next((row for row in measured if row.reported is None and _is_same(number, row)), None)
        if same is None:
            unmeasured.append(Row(number["metric"], {}, {"path": number.get("dataset")}, reported=number))
        else:
            same.reported = number
    return unmeasured + sorted(measured, key=lambda row: row.reported is None)


def _is_same(number: dict[str, Any], row: Row) -> bool:
    """Whether a reported number and a row are of the same metric and data; both may say `1-NN` or `k 1` for k-NN."""
    names = [str(name or "").rsplit("/", 1)[-1].lower() for name in (number.get("dataset"), row.data.get("path"))]
    if number["metric"] != row.metric or names[0] != names[1]:
        return False
    k = re.search(r"\b(\d+)-NN|\bk\s*=?\s*(\d+)", str(number.get("protocol") or ""))
    return "k" not in row.protocol or (k is not None and row.protocol["k"] == int(k[1] or k[2]))


def collect_earlier(earlier: Sequence[dict[str, Any]]) -> list[tuple[str, Row]]:
    """Sort the results of weights that the branch held before into rows.

    Args:
        earlier (sequence of `dict`): Lines of `earlier_results.jsonl`: as in `results.jsonl`, with the `revision` (the
            commit on the Hub that holds the weights).

    Returns:
        `list[tuple[str, Row]]`: Revision and row, the latest revision first.
    """
    by_revision: dict[str, list[dict[str, Any]]] = {}
    for line in earlier:
        by_revision.setdefault(line["revision"], []).append(line)
    return [
        (revision, row)
        for revision, lines in reversed(by_revision.items())
        for row in collect(lines)
        if "trained" in row.measured
    ]


def to_model_index(rows: list[Row]) -> list[EvalResult]:
    """Turn what was measured of the model into the Hub's model-index, without baselines and reported numbers."""
    eval_results = []
    for row in rows:
        lines = list(row.measured.get("trained", {}).values())
        if not lines:
            continue
        last, data, metric = lines[-1], row.data, find_metric(row.metric)
        path = str(data.get("path") or "unknown")
        eval_results.append(
            EvalResult(
                task_type="image-feature-extraction",
                task_name="Image feature extraction",
                dataset_type=path,
                dataset_name=path,
                dataset_split=data.get("test_split"),
                dataset_revision=data.get("revision"),
                dataset_args=_without_none({key: data.get(key) for key in ("train_split", "num_train", "num_test")}),
                metric_type=metric.hub_type or metric.name,
                metric_name=metric.title,
                metric_value=lines[0]["value"] if len(lines) == 1 else _over_seeds([line["value"] for line in lines]),
                metric_args=_without_none(
                    {
                        "protocol": row.protocol,
                        "seed": [line.get("seed") for line in lines] if len(lines) > 1 else last.get("seed"),
                        **{key: last.get(key) for key in ("images_seen", "commit", "versions", "command", "date")},
                    }
                ),
            )
        )
    return eval_results


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}
