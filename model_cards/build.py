"""Build the zoo's index and its page from the entry files in this folder: python model_cards/build.py [--check].

An entry is `<zoo name>.md`: YAML between two lines of three dashes, then a few sentences, which are a Jinja template
over the entry's own data. It becomes a line of ssl_zoo/zoo/index.json and of docs/zoo.md (from page.md.jinja).
"""

import argparse
import json
import re
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import yaml

from ssl_zoo.atomic import replace_atomically
from ssl_zoo.models.registry import display_name, method_names
from ssl_zoo.protocol import find_metric, known_metrics
from ssl_zoo.zoo.entries import INDEX, License, Measured, Reported, ZooEntry


HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
PAGE = ROOT / "docs" / "zoo.md"
# method-backbone.tag: the tag is also a branch, so without anything that a branch's name can't have.
_NAME = re.compile(r"(?P<method>[a-z][a-z_]*)-(?P<backbone>[a-z][a-z0-9_]*)\.(?P<tag>[a-z0-9]+(?:-[a-z0-9]+)*)")
_KEYS = ("origin", "default", "dataset", "epochs", "paper", "source", "url", "file", "folder", "layout", "recipe")
_KEYS = (*_KEYS, "license", "reported", "doubt")
_SHOWN = (("knn_top1", {"name": "knn"}), ("linear_top1", {"name": "linear"}), ("nmi", {"name": "clusters"}))
_SHORT = {"linear_top1": "linear", "finetune_top1": "fine-tuned"}
_ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)


class CardError(ValueError):
    """An entry file that can't be used; the message names the file, what is wrong and what was expected."""


def read_entry(path: Path) -> ZooEntry:
    """Read an entry file, check it, and render its sentences.

    Args:
        path (`Path`): `<zoo name>.md`.

    Raises:
        CardError: for a malformed name, a missing or unknown key, a method, metric or recipe that doesn't exist, or a
            placeholder that the entry has nothing for.
    """
    name, place = path.name.removesuffix(".md"), path.name
    match = _NAME.fullmatch(name)
    if match is None:
        raise CardError(f"{place}: a zoo name is <method>-<backbone>.<recipe tag>, in lower case, got '{name}'")
    data, body = _front_matter(path)
    if wrong := sorted(set(data) ^ set(_KEYS)):
        raise CardError(f"{place}: keys must be {', '.join(_KEYS)}; missing or unknown: {', '.join(wrong)}")
    _expect(place, "method", match["method"], method_names())
    _expect(place, "origin", data["origin"], ("authors", "ours"))
    license = _nested(place, "license", data["license"], License)
    reported = tuple(_nested(place, "reported", line, Reported) for line in data["reported"])
    for line in reported:
        _expect(place, "metric", line.metric, known_metrics())
        low, high, unit = (1, 100, "in per cent") if find_metric(line.metric).unit else (0, 1, "a number in [0, 1]")
        if not low <= line.value <= high:
            raise CardError(f"{place}: `{line.metric}` is {unit}, got {line.value}")
    recipe = data["recipe"]
    if recipe is not None and not (ROOT / recipe).is_file():
        raise CardError(f"{place}: there is no recipe '{recipe}'")
    measured = measured_by(recipe) if recipe and data["origin"] == "ours" else ()
    fields = {**data, **match.groupdict(), "license": license, "reported": reported, "measured": measured}
    del fields["tag"]
    notes = _render(place, body, fields, tag=match["tag"])
    return ZooEntry(**fields, name=name, notes=notes, verified=not data["doubt"])


def measured_by(recipe: str) -> tuple[Measured, ...]:
    """What was measured of a recipe's trained models: a line for each metric and protocol, over all seeds."""
    by_protocol: dict[str, dict[Any, dict[str, Any]]] = {}
    file = ROOT / "results" / Path(recipe).relative_to("recipes").with_suffix(".jsonl")
    for line in map(json.loads, file.read_text(encoding="utf-8").splitlines() if file.is_file() else ()):
        if line["subject"] == "trained":
            key = json.dumps([line["metric"], line["protocol"]], sort_keys=True)
            by_protocol.setdefault(key, {})[line["seed"]] = line  # a later measurement of a seed replaces an earlier
    measured = []
    for seeds in by_protocol.values():
        lines = list(seeds.values())
        values = [line["value"] for line in lines]
        measured.append(
            Measured(
                metric=lines[0]["metric"],
                value=round(statistics.mean(values), 6),
                deviation=round(statistics.stdev(values), 6) if len(values) > 1 else None,
                seeds=len(values),
                dataset=file.stem.partition("_")[0],
                protocol=lines[0]["protocol"],
                commits=tuple(sorted({line["commit"] for line in lines if line.get("commit")})),
            )
        )
    return tuple(measured)


def read_entries(folder: Path = HERE) -> list[ZooEntry]:
    """Read all entry files, sorted by name.

    Raises:
        CardError: as `read_entry`, and if a repository hasn't exactly one default.
    """
    entries = [read_entry(path) for path in sorted(folder.glob("*.md"))]
    for repository in sorted({entry.repository for entry in entries}):
        defaults = [entry.name for entry in entries if entry.repository == repository and entry.default]
        if len(defaults) != 1:
            raise CardError(
                f"'{repository}' needs exactly one entry with `default: true` (what `main` holds), "
                f"got {', '.join(defaults) or 'none'}"
            )
    return sorted(entries, key=lambda entry: entry.name)


def render_index(entries: Sequence[ZooEntry]) -> str:
    """The text of index.json."""
    return json.dumps([entry.to_dict() for entry in entries], indent=1, ensure_ascii=False) + "\n"


def render_page(entries: Sequence[ZooEntry]) -> str:
    """The text of docs/zoo.md: a section for each method, the authors' checkpoints before our own."""
    methods = []
    for method in sorted({entry.method for entry in entries}, key=lambda name: display_name(name).lower()):
        ordered = sorted((entry for entry in entries if entry.method == method), key=_order)
        rows = {origin: [entry for entry in ordered if entry.origin == origin] for origin in ("authors", "ours")}
        methods.append({"method": method, "name": display_name(method), "paper": ordered[0].paper, **rows})
    _ENVIRONMENT.filters |= {"licence": licence, "reported": reported_cell, "measured": measured_cell}
    template = _ENVIRONMENT.from_string((HERE / "page.md.jinja").read_text(encoding="utf-8"))
    text = template.render(methods=methods, count=len(entries))
    return re.sub(r"\n{3,}", "\n\n", text).rstrip() + "\n"


def licence(license: License) -> str:
    """A licence with a link to where it is stated."""
    return f"[{license.name or 'none stated'}]({license.where})"


def reported_cell(entry: ZooEntry) -> str:
    """The authors' numbers, with their sources."""
    cells = []
    for where in dict.fromkeys(line.where for line in entry.reported):
        numbers = [
            # Neighbour searches differ too much to be called by one name.
            f"{line.protocol if line.metric == 'knn_top1' else _title(line.metric)} {_reported_number(line)}"
            for line in entry.reported
            if line.where == where
        ]
        place = "README" if where.startswith("https://github.com/") else where.rsplit("/", 1)[-1]
        cells.append(f"{'; '.join(numbers)} ([{place}]({where}))")
    return "<br>".join(cells)


def measured_cell(entry: ZooEntry, metric: str) -> str:
    """Our number: mean and standard deviation over seeds; empty where nothing was measured."""
    for name, protocol in _SHOWN:
        for line in entry.measured:
            if line.metric == metric == name and protocol.items() <= line.protocol.items():
                return _number(line)
    return ""


def _title(metric: str) -> str:
    return _SHORT.get(metric) or find_metric(metric).title


def _number(line: Measured) -> str:
    scale, digits = (100, 1) if find_metric(line.metric).unit else (1, 3)
    spread = "" if line.deviation is None else f" ± {scale * line.deviation:.{digits}f}"
    return f"{scale * line.value:.{digits}f}{spread}"


def _reported_number(line: Reported) -> str:
    if not find_metric(line.metric).unit:
        return f"{line.value:.3f}"
    text = f"{line.value:g}"
    return text if "." in text else f"{text}.0"


def _order(entry: ZooEntry) -> tuple[Any, ...]:
    """The default of a repository first; numbers in names in their numeric order."""
    parts = [(not part.isdigit(), int(part) if part.isdigit() else part) for part in re.split(r"(\d+)", entry.tag)]
    return entry.repository, not entry.default, parts


def _render(place: str, body: str, fields: dict[str, Any], *, tag: str) -> str:
    """The sentences of an entry, as one paragraph."""
    first = {}
    for line in fields["reported"]:
        first.setdefault(line.metric, _reported_number(line))
    shown: dict[str, str] = {}
    for line in fields["measured"]:
        shown.setdefault(line.metric, _number(line) + (" %" if find_metric(line.metric).unit else ""))
    try:
        text = _ENVIRONMENT.from_string(body).render({**fields, "tag": tag, "reported": first, "measured": shown})
    except jinja2.TemplateError as error:
        raise CardError(f"{place}: the sentences can't be rendered: {error}") from error
    return " ".join(text.split())


def _front_matter(path: Path) -> tuple[dict[str, Any], str]:
    parts = path.read_text(encoding="utf-8").split("---\n", 2)
    if len(parts) != 3 or parts[0]:
        raise CardError(f"{path.name}: must begin with data between two lines of ---")
    try:
        data = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        raise CardError(f"{path.name}: the data isn't YAML: {error}") from error
    if not isinstance(data, dict):
        raise CardError(f"{path.name}: the data must be keys and values, got {type(data).__name__}")
    return data, parts[2]


def _expect(place: str, field: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        raise CardError(f"{place}: `{field}` must be one of {', '.join(allowed)}, got '{value}'")


def _nested(place: str, field: str, data: Any, kind: type) -> Any:
    try:
        return kind(**data)
    except TypeError as error:
        fields = ", ".join(kind.__dataclass_fields__)
        raise CardError(f"{place}: `{field}` needs exactly {fields}, got {data}") from error


def main() -> None:
    """Write both files, or with --check only say which are stale."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is stale")
    check = parser.parse_args().check
    try:
        entries = read_entries()
        texts = {INDEX: render_index(entries), PAGE: render_page(entries)}
    except CardError as error:
        sys.exit(f"Not built. {error}")
    stale = [path for path, text in texts.items() if not path.is_file() or path.read_text(encoding="utf-8") != text]
    for path in [] if check else stale:
        with replace_atomically(path) as partial:
            partial.write_text(texts[path], encoding="utf-8")
    names = ", ".join(str(path.relative_to(ROOT)) for path in stale) or "nothing"
    print(f"{len(entries)} entries; {'stale' if check else 'written'}: {names}")
    sys.exit(bool(check and stale))


if __name__ == "__main__":
    main()
