"""Batches, and what their consumer keeps track of: the position in the data and the corrupt rows."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, Self

import torch

from ssl_zoo.data.errors import DataError


__all__ = ["Batch", "CorruptCounter", "ReadBatch", "ReadPosition", "ReadSource"]

logger = logging.getLogger(__name__)

_MIN_ROWS_TO_JUDGE = 100  # below, the share of corrupt rows says little


@dataclass
class Batch:
    """One batch of one stream.

    Attributes:
        views (`list[torch.Tensor]`): One tensor of shape `(batch, 3, height, width)` per view: uint8 in channels_last
            memory as the stream gives it, normalised float32 after `ImageTransform.to_device`.
        sample_ids (`torch.Tensor` of shape `(batch,)`): Global ids of the images, int64.
        labels (`torch.Tensor` of shape `(batch,)`): Class numbers, int64; -1 where there is none.
        stream (`int`): The slot, 0 to `num_workers - 1`, that made it.
        position (`int`): Rows the slot has consumed since the start of training, this batch and skipped rows included.
        skipped (`list[str]`): `"<path>: row <id>: <reason>"` for each corrupt row passed over.
        parameters (`list[torch.Tensor]`): What the device has yet to do to the views, one tensor of shape
            `(batch, numbers)` per view; empty when they are complete.
        support (`tuple`, *optional*): Labelled views `(rows, 3, height, width)` and their classes `(rows,)`, for
            methods that compare images with labelled ones: this process's part.
    """

    views: list[torch.Tensor]
    sample_ids: torch.Tensor
    labels: torch.Tensor
    stream: int
    position: int
    skipped: list[str]
    parameters: list[torch.Tensor] = field(default_factory=list)
    support: tuple[torch.Tensor, torch.Tensor] | None = None

    def to(self, device: torch.device | str) -> Self:
        """The batch with its tensors on `device`, copied while the host goes on when they are pinned."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory; called by `DataLoader`."""
        return self._map(torch.Tensor.pin_memory)

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Self:
        views, parameters = ([function(tensor) for tensor in each] for each in (self.views, self.parameters))
        support = self.support and (function(self.support[0]), function(self.support[1]))
        ids, labels = function(self.sample_ids), function(self.labels)
        return replace(self, views=views, sample_ids=ids, labels=labels, parameters=parameters, support=support)


class ReadBatch(Protocol):
    """What is counted of a batch, whatever else it holds; see `Batch`."""

    sample_ids: torch.Tensor
    stream: int
    position: int
    skipped: list[str]


class ReadSource(Protocol):
    """What a counter must know of the source of the batches."""

    @property
    def path(self) -> str: ...  # noqa: D102  # for messages

    @property
    def num_rows(self) -> int: ...  # noqa: D102


@dataclass
class ReadPosition:
    """Position of one process in the data. It counts the batches *consumed*; prefetched batches don't count.

    Attributes:
        positions (`list[int]`): Rows consumed, per slot.
        first_slot (`int`): The slot whose batch comes next.
    """

    positions: list[int]
    first_slot: int = 0

    @classmethod
    def start(cls, num_workers: int) -> Self:
        """The start of training for a loader of `num_workers` workers."""
        return cls([0] * max(1, num_workers))

    def advance(self, batch: ReadBatch) -> None:
        """Count a batch as consumed."""
        self.positions[batch.stream] = batch.position
        self.first_slot = (batch.stream + 1) % len(self.positions)

    def state_dict(self) -> dict[str, Any]:
        """A plain dictionary for a checkpoint; each process keeps its own."""
        return {"positions": list(self.positions), "first_slot": self.first_slot}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the position that `state_dict` returned."""
        if len(state["positions"]) != len(self.positions):
            raise DataError(
                f"The checkpoint was made with {len(state['positions'])} data workers per process, this run has "
                f"{len(self.positions)}; an exact continuation needs as many: set data.num_workers accordingly"
            )
        self.positions, self.first_slot = list(state["positions"]), state["first_slot"]


class CorruptCounter:
    """Counts the corrupt rows met in training, names each once in the log, and stops a run that has too many.

    Args:
        source (`ReadSource`): The images.
        max_share (`float`): Largest share of corrupt rows among all rows seen.
        quiet (`bool`): Count only, name none.
    """

    def __init__(self, source: ReadSource, *, max_share: float, quiet: bool = False) -> None:
        self._source, self._max_share, self._quiet = source, max_share, quiet
        self._named: set[str] = set()
        self.num_rows = 0
        self.num_corrupt = 0

    def update(self, batch: ReadBatch) -> None:
        """Count one consumed batch.

        Raises:
            DataError: The share is exceeded, after 100 rows (or all rows of a smaller set) at least.
        """
        self.num_corrupt += len(batch.skipped)
        self.num_rows += len(batch.skipped) + len(batch.sample_ids)
        for name in batch.skipped:
            if name not in self._named:
                if not self._quiet:
                    logger.warning("Skipped %s", name)
                self._named.add(name)
        if self.num_rows < min(_MIN_ROWS_TO_JUDGE, self._source.num_rows):
            return
        if self.num_corrupt > self._max_share * self.num_rows:
            raise DataError(
                f"{self.num_corrupt} of {self.num_rows} rows of {self._source.path!r} hold no readable image, more "
                f"than `data.max_corrupt_share` = {self._max_share:g} allows; one of them: {max(self._named)}. "
                "Repair the data, or raise the share"
            )
