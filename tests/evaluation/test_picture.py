import numpy as np
import pytest
from PIL import Image

from ssl_zoo.data.source import DataConfig, open_source
from ssl_zoo.evaluation.pictures.clusters import choose_clusters, read_images, save_cluster_picture
from tests.data.tiny_sets import UNEVEN, row_image, write_parquet


def test_without_classes_the_largest_clusters_are_shown():
    pseudo_labels = np.repeat([4, 9, 2], [5, 8, 1])
    rows = choose_clusters(pseudo_labels, np.linspace(0, 1, 14), num_rows=2, num_columns=3)
    assert [(row.pseudo_label, row.size, row.majority, row.purity) for row in rows] == [
        (9, 8, None, None),
        (4, 5, None, None),
    ]
    # From the most confident to the least, evenly spaced.
    assert rows[0].samples.tolist() == [12, 8, 5]


def test_with_classes_every_class_comes_first_and_purity_counts():
    pseudo_labels = np.repeat([0, 1, 2, 3], [10, 6, 8, 4])
    labels = np.concatenate([[0] * 10, [0] * 6, [1] * 5 + [0] * 3, [2] * 4])
    rows = choose_clusters(pseudo_labels, np.ones(28), labels, num_rows=3)
    assert [(row.pseudo_label, row.majority, row.purity) for row in rows] == [(0, 0, 1.0), (2, 1, 0.625), (3, 2, 1.0)]
    assert len(choose_clusters(pseudo_labels, np.ones(28), labels)) == 4


def test_the_choice_is_the_same_twice():
    rng = np.random.default_rng(0)
    arrays = rng.integers(30, size=500), np.zeros(500), rng.integers(10, size=500)
    first, second = choose_clusters(*arrays), choose_clusters(*arrays)
    assert [row.samples.tolist() for row in first] == [row.samples.tolist() for row in second]


def test_lengths_must_agree():
    with pytest.raises(ValueError, match="of one length"):
        choose_clusters([0, 1], [0.5])


@pytest.mark.parametrize("streaming", [True, False])
def test_images_are_found_by_id(tmp_path, streaming):
    source = open_source(DataConfig(path=str(write_parquet(tmp_path / "pets", UNEVEN)), streaming=streaming))
    ids = [41, 0, 15, 3, 15, 14]
    found = read_images(source, ids, size=8)
    assert [image.getpixel((4, 4)) for image in found] == [row_image(row).getpixel((4, 4)) for row in ids]


@pytest.mark.parametrize("labelled", [True, False])
def test_a_picture_is_drawn(tmp_path, labelled):
    pseudo_labels, labels = np.repeat([0, 1, 2], 6), np.repeat([0, 1, 1], 6) if labelled else None
    rows = choose_clusters(pseudo_labels, np.linspace(0, 1, 18), labels, num_columns=5)
    images = [[row_image(int(sample) * 14, size=16) for sample in row.samples] for row in rows]
    path = tmp_path / "clusters.png"
    arguments = {
        "title": "Title",
        "caption": "caption",
        "labels": [labels[row.samples].tolist() for row in rows] if labelled else None,
        "class_names": ["a", "b"],
    }
    save_cluster_picture(path, rows, images, **arguments)
    first = path.read_bytes()
    with Image.open(path) as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
        assert picture.width > picture.height
        # Every thumbnail is in it, with its own colour.
        assert {image.getpixel((0, 0)) for row in images for image in row} <= colors
        assert ((0x00, 0x72, 0xB2) in colors) == labelled
    save_cluster_picture(path, rows, images, **arguments)
    assert path.read_bytes() == first
