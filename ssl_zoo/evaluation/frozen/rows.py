"""Labelled tables of frozen features, as the classifiers trained on them read and split them."""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch


__all__ = ["FeatureRows", "ProbeMetric", "ProbeRows", "Table", "choose_rows", "move_if_it_fits", "split_rows"]

ProbeMetric = Literal["top1", "mean_per_class", "voc_map"]
"""Share of correct rows; its mean over classes; or mean average precision, 11 points, of multi-hot labels."""

Table = tuple[torch.Tensor, torch.Tensor]
"""Features `(rows, features)`, floating, may be memory-mapped; labels `(rows,)`, int64, -1 where there is none, or for
`"voc_map"` `(rows, classes)` of 1, 0 and -1 (does not count)."""

Device = torch.device | str

_CHUNK_BYTES = 2**26


class FeatureRows:
    """The labelled rows of one or more tables, read in batches; the tables stay where and as they are.

    Batches are float32 (float64 if the tables are). Rows without a label are left out.

    Args:
        tables (`Mapping[str, Table]`): What messages call a table -> features and labels; of one width.
        metric: Decides which kind of labels is expected.
        device: Where batches go. Tables move there as a whole if it is a GPU that has three times the memory free.

    Raises:
        ValueError: If shapes or values don't fit, no row has a label, or features are not finite.
    """

    def __init__(
        self, tables: Mapping[str, Table], *, metric: ProbeMetric = "top1", device: torch.device | str = "cpu"
    ) -> None:
        if metric not in get_args(ProbeMetric):
            raise ValueError(f"`metric` must be one of {', '.join(get_args(ProbeMetric))}, got {metric!r}")
        for name, (features, labels) in tables.items():
            _check(features, labels, metric, name)
        _check_fit(tables)
        self.device, self.metric = torch.device(device), metric
        self._tables = [move_if_it_fits(features, self.device) for features, _ in tables.values()]
        labels = torch.cat([labels.cpu() for _, labels in tables.values()])
        self._rows = _known(labels).nonzero().flatten()
        self.labels = labels[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def width(self) -> int:
        """Number of features of a row."""
        return self._tables[0].shape[1]

    @property
    def num_classes(self) -> int:
        """Classes by the highest label, or columns of multi-hot labels."""
        return int(self.labels.max()) + 1 if self.labels.ndim == 1 else self.labels.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Of the batches."""
        return torch.float64 if self._tables[0].dtype == torch.float64 else torch.float32

    def subset(self, rows: torch.Tensor) -> "FeatureRows":
        """The same tables with some of the rows, by their numbers in this object."""
        part: FeatureRows = object.__new__(FeatureRows)
        part.device, part.metric, part._tables = self.device, self.metric, self._tables
        part._rows, part.labels = self._rows[rows], self.labels[rows]
        return part

    def take(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features `(batch, features)` and labels of some rows, in their order, on the device."""
        where, labels = self._rows[rows], self.labels[rows].to(self.device, non_blocking=True)
        if len(self._tables) == 1:
            table = self._tables[0]
            return table[where.to(table.device)].to(self.device, self.dtype), labels
        batch = torch.empty(len(where), self.width, dtype=self.dtype, device=self.device)
        first = 0
        for table in self._tables:
            here = ((where >= first) & (where < first + len(table))).nonzero().flatten()
            features = table[(where[here] - first).to(table.device)]
            batch[here.to(self.device)] = features.to(self.device, self.dtype)
            first += len(table)
        return batch, labels

    def chunks(self, values_per_row: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """All rows in order, in batches of about 64 MB, each row counted with `values_per_row` values besides it."""
        size = max(1, _CHUNK_BYTES // (8 * (self.width + values_per_row)))
        for rows in torch.arange(len(self)).split(size):
            yield self.take(rows)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of each feature over the rows, float64, on the device."""
        # Sums of differences from one row: a feature that is constant gets a variance of exactly 0.
        origin = self.take(torch.zeros(1, dtype=torch.int64))[0].double()
        sums, squares = torch.zeros_like(origin), torch.zeros_like(origin)
        for features, _ in self.chunks():
            difference = features.double() - origin
            sums += difference.sum(dim=0)
            squares += difference.square_().sum(dim=0)
        mean = sums / len(self)
        return (origin + mean)[0], (squares / len(self) - mean.square()).clamp_min(0.0)[0]


def _known(labels: torch.Tensor) -> torch.Tensor:
    return labels.ge(0) if labels.ndim == 1 else labels.ge(0).any(dim=1)


def _check_fit(tables: Mapping[str, Table]) -> None:
    if len({(features.shape[1:], labels.shape[1:]) for features, labels in tables.values()}) > 1:
        shapes = [f"{name} {tuple(table[0].shape)} and {tuple(table[1].shape)}" for name, table in tables.items()]
        raise ValueError(f"features must have one width and their labels one kind, got {', '.join(shapes)}")


def _check(features: torch.Tensor, labels: torch.Tensor, metric: ProbeMetric, name: str) -> None:
    multi_hot = metric == "voc_map"
    shape = "(rows, classes)" if multi_hot else "(rows,)"
    if features.ndim != 2 or labels.ndim != 1 + multi_hot or len(labels) != len(features) or features.numel() == 0:
        raise ValueError(
            f"{name} features must have shape (rows, features), rows > 0, and their labels {shape} for the metric "
            f"{metric!r}; got {tuple(features.shape)} and {tuple(labels.shape)}"
        )
    if not features.is_floating_point():
        raise ValueError(f"{name} features must be floating point numbers, got {features.dtype}")
    if multi_hot and not bool(((labels == 0) | (labels == 1) | (labels == -1)).all()):
        raise ValueError(f"multi-hot labels of the {name} features must be 1, 0 or -1 (does not count)")
    if not multi_hot and (labels.is_floating_point() or int(labels.min()) < -1):
        raise ValueError(f"labels of the {name} features must be whole numbers >= -1, got {labels.min().item()}")
    if not bool(_known(labels).any()):
        raise ValueError(f"none of the {len(labels)} rows of the {name} features has a label, which is needed")
    for start in range(0, len(features), size := max(1, _CHUNK_BYTES // (8 * features.shape[1]))):
        finite = features[start : start + size].isfinite().all(dim=1)
        if not bool(finite.all()):
            row = start + int(finite.to(torch.uint8).argmin())
            raise ValueError(
                f"{name} features hold infinite or NaN values, in row {row} first: the model has diverged"
            )


def move_if_it_fits(table: torch.Tensor, device: torch.device) -> torch.Tensor:
    """The table on `device` if that is a GPU that has three times the memory free; as it is otherwise."""
    if device.type == "cuda" and 3 * table.numel() * table.element_size() < torch.cuda.mem_get_info(device)[0]:
        return table.to(device)
    return table


def split_rows(labels: torch.Tensor, *, share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut validation rows from training rows: the same share of each class, at random for multi-hot labels.

    Args:
        labels (`torch.Tensor` of shape `(rows,)` or `(rows, classes)`): Of the training rows.
        share: Share of the validation rows, in (0, 1). Of each class at least one row stays; one goes, if it has two.
        seed: Seed of the draw.

    Returns:
        `tuple` of `torch.Tensor`: Row numbers that stay, and those for validation, each increasing.

    Raises:
        ValueError: If the share is out of range or there are too few rows.
    """
    if not 0 < share < 1:
        raise ValueError(f"`validation_share` must lie in (0, 1), got {share}")
    rng = np.random.default_rng(seed)
    groups = [np.arange(len(labels))]
    if labels.ndim == 1:
        order = np.argsort(labels.numpy(), kind="stable")
        groups = np.split(order, np.flatnonzero(np.diff(labels.numpy()[order])) + 1)
    drawn = [rng.permutation(rows)[: min(max(1, round(share * len(rows))), len(rows) - 1)] for rows in groups]
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    chosen[torch.from_numpy(np.concatenate(drawn))] = True
    if not bool(chosen.any()):
        raise ValueError(
            f"{len(labels)} training rows, one per class, leave none to validate with; give validation rows"
        )
    return (~chosen).nonzero().flatten(), chosen.nonzero().flatten()


class ProbeRows(NamedTuple):
    """Rows to train on, to choose by, both together, and to test on."""

    training: FeatureRows
    held_out: FeatureRows
    everything: FeatureRows
    tested: FeatureRows

    @property
    def num_classes(self) -> int:
        """Classes of the training and validation rows."""
        return self.everything.num_classes


def choose_rows(
    train: Table,
    validation: Table | None,
    test: Table,
    *,
    share: float,
    seed: int,
    metric: ProbeMetric,
    device: Device,
) -> ProbeRows:
    """Cut the rows of a probe; `share` and `seed` as in `split_rows`.

    Raises:
        ValueError: If shapes, labels or features don't fit, or the training rows are all of one class.
    """
    _check_fit({"train": train, "test": test})
    if validation is None:
        everything = FeatureRows({"train": train}, metric=metric, device=device)
        parts = split_rows(everything.labels, share=share, seed=seed)
    else:
        everything = FeatureRows({"train": train, "validation": validation}, metric=metric, device=device)
        rows, num_train = torch.arange(len(everything)), int(_known(train[1]).sum())
        parts = rows[:num_train], rows[num_train:]
    training, held_out = everything.subset(parts[0]), everything.subset(parts[1])
    if training.labels.ndim == 1 and len(training.labels.unique()) < 2:
        only = int(training.labels[0])
        raise ValueError(f"all {len(training)} labelled training rows are of class {only}: nothing to tell apart")
    return ProbeRows(training, held_out, everything, FeatureRows({"test": test}, metric=metric, device=device))
