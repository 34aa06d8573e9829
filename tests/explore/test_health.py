"""Health against loops, scikit-learn and closed forms; each finding on data made to show it."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_mutual_info_score

from ssl_zoo.explore import feature_health as feature_health_file
from ssl_zoo.explore.clusters import clustering
from ssl_zoo.explore.feature_health import feature_health
from ssl_zoo.explore.health import health
from ssl_zoo.explore.workbench import ExploreError
from ssl_zoo.functional.information import information
from tests.explore.made_explained import explain, make_gallery, sure_of


NAMES = ["cat", "dog", "horse", "ship"]


@pytest.fixture
def random():
    return np.random.default_rng(5)


def made(folder, logs, labels=None, features=None, **about):
    """An explained gallery; without labels it has none."""
    gallery = make_gallery(folder / "gallery", [-1] * len(logs) if labels is None else labels, NAMES)
    return explain(folder / "model", gallery, logs, features, **about)


def looked_at(folder, logs, labels=None, features=None, **about):
    return health(clustering(made(folder, logs, labels, features, **about)))


def blobs(random, labels, width=6, spread=0.3):
    """Features around one centre a class."""
    centres = np.random.default_rng(0).normal(size=(int(labels.max()) + 1, width))
    return centres[labels] + spread * random.normal(size=(len(labels), width))


def levels(found):
    return {finding.sentence: finding.level for finding in found.findings}


def one(found, word):
    """The only finding whose text contains `word`."""
    (finding,) = [finding for finding in found.findings if word in finding.sentence]
    return finding


@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_information_is_that_of_the_assignments(tmp_path, random, temperature):
    logs = torch.log_softmax(torch.from_numpy(random.normal(size=(90, 1, 7)) * 3), dim=-1).numpy()
    explained = made(tmp_path, logs)
    found = health(clustering(explained, temperature=temperature))
    stored = torch.from_numpy(explained.log_probabilities().astype(np.float32))
    wanted = information(torch.softmax(stored / temperature, dim=1))
    assert found.mean_entropy == pytest.approx(float(wanted.entropy), rel=1e-5)
    assert found.marginal_entropy == pytest.approx(float(wanted.marginal_entropy), rel=1e-5)
    assert found.mutual_information == pytest.approx(float(wanted.mutual_information), rel=1e-4)
    assert found.information_share == pytest.approx(float(wanted.mutual_information) / math.log(7), rel=1e-4)


def test_closed_forms(tmp_path):
    """Equally filled clusters, each image half sure: H = ln 2 + ln 2 / 2 for K = 3 otherwise spread equally."""
    found = looked_at(tmp_path, sure_of(np.arange(60) % 3, 3, 0.5))
    assert found.mean_entropy == pytest.approx(1.5 * math.log(2), rel=1e-3)
    assert found.marginal_entropy == pytest.approx(found.largest_entropy, rel=1e-3) == pytest.approx(math.log(3))
    assert found.empty_by_chance == pytest.approx(3 * (2 / 3) ** 60)


def test_the_size_histogram_counts_every_cluster(tmp_path):
    labels = np.repeat(np.arange(5), [1, 2, 2, 40, 7])
    found = looked_at(tmp_path, sure_of(labels, 8))
    for bins in (4, 24, 100):
        counts, edges = found.size_histogram(bins=bins)
        sizes = [1, 2, 2, 40, 7, 0, 0, 0]
        assert counts.tolist() == [sum(low <= size < high for size in sizes) for low, high in pairwise(edges)]
        assert counts.sum() == 8
        assert (edges[0], edges[1], counts[0]) == (0, 1, 3)
        assert len(counts) <= bins + 1


def test_spectrum_of_known_features(tmp_path, random):
    """Orthogonal columns of known lengths."""
    basis = np.linalg.qr(random.normal(size=(100, 4)) - 0)[0]
    basis -= basis.mean(axis=0)
    basis = np.linalg.qr(basis)[0] * 10 * np.array([8, 4, 2, 1])
    found = feature_health(made(tmp_path, sure_of(np.arange(100) % 3, 3), features=basis))
    assert found.eigenvalues == pytest.approx(np.array([64, 16, 4, 1]), rel=1e-4)
    shares = np.array([8, 4, 2, 1]) / 15
    assert found.effective_rank == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-4)
    assert found.rank_share == pytest.approx(found.effective_rank / 4)
    unit = basis / np.linalg.norm(basis, axis=1, keepdims=True)
    cosines = (unit @ unit.T)[np.triu_indices(100, 1)]
    assert found.mean_cosine == pytest.approx(cosines.mean(), abs=1e-5)


def votes_by_loops(features, classes, k):
    """Leave-one-out k-NN of DINO, image by image."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    votes = []
    for image in range(len(unit)):
        others = sorted(
            (other for other in range(len(unit)) if other != image), key=lambda other: -(unit[image] @ unit[other])
        )
        weights = dict.fromkeys(sorted(set(classes.tolist())), 0.0)
        for other in others[:k]:
            weights[int(classes[other])] += math.exp(unit[image] @ unit[other] / 0.07)
        votes.append(max(weights, key=weights.__getitem__))
    return votes


def test_neighbours_vote_as_in_loops(tmp_path, random):
    labels = random.choice([0, 1, 3], 150)  # class 2 doesn't occur
    features = blobs(random, labels, spread=1.5).astype(np.float32)
    confusion = feature_health(made(tmp_path, sure_of(labels, 4), labels, features)).confusion
    assert confusion.classes.tolist() == labels.tolist()
    assert confusion.votes.tolist() == votes_by_loops(features.astype(np.float64), labels, 20)
    assert 0.4 < confusion.accuracy < 0.99
    assert confusion.chance == pytest.approx(max(np.bincount(labels)) / 150)
    counts, names = confusion.table()
    assert names == [0, 1, 3]
    for row, column in np.ndindex(3, 3):
        pairs = zip(labels, confusion.votes, strict=True)
        assert counts[row, column] == sum(pair == (names[row], names[column]) for pair in pairs)


def test_exactly_twenty_vote(tmp_path):
    """Seen from image 0 the others are ever further off, of nearly equal weight. 19 or 21 would vote for class 0."""
    ranks = np.arange(25)
    labels = np.where((ranks < 10) | (ranks == 20), 1, 0)
    features = np.stack([np.cos(1e-3 * ranks), np.sin(1e-3 * ranks)], axis=1)
    confusion = feature_health(made(tmp_path, sure_of(labels, 2), labels, features)).confusion
    assert (confusion.neighbors, confusion.votes[0]) == (20, 1)
    assert [votes_by_loops(features, labels, k)[0] for k in (19, 20, 21)] == [0, 1, 0]


def test_an_image_never_votes_for_itself(tmp_path):
    """Every feature is the same, so only the image itself would vote for its class."""
    labels = np.array([1] + [0] * 59)
    features = np.ones((60, 3))
    confusion = feature_health(made(tmp_path, sure_of(labels, 2), labels, features)).confusion
    assert confusion.votes.tolist() == [0] * 60


def test_few_images_have_few_neighbours(tmp_path, random):
    labels = np.array([0, 0, 1, 1, -1])
    features = random.normal(size=(5, 4))
    confusion = feature_health(made(tmp_path, sure_of(np.arange(5) % 2, 2), labels, features)).confusion
    assert (confusion.neighbors, confusion.classes.tolist()) == (3, [0, 0, 1, 1])
    assert confusion.votes.tolist() == votes_by_loops(features[:4], labels[:4], 3)


def test_of_many_images_a_sample_is_asked(tmp_path, random, monkeypatch):
    labels = random.integers(0, 4, 300)
    features = blobs(random, labels, spread=0.8).astype(np.float32)
    monkeypatch.setattr(feature_health_file, "_MAX_QUERIES", 100)
    confusion = feature_health(made(tmp_path, sure_of(labels, 4), labels, features)).confusion
    everyone = votes_by_loops(features.astype(np.float64), labels, 20)
    assert len(confusion.votes) == 100
    asked = np.sort(np.random.default_rng(0).choice(300, 100, replace=False))
    assert confusion.classes.tolist() == labels[asked].tolist()
    assert confusion.votes.tolist() == [everyone[image] for image in asked]


def test_a_large_table_shows_the_worst_classes(tmp_path, random):
    confusion = feature_health_file.Confusion(np.repeat(np.arange(10), 5), np.repeat(np.arange(10), 5), 20)
    votes = confusion.votes
    votes[:3] = 7  # class 0 is taken for class 7
    votes[10] = 4  # class 2 once for class 4
    counts, names = confusion.table(limit=3)
    assert names == [0, 7, None]
    assert counts.tolist() == [[2, 3, 0], [0, 5, 0], [0, 0, 40]]
    assert [tuple(each) for each in confusion.mistaken(limit=9)] == [(0, 7, 0.3), (2, 4, 0.1)]
    assert confusion.table(limit=10)[0].sum() == confusion.table(limit=2)[0].sum() == 50


def test_what_was_measured_is_kept(tmp_path, random, monkeypatch):
    labels = random.integers(0, 3, 50)
    explained = made(tmp_path, sure_of(labels, 4), labels, blobs(random, labels))
    first = feature_health(explained)
    monkeypatch.setattr(feature_health_file, "measure_spectrum", None)
    second = feature_health(explained)
    for name in ("num_images", "width", "effective_rank", "decay", "mean_cosine"):
        assert getattr(first, name) == getattr(second, name)
    assert np.array_equal(first.eigenvalues, second.eigenvalues)
    assert np.array_equal(first.confusion.votes, second.confusion.votes)
    assert [path.name for path in explained.folder.iterdir() if path.name.startswith(".")] == []


def test_a_healthy_model_is_good(tmp_path, random):
    labels = random.integers(0, 4, 400)
    found = looked_at(
        tmp_path, sure_of(labels * 2 + random.integers(0, 2, 400), 8, 0.7), labels, blobs(random, labels, 30)
    )
    assert set(levels(found).values()) == {"good"}, found.findings
    assert all(finding.cure == "" for finding in found.findings)
    assert found.ami == pytest.approx(adjusted_mutual_info_score(labels, found.clustering.pseudo_labels))


def test_without_labels_nothing_is_said_of_classes(tmp_path, random):
    found = looked_at(tmp_path, sure_of(random.integers(0, 8, 200), 8, 0.7), None, random.normal(size=(200, 9)))
    assert set(levels(found).values()) == {"good"}
    assert found.features.confusion is None
    assert found.ami is None
    assert not [finding for finding in found.findings if "class" in finding.sentence]


def test_one_class_only(tmp_path, random):
    found = looked_at(tmp_path, sure_of(random.integers(0, 8, 200), 8, 0.7), [2] * 200, random.normal(size=(200, 9)))
    assert found.ami is None
    assert set(levels(found).values()) == {"good"}


@pytest.mark.parametrize(("used", "level"), [(20, "good"), (17, "watch"), (8, "bad")])
def test_empty_clusters(tmp_path, random, used, level):
    finding = one(looked_at(tmp_path, sure_of(np.arange(400) % used, 20, 0.8)), "are empty")
    assert finding.level == level
    assert finding.sentence == f"{20 - used} of 20 clusters are empty."
    assert bool(finding.cure) == (level != "good")


def test_few_images_leave_clusters_empty_by_chance(tmp_path, random):
    found = looked_at(tmp_path, sure_of(random.integers(0, 200, 100), 200, 0.9))
    finding = one(found, "are empty")
    assert finding.level == "good"
    assert "with so few images about 121 are empty by chance" in finding.sentence


def test_kmeans_is_asked_for_fewer_clusters(tmp_path):
    found = looked_at(tmp_path, sure_of(np.arange(400) % 8, 20, 0.8), kmeans=True)
    assert one(found, "are empty").cure == "Ask for fewer clusters."


def test_over_full_clusters(tmp_path, random):
    labels = np.where(np.arange(1000) < 300, 7, np.arange(1000) % 20)
    finding = one(looked_at(tmp_path / "a", sure_of(labels, 20, 0.8)), "over-full")
    assert finding.level == "watch"
    assert finding.sentence == f"1 over-full cluster holds {100 * (labels == 7).mean():.0f} % of the images."
    labels = np.where(np.arange(1000) < 700, 7, np.arange(1000) % 20)
    found = looked_at(tmp_path / "b", sure_of(labels, 20, 0.8))
    assert found.findings[0].level == one(found, "Cluster 7 holds 72 %").level == "bad"


@pytest.mark.parametrize(
    ("scale", "level", "word"),
    [(0.02, "bad", "nearly the same distribution"), (0.55, "watch", "differ little"), (3.0, "good", "images differ;")],
)
def test_images_alike(tmp_path, random, scale, level, word):
    logs = torch.log_softmax(torch.from_numpy(scale * random.normal(size=(2000, 1, 20))), dim=-1).numpy()
    found = looked_at(tmp_path, logs)
    assert one(found, word).level == level
    flat = found.mean_entropy > 0.95 * math.log(20)
    assert flat == any("hardly any image" in finding.sentence for finding in found.findings)
    assert flat == (scale < 1)


def test_sure_of_all(tmp_path):
    finding = one(looked_at(tmp_path, sure_of(np.arange(100) % 10, 10, 0.9995)), "confident about nearly every")
    assert (finding.level, finding.cure.startswith("Raise")) == ("watch", True)


def test_crowding(tmp_path):
    finding = one(looked_at(tmp_path, sure_of(np.arange(100) % 2, 30, 0.99)), "Few clusters get most")
    assert finding.level == "bad"


def test_features_that_are_alike_or_flat(tmp_path, random):
    logs, line = sure_of(np.arange(200) % 4, 4), random.normal(size=(200, 1))
    alike = looked_at(tmp_path / "a", logs, features=1 + 1e-3 * random.normal(size=(200, 40)))
    assert one(alike, "have the same direction").level == "bad"
    assert one(alike, "effective rank").level == "bad"
    flat = looked_at(
        tmp_path / "b", logs, features=line * random.normal(size=(1, 40)) + 1e-2 * random.normal(size=(200, 40))
    )
    assert one(flat, "effective rank").level == "watch"
    assert not [finding for finding in flat.findings if "have the same direction" in finding.sentence]


def test_neighbours_that_know_nothing(tmp_path, random):
    labels = random.integers(0, 4, 400)
    found = looked_at(tmp_path, sure_of(random.integers(0, 8, 400), 8), labels, random.normal(size=(400, 8)))
    assert one(found, "neighbours predict the class").level == "bad"
    assert one(found, "adjusted mutual information").level == "watch"
    assert [finding.level for finding in found.findings] == sorted(
        (f.level for f in found.findings), key=["bad", "watch", "good"].index
    )


def test_confused_classes_are_named(tmp_path, random):
    labels = random.integers(0, 4, 400)
    features = blobs(random, np.where(labels == 1, 0, labels))  # cats and dogs have one centre
    finding = one(looked_at(tmp_path, sure_of(labels, 4), labels, features), "neighbours confuse")
    assert finding.sentence.startswith("Classes that neighbours confuse: cat and dog (")
    assert finding.sentence.count("(") == 1
    assert finding.level == "watch"


def test_one_image_is_refused(tmp_path):
    with pytest.raises(ExploreError, match="two or more"):
        looked_at(tmp_path, sure_of(np.array([0]), 3))


def test_one_cluster(tmp_path, random):
    found = looked_at(tmp_path, np.zeros((20, 1, 1)), features=random.normal(size=(20, 5)))
    assert (found.mutual_information, found.information_share) == (0, 0)
    assert set(levels(found).values()) == {"good"}
