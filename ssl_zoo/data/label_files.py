"""The files of a table of pseudo-labels: parts that are written one by one, and the data set they are joined to."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ssl_zoo.atomic import replace_atomically


__all__ = ["LABELS_FILE", "Head", "HeadSummary", "join_parts", "label_bytes", "read_skipped", "write_part"]

LABELS_FILE = "labels.json"
"""Where a folder of labels says what they are of."""

_SKIPPED = b"skipped"
_FILE_BYTES = 2**28


class Head(NamedTuple):
    """Labels of some images from one head.

    Attributes:
        pseudo_labels (`numpy.ndarray` of shape `(rows,)`): int32.
        confidence (`numpy.ndarray` of shape `(rows,)`): Probability of the pseudo-label, float32.
        soft_labels (`numpy.ndarray` of shape `(rows, num_soft)`): The most likely clusters, most likely first, int32.
        soft_probabilities (`numpy.ndarray` of shape `(rows, num_soft)`): Their probabilities, float32.
    """

    pseudo_labels: npt.NDArray[np.int32]
    confidence: npt.NDArray[np.float32]
    soft_labels: npt.NDArray[np.int32] | None = None
    soft_probabilities: npt.NDArray[np.float32] | None = None


class HeadSummary(NamedTuple):
    """Summary of the labels of one head.

    Attributes:
        num_clusters (`int`): Clusters of the head.
        num_used (`int`): Clusters with at least one image.
        largest_share (`float`): Share of the images in the largest one.
        mean_confidence (`float`): Mean probability of the pseudo-label.
    """

    num_clusters: int
    num_used: int
    largest_share: float
    mean_confidence: float


def label_bytes(num_soft: Sequence[int]) -> int:
    """Bytes of one row before compression, given the number of soft labels of each head."""
    return 8 + sum(8 + 8 * count for count in num_soft)


def write_part(path: Path, sample_ids: npt.NDArray[np.int64], heads: Sequence[Head], *, skipped: list[int]) -> None:
    """Write the labels of some rows, whole or not at all.

    Args:
        path (`Path`): File to write.
        sample_ids (`numpy.ndarray` of shape `(rows,)`): Increasing, int64.
        heads (`Sequence[Head]`): Of these rows.
        skipped (`list[int]`): Ids of corrupt rows, which have no label.
    """
    columns: dict[str, pa.Array] = {"sample_id": pa.array(sample_ids, pa.int64())}
    for number, head in enumerate(heads):
        columns[f"pseudo_label_{number}"] = pa.array(head.pseudo_labels, pa.int32())
        columns[f"confidence_{number}"] = pa.array(head.confidence, pa.float32())
        if head.soft_labels is not None and head.soft_probabilities is not None:
            columns[f"soft_labels_{number}"] = _lists(head.soft_labels)
            columns[f"soft_probabilities_{number}"] = _lists(head.soft_probabilities)
    table = pa.table(columns).replace_schema_metadata({_SKIPPED: json.dumps(skipped).encode()})
    with replace_atomically(path) as partial:
        pq.write_table(table, partial)


def _lists(values: npt.NDArray[np.int32] | npt.NDArray[np.float32]) -> pa.ListArray:
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(values.ravel()))


def read_skipped(path: Path, *, num_rows: int) -> list[int] | None:
    """Ids of the rows without a label in a part; `None` if it is missing or doesn't account for `num_rows` rows."""
    try:
        file = pq.read_metadata(path)
        skipped: list[int] = json.loads((file.schema.to_arrow_schema().metadata or {})[_SKIPPED])
    except (OSError, pa.ArrowException, KeyError):
        return None
    return skipped if file.num_rows + len(skipped) == num_rows else None


def join_parts(
    parts: Sequence[Path], folder: Path, *, split: str, clusters: Sequence[int], part_bytes: int
) -> tuple[dict[str, int], list[HeadSummary]]:
    """Join parts, in their order, to few files as `datasets` names them; one part at a time is in memory.

    Args:
        parts (`Sequence[Path]`): Files of `write_part`.
        folder (`Path`): Gets a folder `data`.
        split (`str`): Name of the split.
        clusters (`Sequence[int]`): Clusters of each head.
        part_bytes (`int`): Size of a part before compression.

    Returns:
        Rows of each file by its name inside `folder`, and a summary of each head.
    """
    together = max(1, _FILE_BYTES // part_bytes)
    # Parts of corrupt rows alone are empty, and `datasets` can't read a file that begins with an empty row group.
    filled = [part for part in parts if pq.read_metadata(part).num_rows]
    groups = [filled[start : start + together] for start in range(0, len(filled), together)]
    (folder / "data").mkdir(parents=True)
    counts, confidence, files = [np.zeros(k, dtype=np.int64) for k in clusters], np.zeros(len(clusters)), {}
    with tqdm(total=len(filled), desc="joining the labels", unit="part", leave=False, delay=2) as bar:
        for number, group in enumerate(groups):
            name = f"data/{split}-{number:05d}-of-{len(groups):05d}.parquet"
            schema = pq.read_schema(group[0]).remove_metadata()
            files[name] = 0
            with pq.ParquetWriter(folder / name, schema) as writer:
                for part in group:
                    table = pq.read_table(part).replace_schema_metadata(None)
                    writer.write_table(table)
                    files[name] += table.num_rows
                    for head, count in enumerate(counts):
                        count += np.bincount(table[f"pseudo_label_{head}"].to_numpy(), minlength=len(count))
                        confidence[head] += table[f"confidence_{head}"].to_numpy().sum(dtype=np.float64)
                    bar.update()
    total = max(1, sum(files.values()))
    summaries = [
        HeadSummary(len(count), int((count > 0).sum()), float(count.max() / total), float(mean / total))
        for count, mean in zip(counts, confidence, strict=True)
    ]
    return files, summaries
