"""Results of a branch over many publications: none is lost, and each stays with its weights."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


__all__ = ["History", "merge_results"]

Line = dict[str, Any]


@dataclass(frozen=True)
class History:
    """What a branch on the Hub holds before it is published to.

    Attributes:
        commit: Id of its head.
        weights_sha256: Of the backbone's weights; `None` where there are none.
        results: Lines of `results.jsonl`.
        earlier: Lines of `earlier_results.jsonl`: with `revision` and `weights_sha256`.
        conversion: What `conversion.json` says; `None` where there is none.
    """

    commit: str
    weights_sha256: str | None = None
    results: list[Line] = field(default_factory=list)
    earlier: list[Line] = field(default_factory=list)
    conversion: dict[str, Any] | None = None


def merge_results(
    results: Sequence[Line], earlier: Sequence[Line], *, weights_sha256: str, history: History | None
) -> tuple[list[Line], list[Line]]:
    """Merge the local results with the published ones.

    Of lines of the same measurement (metric, subject, protocol, data, seed, images seen) one is kept: the one of the
    latest day, else the local one, else the last one. Published results of other weights become earlier ones; earlier
    ones of these weights become results again.

    Args:
        results (`Sequence[dict]`): Local lines of `results.jsonl`.
        earlier (`Sequence[dict]`): Local lines of `earlier_results.jsonl`.
        weights_sha256 (`str`): Of the weights that are going to be published.
        history ([`History`], *optional*): What is published; `None` where nothing is.

    Returns:
        Lines of `results.jsonl` and of `earlier_results.jsonl`. Merging these again changes nothing.
    """
    published: list[Line] = []
    past: list[Line] = []
    if history is not None:
        past += history.earlier
        if history.weights_sha256 == weights_sha256:
            published = history.results
        else:
            mark = {"revision": history.commit, "weights_sha256": history.weights_sha256}
            past += [{**line, **mark} for line in history.results]
    past += earlier
    marked = [line for line in past if line.get("weights_sha256") == weights_sha256]
    back = [{key: line[key] for key in line if key not in ("revision", "weights_sha256")} for line in marked]
    now = _latest([*back, *published, *results], _measurement)
    others = [line for line in past if line.get("weights_sha256") != weights_sha256]
    return now, _latest(others, lambda line: f"{line.get('weights_sha256')} {_measurement(line)}")


def _measurement(line: Line) -> str:
    keys = ("metric", "subject", "protocol", "data", "seed", "images_seen")
    return json.dumps([line.get(key) for key in keys], sort_keys=True)


def _latest(lines: Sequence[Line], name: Any) -> list[Line]:
    """One line for each name, in order of first appearance."""
    latest: dict[str, Line] = {}
    for line in lines:
        key = name(line)
        if key not in latest or str(line.get("date") or "") >= str(latest[key].get("date") or ""):
            latest[key] = line
    return list(latest.values())
