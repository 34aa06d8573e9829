"""One image against a gallery: loops over the images, closed forms, and views whose change is known."""

import io
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_zoo.data.views import EvalView
from ssl_zoo.explore import query
from ssl_zoo.explore.clusters import Clustering, clustering
from ssl_zoo.explore.query import augmented, look_at, model_picture
from ssl_zoo.functional.assignment import mira_assignment
from tests.explore.made_explained import explain, make_gallery


IMAGES, CLUSTERS, HEADS, SIZE = 60, 7, 2, 8


class Model:
    """Features and scores that are linear in the pixels; stands for an `Explorer`."""

    def __init__(self, *, has_clusters: bool = True, revision: str | None = None) -> None:
        generator = torch.Generator().manual_seed(0)
        self.name, self.revision, self.fingerprint = "made", revision, str(random.random())
        self.view = EvalView(SIZE, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), crop_pct=1.0, interpolation="bilinear")
        self.features = torch.randn(3 * SIZE * SIZE, 5, generator=generator)
        self.scores = torch.randn(3 * SIZE * SIZE, HEADS * CLUSTERS, generator=generator) / 10
        self.has_clusters = has_clusters

    def look(self, images):
        flat = images.flatten(1)
        if not self.has_clusters:
            return flat @ self.features, None
        return flat @ self.features, (flat @ self.scores).view(-1, HEADS, CLUSTERS).log_softmax(dim=-1)


def picture(number: int, size: int = SIZE) -> Image.Image:
    return Image.fromarray(np.random.default_rng(number).integers(0, 256, (size, size, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The model's own view of 60 pictures."""
    folder, model = tmp_path_factory.mktemp("query"), Model()
    batch = torch.stack([model.view(picture(number))[0] for number in range(IMAGES)])
    features, scores = model.look(batch)
    gallery = make_gallery(folder / "gallery", [number % 3 for number in range(IMAGES)], ["a", "b", "c"])
    explained = explain(folder / "model", gallery, scores.numpy(), features.numpy(), beta=0.6)
    return SimpleNamespace(model=model, explained=explained, features=features.numpy(), scores=scores.numpy())


@pytest.mark.parametrize(("head", "temperature"), [(0, 1.0), (1, 0.3), (0, 4.0)])
def test_what_loops_find(made, head, temperature):
    found = look_at(picture(1000), made.model, clustering(made.explained, head=head, temperature=temperature))
    feature, score = (values[0] for values in made.model.look(made.model.view(picture(1000))[0][None]))
    feature = [float(value) for value in feature]
    length = math.sqrt(sum(value * value for value in feature))
    cosines = []
    for other in made.features.tolist():
        product = sum(a * b for a, b in zip(feature, other, strict=True))
        cosines.append(product / length / math.sqrt(sum(value * value for value in other)))
    nearest = sorted(range(IMAGES), key=lambda image: -cosines[image])[:12]
    assert [each.image for each in found.neighbors] == nearest
    assert [each.similarity for each in found.neighbors] == pytest.approx([cosines[i] for i in nearest], abs=1e-6)
    labels = [int(np.argmax(made.scores[image, head].astype(np.float16))) for image in nearest]
    assert [each.cluster for each in found.neighbors] == labels
    weights = [math.exp(float(value) / temperature) for value in score[head]]
    shares = [weight / sum(weights) for weight in weights]
    assert found.probabilities == pytest.approx(shares, rel=1e-5)
    order = sorted(range(CLUSTERS), key=lambda number: -shares[number])
    assert [hit.number for hit in found.hits] == order
    assert [hit.probability for hit in found.hits] == pytest.approx([shares[number] for number in order], rel=1e-5)
    assert found.entropy == pytest.approx(-sum(share * math.log(share) for share in shares), rel=1e-5)


@pytest.mark.parametrize("mode", ["softmax", "assignment"])
def test_an_image_of_the_gallery_is_found_where_it_is(made, mode):
    clusters = clustering(made.explained, mode=mode)
    for number in (0, 17, IMAGES - 1):
        found = look_at(picture(number), made.model, clusters)
        assert found.neighbors[0].image == number
        assert found.neighbors[0].similarity == pytest.approx(1, abs=1e-5)
        assert found.hits[0].number == clusters.pseudo_labels[number] == found.neighbors[0].cluster
        assert found.hits[0].probability == pytest.approx(float(clusters.confidence[number]), rel=5e-3)
        others = look_at(picture(number), made.model, clusters, gallery_number=number, num_neighbors=IMAGES)
        assert number not in [each.image for each in others.neighbors]
        assert len(others.neighbors) == IMAGES - 1
        assert others.neighbors[:11] == found.neighbors[1:12]


def test_an_assignment_is_what_one_more_image_of_a_large_gallery_gets(tmp_path):
    """The image is added to 3,000 others, and all are assigned anew."""
    model = Model()
    batch = torch.stack([model.view(picture(number))[0] for number in range(3000)])
    features, scores = model.look(batch)
    gallery = make_gallery(tmp_path / "gallery", [0] * 3000)
    explained = explain(tmp_path / "model", gallery, scores.numpy(), features.numpy(), beta=0.6)
    found = look_at(picture(5000), model, Clustering(explained, 1, "assignment", 0.5))
    one = model.look(model.view(picture(5000))[0][None])[1]
    together = mira_assignment(torch.cat([scores, one])[:, 1], temperature=0.5, beta=0.6, num_iters=200)
    assert found.probabilities == pytest.approx(together[-1].numpy(), abs=3e-3)
    plain = torch.softmax(one[0, 1] / 0.5, dim=0).numpy()
    assert np.abs(plain - found.probabilities).max() > 0.03


def test_clusters_of_kmeans(tmp_path):
    model, temperature = Model(has_clusters=False), 0.07
    features, _ = model.look(torch.stack([model.view(picture(number))[0] for number in range(20)]))
    unit = features / features.norm(dim=1, keepdim=True)
    centers = unit[[3, 8, 15]]
    logs = (unit @ centers.T / temperature).log_softmax(dim=1)[:, None]
    gallery = make_gallery(tmp_path / "gallery", [-1] * 20)
    explained = explain(
        tmp_path / "model", gallery, logs.numpy(), features.numpy(), kmeans=True, temperature=temperature
    )
    np.save(explained.folder / "centers.npy", centers.numpy())
    for number, expected in ((3, 0), (8, 1), (15, 2)):
        found = look_at(picture(number), model, clustering(explained))
        assert found.hits[0].number == expected
        assert found.probabilities == pytest.approx(np.exp(logs[number, 0].numpy()), rel=1e-4, abs=1e-7)


def test_views_are_the_same_for_the_same_seed(made):
    clusters = clustering(made.explained)
    first = augmented(picture(1, 30), made.model, clusters, seed=3)
    again = augmented(picture(1, 30), made.model, clusters, seed=3)
    other = augmented(picture(1, 30), made.model, clusters, seed=4)
    assert [each[1:] for each in first.landings] == [each[1:] for each in again.landings]
    assert [each[1:] for each in first.landings] != [each[1:] for each in other.landings]
    assert len(first.landings) == 6
    assert not first.of_recipe
    assert first.cluster == look_at(picture(1, 30), made.model, clusters).hits[0].number
    assert first.stay == sum(each.cluster == first.cluster for each in first.landings)
    for each in first.landings:
        assert each.picture.size == (SIZE, SIZE)
        # What is shown is what the model saw.
        seen = made.model.view.normalise(torch.from_numpy(np.array(each.picture)).permute(2, 0, 1)[None])
        features, scores = made.model.look(seen)
        assert each.cluster == int(scores[0, 0].argmax())
        assert each.probability == pytest.approx(float(scores[0, 0].exp().max()), rel=1e-4)
        whole = made.model.look(made.model.view(picture(1, 30))[0][None])[0]
        assert each.similarity == pytest.approx(float(torch.cosine_similarity(features, whole)), abs=1e-5)
    with pytest.raises(ValueError, match="from 1 to 12, got 13"):
        augmented(picture(1), made.model, clusters, num_views=13)


NO_CHANGE = """
views:
  global_size: 1000000
  local_crops: 8
  global_scale: [1.0, 1.0]
  aspect_ratio: [1.0, 1.0]
  interpolation: bilinear
  flip_probability: 0.0
  color_jitter_probability: [0.0, 0.0, 0.0]
  gray_probability: [0.0, 0.0, 0.0]
  blur_probability: [0.0, 0.0, 0.0]
  solarize_probability: [0.0, 1.0, 0.0]
  mean: [0.0, 0.0, 0.0]
"""


def test_views_are_those_of_the_recipe(made, tmp_path, monkeypatch):
    """The first view is unchanged, and the others lose their bright pixels; the model's size and mean are kept."""
    (tmp_path / "recipe.yaml").write_text(NO_CHANGE)
    monkeypatch.setattr(query, "find_file", lambda name, file, revision: tmp_path / file)
    image = picture(2)
    views = augmented(image, Model(revision="x"), clustering(made.explained), num_views=3)
    assert views.of_recipe
    assert views.landings[0].similarity == pytest.approx(1, abs=1e-5)
    assert views.landings[0].cluster == views.cluster
    assert np.array_equal(np.asarray(views.landings[0].picture), np.asarray(image))
    pixels = np.asarray(image)
    for landing in views.landings[1:]:
        assert np.array_equal(np.asarray(landing.picture), np.where(pixels < 128, pixels, 255 - pixels))


@pytest.mark.parametrize(
    "text", ["", "a: [", "method: mira", "views: 3", "views: {global_scale: [2, 1]}", "views: {strange: 1}"]
)
def test_a_recipe_that_is_not_understood_is_none(made, tmp_path, monkeypatch, text):
    (tmp_path / "recipe.yaml").write_text(text)
    monkeypatch.setattr(query, "find_file", lambda name, file, revision: tmp_path / file)
    assert not augmented(picture(2), Model(revision=text), clustering(made.explained)).of_recipe


def test_what_the_model_sees(made):
    image = Image.new("RGB", (3 * SIZE, SIZE), "black")
    image.paste((255, 255, 255), (SIZE, 0, 2 * SIZE, SIZE))
    assert np.asarray(model_picture(image, made.model)).min() == 255
    buffer = io.BytesIO()
    image.convert("L").save(buffer, "PNG")
    assert model_picture(Image.open(buffer), made.model).mode == "RGB"
