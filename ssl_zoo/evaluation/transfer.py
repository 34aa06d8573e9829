"""Transfer: logistic regression on frozen features of the data sets that papers transfer to."""

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ssl_zoo.data.errors import DataError
from ssl_zoo.data.source import DataConfig, ImageSource, open_source
from ssl_zoo.evaluation.evaluation import Evaluation
from ssl_zoo.evaluation.frozen.rows import Table
from ssl_zoo.evaluation.protocols.logistic import LogisticRegression, logistic_results
from ssl_zoo.evaluation.results import Result
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.evaluation.suite import TRANSFER_SUITE, TransferTask
from ssl_zoo.features.extract import Reading
from ssl_zoo.features.store import FeatureStore


__all__ = ["evaluate_suite"]

logger = logging.getLogger(__name__)


def evaluate_suite(
    subject: Subject,
    *,
    store: FeatureStore,
    reading: Reading,
    settings: LogisticRegression,
    keep: Callable[[list[Result]], None],
    tasks: Sequence[TransferTask] = TRANSFER_SUITE,
) -> dict[str, str]:
    """Measure a subject on every data set of the suite that can be opened.

    Args:
        subject ([`Subject`]): Who is measured.
        store ([`FeatureStore`]): Keeps features.
        reading ([`Reading`]): How images are read.
        settings ([`LogisticRegression`]): The parameters.
        keep (`Callable`): Takes the results of each task as soon as they are measured.
        tasks (`Sequence[TransferTask]`): The data sets.

    Returns:
        `dict[str, str]`: name of each task whose data can't be opened -> why.
    """
    missing = {}
    for task in tasks:
        start = time.perf_counter()
        try:
            train, test = (_open(task, split, reading) for split in (task.train_split, task.test_split))
            validation = _open(task, task.validation_split, reading) if task.validation_split else None
            _compare_sizes(task, train, test, validation)
            data = DataConfig(path=task.path, name=task.config_name)
            evaluation = Evaluation(subject, data, train, test, store, reading, validation)
            tables = [_table(evaluation, source) for source in (train, test, *([validation] if validation else []))]
        except DataError as error:
            missing[task.name] = str(error)
            logger.warning("%s is left out: %s", task.name, error)
            continue
        results = logistic_results(evaluation, settings, tables, metric=task.metric, description=task.name)
        seconds = round(time.perf_counter() - start, 2)
        named = [{**result.protocol, "task": task.name} for result in results]
        keep([replace(r, protocol=protocol, wall_seconds=seconds) for r, protocol in zip(results, named, strict=True)])
    return missing


def _open(task: TransferTask, split: str, reading: Reading) -> ImageSource:
    return open_source(
        DataConfig(
            path=task.path,
            name=task.config_name,
            split=split,
            image_column=task.image_column,
            label_column=task.label_column,
            num_workers=reading.num_workers,
        )
    )


def _table(evaluation: Evaluation, source: ImageSource) -> Table:
    """Features, and labels from the column: class numbers, or a row of 0 and 1."""
    table = evaluation.features(source)
    return table.features, torch.from_numpy(source.read_labels())[table.sample_ids]


def _compare_sizes(task: TransferTask, train: ImageSource, test: ImageSource, validation: ImageSource | None) -> None:
    sizes = (train.num_rows + (validation.num_rows if validation else 0), test.num_rows)
    if sizes != (task.num_train, task.num_test):
        message = "%s: '%s' has %d images to learn from and %d to test on, the published data set %d and %d%s"
        note = f" ({task.note})" if task.note else ""
        logger.warning(message, task.name, task.path, *sizes, task.num_train, task.num_test, note)
