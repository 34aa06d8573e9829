"""Features of all images of a source, on one process or many, ordered by sample id."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from tqdm.auto import tqdm

from ssl_zoo.data.batch import Batch, CorruptCounter, ReadPosition
from ssl_zoo.data.source import ImageSource
from ssl_zoo.data.stream import ViewStream
from ssl_zoo.data.views import ImageTransform
from ssl_zoo.functional.distributed import all_gather_objects, all_gather_rows, rank, world_size


__all__ = [
    "Encoder",
    "FeatureTable",
    "Reading",
    "check_finite",
    "evaluation_batches",
    "extract_features",
    "gather_table",
    "labelled_rows",
]

Encoder = Callable[[torch.Tensor], torch.Tensor]
"""Images `(batch, 3, height, width)` on the device -> features `(batch, features)`."""

_GATHERED_ROWS = 16384


@dataclass(frozen=True)
class Reading:
    """How images are read and where they are computed on; none of it changes a result.

    Attributes:
        batch_size: Images per forward pass.
        num_workers: Loader processes of each process.
        max_corrupt_share: Corrupt rows are skipped and named in the log up to this share.
        device: Where the model is.
    """

    batch_size: int = 256
    num_workers: int = 2
    max_corrupt_share: float = 0.01
    device: torch.device | str = "cpu"


@dataclass(frozen=True)
class FeatureTable:
    """Features of a split, the same on every process, ordered by sample id.

    Attributes:
        sample_ids (`torch.Tensor` of shape `(rows,)`): Global row numbers, int64, increasing.
        features (`torch.Tensor` of shape `(rows, features)`): float32 or float16, on the CPU, maybe memory-mapped.
        labels (`torch.Tensor` of shape `(rows,)`): int64; -1 where there is none.
    """

    sample_ids: torch.Tensor
    features: torch.Tensor
    labels: torch.Tensor


def evaluation_batches(
    source: ImageSource,
    view: ImageTransform,
    reading: Reading | None = None,
    *,
    description: str = "images",
    positions: Sequence[int] | None = None,
    done: int = 0,
) -> Iterator[Batch]:
    """This process's share of one pass over a source, one view per image, with a progress bar on the main process.

    The processes' shares are disjoint and complete but may differ in the number of batches: don't communicate inside.

    Args:
        source (`ImageSource`): The images.
        view (`ImageTransform`): Makes the one view, such as `EvalView`.
        reading ([`Reading`], *optional*): How images are read.
        description: What the progress bar says.
        positions: Rows that each slot of this process leaves out at its start.
        done: Rows of all processes that the bar counts as done.

    Raises:
        DataError: If too many rows are corrupt.
    """
    reading = reading or Reading()
    corrupt = CorruptCounter(source, max_share=reading.max_corrupt_share)
    stream = ViewStream(
        source,
        view,
        batch_size=reading.batch_size,
        shuffle=False,
        rank=rank(),
        world_size=world_size(),
        num_workers=reading.num_workers,
        start=None if positions is None else ReadPosition(list(positions)),
        num_epochs=1,
    )
    share, start = source.num_rows // world_size(), done // world_size()
    with tqdm(
        total=share, initial=start, desc=description, unit="img", disable=rank() != 0, leave=False, dynamic_ncols=True
    ) as bar:
        for batch in stream.loader():
            corrupt.update(batch)
            yield view.to_device(batch, reading.device)
            bar.update(len(batch.sample_ids))


@torch.no_grad()
def extract_features(
    encode: Encoder,
    source: ImageSource,
    view: ImageTransform,
    reading: Reading | None = None,
    *,
    description: str = "features",
) -> FeatureTable:
    """Compute the features of all readable images; the processes share the work, and all get the whole table.

    Args:
        encode (`Encoder`): The model, in evaluation mode.
        source (`ImageSource`): The images.
        view (`ImageTransform`): Makes the one view.
        reading ([`Reading`], *optional*): How images are read, and where the model is.
        description: What the progress bar says.

    Raises:
        DataError: If too many rows are corrupt.
    """
    reading = reading or Reading()
    batches = evaluation_batches(source, view, reading, description=description)
    parts = [(batch.sample_ids.cpu(), encode(batch.views[0]).float().cpu(), batch.labels.cpu()) for batch in batches]
    return FeatureTable(*gather_table(parts, device=reading.device))


def check_finite(features: torch.Tensor, sample_ids: torch.Tensor) -> None:
    """Raise a `ValueError` that names the first row with an infinite or NaN feature; both have a row per image."""
    broken = ~features.isfinite().all(dim=1)
    if bool(broken.any()):
        first = int(sample_ids.to(broken.device)[broken][0])
        raise ValueError(
            f"the model's features of {int(broken.sum())} of {len(features)} images are infinite or NaN, row {first} "
            "first: it has diverged, or its weights are damaged"
        )


def labelled_rows(table: FeatureTable) -> FeatureTable:
    """The rows of a table that have a label; the table itself, still memory-mapped, when all have one."""
    labelled = table.labels >= 0
    if bool(labelled.all()):
        return table
    return FeatureTable(table.sample_ids[labelled], table.features[labelled], table.labels[labelled])


def gather_table(parts: Sequence[tuple[torch.Tensor, ...]], *, device: torch.device | str) -> tuple[torch.Tensor, ...]:
    """Join the batches of all processes into columns `(rows, ...)` on the CPU, ordered by the first, the same on all.

    Args:
        parts (`Sequence` of `tuple` of `torch.Tensor` of shape `(batch, ...)`): Columns of this process's batches on
            the CPU, sample ids first; may be empty on some processes, not on all.
        device: What the rows travel over; a process group may know one kind of device only.
    """
    if world_size() == 1:
        columns = [torch.cat(column) for column in zip(*parts, strict=True)]
    else:
        # A process without a row learns number, types and widths of the columns from the others.
        described = all_gather_objects([(column.dtype, column.shape[1:]) for column in parts[0]] if parts else None)
        layout = next(description for description in described if description is not None)
        local = list(zip(*parts, strict=True)) if parts else [()] * len(layout)
        columns = [
            _gather(torch.cat([torch.zeros(0, *shape, dtype=dtype), *column]), device)
            for (dtype, shape), column in zip(layout, local, strict=True)
        ]
    order = columns[0].argsort()
    return tuple(column[order] for column in columns)


def _gather(rows: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """Rows of all processes, on the CPU. They travel in pieces, so that the device need not hold them all."""
    longest = int(all_gather_rows(torch.tensor([len(rows)], device=device)).max())
    pieces = [
        all_gather_rows(rows[start : start + _GATHERED_ROWS].to(device)).cpu()
        for start in range(0, longest, _GATHERED_ROWS)
    ]
    return torch.cat(pieces)
