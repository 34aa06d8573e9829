"""The data sets that papers transfer to (Kornblith et al., https://huggingface.co/papers/1805.08974, table 1).

The ids are of repositories with images in parquet or webdataset form, without a loading script. Each comment says how
certain an id is. None was tried while this was written: a data set that can't be opened is reported and left out.
"""

from dataclasses import dataclass

from ssl_zoo.evaluation.frozen.rows import ProbeMetric


__all__ = ["TRANSFER_SUITE", "TransferTask"]


@dataclass(frozen=True)
class TransferTask:
    """One data set of the suite.

    Attributes:
        name: As shown in tables.
        path: Data set on the Hub.
        config_name: Its configuration; `None` for the only or default one.
        train_split: Split(s) to train on, joined by `+`.
        validation_split: Split to choose by; `None` = a stratified, seeded share of the training rows.
        test_split: Split to test on.
        image_column: Column of the images.
        label_column: Column of the classes; for `"voc_map"` one 0/1 per class.
        metric: What is reported, as in the paper.
        num_classes: As published.
        num_train: Images to train and choose on together, as published.
        num_test: Images to test on, as published.
        note: What differs from the paper; empty if nothing is known to differ.
    """

    name: str
    path: str
    metric: ProbeMetric
    num_classes: int
    num_train: int
    num_test: int
    config_name: str | None = None
    train_split: str = "train"
    validation_split: str | None = None
    test_split: str = "test"
    image_column: str = "image"
    label_column: str = "label"
    note: str = ""


TRANSFER_SUITE: tuple[TransferTask, ...] = (  # name, path, metric, classes, training and test images
    # Sure: listed with parquet files under this id; the usual loader of the data set.
    TransferTask(
        "Food-101",
        "ethz/food101",
        metric="top1",
        num_classes=101,
        num_train=75_750,
        num_test=25_250,
        test_split="validation",
        note="the split called validation is the authors' test split",
    ),
    # Sure: listed with parquet files under this id; column `img`.
    TransferTask("CIFAR-10", "uoft-cs/cifar10", "top1", 10, 50_000, 10_000, image_column="img"),
    # Sure: listed with parquet files under this id; columns `img`, `fine_label`, `coarse_label`.
    TransferTask(
        "CIFAR-100", "uoft-cs/cifar100", "top1", 100, 50_000, 10_000, image_column="img", label_column="fine_label"
    ),
    # Fairly sure: listed with 18 parquet files a split, loading script removed; columns as in its card. That the split
    # is the authors' first of ten is inferred from its equal halves.
    TransferTask("SUN397", "tanganke/sun397", "top1", 397, 19_850, 19_850),
    # Fairly sure: listed with parquet files for train and test, pinned by a public benchmark; column names inferred.
    TransferTask("Cars", "isaacchung/StanfordCars", "top1", 196, 8_144, 8_041),
    # Sure of id, splits and columns (`family`, `manufacturer`, `variant`): parquet files since its script was removed.
    TransferTask(
        "Aircraft",
        "HuggingFaceM4/FGVC-Aircraft",
        metric="mean_per_class",
        num_classes=100,
        num_train=6_667,
        num_test=3_333,
        validation_split="validation",
        label_column="variant",
    ),
    # Id and column `npy` (one 0/1 per class) sure, webdataset form. By its size the train split is only `train`, not
    # `trainval`. Objects marked difficult are not marked here.
    TransferTask(
        "VOC2007",
        "clip-benchmark/wds_voc2007_multilabel",
        metric="voc_map",
        num_classes=20,
        num_train=5_011,
        num_test=4_952,
        image_column="jpg",
        label_column="npy",
        note="the paper trains on trainval; this copy seems to hold its train half, and no marks of difficult objects",
    ),
    # Sure: by an author of the data set, listed with parquet files; the first of its ten splits, as in the paper.
    TransferTask("DTD", "mcimpoi/dtd_split_1", "top1", 47, 3_760, 1_880, validation_split="validation"),
    # Sure: card and a public notebook show columns `image`, `label` and 3,680 / 3,669 rows.
    TransferTask(
        "Pets",
        "timm/oxford-iiit-pet",
        metric="mean_per_class",
        num_classes=37,
        num_train=3_680,
        num_test=3_669,
        note="the paper prints 3,369 test images; the authors' list has 3,669",
    ),
    # Fairly sure: used as parquet with train and test by several projects; 30 images per class in train and the
    # background as a class of its own, as in the paper, are inferred. The draw of the 30 is not the paper's.
    TransferTask(
        "Caltech-101",
        "dpdl-benchmark/caltech101",
        metric="mean_per_class",
        num_classes=102,
        num_train=3_060,
        num_test=6_084,
        note="30 training images per class are drawn at random; other draws give other numbers",
    ),
    # Sure of id and splits (parquet, train / validation / test of the authors); column names inferred.
    TransferTask(
        "Flowers-102",
        "dpdl-benchmark/oxford_flowers102",
        metric="mean_per_class",
        num_classes=102,
        num_train=2_040,
        num_test=6_149,
        validation_split="validation",
    ),
)
