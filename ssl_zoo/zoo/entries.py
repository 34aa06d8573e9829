"""The index of the zoo: every published checkpoint of the methods, and our own small models, as data.

The index is `index.json` beside this file; `python model_cards/build.py` makes it from the files in `model_cards/`.
Only the standard library is imported here, so that listing models stays as light as `import ssl_zoo`.
"""

import dataclasses
import fnmatch
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from ssl_zoo.nearest import did_you_mean


__all__ = [
    "INDEX",
    "License",
    "Measured",
    "Reported",
    "ZooEntry",
    "find_entry",
    "list_models",
    "load_index",
    "model_info",
    "release_license",
]


INDEX = Path(__file__).with_name("index.json")


@dataclass(frozen=True)
class License:
    """The licence of the weights, as their release states it.

    Attributes:
        id: The Hub's id, such as `"mit"`; `None` where the release states no licence, or one that nobody has read.
            Weights without an id may be converted, but not published without their authors' permission.
        name: Its usual name; `None` where the release states none.
        where: Address of the page or file that states it, or that was searched for it.
    """

    id: str | None
    name: str | None
    where: str


@dataclass(frozen=True)
class Reported:
    """A number that the authors report for a checkpoint; nobody here measured it.

    Attributes:
        metric: As the protocols declare it, see `ssl_zoo.protocol`.
        value: Per cent for accuracies, as the authors print it; in [0, 1] for NMI, AMI and ARI.
        dataset: What it was measured on, such as `"imagenet-1k"`.
        protocol: In a few words.
        where: Paper and table, or the page that states it.
    """

    metric: str
    value: float
    dataset: str
    protocol: str
    where: str


@dataclass(frozen=True)
class Measured:
    """A number that we measured by a recipe of ours, from its file in `results/`.

    Attributes:
        metric: As the protocols declare it, see `ssl_zoo.protocol`.
        value: Mean over seeds; a share in [0, 1] for accuracies, as in `results.jsonl`.
        deviation: Standard deviation over seeds; `None` for one seed.
        seeds: Number of seeds.
        dataset: As in the entry.
        protocol: Its name and the parameters that distinguish it.
        commits: Of this package's sources when it was measured.
    """

    metric: str
    value: float
    deviation: float | None
    seeds: int
    dataset: str
    protocol: dict[str, Any]
    commits: tuple[str, ...]


@dataclass(frozen=True)
class ZooEntry:
    """Weights that exist, or that a recipe regenerates.

    Attributes:
        name: `<method>-<backbone>.<recipe tag>`, such as `"mira-resnet50.imagenet1k-800ep"`.
        method: Folder name under `ssl_zoo/models`.
        backbone: Such as `"resnet50"`; the part of the name between method and tag.
        dataset: Trained on, such as `"imagenet-1k"`.
        origin: Who trained it: the method's authors or this project.
        license: Of the weights.
        paper: Address of the paper's page.
        reported: Numbers of the authors.
        recipe: Our recipe for the same setting, as a path from the root of the sources; `None` without one.
        layout: Layout of the file for `recipes/convert.py`; `None` where no converter reads it (see `notes`).
        url: Where the authors keep the file; `None` where no address is known.
        file: Its name; `None` where unknown.
        folder: Folder of the sources that holds the weights; `None` where they are elsewhere.
        notes: What a user must know about this checkpoint.
        source: Page on which the authors publish it, or our recipe.
        default: Whether the `main` branch of its repository holds it.
        epochs: Length of its training; `None` where unknown.
        verified: Whether address, numbers and licence were read on the authors' pages. The files were not opened.
        doubt: What could not be verified; empty when all was.
        measured: Numbers of ours.
    """

    name: str
    method: str
    backbone: str
    dataset: str
    origin: Literal["authors", "ours"]
    license: License
    paper: str
    reported: tuple[Reported, ...]
    recipe: str | None
    layout: str | None
    url: str | None
    file: str | None
    folder: str | None
    notes: str
    source: str
    default: bool = False
    epochs: int | None = None
    verified: bool = True
    doubt: str = ""
    measured: tuple[Measured, ...] = ()

    @property
    def repository(self) -> str:
        """Name of the Hub repository, without its owner: the part before the dot."""
        return self.name.partition(".")[0]

    @property
    def tag(self) -> str:
        """The recipe's tag, which is also the branch of the repository."""
        return self.name.partition(".")[2]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "ZooEntry":
        """Build an entry from the output of `to_dict`, also from its JSON."""
        nested = {
            "license": License(**data["license"]),
            "reported": tuple(Reported(**line) for line in data["reported"]),
            "measured": tuple(Measured(**{**line, "commits": tuple(line["commits"])}) for line in data["measured"]),
        }
        return cls(**{**data, **nested})

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, ready for JSON."""
        return dataclasses.asdict(self)


@functools.cache
def _index() -> MappingProxyType[str, ZooEntry]:
    entries = [ZooEntry.from_dict(data) for data in json.loads(INDEX.read_text(encoding="utf-8"))]
    return MappingProxyType({entry.name: entry for entry in entries})


def load_index() -> dict[str, ZooEntry]:
    """Read the index: name -> entry, sorted by name."""
    return dict(_index())


def find_entry(name: str) -> ZooEntry:
    """Look up an entry by its name, such as `"mira-resnet50.imagenet1k-800ep"`.

    Raises:
        ValueError: for an unknown name; the message has the nearest ones.
    """
    index = _index()
    if name not in index:
        hint = did_you_mean(str(name).lower(), index, most=5)
        raise ValueError(f"the zoo has no model '{name}'{hint} (`ssl_zoo.list_models()` lists all {len(index)})")
    return index[name]


model_info = find_entry


def release_license(method: str) -> License:
    """The licence of the authors' release of a method, such as `"mira"`.

    Raises:
        ValueError: if the zoo has no checkpoint of the authors, or they are under different licences.
    """
    licenses = {entry.license for entry in _index().values() if entry.method == method and entry.origin == "authors"}
    if not licenses:
        raise ValueError(f"the zoo has no checkpoint that the authors of '{method}' published, so no licence of one")
    if len(licenses) > 1:
        ids = ", ".join(sorted(str(license.id) for license in licenses))
        raise ValueError(
            f"the authors' checkpoints of '{method}' are under different licences ({ids}): name the entry"
        )
    return licenses.pop()


def list_models(method: str | None = None, backbone: str | None = None, dataset: str | None = None) -> list[str]:
    """List the names of the zoo's models, sorted; the filters take wildcards, as `timm.list_models` does.

    Args:
        method (`str`, *optional*): Such as `"mira"` or `"cmsf"`.
        backbone (`str`, *optional*): Such as `"resnet50"` or `"resnet*"`.
        dataset (`str`, *optional*): What it was trained on, such as `"imagenet-1k"` or `"cifar*"`.

    Raises:
        ValueError: for a filter that fits no model of the zoo by itself; the message lists the values.
    """
    entries = list(_index().values())
    for field, pattern in (("method", method), ("backbone", backbone), ("dataset", dataset)):
        if pattern is None:
            continue
        values = sorted({getattr(entry, field) for entry in _index().values()})
        if not any(fnmatch.fnmatchcase(value, pattern) for value in values):
            raise ValueError(f"`{field}` must fit one of {', '.join(values)}, got '{pattern}'")
        entries = [entry for entry in entries if fnmatch.fnmatchcase(getattr(entry, field), pattern)]
    return sorted(entry.name for entry in entries)
