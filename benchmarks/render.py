"""Make docs/benchmarks.md from the numbers in benchmarks/results/: python benchmarks/render.py [--check]."""

import argparse
import json
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import scaling_page
from pairing import RESULTS, Limit, Row


mpl.use("agg")
from matplotlib import pyplot as plt


ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "images" / "benchmarks.png"

ORDER = (
    "mira_assignment",
    "sela_solve",
    "sela_imagenet",
    "mean_shift_step",
    "input_pipeline",
    "knn",
    "training_step",
    "end_to_end",
    "corinfomax_loss",
    "loading",
    "space_actions",
    "view_backends",
)
"""Of the page; a benchmark that isn't named here comes last."""

INTRODUCTION = """\
# Benchmarks

Made by `make bench` from the numbers in [benchmarks/results](../benchmarks/results), each table by the command
below it, on {machine}.

Before anything is timed, ours and the rival are run once and their results compared (*same result*): the comparison
stops the benchmark if they don't compute the same thing. Then they take turns, in alternating order, in one process
(or in processes of their own, where the text says so). *Time* is the median; *rival / ours* is the median of the
ratios of neighbouring runs, with the smallest and the largest in brackets, so that a slow moment of a shared machine
affects both. *Of the limit* is the time that the machine needs at least, divided by ours: the limit counts the
operations or bytes that the work can't do without, and divides them by the rate that the same run measured. ✗ marks
an aim that was missed; the text below such a table says why. Memory is the resident peak beyond the start.

How time and memory grow with the sizes is on [another page](scaling.md). No number here is from a GPU:
[what was tested without one](gpu.md).

![How many times as long each rival takes, by work](images/benchmarks.png)

"""


class Result:
    """The numbers of one benchmark.

    Args:
        content: Of the JSON.
    """

    def __init__(self, content: dict[str, Any]) -> None:
        self.content = content
        self.rows = [_row(row) for row in content["rows"]]

    def lines(self) -> Iterator[str]:
        """Its part of the page."""
        content = self.content
        yield f"## {content['question']}"
        yield ""
        if self.rows:
            with_memory = any(row.peak_bytes for row in self.rows)
            memory_head = " memory, ours | memory, rival |" if with_memory else ""
            yield f"| work | ours | rival | its time | rival / ours |{memory_head} of the limit | same result |"
            yield "|---|---|---|---|---|" + ("---|---|" if with_memory else "") + "---|---|"
            for row in self.rows:
                yield from _table_lines(row, with_memory=with_memory)
            yield ""
            for words in dict.fromkeys(row.limit.words for row in self.rows if row.limit is not None):
                yield f"Limit: {words}."
                yield ""
        for note in content["notes"]:
            yield note
            yield ""
        commit, plus, _ = (content["commit"] or "unknown").partition("+")
        packages = {"torch": content["versions"]["torch"], **content["rival_versions"]}
        facts = [
            f"`{content['command']}`",
            f"{content['threads']} thread{'s' if content['threads'] > 1 else ''}",
            content["date"],
            f"commit {commit[:8]}{plus and ' with changes'}",
            *(f"{name} {number}" for name, number in packages.items() if name == "torch" or self._is_used(name)),
        ]
        yield ", ".join(facts)
        yield ""

    def _is_used(self, package: str) -> bool:
        words = " ".join([*(name for row in self.rows for name in row.rivals), *self.content["notes"]]).lower()
        return package.partition("-")[0].lower() in words


def _row(fields: dict[str, Any]) -> Row:
    limit = Limit(**fields["limit"]) if fields["limit"] else None
    return Row(**{**fields, "limit": limit})


def _table_lines(row: Row, *, with_memory: bool) -> Iterator[str]:
    missed = row.missed()
    own = statistics.median(row.ours)
    rate = f" ({row.count / own:,.1f} {row.unit}/s)" if row.count else ""
    share = row.share_of_limit()
    of_limit = "" if share is None else f"{share:.2f}{_aim(row, 'limit', missed)}"
    for number, name in enumerate(row.rivals or {"": []}):
        first = number == 0
        ratio = ""
        if name:
            ratios = row.ratios(name)
            middle, low, high = statistics.median(ratios), min(ratios), max(ratios)
            ratio = f"**{middle:.3g}x** ({low:.3g} to {high:.3g}){_aim(row, name, missed)}"
        cells = [
            row.work if first else "",
            f"{_time(own)}{rate}" if first else "",
            name,
            _time(statistics.median(row.rivals[name])) if name else "",
            ratio,
        ]
        if with_memory:
            cells += [_memory(row, "ours") if first else "", _memory(row, name)]
        yield f"| {' | '.join([*cells, of_limit if first else '', row.check if first else ''])} |"


def _aim(row: Row, name: str, missed: list[str]) -> str:
    if name not in row.aims:
        return ""
    return f", aim {row.aims[name]:g}{' ✗' if name in missed else ''}"


def _time(seconds: float) -> str:
    if seconds >= 100:
        return f"{seconds / 60:.3g} min"
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _memory(row: Row, name: str) -> str:
    return f"{row.peak_bytes[name] / 2**20:,.0f} MiB" if name in row.peak_bytes else ""


def read_results() -> list[Result]:
    """All numbers, in the order of the page."""
    found = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in RESULTS.glob("*.json")}
    found = {name: content for name, content in found.items() if "question" in content}
    names = [name for name in ORDER if name in found] + sorted(found.keys() - set(ORDER))
    return [Result(found[name]) for name in names]


def page(results: list[Result]) -> str:
    """The whole page."""
    machines = sorted({_machine(result.content["machine"]) for result in results})
    lines = [line for result in results for line in result.lines()]
    return INTRODUCTION.format(machine="; ".join(machines) or "no machine yet") + "\n".join(lines).rstrip() + "\n"


def draw(results: list[Result], path: Path) -> None:
    """A dot per rival and work: how many times as long it takes, with the range of the repeats and the aim."""
    dots = [(result, row, name) for result in results for row in result.rows for name in row.rivals]
    figure, axes = plt.subplots(figsize=(9, 1 + 0.22 * len(dots)), layout="constrained")
    axes.set(xscale="log", xlabel="rival's time / ours", ylim=(len(dots) - 0.4, -0.6))
    before = None
    for place, (result, row, name) in enumerate(dots):
        ratios, missed = row.ratios(name), name in row.missed()
        color, marker = ("#E69F00", "s") if missed else ("#0072B2", "o")
        axes.plot([min(ratios), max(ratios)], [place, place], color=color, linewidth=1.2)
        axes.plot(statistics.median(ratios), place, color=color, marker=marker, markersize=6)
        if name in row.aims:
            axes.plot(row.aims[name], place, color="black", marker="|", markersize=11, markeredgewidth=2)
        if before not in (None, result):
            axes.axhline(place - 0.5, color="lightgray", linewidth=0.6)
        before = result
    axes.axvline(1, color="black", linewidth=0.8)
    texts = [f"{result.content['name']}: {row.work}  |  {name}" for result, row, name in dots]
    axes.set_yticks(range(len(dots)), texts, fontsize=7)
    ticks = [0.5, 1, 2, 4, 10, 20, 40, 100]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.grid(axis="x", linewidth=0.4)
    figure.suptitle(
        "Dot: median; orange square: an aim that was missed; black mark: the aim; line: all repeats.", fontsize=8
    )
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def _machine(facts: dict[str, Any]) -> str:
    cores = f"{facts['cores']} cores of an {facts['processor']} ({facts['vector_width']})"
    return f"{cores}, {facts['memory_gib']} GiB, no GPU"


def main() -> None:
    """Write the page, or say whether it is up to date."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page isn't up to date")
    options = parser.parse_args()
    results = read_results()
    content = page(results)
    if options.check:
        if not PAGE.exists() or PAGE.read_text(encoding="utf-8") != content:
            sys.exit("docs/benchmarks.md is not what benchmarks/render.py makes of benchmarks/results: run it")
        return
    PAGE.write_text(content, encoding="utf-8")
    draw(results, PICTURE)
    scaling_page.main()
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
