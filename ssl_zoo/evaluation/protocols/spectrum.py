"""Effective rank, eigenvalue decay, alignment, uniformity and cluster sizes of the test split; with a picture."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssl_zoo.evaluation.results import Result
from ssl_zoo.protocol import Metric, Protocol
from ssl_zoo.settings.declare import plain, setting


if TYPE_CHECKING:
    import torch

    from ssl_zoo.evaluation.evaluation import Evaluation


__all__ = ["PROTOCOL", "SpectrumSettings", "measure"]


@dataclass(frozen=True)
class SpectrumSettings:
    """What is compared."""

    alignment: bool = setting(True, "compare with an augmented view of each image, which takes a second pass")
    crop_scale: tuple[float, float] = setting((0.2, 1.0), "share of the image that the augmented view covers")
    seed: int = setting(0, "seed of the rows that pairs are made of")


def measure(evaluation: "Evaluation", settings: SpectrumSettings) -> list[Result]:
    """The numbers of [`measure_spectrum`], on the main process."""
    from ssl_zoo.evaluation.evaluation import on_main_process
    from ssl_zoo.evaluation.metrics.spectrum import measure_spectrum
    from ssl_zoo.evaluation.pictures.spectrum import save_spectrum_picture

    subject, table = evaluation.subject, evaluation.features(evaluation.test)
    second_view = _augmented_features(evaluation, settings) if settings.alignment else None
    assigned = evaluation.pseudo_labels
    with on_main_process() as is_main:
        if not is_main:
            return []
        spectrum = measure_spectrum(
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
        save_spectrum_picture(evaluation.output / f"spectrum{suffix}.png", spectrum, title=title)
    protocol = {"name": "spectrum", **plain(settings)}
    return [evaluation.result(name, value, protocol, learned=False) for name, value in spectrum.numbers().items()]


def _augmented_features(evaluation: "Evaluation", settings: SpectrumSettings) -> "torch.Tensor":
    """Features of an augmented view of each test image: crop, flip, colour jitter, sometimes grey."""
    from ssl_zoo.data.views import MultiView, ViewsConfig
    from ssl_zoo.features.extract import extract_features

    view, reading = evaluation.subject.view, evaluation.reading
    views = ViewsConfig(
        global_crops=1,
        global_size=view.size,
        global_scale=list(settings.crop_scale),
        interpolation=view.interpolation,
        blur_probability=[0.0, 0.0, 0.0],
        mean=list(view.mean),
        std=list(view.std),
    )
    encode, augment = evaluation.subject.encode, MultiView(views)
    return extract_features(encode, evaluation.test, augment, reading, description="Augmented views").features


PROTOCOL = Protocol(
    settings=SpectrumSettings(),
    metrics=(
        Metric("rankme", "RankMe"),
        Metric("alpha", "decay exponent"),
        Metric("participation_ratio", "participation ratio"),
        Metric("mean_cosine", "mean cosine"),
        Metric("alignment", "alignment"),
        Metric("uniformity", "uniformity"),
        Metric("cluster_entropy", "entropy of cluster sizes"),
        Metric("cluster_num_empty", "empty clusters", digits=0),
        Metric("cluster_num_overfull", "over-full clusters", digits=0),
        Metric("cluster_largest_share", "share of the largest cluster"),
    ),
    measure=measure,
)
