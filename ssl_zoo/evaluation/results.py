"""Lines of `results.jsonl`: a measured number with all it takes to measure it again."""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal


__all__ = ["Result", "append_results", "read_results", "render_results"]

_SUBJECTS = {"raw_pixels": "raw pixels", "random_init": "random init", "trained": "trained"}
_METRICS = {"knn_top1": "k-NN top-1", "nmi": "NMI"}
_IN_PERCENT = {"knn_top1"}


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
    """A table for a terminal: one row per subject, one column per metric and protocol.

    Args:
        results (`Sequence[Result]`): Of one evaluation. A later result replaces an earlier one in the same place.

    Returns:
        `str`: Lines of equal width, with a headline that names the data.
    """
    if not results:
        return "No results."
    cells = {(str(result.subject), _column(result)): _value(result) for result in results}
    columns = list(dict.fromkeys(_column(result) for result in results))
    subjects = [subject for subject in _SUBJECTS if any(key[0] == subject for key in cells)]
    rows = [["", *columns], *([_SUBJECTS[name], *(cells.get((name, c), "-") for c in columns)] for name in subjects)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join([_headline(results), "", *lines])


def _headline(results: Sequence[Result]) -> str:
    data = max((result.data for result in results), key=lambda data: sum(value is not None for value in data.values()))
    found = [f"{data['num_test']} images of '{data['test_split']}'"]
    if data.get("train_split"):
        found.append(f"neighbours from {data['num_train']} of '{data['train_split']}'")
    return f"{data['path']}: {', '.join(found)}"


def _column(result: Result) -> str:
    name = _METRICS.get(result.metric, result.metric)
    parameters = [f"{key}={value}" for key, value in result.protocol.items() if key == "k"]
    return f"{name} ({', '.join(parameters)})" if parameters else name


def _value(result: Result) -> str:
    return f"{100 * result.value:.2f} %" if result.metric in _IN_PERCENT else f"{result.value:.3f}"
