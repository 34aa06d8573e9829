"""Lines of `results.jsonl`: a measured number with everything that is needed to measure it again."""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from ssl_zoo.protocol import find_metric


__all__ = ["Result", "append_results", "read_results", "render_results"]

_SUBJECTS = {"raw_pixels": "raw pixels", "random_init": "random init", "trained": "trained"}


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
        details: What was chosen or counted on the way, such as the best learning rate.
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
        return "No results"
    by_data: dict[tuple[Any, Any], list[Result]] = {}
    for result in results:
        by_data.setdefault((result.data.get("path"), result.data.get("test_split")), []).append(result)
    return "\n\n".join(_render_table(table) for table in by_data.values())


def _render_table(results: Sequence[Result]) -> str:
    cells = {(_row(result), str(result.subject)): find_metric(result.metric).show(result.value) for result in results}
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
    parts = [f"{data['num_test']} images of '{data['test_split']}'"]
    if data.get("train_split"):
        parts.append(f"learned from {data['num_train']} of '{data['train_split']}'")
    return f"{data['path']}: {', '.join(parts)}"


def _row(result: Result) -> str:
    metric = find_metric(result.metric)
    parameters = [f"{key}={value}" for key, value in metric.telling(result.protocol).items()]
    return f"{metric.title} ({', '.join(parameters)})" if parameters else metric.title
