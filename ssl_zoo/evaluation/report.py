"""Measures a subject by a protocol and says so in full: results with provenance, and the picture of the clusters."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ssl_zoo.data.source import ImageSource
from ssl_zoo.data.views import ImageTransform
from ssl_zoo.evaluation.features import Encoder
from ssl_zoo.evaluation.picture import choose_clusters, read_images, save_cluster_picture
from ssl_zoo.evaluation.protocol import Assigner, PseudoLabels, Reading, assign_pseudo_labels, knn_accuracy
from ssl_zoo.evaluation.results import Result
from ssl_zoo.functional.distributed import rank
from ssl_zoo.provenance import command, commit, versions


__all__ = ["Subject", "describe_data", "measure_clusters", "measure_knn"]


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        name: The trained model, the same architecture untrained, or plain pixels.
        view (`ImageTransform`): The view of an image that it sees.
        seed: Seed that it was trained or initialised with; `None` where nothing is random.
        images_seen: Images it was trained on, repeats included; `None` if unknown.
    """

    name: Literal["trained", "random_init", "raw_pixels"]
    view: ImageTransform
    seed: int | None = None
    images_seen: int | None = None


def measure_knn(
    subject: Subject,
    encode: Encoder,
    *,
    bank: ImageSource,
    test: ImageSource,
    k: tuple[int, ...],
    temperature: float,
    reading: Reading,
) -> list[Result]:
    """Measure the weighted k-NN accuracy of a subject.

    Args:
        subject ([`Subject`]): Who it is.
        encode (`Encoder`): Its features.
        bank (`ImageSource`): Labelled images that vote.
        test (`ImageSource`): Labelled images to classify.
        k: Numbers of neighbours.
        temperature: Temperature of the votes' weights.
        reading ([`Reading`]): How images are read.

    Returns:
        `list[Result]`: one for each `k`, the same on every process but for the seconds.
    """
    start = time.perf_counter()
    description = f"k-NN of {subject.name.replace('_', ' ')}"
    accuracies = knn_accuracy(
        encode, bank, test, subject.view, k=k, temperature=temperature, reading=reading, description=description
    )
    seconds = time.perf_counter() - start
    return [
        _result(
            "knn_top1", accuracy, subject, {"name": "knn", "k": size, "temperature": temperature}, bank, test, seconds
        )
        for size, accuracy in accuracies.items()
    ]


def measure_clusters(
    subject: Subject,
    assign: Assigner,
    *,
    test: ImageSource,
    reading: Reading,
    picture: Path | None = None,
    title: str = "What was found without labels",
) -> list[Result]:
    """Measure how well pseudo-labels agree with classes, and draw the clusters.

    Args:
        subject ([`Subject`]): Who it is.
        assign (`Assigner`): Its pseudo-labels with their confidence.
        test (`ImageSource`): Images to label; without classes only the picture is made.
        reading ([`Reading`]): How images are read.
        picture (`Path`, *optional*): PNG file to draw.
        title: The picture's title.

    Returns:
        `list[Result]`: the NMI, on the main process; empty on others, and without classes.
    """
    start = time.perf_counter()
    found = assign_pseudo_labels(assign, test, subject.view, reading=reading)
    if rank() != 0:
        return []
    labelled = found.labels >= 0
    results = []
    if bool(labelled.any()):
        from ssl_zoo.evaluation.clustering import ClusteringAgreement  # here, as importing `evaluate` takes seconds

        agreement = ClusteringAgreement(keep_in_memory=True).compute(
            predictions=found.pseudo_labels[labelled].numpy(), references=found.labels[labelled].numpy()
        )
        seconds = time.perf_counter() - start
        results = [_result("nmi", agreement["nmi"], subject, {"name": "nmi"}, None, test, seconds)]
    if picture is not None:
        _draw(found, test, picture, title)
    return results


def _draw(found: PseudoLabels, source: ImageSource, path: Path, title: str) -> None:
    classes = found.labels.numpy() if bool((found.labels >= 0).all()) else None
    rows = choose_clusters(found.pseudo_labels.numpy(), found.confidence.numpy(), classes)
    ids = [[int(found.sample_ids[position]) for position in row.samples] for row in rows]
    pictures = dict(zip(flat := [number for row in ids for number in row], read_images(source, flat), strict=True))
    num_clusters = len(found.pseudo_labels.unique())
    chosen = ""
    if len(rows) < num_clusters:
        chosen = (
            " (those with most images of one class, every class first)" if classes is not None else " (the largest)"
        )
    save_cluster_picture(
        path,
        rows,
        [[pictures[number] for number in row] for row in ids],
        title=title,
        caption=f"{len(rows)} of {num_clusters} clusters of {len(found.labels):,} test images{chosen}; "
        "each row from the most to the least certain image",
        labels=None if classes is None else [classes[row.samples].tolist() for row in rows],
        class_names=source.class_names,
    )


def describe_data(bank: ImageSource | None, test: ImageSource) -> dict[str, Any]:
    """The `data` of a result; of a local folder only its name, as its place means nothing elsewhere."""
    folder = Path(test.path).expanduser()
    return {
        "path": folder.resolve().name if folder.is_dir() else test.path,
        "revision": test.revision,
        "train_split": bank.split if bank else None,
        "test_split": test.split,
        "num_train": bank.num_rows if bank else None,
        "num_test": test.num_rows,
    }


def _result(
    metric: str,
    value: float,
    subject: Subject,
    protocol: dict[str, Any],
    bank: ImageSource | None,
    test: ImageSource,
    seconds: float,
) -> Result:
    return Result(
        metric=metric,
        value=value,
        subject=subject.name,
        protocol=protocol,
        data=describe_data(bank, test),
        seed=subject.seed,
        images_seen=subject.images_seen,
        commit=commit(),
        versions=versions(),
        wall_seconds=round(seconds, 2),
        command=command(),
    )
