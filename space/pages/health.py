"""Whether the model is healthy: what is wrong in words, then the numbers and figures behind it."""

from collections.abc import Mapping
from functools import partial

import gradio as gr
from figures import decay, heat_map, histogram, meter, spans
from markup import PLAIN, escape, note, percent
from shell import App

from ssl_zoo.explore.health import Finding, Health, health


TITLE, ORDER = "Health", 50

_LEVELS = {"bad": "wrong", "watch": "watch", "good": "in order"}


def build(app: App) -> None:
    """Lay out the page."""
    page = gr.HTML(elem_id="health", js_on_load=None, **PLAIN)
    app.draw(partial(_page, app), page)


def _page(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> str:
    report = health(app.clustering(request, view))
    findings = "".join(_finding(finding) for finding in report.findings)
    return (
        f'<ul class="findings">{findings}</ul><div class="figures">{_sizes(report)}{_information(report)}'
        f"{_spectrum(report)}{_confusion(report)}</div>"
    )


def _finding(finding: Finding) -> str:
    cure = f"<p>{escape(finding.cure)}</p>" if finding.cure else ""
    return (
        f'<li class="{finding.level}"><b class="level">{_LEVELS[finding.level]}</b>'
        f"<div><p>{escape(finding.sentence)}</p>{cure}</div></li>"
    )


def _sizes(report: Health) -> str:
    counts, edges = report.size_histogram()
    overfull = report.clustering.sizes.overfull
    marked = [place for place, low in enumerate(edges[:-1].tolist()) if low > overfull]
    return histogram(
        "Clusters by size",
        counts.tolist(),
        spans(edges.tolist()),
        across="images in the cluster",
        up="clusters",
        marked=[0, *marked] if counts[0] else marked,
    )


def _information(report: Health) -> str:
    most = report.largest_entropy
    rows = [
        ("mean entropy of an image", report.mean_entropy),
        ("entropy of the mean", report.marginal_entropy),
        ("mutual information", report.mutual_information),
    ]
    lines = "".join(meter(name, value, most, f"{value:.2f} nats, {_share(value, most)}") for name, value in rows)
    features = report.features
    rank = min(features.num_images, features.width)
    lines += meter("effective rank", features.effective_rank, rank, f"{features.effective_rank:.1f} of {rank}")
    lines += meter("cosine of two images", features.mean_cosine, 1, f"{features.mean_cosine:.2f}")
    if features.confusion is not None:
        accuracy = features.confusion.accuracy
        lines += meter(
            "k-NN accuracy", accuracy, 1, f"{percent(accuracy)}, chance {percent(features.confusion.chance)}"
        )
    if report.ami is not None:
        lines += meter("AMI with the classes", report.ami, 1, f"{report.ami:.2f}")
    explanation = (
        f"The maximum is ln {len(report.clustering)} = {most:.2f} nats. Mutual information is the entropy of the mean "
        "minus the mean entropy: what the cluster tells about an image."
    )
    return (
        f'<figure><figcaption>Information</figcaption><table class="bars wide">{lines}</table>'
        f'<p class="small">{explanation}</p></figure>'
    )


def _spectrum(report: Health) -> str:
    features = report.features
    title = "Eigenvalues of the features' covariance"
    if features.decay is not None:
        title += f", decay exponent {features.decay:.2f}"
    return decay(
        title, features.eigenvalues.tolist(), across="number", up="eigenvalue", marked=features.effective_rank
    )


def _confusion(report: Health) -> str:
    confusion = report.features.confusion
    if confusion is None:
        return f"<figure><figcaption>Classes</figcaption>{note('These images have no labels.')}</figure>"
    counts, classes = confusion.table(limit=40)
    names = [
        "all others" if label is None else report.clustering.explained.gallery.class_name(label) for label in classes
    ]
    return heat_map(
        f"Classes that {confusion.neighbors} neighbours vote for: {percent(confusion.accuracy)} right",
        counts.tolist(),
        names,
        names,
        across="voted",
        down="true",
        labelled=True,
    )


def _share(value: float, most: float) -> str:
    return percent(value / most if most > 0 else 0.0)
