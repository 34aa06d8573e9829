"""What a protocol is given: a subject, its data, parameters, and a way to say what it found."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.label_table import data_name
from ssl_zoo.data.source import DataConfig, ImageSource
from ssl_zoo.evaluation.protocols.settings import ProtocolSettings
from ssl_zoo.evaluation.results import Result
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.features.extract import FeatureTable, Reading, labelled_rows
from ssl_zoo.features.store import FeatureStore
from ssl_zoo.functional.distributed import rank, wait_for_all
from ssl_zoo.labels.assign import PseudoLabels, assign_pseudo_labels
from ssl_zoo.provenance import command, commit, versions


__all__ = ["Evaluation", "describe_data", "on_main_process", "plain_parameters"]


@dataclass
class Evaluation:
    """What a protocol needs to measure a subject.

    Attributes:
        subject ([`Subject`]): Who is measured.
        data (`DataConfig`): What the splits were opened with.
        train (`ImageSource`), test (`ImageSource`): Learned from, and tested on.
        validation (`ImageSource`, *optional*): Chosen by; a share of the training rows where there is none.
        store ([`FeatureStore`]): Keeps features.
        reading ([`Reading`]): How images are read.
        settings ([`ProtocolSettings`]): Parameters.
        output (`Path`, *optional*): Folder for pictures; none are made without.
    """

    subject: Subject
    data: DataConfig
    train: ImageSource
    test: ImageSource
    store: FeatureStore
    reading: Reading
    settings: ProtocolSettings
    validation: ImageSource | None = None
    output: Path | None = None

    def features(self, source: ImageSource) -> FeatureTable:
        """Features of a split, of labelled and unlabelled images; the same on every process."""
        subject = self.subject
        description = f"Features of {subject.name.replace('_', ' ')}, {source.split}"
        return self.store.features(
            subject.encode,
            source,
            subject.view,
            model=subject.identity,
            reading=self.reading,
            description=description,
        )

    def labelled(self, source: ImageSource) -> FeatureTable:
        """Features of the labelled images of a split.

        Raises:
            DataError: If there are none.
        """
        if source.label_column is not None:
            table = labelled_rows(self.features(source))
            if len(table.labels):
                return table
        raise DataError(
            f"Split {source.split!r} of {source.path!r} has no labels, which this protocol needs. If it has a column "
            "of classes, name it with --label-column; otherwise choose other splits, or --protocol spectrum."
        )

    def tables(self) -> tuple[tuple[torch.Tensor, torch.Tensor], ...]:
        """Features and labels of the training and the test split, and of the validation split if there is one."""
        sources = [self.train, self.test, *([self.validation] if self.validation else [])]
        return tuple((table.features, table.labels) for table in map(self.labelled, sources))

    @cached_property
    def pseudo_labels(self) -> PseudoLabels | None:
        """The method's own pseudo-labels of the test images, the same on every process; `None` where it has none."""
        assign = self.subject.assign
        if assign is None:
            return None
        return assign_pseudo_labels(assign, self.test, self.subject.view, reading=self.reading)

    @cached_property
    def _provenance(self) -> dict[str, Any]:
        return {"commit": commit(), "versions": versions(), "command": command()}

    def can(self, protocol: str) -> bool:
        """Whether a protocol says anything of this subject: pixels aren't trained, baselines have no paper."""
        name = self.subject.name
        if protocol == "linear_paper":
            return name == "trained"
        if protocol in ("semi1", "semi10", "finetune"):
            return name != "raw_pixels"
        return True

    @property
    def num_classes(self) -> int:
        """Classes of the data."""
        return len(self.train.class_names or []) or int(self.train.read_labels().max()) + 1

    def result(
        self,
        metric: str,
        value: float,
        protocol: dict[str, Any],
        seconds: float,
        *,
        interval: tuple[float, float] | None = None,
        details: dict[str, Any] | None = None,
        learned: bool = True,
    ) -> Result:
        """A result with its provenance."""
        return Result(
            metric=metric,
            value=value,
            subject=self.subject.name,
            protocol=protocol,
            data=describe_data(self.train if learned else None, self.test),
            seed=self.subject.seed,
            images_seen=self.subject.images_seen,
            wall_seconds=round(seconds, 2),
            **self._provenance,
            interval=None if interval is None else [round(bound, 5) for bound in interval],
            details=details,
        )


def plain_parameters(settings: Any) -> dict[str, Any]:
    """Parameters as JSON has them."""
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in dataclasses.asdict(settings).items()
    }


@contextmanager
def on_main_process() -> Iterator[bool]:
    """The others wait until the main process is through."""
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
