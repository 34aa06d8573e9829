"""What a protocol is given: a subject, its data, and a way to say what was measured."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.label_table import data_name
from ssl_zoo.data.source import DataConfig, ImageSource
from ssl_zoo.evaluation.metrics.intervals import accuracy_interval
from ssl_zoo.evaluation.results import Result
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.features.extract import FeatureTable, Reading, labelled_rows
from ssl_zoo.features.store import FeatureStore
from ssl_zoo.functional.distributed import rank, wait_for_all
from ssl_zoo.labels.assign import PseudoLabels, assign_pseudo_labels
from ssl_zoo.protocol import find_protocol
from ssl_zoo.provenance import command, commit, versions


__all__ = ["Evaluation", "describe_data", "on_main_process"]


@dataclass
class Evaluation:
    """What a protocol needs to measure a subject.

    Attributes:
        subject ([`Subject`]): What is measured.
        data (`DataConfig`): What the splits were opened with.
        train (`ImageSource`): Labelled images to learn from.
        test (`ImageSource`): Labelled images to test on.
        validation (`ImageSource`, *optional*): Images to choose by; a share of the training rows where there are none.
        store ([`FeatureStore`]): Keeps features on disk.
        reading ([`Reading`]): How images are read.
        output (`Path`, *optional*): Folder for pictures; without it none are drawn.
    """

    subject: Subject
    data: DataConfig
    train: ImageSource
    test: ImageSource
    store: FeatureStore
    reading: Reading
    validation: ImageSource | None = None
    output: Path | None = None

    def features(self, source: ImageSource) -> FeatureTable:
        """Features of a split, of labelled and unlabelled images; the same on every process."""
        subject = self.subject
        description = f"Features of {subject.name.replace('_', ' ')}, {source.split}"
        return self.store.features(
            subject.encode, source, subject.view, model=subject.identity, reading=self.reading, description=description
        )

    def labelled(self, source: ImageSource) -> FeatureTable:
        """Features of the labelled images of a split.

        Raises:
            DataError: If there are none.
        """
        self.require_labels(source)
        table = labelled_rows(self.features(source))
        self.require_labels(source, len(table.labels))
        return table

    def require_labels(self, source: ImageSource, num_labels: int = 1) -> None:
        """Refuse a split without a column of labels, or whose column holds none.

        Raises:
            DataError: says what to do about it.
        """
        if source.label_column is None or num_labels == 0:
            raise DataError(
                f"Split {source.split!r} of {source.path!r} has no labels, which this protocol needs. If it has a "
                "column of classes, name it with --label-column; otherwise choose other splits, or --protocol spectrum"
            )

    def tables(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Features and labels of the training and the test split, and of the validation split if there is one."""
        sources = [self.train, self.test, *([self.validation] if self.validation else [])]
        return tuple((table.features, table.labels) for table in map(self.labelled, sources))

    @cached_property
    def pseudo_labels(self) -> PseudoLabels | None:
        """The method's own pseudo-labels of the test images, the same on every process; `None` where it has none."""
        assign, view = self.subject.assign, self.subject.view
        return None if assign is None else assign_pseudo_labels(assign, self.test, view, reading=self.reading)

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        return {"commit": commit(), "versions": versions(), "command": command()}

    def measure(self, name: str, settings: Any) -> list[Result]:
        """Measure by one protocol, on all processes.

        Args:
            name: Of the protocol.
            settings: Its settings.

        Returns:
            `list[Result]`: complete on the main process; empty for a subject that the protocol can't measure.

        Raises:
            ValueError: If the protocol returns a metric that it doesn't declare.
        """
        protocol = find_protocol(name)
        if self.subject.name not in protocol.subjects:
            return []
        start = time.perf_counter()
        results = protocol.measure(self, settings)
        seconds = round(time.perf_counter() - start, 2)
        if undeclared := {result.metric for result in results} - {metric.name for metric in protocol.metrics}:
            raise ValueError(f"protocol {name!r} returned {undeclared}: declare them in `metrics` of its `PROTOCOL`")
        return [replace(result, wall_seconds=seconds) for result in results]

    @property
    def num_classes(self) -> int:
        """Classes of the data."""
        return len(self.train.class_names or []) or int(self.train.read_labels().max()) + 1

    def result(
        self,
        metric: str,
        value: float,
        protocol: dict[str, Any],
        *,
        num_answers: int | None = None,
        interval: tuple[float, float] | None = None,
        details: dict[str, Any] | None = None,
        learned: bool = True,
    ) -> Result:
        """A result with its provenance.

        Args:
            metric: Name of a metric that the protocol declares.
            value: What was measured.
            protocol: Name and every setting that changes the number.
            num_answers (*optional*): Of which `value` is the share that is right; gives the interval.
            interval (*optional*): 95 % interval, for a value that is no such share.
            details (*optional*): What was chosen or counted on the way.
            learned: Whether anything was learned from the training split.
        """
        if num_answers is not None:
            interval = accuracy_interval(value, num_answers)
        return Result(
            metric=metric,
            value=value,
            subject=self.subject.name,
            protocol=protocol,
            data=describe_data(self.train if learned else None, self.test),
            seed=self.subject.seed,
            images_seen=self.subject.images_seen,
            wall_seconds=0.0,  # `measure` knows
            **self._provenance,
            interval=None if interval is None else [round(bound, 5) for bound in interval],
            details=details,
        )


@contextmanager
def on_main_process() -> Iterator[bool]:
    """Whether this is the main process; the others wait until it leaves the block."""
    try:
        yield rank() == 0
    finally:
        wait_for_all()


def describe_data(bank: ImageSource | None, test: ImageSource) -> dict[str, Any]:
    """The `data` of a result; of a local folder only its name, as its place means nothing elsewhere."""
    return {
        "path": data_name(test.path),
        "revision": test.revision,
        "train_split": bank.split if bank else None,
        "test_split": test.split,
        "num_train": bank.num_rows if bank else None,
        "num_test": test.num_rows,
    }
