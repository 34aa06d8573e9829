"""The picture of a model's clusters, from its pseudo-labels and the images they are of."""

from pathlib import Path

from ssl_zoo.data.source import ImageSource
from ssl_zoo.evaluation.pictures.clusters import choose_clusters, read_images, save_cluster_picture
from ssl_zoo.labels.assign import PseudoLabels


__all__ = ["draw_clusters"]


def draw_clusters(found: PseudoLabels, source: ImageSource, path: Path, title: str) -> None:
    """Draw rows of images that share a pseudo-label.

    Args:
        found ([`PseudoLabels`]): Of the images of `source`.
        source (`ImageSource`): The images.
        path (`Path`): PNG file to write.
        title: The picture's title.
    """
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
