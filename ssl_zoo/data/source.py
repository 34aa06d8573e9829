"""Where images come from: the Hub, a local folder or the embedded set; every row has a global id."""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ssl_zoo.data.counts import count_rows, identify, read_labels
from ssl_zoo.data.errors import DataError
from ssl_zoo.data.locate import Located, locate
from ssl_zoo.nearest import did_you_mean
from ssl_zoo.settings.declare import setting


__all__ = ["DataConfig", "DataError", "ImageSource", "Row", "RowReader", "find_columns", "open_source"]

_LABEL_NAMES = ("label", "labels", "cls")
_TABLE_ROWS = 128


@dataclass
class DataConfig:
    """The `data` section of a recipe: which images, and how they are read."""

    path: str = setting(
        "embedded", "a data set id on the Hub, a local folder (parquet, imagefolder, webdataset) or 'embedded'"
    )
    name: str | None = setting(None, "configuration (subset) of the data set, if it has any")
    split: str = setting("train", "split to read")
    revision: str | None = setting(None, "commit, branch or tag of a data set on the Hub")
    streaming: bool = setting(True, "read while training; false downloads the whole set first and shuffles fully")
    image_column: str | None = setting(None, "column of the images; null finds it by type")
    label_column: str | None = setting(None, "column of the labels; null finds it by type")
    shuffle_buffer: int = setting(2048, "rows that are permuted together; each worker holds so many undecoded images")
    num_workers: int = setting(2, "processes per device that read, decode and augment")
    max_corrupt_share: float = setting(0.01, "stop when more than this share of the rows holds no readable image")
    max_rows: int | None = setting(None, "use only the first so many rows; null is all", off=True)
    labelled_share: float = setting(1.0, "share of the rows whose label a method with supervision may learn from")
    labelled_stratified: bool = setting(True, "take the same share of every class; false draws from all rows alike")
    labelled_seed: int = setting(0, "seed of the draw of labelled rows")
    labelled_ids: str | None = setting(
        None, "text file with one labelled row number or image file name per line, instead of a draw", off=True
    )
    label_table: str | None = setting(
        None, "folder or Hub data set of recipes/label.py whose labels are learned instead of the classes", off=True
    )
    label_table_column: str = setting(
        "pseudo_label_0", "column of that table: pseudo_label_ and the number of the head"
    )

    def __post_init__(self) -> None:
        """Check every value; an error names the key, the value and what is expected."""
        for key, low in (("shuffle_buffer", 1), ("num_workers", 0), ("max_rows", 1)):
            value = getattr(self, key)
            if value is not None and value < low:
                raise DataError(f"`data.{key}` must be at least {low}, got {value!r}")
        if not 0 <= self.max_corrupt_share <= 1:
            raise DataError(f"`data.max_corrupt_share` must be a share from 0 to 1, got {self.max_corrupt_share!r}")
        if not 0 < self.labelled_share <= 1:
            raise DataError(f"`data.labelled_share` must be a share above 0 and up to 1, got {self.labelled_share!r}")
        if self.labelled_ids is not None and self.labelled_share != 1:
            raise DataError(
                f"`data.labelled_ids` names the labelled rows, so `data.labelled_share` must be 1.0, got "
                f"{self.labelled_share!r}"
            )
        for key in ("path", "split", "label_table_column"):
            if not getattr(self, key):
                raise DataError(f"`data.{key}` is empty; expected for example {DataConfig.__dict__[key]!r}")


class Row(NamedTuple):
    """One undecoded row; `label` is -1 when there is none."""

    sample_id: int
    image: Any
    label: int


class ImageSource:
    """The images of one split, as shards of known length whose rows are read in order.

    A row's global id is its number in file order: `offsets[shard] + row`. It is the same for any number of processes,
    workers and epochs, and for streaming and map-style reading.

    Attributes:
        path (`str`), split (`str`): As configured.
        revision (`str` or `None`): The commit on the Hub that is read; `None` for local files.
        num_shards (`int`): Number of pieces that can be read apart; map-style, every row is one.
        shard_lengths (`numpy.ndarray` of shape `(num_shards,)`): Rows of each shard.
        offsets (`numpy.ndarray` of shape `(num_shards,)`): Id of the first row of each shard.
        num_rows (`int`): Rows in all.
        image_column (`str`), label_column (`str` or `None`), class_names (`list[str]` or `None`): As found.
    """

    def __init__(self, config: DataConfig, located: Located, *, shard_lengths: npt.NDArray[np.int64]) -> None:
        dataset = located.dataset
        self.path, self.split, self.revision = config.path, config.split, located.revision
        self.image_column, self.label_column = find_columns(config, dataset.features)
        label = dataset.features[self.label_column] if self.label_column else None
        self.class_names: list[str] | None = list(label.names) if isinstance(label, datasets.ClassLabel) else None
        self.offsets: npt.NDArray[np.int64] = np.cumsum(shard_lengths) - shard_lengths
        if config.max_rows is not None:
            shard_lengths = np.clip(config.max_rows - self.offsets, 0, shard_lengths)
        self.shard_lengths, self.num_shards = shard_lengths, len(shard_lengths)
        self.num_rows = int(shard_lengths.sum())
        if self.num_rows == 0:
            raise DataError(f"Split {self.split!r} of {self.path!r} has no rows; choose another with `data.split`")
        self.streaming = isinstance(dataset, datasets.IterableDataset)
        self._dataset = dataset if self.streaming else self._undecoded(dataset).with_format("arrow")
        self._located = located

    def read_labels(self) -> npt.NDArray[np.int64]:
        """Label of every row by its id, -1 where there is none, without a look at the images if that can be.

        The shape is `(num_rows,)`, or `(num_rows, classes)` where a label is a list of 0 and 1.

        Raises:
            DataError: The set has no column of labels.
        """
        if self.label_column is None:
            raise DataError(
                f"{self.path!r} has no labels, which this method learns from. If it has a column of classes, name it "
                "with `data.label_column`; otherwise choose a method without supervision"
            )
        return read_labels(self._located, split=self.split, column=self.label_column)[: self.num_rows]

    @property
    def identity(self) -> str:
        """A short text that changes when the data does: for names of files that are kept."""
        return f"{identify(self._located, self.split)}-{self.num_rows}"

    def reader(self) -> "RowReader":
        """A reader with its own open files; make it in the process that uses it."""
        return RowReader(self)

    def rows(self, shard: int, start: int, stop: int) -> Iterator[Row]:
        """Rows `start` to `stop` (exclusive) of one shard, in order; see `RowReader` for many such reads."""
        return self.reader().read(shard, start, stop)

    def open_shard(self, shard: int, start: int) -> Iterator[tuple[Any, Any]]:
        """`(image value, label value)` of one shard from row `start` on, without decoding."""
        if not self.streaming:
            yield from self._values(self._dataset[shard : shard + 1])
            return
        part = self._dataset.shard(self._dataset.num_shards, shard)
        if self._located.in_tables:  # whole tables are passed over without a look at their rows
            for table in self._undecoded(part).with_format("arrow").iter(_TABLE_ROWS):
                if start < table.num_rows:
                    yield from self._values(table.slice(start))
                start = max(0, start - table.num_rows)
        else:
            for row in self._undecoded(part.skip(start)):
                yield row[self.image_column], row[self.label_column] if self.label_column else None

    def _undecoded(self, dataset: Any) -> Any:
        columns = [self.image_column, *([self.label_column] if self.label_column else [])]
        return dataset.select_columns(columns).cast_column(self.image_column, datasets.Image(decode=False))

    def _values(self, table: pa.Table) -> Iterator[tuple[Any, Any]]:
        labels = table[self.label_column].to_pylist() if self.label_column else [None] * table.num_rows
        return zip(table[self.image_column].to_pylist(), labels, strict=True)


class RowReader:
    """Reads rows of an `ImageSource`; a read that starts where the last one ended does not open the shard again."""

    def __init__(self, source: ImageSource) -> None:
        self._source, self._next = source, (-1, -1)
        self._values: Iterator[tuple[Any, Any]] = iter(())

    def read(self, shard: int, start: int, stop: int) -> Iterator[Row]:
        """Rows `start` to `stop` (exclusive) of one shard, in order."""
        for sample_id, image, label in self.read_values(shard, start, stop):
            is_class = label is not None and not isinstance(label, (list, np.ndarray))
            yield Row(sample_id, image, int(label) if is_class else -1)

    def read_values(self, shard: int, start: int, stop: int) -> Iterator[tuple[int, Any, Any]]:
        """As `read`, with the label as the data set has it: sample id, image value, label value."""
        source = self._source
        if self._next != (shard, start):
            self._values = source.open_shard(shard, start)
        for row in range(start, stop):
            try:
                image, label = next(self._values)
            except StopIteration:
                raise DataError(
                    f"Shard {shard} of {source.path!r} ends after {row} rows, expected {source.shard_lengths[shard]}: "
                    "the files changed since they were opened. Start again, so that they are counted anew"
                ) from None
            except (OSError, pa.ArrowException) as error:
                raise DataError(f"Shard {shard} of {source.path!r} cannot be read at row {row}: {error}") from error
            self._next = (shard, row + 1)
            yield int(source.offsets[shard]) + row, image, label


def open_source(config: DataConfig) -> ImageSource:
    """Open one split: find it, find its columns and count its rows.

    Raises:
        DataError: The split cannot be found or read; the message names the cause and the cure.
    """
    located = locate(
        config.path, name=config.name, split=config.split, revision=config.revision, streaming=config.streaming
    )
    if isinstance(located.dataset, datasets.Dataset):
        lengths = np.ones(located.dataset.num_rows, dtype=np.int64)
    else:
        find_columns(config, located.dataset.features)  # fail before a long count
        lengths = count_rows(located, split=config.split)
    return ImageSource(config, located, shard_lengths=lengths)


def find_columns(config: DataConfig, features: datasets.Features | None) -> tuple[str, str | None]:
    """Names of the image column and of the label column (or `None`): as configured, else by feature type.

    Raises:
        DataError: A configured column does not exist, or there is not exactly one column of images.
    """
    features = features if features is not None else datasets.Features()
    for key in ("image_column", "label_column"):
        column = getattr(config, key)
        if column is not None and column not in features:
            raise DataError(
                f"`data.{key}` is {column!r}, but {config.path!r} has the columns {list(features)}"
                f"{did_you_mean(column, features)}"
            )
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    if config.image_column is None and len(images) != 1:
        raise DataError(
            f"{config.path!r} has {'several columns' if images else 'no column'} of images"
            f"{f' ({images})' if images else ''}; name the one to use with `data.image_column`, "
            f"one of {images or list(features)}"
        )
    return config.image_column or images[0], config.label_column or _find_label(config.path, features)


def _find_label(path: str, features: datasets.Features) -> str | None:
    classes = [name for name, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    if len(classes) > 1:
        warnings.warn(
            f"{path!r} has several columns of classes ({classes}), so labels are not read; "
            "choose one with `data.label_column`.",
            stacklevel=2,
        )
        return None
    whole = [name for name in _LABEL_NAMES if name in features and "int" in str(getattr(features[name], "dtype", ""))]
    return next(iter(classes + whole), None)
