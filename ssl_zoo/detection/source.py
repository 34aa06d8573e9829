"""Images with boxes from one data set or several joined, read in an order that can be continued anywhere."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import datasets
import numpy as np

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.locate import locate
from ssl_zoo.data.source import DataConfig, ImageSource, RowReader, open_source
from ssl_zoo.detection.boxes import ObjectFields
from ssl_zoo.nearest import did_you_mean


__all__ = ["DetectionReader", "DetectionRow", "DetectionSource", "open_detection_source"]


class DetectionRow(NamedTuple):
    """One undecoded row."""

    sample_id: int
    image: Any
    objects: Any


@dataclass(frozen=True)
class DetectionSource:
    """Data sets read as one: the shards of the first, then those of the next.

    Attributes:
        parts (`tuple[ImageSource]`): The data sets.
        fields ([`ObjectFields`]): Where the boxes are.
        num_classes: Classes, without background.
        class_names (`tuple[str]` or `None`): As the data sets name them.
    """

    parts: tuple[ImageSource, ...]
    fields: ObjectFields
    num_classes: int
    class_names: tuple[str, ...] | None

    @property
    def shard_lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Rows of each shard, `(shards,)`."""
        return np.concatenate([part.shard_lengths for part in self.parts])

    @property
    def num_rows(self) -> int:
        """Rows of all data sets."""
        return sum(part.num_rows for part in self.parts)

    @property
    def path(self) -> str:
        """The data sets' paths, for messages."""
        return " + ".join(dict.fromkeys(part.path for part in self.parts))

    def class_name(self, label: int) -> str:
        """What a class is called."""
        return self.class_names[label] if self.class_names else f"class {label}"

    def reader(self) -> "DetectionReader":
        """A reader with its own open files; make it in the process that uses it."""
        return DetectionReader(self)


class DetectionReader:
    """Reads the rows of all data sets; see `RowReader`."""

    def __init__(self, source: DetectionSource) -> None:
        self._shards: list[tuple[RowReader, int, int]] = []
        first = 0
        for part in source.parts:
            reader = part.reader()
            self._shards += [(reader, shard, first) for shard in range(part.num_shards)]
            first += part.num_rows

    def read(self, shard: int, start: int, stop: int) -> Iterator[DetectionRow]:
        """Rows `start` to `stop` (exclusive) of one shard, in order."""
        reader, shard_of_part, first = self._shards[shard]
        for sample_id, image, objects in reader.read_values(shard_of_part, start, stop):
            yield DetectionRow(first + sample_id, image, objects)


def open_detection_source(
    configs: Sequence[DataConfig], fields: ObjectFields, *, num_classes: int | None = None
) -> DetectionSource:
    """Open data sets that are trained on, or measured, as one.

    Args:
        configs (`Sequence[DataConfig]`): Path, configuration, split, revision and image column of each.
        fields ([`ObjectFields`]): Where all of them keep their boxes.
        num_classes: Needed where the classes are plain integers.

    Raises:
        DataError: A set can't be opened, has no such column, or its classes aren't those of the others.
    """
    parts, all_names = [], []
    for config in configs:
        # The columns are needed before the rows are counted.
        located = locate(
            config.path, name=config.name, split=config.split, revision=config.revision, streaming=config.streaming
        )
        features = located.dataset.features or datasets.Features()
        if fields.objects not in features:
            raise DataError(
                f"{config.path!r} has no column {fields.objects!r}; it has {list(features)}: name the "
                f"column of the boxes with --objects-column{did_you_mean(fields.objects, features)}"
            )
        all_names.append(_class_names(config.path, features[fields.objects], fields))
        parts.append(open_source(replace(config, label_column=fields.objects)))
    names = all_names[0]
    for config, other in zip(configs, all_names, strict=True):
        if other != names:
            raise DataError(
                f"{config.path!r} has other classes than {configs[0].path!r}: {other} instead of {names}. Data sets "
                "that are joined need the same classes in the same order"
            )
    if names is None and num_classes is None:
        raise DataError(
            f"{configs[0].path!r} stores its classes as integers without names: say how many there are with "
            "--num-classes"
        )
    if names is not None and num_classes not in (None, len(names)):
        raise DataError(f"--num-classes is {num_classes}, but {configs[0].path!r} names {len(names)} classes")
    return DetectionSource(
        tuple(parts), fields, len(names) if names else int(num_classes or 0), tuple(names) if names else None
    )


def _class_names(path: str, feature: Any, fields: ObjectFields) -> list[str] | None:
    """Names of the classes, `None` for plain integers; checks that the fields are there."""
    inner = getattr(feature, "feature", feature)  # a list of structs
    if isinstance(inner, list):
        inner = inner[0]
    if not isinstance(inner, dict):
        raise DataError(f"`{fields.objects}` of {path!r} must be a struct of lists or a list of structs, is {feature}")
    for name, option in ((fields.bbox, "--bbox-field"), (fields.category, "--category-field")):
        if name not in inner:
            raise DataError(
                f"`{fields.objects}` of {path!r} has no field {name!r}; it has {list(inner)}: name the "
                f"right one with {option}{did_you_mean(name, inner)}"
            )
    category = inner[fields.category]
    category = getattr(category, "feature", category)
    if isinstance(category, list):
        category = category[0]
    if isinstance(category, datasets.ClassLabel):
        return list(category.names)
    if "int" not in str(getattr(category, "dtype", "")):
        raise DataError(
            f"`{fields.objects}.{fields.category}` of {path!r} must be a class label or an integer, is {category}; "
            "convert it with `datasets.Dataset.cast_column`, or name another with --category-field"
        )
    return None
