"""Reads pseudo-labels from disk or from the Hub as training targets."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, RemoteEntryNotFoundError

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.label_files import LABELS_FILE
from ssl_zoo.data.source import DataConfig, ImageSource
from ssl_zoo.nearest import did_you_mean


__all__ = ["data_name", "describe_data", "read_label_table"]

Labels = npt.NDArray[np.int64]


def data_name(path: str) -> str:
    """Name of a data set without its place on this machine: a folder's own, or the id on the Hub."""
    folder = Path(path).expanduser()
    return folder.resolve().name if folder.is_dir() else path


def describe_data(source: ImageSource, config: DataConfig) -> dict[str, Any]:
    """What the labels of a source are of, as it is kept beside them and compared by `read_label_table`."""
    return {
        "path": data_name(config.path),
        "name": config.name,
        "revision": source.revision,
        "split": source.split,
        "num_rows": source.num_rows,
        "limit": config.max_rows,
    }


def read_label_table(source: ImageSource, config: DataConfig) -> tuple[Labels, int]:
    """Read the labels that `data.label_table` holds for the rows of a source.

    Returns:
        `numpy.ndarray` of shape `(num_rows,)`: label of each row by its sample id, -1 where the table has none; and
        the number of classes.

    Raises:
        DataError: There is no such table or column, it isn't whole, or its labels are of other images.
    """
    place, column = str(config.label_table), config.label_table_column
    about = _read_about(place)
    _check_data(about, place, source, config)
    parts = [_read_columns(place, name, column, num_rows) for name, num_rows in about["files"].items()]
    ids, labels = (np.concatenate(part) for part in zip(*parts, strict=True))
    if len(ids) == 0 or len(np.unique(ids)) != len(ids) or not 0 <= ids.min() <= ids.max() < about["data"]["num_rows"]:
        raise DataError(
            f"`data.label_table` {place!r} must have one label for each sample id from 0 to "
            f"{about['data']['num_rows'] - 1} at most, but ids are missing, repeated or beyond; make it anew"
        )
    label_of_row = np.full(source.num_rows, -1, dtype=np.int64)
    inside = ids < source.num_rows  # a run with `data.max_rows` uses fewer
    label_of_row[ids[inside]] = labels[inside]
    head = column.removeprefix("pseudo_label_")
    clusters = [head["num_clusters"] for head in about["heads"]]
    if column != head and head.isdecimal() and int(head) < len(clusters):
        num_classes = clusters[int(head)]
    else:
        num_classes = int(label_of_row.max()) + 1
    if label_of_row.max() >= num_classes:
        raise DataError(
            f"`data.label_table` {place!r} has the label {label_of_row.max()} in {column!r}, but its {LABELS_FILE} "
            f"says there are {num_classes}; make it anew"
        )
    return label_of_row, num_classes


def _read_about(place: str) -> dict[str, Any]:
    file = _fetch(place, LABELS_FILE)
    try:
        about: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        about["data"]["split"], about["files"], about["heads"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{LABELS_FILE} of `data.label_table` {place!r} can't be read: {error!r}") from error
    return about


def _fetch(place: str, name: str) -> Path:
    """A file of a folder, or of a data set on the Hub (`org/name`, or `org/name@revision`)."""
    folder = Path(place).expanduser()
    if folder.is_dir():
        if not (folder / name).is_file():
            raise DataError(
                f"`data.label_table` is {place!r}, but this folder has no {name}: expected what `python "
                "recipes/label.py MODEL --out FOLDER` writes"
            )
        return folder / name
    repo_id, _, revision = place.partition("@")
    if place.startswith((".", "~", "/")) or repo_id.count("/") != 1:
        siblings = map(str, folder.parent.iterdir()) if folder.parent.is_dir() else ()
        hint = did_you_mean(str(folder), list(siblings))
        raise DataError(f"`data.label_table` is {place!r}, but there is no such folder{hint}")
    try:
        return Path(hf_hub_download(repo_id, name, repo_type="dataset", revision=revision or None))
    except (HFValidationError, HfHubHTTPError, OSError) as error:
        reason = " ".join(str(error).split())
        if type(error) in (EntryNotFoundError, RemoteEntryNotFoundError):  # others of their kind mean no network
            reason = f"that data set has no {name}, so `recipes/label.py` didn't make it"
        raise DataError(
            f"`data.label_table` is {place!r}, but there is no such folder, and it can't be had from the Hub: {reason}"
        ) from error


def _check_data(about: dict[str, Any], place: str, source: ImageSource, config: DataConfig) -> None:
    """Compare what the labels are of with what they are wanted for.

    Places and limits may differ: a data set may have been downloaded in between, and a part of it be labelled.
    """
    labelled, wanted = about["data"], describe_data(source, config)
    differing = [
        f"{name} ({labelled[name]!r} there, {wanted[name]!r} here)"
        for name in ("name", "revision", "split")
        if labelled.get(name) != wanted[name] and (name == "split" or None not in (labelled.get(name), wanted[name]))
    ]
    if labelled["path"].rsplit("/", 1)[-1] != str(wanted["path"]).rsplit("/", 1)[-1]:
        differing.insert(0, f"path ({labelled['path']!r} there, {wanted['path']!r} here)")
    more_here = not labelled.get("limit") and wanted["num_rows"] > labelled["num_rows"]
    more_there = not wanted["limit"] and labelled["num_rows"] > wanted["num_rows"]
    if more_here or more_there:
        differing.append(f"number of rows ({labelled['num_rows']} there, {wanted['num_rows']} here)")
    if differing:
        raise DataError(
            f"The labels of `data.label_table` {place!r} are of other images than `data` names: "
            f"{', '.join(differing)}. Label this data with recipes/label.py, or train on that"
        )


def _read_columns(place: str, name: str, column: str, num_rows: int) -> tuple[Labels, Labels]:
    try:
        file = pq.ParquetFile(_fetch(place, name))
        columns = file.schema_arrow.names
        if column not in columns:
            raise DataError(
                f"`data.label_table_column` is {column!r}, but {place!r} has the columns {columns}"
                f"{did_you_mean(column, columns)}"
            )
        if not pa.types.is_integer(file.schema_arrow.field(column).type):
            raise DataError(
                f"`data.label_table_column` is {column!r}, which holds {file.schema_arrow.field(column).type}, not "
                f"whole numbers; expected one such as 'pseudo_label_0'"
            )
        table = file.read(["sample_id", column])
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{name} of `data.label_table` {place!r} can't be read: {error}") from error
    if table.num_rows != num_rows:
        raise DataError(
            f"{name} of `data.label_table` {place!r} has {table.num_rows} rows, expected {num_rows}: it isn't the "
            f"file that {LABELS_FILE} is about; make the labels anew"
        )
    return table["sample_id"].to_numpy(), table[column].fill_null(-1).to_numpy().astype(np.int64)
