"""Lines of `results.jsonl`: a measured number with all it takes to measure it again."""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal


__all__ = ["METRICS", "SHARES", "Result", "append_results", "read_results", "render_results", "telling_parameters"]

_SUBJECTS = {"raw_pixels": "raw pixels", "random_init": "random init", "trained": "trained"}
METRICS = {
    "knn_top1": "k-NN top-1",
    "linear_top1": "linear top-1",
    "linear_top5": "linear top-5",
    "logistic_top1": "logistic top-1",
    "logistic_mean_per_class": "logistic, mean per class",
    "logistic_voc_map": "logistic, mAP",
    "finetune_top1": "fine-tuned top-1",
    "finetune_top5": "fine-tuned top-5",
    "nmi": "NMI",
    "ami": "AMI",
    "ari": "ARI",
    "hungarian_accuracy": "matched accuracy",
    "purity": "purity",
    "detection_ap": "AP",
    "detection_ap50": "AP50",
    "detection_ap75": "AP75",
    **{f"detection_ap_{size}": f"AP, {size} objects" for size in ("small", "medium", "large")},
    **{f"detection_voc_{name}": f"VOC07 {name.upper()}" for name in ("ap", "ap50", "ap75")},
    "rankme": "RankMe",
    "alpha": "decay exponent",
    "participation_ratio": "participation ratio",
    "mean_cosine": "mean cosine",
    "alignment": "alignment",
    "uniformity": "uniformity",
    "num_clusters": "clusters used",
    "cluster_entropy": "entropy of cluster sizes",
    "cluster_num_empty": "empty clusters",
    "cluster_num_overfull": "over-full clusters",
    "cluster_largest_share": "share of the largest cluster",
}
"""Name of a metric in `results.jsonl` -> what readers call it."""

SHARES = {name for name in METRICS if name.split("_")[0] in ("knn", "linear", "logistic", "finetune", "hungarian")}
"""Metrics that are shares in [0, 1] and read in per cent."""

# Protocol -> the parameters by which a reader tells its results apart.
_TELLING = {
    "knn": ("k",),
    "logistic": ("task",),
    "finetune": ("share",),
    "linear_paper": ("paper",),
    "kmeans": ("num_clusters",),
}


@dataclass(frozen=True)
class Result:
    """One measured number.

    Attributes:
        metric: `"knn_top1"` (a share in [0, 1]), `"nmi"` (in [0, 1]), ...
        value: The number.
        subject: What was measured: the trained model, the same architecture untrained, or plain pixels.
        protocol: Its name and every parameter that changes the number.
        data: `path`, `revision`, `train_split`, `test_split`, `num_train`, `num_test`.
        seed: Seed of the training run (or of the initialisation); `None` where nothing is random.
        images_seen: Images the model was trained on, repeats included.
        commit: Of this package's sources; `None` when unknown.
        versions: Of the packages that matter.
        wall_seconds: What the measurement took.
        command: What was typed.
        date: Day of the measurement (UTC), `YYYY-MM-DD`.
        interval: 95 % bootstrap interval over the test images; `None` where there is none.
        details: What the protocol found on the way, such as the learning rate that it chose.
    """

    metric: str
    value: float
    subject: Literal["trained", "random_init", "raw_pixels"]
    protocol: dict[str, Any]
    data: dict[str, Any]
    seed: int | None
    images_seen: int | None
    commit: str | None
    versions: dict[str, str]
    wall_seconds: float
    command: str
    date: str = dataclasses.field(default_factory=lambda: datetime.now(UTC).date().isoformat())
    interval: list[float] | None = None
    details: dict[str, Any] | None = None


def append_results(path: str | Path, results: Sequence[Result]) -> None:
    """Append results to a file of JSON lines, all of them or none.

    Args:
        path (`str` or `Path`): Made with its folder when missing.
        results (`Sequence[Result]`): In order.

    Raises:
        ValueError: If a value is not finite: JSON can't hold it, and a reader shouldn't see it.
    """
    lines = "".join(json.dumps(dataclasses.asdict(result), allow_nan=False) + "\n" for result in results)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(lines)
        file.flush()
        os.fsync(file.fileno())


def read_results(path: str | Path) -> list[Result]:
    """Read what `append_results` wrote, oldest first; a missing file has no results."""
    path = Path(path)
    if not path.exists():
        return []
    return [Result(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def render_results(results: Sequence[Result]) -> str:
    """A table for a terminal for each data set: a row per metric and protocol, a column per subject.

    Args:
        results (`Sequence[Result]`): Of one evaluation. A later result replaces an earlier one in the same place.

    Returns:
        `str`: Lines, with a headline that names the data.
    """
    if not results:
        return "No results."
    by_data: dict[tuple[Any, Any], list[Result]] = {}
    for result in results:
        by_data.setdefault((result.data.get("path"), result.data.get("test_split")), []).append(result)
    return "\n\n".join(_render_table(found) for found in by_data.values())


def _render_table(results: Sequence[Result]) -> str:
    cells = {(_row(result), str(result.subject)): _value(result) for result in results}
    rows = list(dict.fromkeys(row for row, _ in cells))
    subjects = [subject for subject in _SUBJECTS if any(name == subject for _, name in cells)]
    table = [["", *(_SUBJECTS[name] for name in subjects)]]
    table += [[row, *(cells.get((row, name), "-") for name in subjects)] for row in rows]
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in table
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([_headline(results), "", *lines])


def _headline(results: Sequence[Result]) -> str:
    data = max((result.data for result in results), key=lambda data: sum(value is not None for value in data.values()))
    found = [f"{data['num_test']} images of '{data['test_split']}'"]
    if data.get("train_split"):
        found.append(f"learned from {data['num_train']} of '{data['train_split']}'")
    return f"{data['path']}: {', '.join(found)}"


def telling_parameters(protocol: dict[str, Any]) -> dict[str, Any]:
    """The parameters by which a reader tells results of one protocol apart, such as k; the others are in the file."""
    telling = _TELLING.get(str(protocol.get("name")), ())
    return {key: protocol[key] for key in telling if key in protocol}


def _row(result: Result) -> str:
    name = METRICS.get(result.metric, result.metric)
    parameters = [f"{key}={value}" for key, value in telling_parameters(result.protocol).items()]
    return f"{name} ({', '.join(parameters)})" if parameters else name


def _value(result: Result) -> str:
    if result.metric in SHARES:
        return f"{100 * result.value:.2f} %"
    return f"{result.value:g}" if float(result.value).is_integer() else f"{result.value:.3f}"
