"""What all benchmarks share: ours and its rivals on the same work, checked, in turns, as medians and paired ratios.

Every file beside this one that measures runs alone, `python benchmarks/NAME.py [--quick]`, or with all others by
`make bench`, and writes its numbers to benchmarks/results/NAME.json, from which benchmarks/render.py makes
docs/benchmarks.md.
"""

import argparse
import contextlib
import gc
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from machine import describe_machine

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.provenance import command, commit, versions


RESULTS = Path(__file__).resolve().parent / "results"
SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


class Mismatch(AssertionError):
    """Ours and a rival don't compute the same thing, so comparing their speed would mean nothing."""


@dataclass(frozen=True)
class Limit:
    """What no program on this machine could be faster than.

    Args:
        seconds: For the same work.
        words: What was counted and divided by which measured rate.
    """

    seconds: float
    words: str


@dataclass
class Row:
    """One work and what it took.

    Attributes:
        work: The sizes, in a few words.
        ours: Seconds of each repeat.
        rivals: Seconds of each repeat by the rival's name; the n-th repeats of all ran one after the other.
        check: What the comparison of the results found.
        aims: Smallest ratio rival / ours that is wanted, by the rival's name; `"limit"`: smallest limit / ours.
        limit: See [`Limit`].
        peak_bytes: Memory beyond the start at the peak, by name (`"ours"` or a rival's).
        count, unit: How many items the work holds and what they are, for rates (`256`, `"images"`).
    """

    work: str
    ours: list[float]
    rivals: dict[str, list[float]]
    check: str
    aims: dict[str, float] = field(default_factory=dict)
    limit: Limit | None = None
    peak_bytes: dict[str, int] = field(default_factory=dict)
    count: float = 0
    unit: str = ""

    def ratios(self, rival: str) -> list[float]:
        """Rival's time / ours, repeat by repeat, so that a slow moment of the machine affects both."""
        return [theirs / own for theirs, own in zip(self.rivals[rival], self.ours, strict=True)]

    def share_of_limit(self) -> float | None:
        """Limit / ours: 1 is as fast as the machine can."""
        return None if self.limit is None else self.limit.seconds / statistics.median(self.ours)

    def missed(self) -> list[str]:
        """The aims that the medians don't reach."""
        reached = {name: statistics.median(self.ratios(name)) for name in self.rivals}
        if (share := self.share_of_limit()) is not None:
            reached["limit"] = share
        return [name for name, wanted in self.aims.items() if reached.get(name, 0.0) < wanted]


def arguments(
    description: str | None, add: Callable[[argparse.ArgumentParser], None] = lambda parser: None
) -> argparse.Namespace:
    """Read the command line, and set the number of torch's threads.

    Args:
        description: The benchmark's docstring.
        add: Adds the benchmark's own options.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and few repeats: does it run?")
    parser.add_argument("--repeats", type=int, help="how often each is run (default: the benchmark's own choice)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="the JSON (default: benchmarks/results/NAME.json; none with --quick)")
    add(parser)
    options = parser.parse_args()
    if options.threads < 1 or (options.repeats is not None and options.repeats < 1):
        parser.error(f"--threads and --repeats must be at least 1, got {options.threads} and {options.repeats}")
    torch.set_num_threads(options.threads)
    return options


class Report:
    """Measures rows and writes them down.

    Args:
        name: Of the benchmark: its file without `.py`.
        question: The question that it answers, one sentence.
        options: From [`arguments`].
    """

    def __init__(self, name: str, *, question: str, options: argparse.Namespace) -> None:
        self.name, self.question, self._options = name, question, options
        self.rows: list[Row] = []
        self.notes: list[str] = []

    def pair(
        self,
        work: str,
        *,
        ours: Callable[[], Any],
        rivals: Mapping[str, Callable[[], Any]],
        check: Callable[[Any, dict[str, Any]], str],
        aims: Mapping[str, float] | None = None,
        limit: Limit | None = None,
        memory: bool = False,
        repeats: int = 7,
        count: float = 0,
        unit: str = "",
    ) -> Row:
        """Run ours and the rivals once each, compare their results, then time them in turns.

        Args:
            work: The sizes, in a few words; unique in the report.
            ours: Does the work, and returns its result.
            rivals: Do the same work.
            check: Takes our result and the rivals' by name; returns what it found, such as `"largest difference
                3e-7"`, or raises [`Mismatch`].
            aims: See [`Row`].
            limit: See [`Row`].
            count: See [`Row`].
            unit: See [`Row`].
            memory: Whether to measure the peaks, too, in runs of their own.
            repeats: Timed runs of each, unless the command line says otherwise; 1 to 3 with `--quick`.
        """
        everyone: dict[str, Callable[[], Any]] = {"ours": ours, **rivals}
        self._progress(f"{work}: checking")
        results = {name: run() for name, run in everyone.items()}
        found = check(results.pop("ours"), results)
        del results
        gc.collect()
        peaks = {name: peak_memory(run) for name, run in everyone.items()} if memory else {}
        times: dict[str, list[float]] = {name: [] for name in everyone}
        number = self._options.repeats or (min(repeats, 3) if self._options.quick else repeats)
        for repeat in range(number):
            self._progress(f"{work}: {repeat + 1} of {number}")
            # Every other time in the opposite order: the first finds other cache contents than the second.
            for name in list(everyone)[:: 1 if repeat % 2 == 0 else -1]:
                times[name].append(seconds(everyone[name]))
        own = times.pop("ours")
        row = Row(work, own, times, found, dict(aims or {}), limit, peaks, count, unit)
        return self.add(row)

    def add(self, row: Row) -> Row:
        """Add a row that was measured elsewhere, such as by whole processes."""
        self.rows.append(row)
        self._progress("")
        for line in row_lines(row):
            print(line, flush=True)
        return row

    def note(self, text: str) -> None:
        """Add a paragraph below the table."""
        self.notes.append(text)
        print(text, flush=True)

    def finish(self) -> None:
        """Write the JSON, whole or not at all."""
        content = {
            "name": self.name,
            "question": self.question,
            "rows": [asdict(row) for row in self.rows],
            "notes": self.notes,
            "quick": self._options.quick,
            "rival_versions": _rival_versions(),
        }
        save(self.name, content, self._options)

    def _progress(self, text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def save(name: str, content: dict[str, Any], options: argparse.Namespace) -> None:
    """Write numbers, and where they come from, to the JSON that the options ask for: whole, or not at all.

    Args:
        name: Of the benchmark: its file without `.py`.
        content: The numbers.
        options: From [`arguments`]. With `--quick` only the file of `--out` is written.
    """
    out = options.out or (None if options.quick else RESULTS / f"{name}.json")
    if out is None:
        return
    origin = {
        "machine": describe_machine(),
        "threads": options.threads,
        "versions": versions(),
        "commit": commit(),
        "command": command(),
        "date": date.today().isoformat(),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with replace_atomically(out) as partial:
        partial.write_text(json.dumps({**content, **origin}, indent=1) + "\n", encoding="utf-8")
    print(f"wrote {out}")


def _rival_versions() -> dict[str, str]:
    """Of the packages that ours is compared with, those that are installed."""
    found = {}
    for name in ("lightly", "POT", "faiss-cpu", "opencv-python-headless", "threadpoolctl"):
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def seconds(run: Callable[[], Any]) -> float:
    """Wall time of one call; what it returns is freed after the clock has stopped."""
    start = time.perf_counter()
    result = run()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def peak_memory(run: Callable[[], Any]) -> int:
    """Bytes of resident memory at the peak of a call, beyond those before it (Linux)."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forgets the peak so far
    before, files_before = _status("VmRSS"), _status("RssFile")
    result = run()
    peak = _status("VmHWM")
    dropped = max(0, files_before - _status("RssFile"))  # pages of libraries, where memory is short
    del result
    return max(0, peak - before + dropped)


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {key}: this needs Linux")


def largest_difference(ours: torch.Tensor, theirs: torch.Tensor, *, tolerance: float) -> str:
    """Compare two tensors; for use in a `check`.

    Raises:
        Mismatch: If they differ by more than the tolerance anywhere, or in shape.
    """
    if ours.shape != theirs.shape:
        raise Mismatch(f"ours has shape {tuple(ours.shape)}, the rival's {tuple(theirs.shape)}")
    difference = float((ours.double() - theirs.double()).abs().max())
    if not difference <= tolerance:  # also when it is NaN
        raise Mismatch(f"the results differ by {difference:.3g}, more than {tolerance:g}")
    return f"largest difference {difference:.1e}"


def row_lines(row: Row) -> Iterator[str]:
    """A row as text."""
    rate = f", {row.count / statistics.median(row.ours):,.1f} {row.unit}/s" if row.count else ""
    yield f"{row.work}: ours {_time(row.ours)}{rate}{_memory(row, 'ours')}; {row.check}"
    for name, times in row.rivals.items():
        ratios = row.ratios(name)
        aim = f", aim {row.aims[name]:g}" if name in row.aims else ""
        yield (
            f"  {name}: {_time(times)}{_memory(row, name)}, {statistics.median(ratios):.2f}x ours "
            f"({min(ratios):.2f} to {max(ratios):.2f}{aim})"
        )
    if row.limit is not None:
        aim = f", aim {row.aims['limit']:g}" if "limit" in row.aims else ""
        yield f"  limit: {row.limit.seconds:.4g} s, {row.share_of_limit():.2f} of it reached{aim} ({row.limit.words})"


def _time(times: Sequence[float]) -> str:
    return f"{statistics.median(times):.4g} s"


def _memory(row: Row, name: str) -> str:
    return f", {row.peak_bytes[name] / 2**20:,.0f} MiB" if name in row.peak_bytes else ""
