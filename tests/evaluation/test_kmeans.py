import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as ReferenceKMeans
from sklearn.metrics import adjusted_rand_score

import ssl_zoo.evaluation.frozen.kmeans as module
from ssl_zoo.evaluation.frozen.kmeans import KMeans, kmeans


def blobs(num_clusters=8, rows=1200, features=6, spread=0.1, seed=0):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(num_clusters, features)) * 3
    blob = rng.integers(num_clusters, size=rows)
    points = centers[blob] + spread * rng.normal(size=(rows, features))
    return torch.tensor(points, dtype=torch.float32), blob


def test_separated_blobs_are_recovered():
    points, blob = blobs()
    for spherical in (False, True):
        found = kmeans(points, num_clusters=8, seed=0, spherical=spherical)
        assert adjusted_rand_score(blob, found.assignments) == 1.0
        assert found.converged


@pytest.mark.parametrize("spread", [0.5, 2.0, 4.0])
@pytest.mark.parametrize("spherical", [False, True])
def test_inertia_is_that_of_scikit_learn(spread, spherical):
    points, _ = blobs(spread=spread, rows=800)
    seen = torch.nn.functional.normalize(points, dim=1) if spherical else points
    reference = ReferenceKMeans(8, n_init=10, random_state=0).fit(seen.numpy())
    found = kmeans(points, num_clusters=8, seed=0, num_init=10, spherical=spherical)
    # scikit-learn leaves its centers inside the sphere, which lowers the inertia: compare the assignments' own.
    means = torch.stack([seen[found.assignments == cluster].mean(dim=0) for cluster in range(8)])
    assert (seen - means[found.assignments]).square().sum() == pytest.approx(reference.inertia_, rel=0.01)


@pytest.mark.parametrize("spherical", [False, True])
def test_centers_assignments_and_inertia_fit_together(spherical):
    points, _ = blobs(spread=3.0)
    points = points.double() + 1000 * (not spherical)  # data far from 0 must lose no precision
    found = kmeans(points, num_clusters=30, seed=1, spherical=spherical)
    seen = torch.nn.functional.normalize(points, dim=1) if spherical else points
    distances = torch.cdist(seen, found.centers.double()).square()
    assert torch.equal(distances.argmin(dim=1), found.assignments)
    assert float(distances.min(dim=1).values.sum()) == pytest.approx(found.inertia[-1], rel=1e-5)
    means = torch.stack([seen[found.assignments == cluster].mean(dim=0) for cluster in range(30)])
    if spherical:
        means = torch.nn.functional.normalize(means, dim=1)
    torch.testing.assert_close(found.centers.double(), means, atol=2e-6, rtol=1e-5)
    falls = np.diff(found.inertia)
    assert len(falls) > 4
    assert (falls <= 1e-6 * found.inertia[0]).all()
    assignments, confidence = found.assign(points)
    assert torch.equal(assignments, found.assignments)
    nearest = distances.min(dim=1).values
    torch.testing.assert_close(confidence.double(), 1 - nearest / 2 if spherical else -nearest, atol=1e-3, rtol=1e-4)


def test_blocks_seeds_and_float_types(monkeypatch):
    points, _ = blobs(spread=3.0)
    points = points.half()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = kmeans(points, num_clusters=20, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    for block in (7, 64, 100_000):
        monkeypatch.setattr(module, "_BLOCK_ROWS", block)
        again = kmeans(points.float(), num_clusters=20, seed=3)
        torch.testing.assert_close(again.centers, first.centers)  # rounding of products depends on the size of blocks
        assert torch.equal(again.assignments, first.assignments)
        assert again.inertia == pytest.approx(first.inertia, rel=1e-6)
    assert not torch.equal(kmeans(points, num_clusters=20, seed=4).centers, first.centers)
    assert kmeans(points, num_clusters=20, seed=3, num_init=4).inertia[-1] <= first.inertia[-1]


def test_the_memory_mapped_file_is_what_is_clustered(tmp_path):
    points, _ = blobs()
    np.save(tmp_path / "features.npy", points.half().numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "features.npy", mmap_mode="c"))
    first, second = (kmeans(rows, num_clusters=8, seed=0) for rows in (mapped, points.half()))
    assert torch.equal(first.centers, second.centers)


def test_empty_clusters_are_filled_with_the_farthest_rows(monkeypatch):
    points, _ = blobs(spread=0.05)

    def one_row_and_nowhere(rows, num_clusters, generator):
        return torch.cat([rows[torch.tensor([0])], torch.full((num_clusters - 1, 6), 1000.0)])

    monkeypatch.setattr(module, "_first_centers", one_row_and_nowhere)
    found = kmeans(points, num_clusters=8, seed=0, spherical=False)
    assert torch.bincount(found.assignments, minlength=8).min() > 0
    assert (np.diff(found.inertia) <= 1e-6 * found.inertia[0]).all()


def test_no_cluster_is_emptied_to_fill_another(monkeypatch):
    points = torch.cat(
        [torch.linspace(-1, 1, 20)[:, None] * torch.tensor([1.0, 0]), torch.tensor([[-9.0, 50], [9, 50]])]
    )
    starts = torch.tensor([[0.0, 0], [0, 50], [0, 900], [0, 900]])
    monkeypatch.setattr(module, "_first_centers", lambda rows, num_clusters, generator: starts - rows.shift)
    found = kmeans(points, num_clusters=4, seed=0, num_iters=2, spherical=False)
    assert len(found.assignments.unique()) == 4


def test_more_clusters_than_different_rows():
    points = torch.eye(4).repeat(4, 1)  # in quarters, whose products have no rounding: twins are equally near
    for spherical in (False, True):
        found = kmeans(points, num_clusters=6, seed=0, spherical=spherical)
        assert found.inertia[-1] == pytest.approx(0.0, abs=1e-10)
        assert len(found.assignments.unique()) == 4
        assert found.converged
        assert bool(found.centers.isfinite().all())
    constant = kmeans(torch.ones(10, 4), num_clusters=2, seed=0, spherical=False)
    assert constant.inertia[-1] == 0.0
    zero = kmeans(torch.zeros(10, 4), num_clusters=2, seed=0)
    assert bool(zero.centers.isfinite().all())


def test_as_many_clusters_as_rows_and_one():
    points, _ = blobs(rows=30, spread=2.0)
    alone = kmeans(points, num_clusters=30, seed=0, spherical=False)
    assert alone.inertia[-1] == pytest.approx(0.0, abs=1e-6)
    together = kmeans(points, num_clusters=1, seed=0, spherical=False)
    torch.testing.assert_close(together.centers[0], points.mean(dim=0))
    assert kmeans(points, num_clusters=5, seed=0, num_iters=1).converged is False


@pytest.mark.parametrize(
    ("features", "settings", "message"),
    [
        (torch.zeros(0, 4), {}, "with rows > 0"),
        (torch.zeros(4), {}, r"shape \(rows, features\)"),
        (torch.zeros(4, 2, dtype=torch.int64), {}, "floating-point"),
        (torch.ones(4, 2), {"num_clusters": 5}, r"must lie in \[1, 4\]"),
        (torch.ones(4, 2), {"num_clusters": 0}, r"must lie in \[1, 4\]"),
        (torch.ones(4, 2), {"num_init": 0}, "`num_init` must be >= 1"),
        (torch.tensor([[1.0], [2.0], [float("nan")]]), {}, "first in row 2"),
        (torch.tensor([[1.0], [float("inf")], [2.0]]), {}, "first in row 1"),
    ],
)
def test_what_does_not_fit_is_refused(features, settings, message):
    with pytest.raises(ValueError, match=message):
        kmeans(features, **{"num_clusters": 2, "seed": 0, **settings})


def test_other_rows_must_have_the_same_features():
    found = kmeans(torch.randn(20, 4, generator=torch.Generator().manual_seed(0)), num_clusters=2, seed=0)
    assert isinstance(found, KMeans)
    with pytest.raises(ValueError, match="4 features, the rows 3"):
        found.assign(torch.ones(5, 3))
