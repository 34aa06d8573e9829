"""Whether the model is in order: what is wrong in words, then the numbers and pictures behind it."""

from collections.abc import Mapping
from functools import partial

import gradio as gr
from figures import decay, heat_map, histogram, meter, spans
from markup import PLAIN, escape, note, percent
from shell import App

from ssl_zoo.explore.health import Finding, Health, health
from ssl_zoo.explore.workbench import ExploreError


_LEVELS = {"bad": "wrong", "watch": "watch", "good": "in order"}


def build(app: App) -> None:
    """Lay out the page."""
    page = gr.HTML(elem_id="health", js_on_load=None, **PLAIN)
    app.draw("health", partial(_page, app), page)


def _page(app: App, request: Mapping[str, str], view: Mapping[str, str]) -> str:
    try:
        found = health(app.clustering(request, view))
    except ExploreError as error:
        return note(str(error), kind="error" if request else "empty")
    findings = "".join(_finding(finding) for finding in found.findings)
    return (
        f'<ul class="findings">{findings}</ul><div class="figures">{_sizes(found)}{_information(found)}'
        f"{_spectrum(found)}{_confusion(found)}</div>"
    )


def _finding(finding: Finding) -> str:
    cure = f"<p>{escape(finding.cure)}</p>" if finding.cure else ""
    return (
        f'<li class="{finding.level}"><b class="level">{_LEVELS[finding.level]}</b>'
        f"<div><p>{escape(finding.sentence)}</p>{cure}</div></li>"
    )


def _sizes(found: Health) -> str:
    counts, edges = found.size_histogram()
    overfull = found.clustering.sizes.overfull
    marked = [place for place, low in enumerate(edges[:-1].tolist()) if low > overfull]
    return histogram(
        "Clusters by size",
        counts.tolist(),
        spans(edges.tolist()),
        across="images in the cluster",
        up="clusters",
        marked=[0, *marked] if counts[0] else marked,
    )


def _information(found: Health) -> str:
    most = found.largest_entropy
    rows = [
        ("mean entropy of an image", found.mean_entropy),
        ("entropy of the mean", found.marginal_entropy),
        ("mutual information", found.mutual_information),
    ]
    lines = "".join(meter(words, value, most, f"{value:.2f} nats, {_share(value, most)}") for words, value in rows)
    features = found.features
    rank = min(features.num_images, features.width)
    lines += meter("effective rank", features.effective_rank, rank, f"{features.effective_rank:.1f} of {rank}")
    lines += meter("cosine of two images", features.mean_cosine, 1, f"{features.mean_cosine:.2f}")
    if features.confusion is not None:
        accuracy = features.confusion.accuracy
        lines += meter(
            "k-NN accuracy", accuracy, 1, f"{percent(accuracy)}, chance {percent(features.confusion.chance)}"
        )
    if found.ami is not None:
        lines += meter("AMI with the classes", found.ami, 1, f"{found.ami:.2f}")
    words = (
        f"Of at most ln {len(found.clustering)} = {most:.2f} nats. Mutual information is the entropy of the mean less "
        "the mean entropy: what the clusters tell of an image."
    )
    return (
        f'<figure><figcaption>Information</figcaption><table class="bars wide">{lines}</table>'
        f'<p class="small">{words}</p></figure>'
    )


def _spectrum(found: Health) -> str:
    features = found.features
    title = "Eigenvalues of the features' covariance"
    if features.decay is not None:
        title += f", decay exponent {features.decay:.2f}"
    return decay(
        title, features.eigenvalues.tolist(), across="number", up="eigenvalue", marked=features.effective_rank
    )


def _confusion(found: Health) -> str:
    confusion = found.features.confusion
    if confusion is None:
        return f"<figure><figcaption>Classes</figcaption>{note('These images have no labels.')}</figure>"
    counts, classes = confusion.table(limit=40)
    names = [
        "all others" if label is None else found.clustering.explained.gallery.class_name(label) for label in classes
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
