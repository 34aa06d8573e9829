from typing import get_args

from ssl_zoo.evaluation.frozen.rows import ProbeMetric
from ssl_zoo.evaluation.suite import TRANSFER_SUITE


# Images, classes and metric of table 1 of https://huggingface.co/papers/1805.08974, without Birdsnap.
PUBLISHED = {
    "Food-101": (101, 75750, 25250, "top1"),
    "CIFAR-10": (10, 50000, 10000, "top1"),
    "CIFAR-100": (100, 50000, 10000, "top1"),
    "SUN397": (397, 19850, 19850, "top1"),
    "Cars": (196, 8144, 8041, "top1"),
    "Aircraft": (100, 6667, 3333, "mean_per_class"),
    "VOC2007": (20, 5011, 4952, "voc_map"),
    "DTD": (47, 3760, 1880, "top1"),
    "Pets": (37, 3680, 3669, "mean_per_class"),
    "Caltech-101": (102, 3060, 6084, "mean_per_class"),
    "Flowers-102": (102, 2040, 6149, "mean_per_class"),
}


def test_the_suite_is_that_of_the_paper():
    found = {task.name: (task.num_classes, task.num_train, task.num_test, task.metric) for task in TRANSFER_SUITE}
    assert found == PUBLISHED
    assert list(found) == list(PUBLISHED)


def test_entries_are_complete_and_different():
    assert len({task.path for task in TRANSFER_SUITE}) == len(TRANSFER_SUITE)
    for task in TRANSFER_SUITE:
        assert task.metric in get_args(ProbeMetric)
        organisation, _, name = task.path.partition("/")
        assert organisation
        assert name
        assert "/" not in name
        assert len({task.train_split, task.validation_split, task.test_split}) == 3
        assert task.image_column != task.label_column
