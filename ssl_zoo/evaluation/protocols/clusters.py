"""Agreement with the classes of the method's own pseudo-labels, or of k-means on the features; a picture of them."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ssl_zoo.evaluation.results import Result
from ssl_zoo.protocol import Metric, Protocol
from ssl_zoo.settings.declare import plain, setting


if TYPE_CHECKING:
    from ssl_zoo.evaluation.evaluation import Evaluation
    from ssl_zoo.labels.assign import PseudoLabels


__all__ = ["PROTOCOL", "ClusterSettings", "measure"]


@dataclass(frozen=True)
class ClusterSettings:
    """Which clusters."""

    num_clusters: int | None = setting(
        None, "clusters of k-means on the training features; null = the method's own pseudo-labels"
    )
    num_init: int = setting(3, "starts of k-means, of which the best is kept")
    seed: int = setting(0, "seed of k-means")


def measure(evaluation: "Evaluation", settings: ClusterSettings) -> list[Result]:
    """All measures of agreement, on the main process; nothing for a model without pseudo-labels."""
    from ssl_zoo.evaluation.metrics.clustering import clustering_agreement, normalized_mutual_information
    from ssl_zoo.evaluation.metrics.intervals import resampled_interval
    from ssl_zoo.evaluation.pictures.clusters import draw_clusters
    from ssl_zoo.functional.distributed import rank

    by_kmeans = settings.num_clusters is not None
    protocol = {"name": "kmeans", **plain(settings)} if by_kmeans else {"name": "clusters"}
    assigned = _kmeans(evaluation, settings) if by_kmeans else evaluation.pseudo_labels
    if assigned is None or rank() != 0:
        return []
    if evaluation.output is not None and evaluation.subject.name == "trained":
        draw_clusters(assigned, evaluation.test, evaluation.output / "clusters.png", evaluation.subject.title)
    labelled = assigned.labels >= 0
    if not bool(labelled.any()):
        return []
    columns = assigned.labels[labelled].numpy(), assigned.pseudo_labels[labelled].numpy()
    return [
        evaluation.result(
            metric,
            value,
            protocol,
            interval=resampled_interval(normalized_mutual_information, columns) if metric == "nmi" else None,
            learned=by_kmeans,
        )
        for metric, value in clustering_agreement(*columns).items()
    ]


def _kmeans(evaluation: "Evaluation", settings: ClusterSettings) -> "PseudoLabels":
    from ssl_zoo.evaluation.frozen.kmeans import kmeans
    from ssl_zoo.labels.assign import PseudoLabels

    train, test = evaluation.features(evaluation.train), evaluation.features(evaluation.test)
    solved = kmeans(train.features, device=evaluation.reading.device, **plain(settings))
    pseudo_labels, confidence = solved.assign(test.features)
    return PseudoLabels(test.sample_ids, pseudo_labels.cpu(), confidence.cpu(), test.labels)


_TOLD_APART = ("num_clusters",)

PROTOCOL = Protocol(
    settings=ClusterSettings(),
    metrics=(
        Metric("nmi", "NMI", parameters=_TOLD_APART),
        Metric("ami", "AMI", parameters=_TOLD_APART),
        Metric("ari", "ARI", parameters=_TOLD_APART),
        Metric("hungarian_accuracy", "matched accuracy", unit="%", parameters=_TOLD_APART),
        Metric("purity", "purity", parameters=_TOLD_APART),
        Metric("num_clusters", "clusters used", digits=0, parameters=_TOLD_APART),
    ),
    measure=measure,
)
