"""Predictions of all processes on each, every sample once."""

from collections.abc import Sequence

import torch

from ssl_zoo.features.extract import gather_table


__all__ = ["gather_once"]


def gather_once(
    parts: Sequence[tuple[torch.Tensor, ...]], *, device: torch.device | str, num_samples: int | None = None
) -> tuple[torch.Tensor, ...]:
    """Join the batches of all processes, and refuse a sample that is there twice or not at all.

    Args:
        parts (`Sequence` of `tuple` of `torch.Tensor` of shape `(batch, ...)`): Columns of this process's batches on
            the CPU, sample ids first; as many batches as there are, of any length.
        device: What the rows travel over.
        num_samples (*optional*): Number of samples that there must be; leave it out where corrupt ones were skipped.

    Returns:
        `tuple` of `torch.Tensor` of shape `(samples, ...)`: on the CPU, ordered by sample id, the same on every
        process.

    Raises:
        ValueError: If a sample is there twice, or their number is not `num_samples`.
    """
    columns = gather_table(parts, device=device)
    ids = columns[0]
    again = ids[1:][ids[1:] == ids[:-1]]
    if len(again):
        raise ValueError(
            f"sample {int(again[0])} was gathered more than once, as were {len(again) - 1} others: "
            "give every process its own share, and don't let a loader fill its last batch up"
        )
    if num_samples is not None and len(ids) != num_samples:
        raise ValueError(f"{len(ids)} samples were gathered, but there are {num_samples}: a process lost a batch")
    return columns
