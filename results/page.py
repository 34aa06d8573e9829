"""The page of measured results: one table of all small runs, made from results/."""

import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ssl_zoo.models.registry import display_name
from ssl_zoo.protocol import find_metric
from ssl_zoo.training.recipe import Recipe, load_recipe


__all__ = ["COLUMNS", "Column", "Entry", "curves_picture", "read_entries", "read_lines", "render_page", "results_file"]


@dataclass(frozen=True)
class Column:
    """A column of the table of results.

    Attributes:
        title: Its head.
        metric: Name of the metric in a result.
        protocol: Parameters that the protocol of a result must have, such as `{"share": 0.01}`.
        digits: Shown after the point.
    """

    title: str
    metric: str
    protocol: dict[str, Any]
    digits: int = 1


COLUMNS = (
    Column("k-NN", "knn_top1", {"name": "knn"}),
    Column("linear", "linear_top1", {"name": "linear"}),
    Column("1 % labels", "finetune_top1", {"name": "finetune", "share": 0.01}),
    Column("10 % labels", "finetune_top1", {"name": "finetune", "share": 0.1}),
    Column("NMI", "nmi", {"name": "clusters"}, 3),
    Column("AMI", "ami", {"name": "clusters"}, 3),
    Column("ARI", "ari", {"name": "clusters"}, 3),
)
"""Of the table of small runs."""


@dataclass(frozen=True)
class Entry:
    """A row of the table of results.

    Attributes:
        title: Name of the row, Markdown.
        labels: Labels that it learned from, in words.
        kind: `"ours"`, `"rival"` or `"baseline"`.
        results: Lines of a results file, of this subject alone; several seeds are averaged.
    """

    title: str
    labels: str
    kind: str
    results: list[dict[str, Any]]

    def values(self, column: Column) -> list[dict[str, Any]]:
        """The lines of a column, one for each seed, the last one measured."""
        by_seed = {
            line["seed"]: line
            for line in self.results
            if line["metric"] == column.metric and column.protocol.items() <= line["protocol"].items()
        }
        return list(by_seed.values())

    def mean(self, column: Column) -> float | None:
        """Mean over the seeds, in per cent for shares."""
        values = [line["value"] for line in self.values(column)]
        return _scale(column) * statistics.mean(values) if values else None

    def spread(self, column: Column) -> tuple[float, float] | None:
        """Low and high: two standard deviations of several seeds, or the bootstrap interval of one."""
        lines, scale = self.values(column), _scale(column)
        if len(lines) > 1:
            values = [scale * line["value"] for line in lines]
            mean, width = statistics.mean(values), 2 * statistics.stdev(values)
            return mean - width, mean + width
        if lines and lines[0].get("interval"):
            low, high = lines[0]["interval"]
            return scale * low, scale * high
        return None

    def cell(self, column: Column) -> str:
        """Mean ± standard deviation over seeds, or the value and its interval; empty where nothing was measured."""
        lines, mean, digits = self.values(column), self.mean(column), column.digits
        if mean is None:
            return ""
        if len(lines) > 1:
            deviation = statistics.stdev(_scale(column) * line["value"] for line in lines)
            return f"{mean:.{digits}f} ± {deviation:.{digits}f}"
        interval = self.spread(column)
        return f"{mean:.{digits}f}" + (f" [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]" if interval else "")


def _scale(column: Column) -> float:
    return find_metric(column.metric).scale


_BASELINES = {"raw_pixels": "raw pixels", "random_init": "random init"}
_REFERENCE = "supervised"
"""The method that learns from all labels and nothing else: what the others are compared with, not one of them."""


def results_file(recipe_file: Path) -> Path:
    """The file of a recipe's results: `results/<method>/<recipe>.jsonl` beside the folder `recipes/`."""
    recipe_file = recipe_file.resolve()
    return recipe_file.parents[2] / "results" / recipe_file.parent.name / f"{recipe_file.stem}.jsonl"


def read_lines(file: Path) -> list[dict[str, Any]]:
    """Read a results file, oldest line first; a missing file has none."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def read_entries(recipe_files: Sequence[Path], rivals_file: Path) -> list[Entry]:
    """Rows of the table: baselines, then methods and rivals together by their k-NN accuracy, best first.

    Args:
        recipe_files (sequence of `Path`): The small recipes, in any order; those without results are left out.
        rivals_file (`Path`): From `results/cifar10_table.py`; may be missing.
    """
    baselines: dict[str, list[dict[str, Any]]] = {subject: [] for subject in _BASELINES}
    trained = []
    for file in recipe_files:
        recipe, results = load_recipe(file), read_lines(results_file(file))
        for subject, lines in baselines.items():
            lines += [line for line in results if line["subject"] == subject]
        kind = "baseline" if recipe.method == _REFERENCE else "ours"
        lines = [line for line in results if line["subject"] == "trained"]
        trained.append(Entry(_title(file, recipe), _labels(recipe), kind, lines))
    if rivals_file.is_file():
        for rival in json.loads(rivals_file.read_text(encoding="utf-8")).values():
            trained.append(Entry(rival["title"], "none", "rival", rival["results"]))
    trained = [entry for entry in trained if entry.values(COLUMNS[0])]
    trained.sort(key=lambda entry: -(entry.mean(COLUMNS[0]) or 0.0))
    untrained = [Entry(_BASELINES[name], "none", "baseline", lines) for name, lines in baselines.items() if lines]
    return [*untrained, *trained]


def render_page(notes: str, entries: Sequence[Entry], recipe_files: Sequence[Path]) -> str:
    """Render the page.

    Args:
        notes: Text with a line `<!-- table -->` where the table goes and `<!-- curves -->` where the curves go.
        entries (`Sequence[Entry]`): Rows of the table.
        recipe_files (sequence of `Path`): Recipes whose curves are shown.

    Returns:
        `str`: Markdown.
    """
    header = ["", "labels", "images seen", "seeds", *(column.title for column in COLUMNS)]
    rows = [header, ["---"] * len(header)]
    for entry in entries:
        # A mark that survives a rendering without colours: ours are bold, rivals in italics.
        title = {"ours": f"**{entry.title}**", "rival": f"*{entry.title}*"}.get(entry.kind, entry.title)
        seen = sorted({line["images_seen"] for line in entry.results if line.get("images_seen")})
        seeds = str(len(entry.values(COLUMNS[0])))
        rows.append([title, entry.labels, ", ".join(f"{number:,}" for number in seen), seeds])
        rows[-1] += [entry.cell(column) for column in COLUMNS]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    pictures = []
    for file in recipe_files:
        if picture := curves_picture(file):
            recipe = load_recipe(file)
            pictures.append(f"### {_name(file, recipe)}\n\n![Curves of its training]({picture})")
    return notes.replace("<!-- table -->", table).replace("<!-- curves -->", "\n\n".join(pictures))


def curves_picture(recipe_file: Path) -> str | None:
    """Where the curves of a recipe's runs are, relative to `docs/`; `None` for none."""
    picture = f"images/{recipe_file.parent.name}-{recipe_file.stem}.png"
    return picture if (recipe_file.resolve().parents[2] / "docs" / picture).is_file() else None


def _name(file: Path, recipe: Recipe) -> str:
    variant = file.stem.partition("cifar10_small_cpu")[2].strip("_")
    words = {"km": "k-means", "semi": "semi-supervised", "sup": "supervised", "labels": "on pseudo-labels"}
    return f"{display_name(recipe.method)}{f', {words.get(variant, variant)}' if variant else ''}"


def _title(file: Path, recipe: Recipe) -> str:
    return f"[{_name(file, recipe)}](../recipes/{file.parent.name}/{file.name})"


def _labels(recipe: Recipe) -> str:
    return f"{recipe.data.labelled_share:.0%}" if recipe.model_config().learns_from_labels else "none"
