"""What needs no training on labels: agreement of clusters with classes, and the spectrum of the features."""

import time

import torch

from ssl_zoo.data.views import MultiView, ViewsConfig
from ssl_zoo.evaluation.frozen.kmeans import kmeans
from ssl_zoo.evaluation.metrics.clustering import clustering_agreement, normalized_mutual_information
from ssl_zoo.evaluation.metrics.intervals import resampled_interval
from ssl_zoo.evaluation.metrics.spectrum import measure_spectrum
from ssl_zoo.evaluation.pictures.pseudo_labels import draw_clusters
from ssl_zoo.evaluation.pictures.spectrum import save_spectrum_picture
from ssl_zoo.evaluation.protocols.evaluation import Evaluation, on_main_process, plain_parameters
from ssl_zoo.evaluation.results import Result
from ssl_zoo.features.extract import extract_features
from ssl_zoo.functional.distributed import rank
from ssl_zoo.labels.assign import PseudoLabels


__all__ = ["clusters", "spectrum"]


def clusters(evaluation: Evaluation) -> list[Result]:
    """Agreement with the classes of the method's own pseudo-labels, or of k-means on features; a picture of them."""
    start, settings, subject = time.perf_counter(), evaluation.settings.clusters, evaluation.subject
    found: PseudoLabels | None
    if settings.num_clusters is not None:
        protocol = {"name": "kmeans", **plain_parameters(settings)}
        found = _kmeans(evaluation)
    else:
        protocol, found = {"name": "clusters"}, evaluation.pseudo_labels
    if found is None or rank() != 0:
        return []
    if evaluation.output is not None and subject.name == "trained":
        draw_clusters(found, evaluation.test, evaluation.output / "clusters.png", subject.title)
    known = found.labels >= 0
    if not bool(known.any()):
        return []
    columns = found.labels[known].numpy(), found.pseudo_labels[known].numpy()
    scores = clustering_agreement(*columns)
    seconds = time.perf_counter() - start
    return [
        evaluation.result(
            metric,
            value,
            protocol,
            seconds,
            interval=resampled_interval(normalized_mutual_information, columns) if metric == "nmi" else None,
            learned=settings.num_clusters is not None,
        )
        for metric, value in scores.items()
    ]


def _kmeans(evaluation: Evaluation) -> PseudoLabels:
    settings, device = evaluation.settings.clusters, evaluation.reading.device
    train, test = evaluation.features(evaluation.train), evaluation.features(evaluation.test)
    assert settings.num_clusters is not None
    solved = kmeans(
        train.features,
        num_clusters=settings.num_clusters,
        num_init=settings.num_init,
        seed=settings.seed,
        device=device,
    )
    pseudo_labels, confidence = solved.assign(test.features)
    return PseudoLabels(test.sample_ids, pseudo_labels.cpu(), confidence.cpu(), test.labels)


def spectrum(evaluation: Evaluation) -> list[Result]:
    """RankMe, eigenvalue decay, alignment, uniformity and cluster sizes of the test split; numbers and a picture."""
    start, settings, subject = time.perf_counter(), evaluation.settings.spectrum, evaluation.subject
    table = evaluation.features(evaluation.test)
    second_view = _augmented_features(evaluation) if settings.alignment else None
    assigned = evaluation.pseudo_labels
    with on_main_process() as is_main:
        if not is_main:
            return []
        found = measure_spectrum(
            table.features,
            second_view,
            pseudo_labels=None if assigned is None else assigned.pseudo_labels.numpy(),
            num_clusters=None if assigned is None else subject.num_clusters,
            seed=settings.seed,
            device=evaluation.reading.device,
        )
    if evaluation.output is not None:
        name = subject.name.replace("_", " ")
        title = f"Features of {len(table.labels):,} images of {evaluation.test.split!r}, {name}"
        suffix = "" if subject.name == "trained" else f"-{subject.name}"
        save_spectrum_picture(evaluation.output / f"spectrum{suffix}.png", found, title=title)
    protocol, seconds = {"name": "spectrum", **plain_parameters(settings)}, time.perf_counter() - start
    return [
        evaluation.result(name, value, protocol, seconds, learned=False) for name, value in found.numbers().items()
    ]


def _augmented_features(evaluation: Evaluation) -> torch.Tensor:
    """Features of an augmented view of each test image: crop, flip, colour jitter, sometimes grey."""
    view, reading = evaluation.subject.view, evaluation.reading
    views = ViewsConfig(
        global_crops=1,
        global_size=view.size,
        global_scale=list(evaluation.settings.spectrum.crop_scale),
        interpolation=view.interpolation,
        blur_probability=[0.0, 0.0, 0.0],
        mean=list(view.mean),
        std=list(view.std),
    )
    table = extract_features(
        evaluation.subject.encode, evaluation.test, MultiView(views), **vars(reading), description="Augmented views"
    )
    return table.features
