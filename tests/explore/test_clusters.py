"""Clusters of a gallery against loops over its images, and against MIRA's objective."""

import math

import numpy as np
import pytest
import torch

from ssl_zoo.explore.clusters import clustering, modes
from ssl_zoo.explore.preparation import _shifted
from ssl_zoo.explore.recent import Recent
from ssl_zoo.explore.workbench import ExploreError
from tests.explore.made_explained import explain, make_gallery, sure_of


NAMES = ["cat", "dog", "horse", "sea horse", "7"]
IMAGES, CLUSTERS, HEADS = 400, 12, 2


@pytest.fixture(scope="module")
def explained(tmp_path_factory):
    """Two heads; cluster 3 of head 0 is empty, cluster 5 over-full; classes follow clusters loosely."""
    folder, random = tmp_path_factory.mktemp("made"), np.random.default_rng(1)
    logits = random.normal(size=(IMAGES, HEADS, CLUSTERS)) * 2
    logits[:, 0, 3] = -9
    logits[: IMAGES // 2, 0, 5] += 6
    logs = torch.log_softmax(torch.from_numpy(logits), dim=-1).numpy()
    classes = (logits[:, 0].argmax(axis=1) + random.integers(0, 2, IMAGES)) % len(NAMES)
    gallery = make_gallery(folder / "gallery", classes, NAMES)
    return explain(folder / "model", gallery, logs, random.normal(size=(IMAGES, 6)) + 1, beta=2 / 3)


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unlabelled")
    gallery = make_gallery(folder / "gallery", [-1] * 30)
    return explain(folder / "model", gallery, sure_of(np.arange(30) % 4, 5))


@pytest.mark.parametrize(("head", "temperature"), [(0, 1.0), (1, 1.0), (0, 0.25), (1, 3.0)])
def test_softmax_is_that_of_each_image(explained, head, temperature):
    found = clustering(explained, head=head, temperature=temperature)
    mean = np.zeros(CLUSTERS)
    for image in range(IMAGES):
        logits = [float(value) / temperature for value in explained.log_probabilities(head)[image]]
        weights = [math.exp(value - max(logits)) for value in logits]
        weights = [weight / sum(weights) for weight in weights]
        assert found.pseudo_labels[image] == weights.index(max(weights))
        assert found.confidence[image] == pytest.approx(max(weights), rel=1e-5)
        assert found.entropy[image] == pytest.approx(
            -sum(p * math.log(p) for p in weights if p > 0), rel=1e-4, abs=1e-6
        )
        mean += np.array(weights) / IMAGES
    assert found.marginal == pytest.approx(mean, rel=1e-5, abs=1e-9)


def test_clusters_count_what_loops_count(explained):
    found = clustering(explained)
    classes = explained.gallery.labels
    assert [cluster.number for cluster in found.clusters] == list(range(CLUSTERS))
    for cluster in found.clusters:
        inside = [image for image in range(IMAGES) if found.pseudo_labels[image] == cluster.number]
        assert cluster.size == len(inside)
        assert cluster.share == pytest.approx(len(inside) / IMAGES)
        assert cluster.is_dead == (not inside)
        assert cluster.is_overfull == (len(inside) > 4 * IMAGES / CLUSTERS)
        if not inside:
            numbers = (cluster.confidence, cluster.uncertainty, cluster.entropy, cluster.purity, cluster.majority)
            assert numbers == (None,) * 5
            assert found.class_histogram(cluster.number) == []
            continue
        assert cluster.confidence == pytest.approx(np.mean([found.confidence[image] for image in inside]), rel=1e-5)
        assert cluster.uncertainty == pytest.approx(np.mean([found.entropy[image] for image in inside]), rel=1e-5)
        counts = {label: sum(classes[image] == label for image in inside) for label in range(len(NAMES))}
        shares = [count / len(inside) for count in counts.values() if count]
        assert cluster.purity == pytest.approx(max(shares))
        assert cluster.entropy == pytest.approx(-sum(share * math.log(share) for share in shares), abs=1e-9)
        assert counts[cluster.majority] == max(counts.values())
        assert cluster.majority_name == NAMES[cluster.majority]
        histogram = found.class_histogram(cluster.number)
        assert {each.label: each.size for each in histogram} == {label: n for label, n in counts.items() if n}
        assert [each.size for each in histogram] == sorted((each.size for each in histogram), reverse=True)
        assert sum(each.share for each in histogram) == pytest.approx(1)
        assert all(each.name == NAMES[each.label] for each in histogram)
    assert found.clusters[3].is_dead
    assert found.clusters[5].is_overfull


def test_members_go_from_sure_to_unsure(explained):
    found = clustering(explained)
    for number in range(CLUSTERS):
        members = found.members(number).tolist()
        assert sorted(members) == np.flatnonzero(found.pseudo_labels == number).tolist()
        assert [found.confidence[image] for image in members] == sorted(found.confidence[members], reverse=True)
    counts, edges = found.confidence_histogram(5, bins=7)
    assert counts.sum() == len(found.members(5))
    assert (edges[0], edges[-1]) == pytest.approx((found.confidence.min(), found.confidence.max()))


def test_near_clusters_have_near_centres(explained):
    found, features = clustering(explained), explained.features
    centres = {}
    for number in range(CLUSTERS):
        inside = [features[image] / np.linalg.norm(features[image]) for image in found.members(number)]
        if inside:
            centres[number] = np.mean(inside, axis=0)
    for number, centre in centres.items():
        cosines = {
            other: float(centre @ each / np.linalg.norm(centre) / np.linalg.norm(each))
            for other, each in centres.items()
            if other != number
        }
        near = found.nearest(number, limit=4)
        assert [each.number for each in near] == sorted(cosines, key=cosines.__getitem__, reverse=True)[:4]
        assert [each.cosine for each in near] == pytest.approx([cosines[each.number] for each in near], abs=1e-5)
    assert found.nearest(3) == []
    assert len(found.nearest(0, limit=99)) == CLUSTERS - 2


@pytest.mark.parametrize("descending", [True, False])
@pytest.mark.parametrize("sort", ["size", "purity", "confidence", "entropy", "uncertainty", "number"])
def test_order(explained, sort, descending):
    rows = clustering(explained).ordered(sort, descending=descending)
    values = [getattr(row, sort) for row in rows]
    known = [value for value in values if value is not None]
    assert values == sorted(known, reverse=descending) + [None] * (len(values) - len(known))
    assert {row.number for row in rows} == set(range(CLUSTERS))


@pytest.mark.parametrize("text", ["7", " #7 "])
def test_a_number_finds_its_cluster(explained, text):
    found = {cluster.number for cluster in clustering(explained).find(text)}
    assert 7 in found
    assert (found == {7}) == ("#" in text)  # a class has the name 7, too


@pytest.mark.parametrize(
    ("text", "classes"), [("Cat", {0}), ("horse", {2}), ("ORSE", {2, 3}), ("sea", {3}), ("7", {4}), ("o", {1, 2, 3})]
)
def test_a_name_finds_clusters_that_hold_the_class(explained, text, classes):
    found, labels = clustering(explained), explained.gallery.labels
    wanted = {7} if text == "7" else set()
    for cluster in found.clusters:
        inside = labels[found.pseudo_labels == cluster.number]
        held = [(inside == each).sum() >= 0.1 * (labels == each).sum() for each in classes]
        if cluster.size and (cluster.majority in classes or any(held)):
            wanted.add(cluster.number)
    assert {cluster.number for cluster in found.find(text)} == wanted
    assert {cluster.number for cluster in found.ordered("purity", text=text)} == wanted


@pytest.mark.parametrize("text", ["#12", "99", "zebra", "#cat", "#", "-1", "9" * 5000, "²"])
def test_what_isnt_there_finds_nothing(explained, text):
    assert clustering(explained).find(text) == []


def test_nothing_finds_all(explained):
    assert len(clustering(explained).find("  ")) == CLUSTERS


def test_nmi(explained, unlabelled):
    from sklearn.metrics import normalized_mutual_info_score

    found = clustering(explained)
    assert found.nmi == pytest.approx(normalized_mutual_info_score(explained.gallery.labels, found.pseudo_labels))
    assert clustering(unlabelled).nmi is None


def test_over_full_is_above_four_times_an_equal_share(tmp_path):
    labels = np.repeat(np.arange(10), [48, 49, 23, 0, 0, 0, 0, 0, 0, 0])  # of 120: an equal share is 12
    gallery = make_gallery(tmp_path / "gallery", [0] * 120)
    found = clustering(explain(tmp_path / "model", gallery, sure_of(labels, 10)))
    assert [cluster.is_overfull for cluster in found.clusters[:3]] == [False, True, False]


def test_images_without_a_class_dont_count(tmp_path):
    gallery = make_gallery(tmp_path / "gallery", [0, 0, -1, -1, -1, 1, -1])
    found = clustering(explain(tmp_path / "model", gallery, sure_of(np.array([0, 0, 0, 0, 0, 0, 1]), 3)))
    first, second, _ = found.clusters
    assert (first.size, first.purity, first.majority_name) == (6, pytest.approx(2 / 3), "class 0")
    assert first.entropy == pytest.approx(-(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3))
    assert (second.size, second.purity, second.entropy, second.is_dead) == (1, None, None, False)
    assert found.nmi == pytest.approx(0)


def test_without_labels_there_is_no_purity(unlabelled):
    found = clustering(unlabelled)
    assert {(row.purity, row.entropy, row.majority) for row in found.clusters} == {(None, None, None)}
    assert found.class_histogram(0) == []
    for sort in ("purity", "entropy"):
        with pytest.raises(ExploreError, match="no labels"):
            found.ordered(sort)
    assert [row.number for row in found.ordered("size")] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head": 2}, "no head 2: the model has 2"),
        ({"head": -1}, "no head -1"),
        ({"mode": "sinkhorn"}, "no mode 'sinkhorn': choose one of softmax, assignment"),
        ({"temperature": 0.0}, "between 0.01 and 100"),
        ({"temperature": math.nan}, "between 0.01 and 100"),
        ({"temperature": math.inf}, "between 0.01 and 100"),
    ],
)
def test_wrong_settings_are_said(explained, options, words):
    with pytest.raises(ExploreError, match=words):
        clustering(explained, **options)


def test_wrong_questions_are_said(explained, unlabelled):
    found = clustering(explained)
    for number in (-1, CLUSTERS):
        with pytest.raises(ExploreError, match="from 0 to 11"):
            found.members(number)
    with pytest.raises(ExploreError, match="'colour'"):
        found.ordered("colour")
    assert modes(unlabelled) == ["softmax"]
    with pytest.raises(ExploreError, match="no mode 'assignment': choose one of softmax"):
        clustering(unlabelled, mode="assignment")


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_the_assignment_fulfils_its_equation(explained, temperature):
    """W_ij ~ p_ij^(1 / (1 - beta)) Wbar_j^(-beta / (1 - beta)), which only the minimiser of MIRA's objective does."""
    found = clustering(explained, mode="assignment", temperature=temperature)
    beta, logs = 2 / 3, explained.log_probabilities(0).astype(np.float64) / temperature
    marginal = np.full(CLUSTERS, 1 / CLUSTERS)
    for _ in range(400):  # half steps in the logarithm of the equation itself
        logits = (logs - beta * np.log(marginal)) / (1 - beta)
        weights = np.exp(logits - logits.max(axis=1, keepdims=True))
        weights /= weights.sum(axis=1, keepdims=True)
        marginal = np.exp((1 - beta) * np.log(weights.mean(axis=0)) + beta * np.log(marginal))
        marginal /= marginal.sum()
    assert found.marginal == pytest.approx(weights.mean(axis=0), rel=2e-3)
    assert (found.pseudo_labels == weights.argmax(axis=1)).mean() > 0.99
    assert found.confidence == pytest.approx(weights.max(axis=1), rel=5e-3)
    assert found.entropy == pytest.approx(-np.sum(weights * np.log(np.maximum(weights, 1e-300)), axis=1), abs=5e-3)
    # Mutual information counts: clusters are filled more evenly than by the softmax.
    assert found.sizes.normalized_entropy > clustering(explained, temperature=temperature).sizes.normalized_entropy
    again = found.probabilities(torch.from_numpy(explained.log_probabilities(0).astype(np.float32)))
    assert again.numpy() == pytest.approx(weights, abs=5e-3)


def test_probabilities_of_another_image(explained):
    logs = torch.log_softmax(torch.randn(3, CLUSTERS, generator=torch.Generator().manual_seed(0)), dim=1)
    assert torch.allclose(clustering(explained).probabilities(logs), logs.exp(), atol=1e-6)
    sharp = clustering(explained, temperature=0.5).probabilities(logs)
    assert torch.allclose(sharp, logs.exp().square() / logs.exp().square().sum(dim=1, keepdim=True), atol=1e-6)


def test_clusterings_and_assignments_are_kept(explained, monkeypatch):
    assert clustering(explained, temperature=0.5) is clustering(explained, temperature=0.5)
    first = clustering(explained, mode="assignment")
    assert (explained.folder / "assigned-0.npz").is_file()
    monkeypatch.setattr("ssl_zoo.explore.clusters._recent", Recent(1))
    monkeypatch.setattr("ssl_zoo.explore.distributions.mira_assignment", None)
    second = clustering(explained, mode="assignment")
    assert second is not first
    for name in ("pseudo_labels", "confidence", "entropy", "marginal"):
        assert (getattr(second, name) == getattr(first, name)).all()
    assert not [path for path in explained.folder.iterdir() if path.name.startswith(".")]


def test_each_head_has_its_own_assignment(explained):
    first, second = (clustering(explained, head=head, mode="assignment") for head in range(HEADS))
    assert (first.pseudo_labels != second.pseudo_labels).mean() > 0.5
    assert sorted(path.name for path in explained.folder.glob("assigned-*")) == [
        "assigned-0.npz",
        "assigned-1.npz",
    ]


def test_one_cluster(tmp_path):
    gallery = make_gallery(tmp_path / "gallery", [0, 1, 1])
    found = clustering(explain(tmp_path / "model", gallery, np.zeros((3, 1, 1)), beta=0.5), mode="assignment")
    (only,) = found.clusters
    assert (only.size, only.confidence, only.majority_name, only.is_overfull) == (3, 1.0, "class 1", False)
    assert found.nearest(0) == []
    assert found.confidence_histogram(0)[0].sum() == 3


def test_labels_are_the_models_own(tmp_path):
    """Half precision must not make ties: labels of a model with nearly equal scores would be wrong."""
    logs = torch.log_softmax(1e-3 * torch.randn(500, 1, 100, generator=torch.Generator().manual_seed(0)), dim=-1)
    gallery = make_gallery(tmp_path / "gallery", [0] * 500)
    found = clustering(explain(tmp_path / "model", gallery, _shifted(logs)))
    assert found.pseudo_labels.tolist() == logs[:, 0].argmax(dim=1).tolist()
    assert found.confidence == pytest.approx(logs[:, 0].amax(dim=1).exp().numpy(), rel=1e-3)
