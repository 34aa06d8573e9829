"""Maps against scikit-learn, closed forms and brute-force neighbours; caching, stopping and refusals."""

import importlib.util
import threading

import numpy as np
import pytest
from scipy.spatial import procrustes
from sklearn.decomposition import PCA
from sklearn.manifold import trustworthiness
from sklearn.metrics import pairwise_distances

from ssl_zoo.explore import map as maps
from ssl_zoo.explore.gallery import Step
from ssl_zoo.explore.map import Map, Maps, map_methods, map_positions, principal_components
from ssl_zoo.explore.workbench import ExploreError
from tests.explore.made_explained import explain, make_gallery, sure_of


INSTALLED = [name for name, (package, _) in maps._PACKAGES.items() if importlib.util.find_spec(package)]
needs_tsne = pytest.mark.skipif("tsne" not in INSTALLED, reason="openTSNE is not installed")


def explained_of(folder, features):
    features = np.asarray(features, dtype=np.float32)
    labels = np.arange(len(features)) % 2
    return explain(folder / "model", make_gallery(folder / "gallery", labels), sure_of(labels, 2), features)


def blobs(images=240, groups=4, width=24, *, spread=0.15, seed=0):
    random = np.random.default_rng(seed)
    centres = random.normal(size=(groups, width))
    groups = np.arange(images) % groups
    return centres[groups] + spread * random.normal(size=(images, width)), groups


def made(work):
    steps = []
    try:
        while True:
            steps.append(next(work))
    except StopIteration as done:
        return done.value, steps


@pytest.fixture
def only_pca(monkeypatch):
    """As if none of the libraries were installed."""
    monkeypatch.setattr(maps, "find_spec", lambda name: None)
    map_methods.cache_clear()
    yield
    map_methods.cache_clear()


@pytest.mark.parametrize(("rows", "width"), [(200, 7), (30, 64), (60, 2)])
def test_principal_components_are_those_of_scikit_learn(rows, width):
    random = np.random.default_rng(1)
    values = (random.normal(size=(rows, width)) * np.linspace(3, 0.5, width) + 5).astype(np.float32)
    count = min(5, width)
    found, reference = principal_components(values, count), PCA(count, svd_solver="full").fit_transform(values)
    assert found.shape == (rows, count)
    assert found.dtype == np.float32
    signs = np.sign((found * reference).sum(axis=0))
    assert found * signs == pytest.approx(reference, abs=2e-3)


@pytest.mark.parametrize("direction", [(0.6, -0.8, 0), (0.6, 0.8, 0), (-0.8, 0, 0.6), (0, 0.6, 0.8), (0, 0.6, -0.8)])
def test_the_largest_weight_of_a_component_is_positive(direction):
    direction, along = np.array(direction, dtype=np.float32), np.arange(-3, 4, dtype=np.float32)
    expected = along * np.sign(direction[np.abs(direction).argmax()])
    assert principal_components(along[:, None] * direction, 2)[:, 0] == pytest.approx(expected, abs=1e-5)


def test_one_column_is_filled_up_to_a_plane():
    found = principal_components(np.arange(5, dtype=np.float32)[:, None], 50)
    assert found[:, 0] == pytest.approx([-2, -1, 0, 1, 2])
    assert not found[:, 1].any()


def test_a_map_fills_the_square_and_keeps_its_shape():
    points = np.array([[10, 1], [14, 2], [12, 3]], dtype=np.float32)
    expected = np.array([[-1, -0.5], [1, 0], [0, 0.5]])
    assert maps._fitted(points) == pytest.approx(expected)
    assert maps._fitted(points[:, ::-1]) == pytest.approx(expected[:, ::-1])


def test_pca_is_that_of_unit_features(tmp_path, only_pca):
    features, _ = blobs()
    scales = np.random.default_rng(3).uniform(0.1, 10, size=(len(features), 1))
    found, _ = made(map_positions(explained_of(tmp_path, features * scales)))
    assert found.method == "pca"
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    _, _, disparity = procrustes(PCA(2).fit_transform(unit), found.points)
    assert disparity < 1e-6
    assert np.abs(found.points).max() == 1


@pytest.mark.parametrize("method", INSTALLED)
def test_neighbours_stay_neighbours_and_the_map_is_the_same_again(tmp_path, method):
    features, groups = blobs(spread=0.4)
    explained = explained_of(tmp_path, features)
    found, steps = made(map_positions(explained, method))
    assert found.method == method
    assert found.points.shape == (240, 2)
    assert found.points.dtype == np.float32
    assert np.abs(found.points).max() == 1
    assert all(isinstance(step, Step) and step.done <= step.total for step in steps)
    assert trustworthiness(explained.unit_features, found.points, n_neighbors=8) > 0.85
    distances = pairwise_distances(found.points)
    np.fill_diagonal(distances, np.inf)
    assert (groups[distances.argmin(axis=1)] == groups).mean() > 0.98
    (explained.folder / f"map-{method}.npy").unlink()
    again, _ = made(map_positions(explained, method))
    assert np.array_equal(again.points, found.points)


@pytest.mark.parametrize("rows", [40, 300])
def test_neighbours_are_those_of_a_loop(monkeypatch, rows):
    monkeypatch.setattr(maps, "_EXACT_ROWS", 64)  # several blocks
    values = np.random.default_rng(4).normal(size=(rows, 6)).astype(np.float32)
    near, distances = maps._neighbours(values, 9)
    for row in range(rows):
        every = [(float(np.linalg.norm(values[row] - values[other])), other) for other in range(rows) if other != row]
        nearest = sorted(every)[:9]
        assert near[row].tolist() == [other for _, other in nearest]
        assert distances[row] == pytest.approx([distance for distance, _ in nearest], rel=1e-3)


@needs_tsne
def test_tsne_has_the_objective_of_scikit_learn(tmp_path):
    """Kullback-Leibler divergence of the maps, by one formula for both."""
    from sklearn.manifold import TSNE
    from sklearn.manifold._t_sne import _joint_probabilities

    features, _ = blobs(150, spread=0.5)
    explained = explained_of(tmp_path, features)
    components = principal_components(explained.unit_features, 50)
    joint = _joint_probabilities(pairwise_distances(components, squared=True), 30, 0)

    def divergence(points):
        from scipy.spatial.distance import pdist

        closeness = 1 / (1 + pdist(points, "sqeuclidean"))
        share = closeness / (2 * closeness.sum())
        return 2 * float((joint * np.log(np.maximum(joint, 1e-12) / share)).sum())

    ours = divergence(made(maps._tsne(components))[0])
    theirs = divergence(TSNE(2, perplexity=30, init="pca", random_state=0).fit_transform(components))
    assert ours == pytest.approx(theirs, rel=0.15)
    assert ours < 0.5 * divergence(np.random.default_rng(0).normal(size=(150, 2)))


@needs_tsne
def test_interpolation_and_tree_agree_on_groups(tmp_path, monkeypatch):
    features, groups = blobs(300, spread=0.3)
    components = principal_components(explained_of(tmp_path, features).unit_features, 50)
    monkeypatch.setattr(maps, "_EARLY", 100)
    monkeypatch.setattr(maps, "_LATE", 100)
    for tree in (10, 10_000):
        monkeypatch.setattr(maps, "_TREE", tree)
        points, _ = made(maps._tsne(components))
        distances = pairwise_distances(points)
        np.fill_diagonal(distances, np.inf)
        assert (groups[distances.argmin(axis=1)] == groups).mean() > 0.98


@pytest.mark.parametrize("images", [1, 2, 3, 11])
def test_few_images_are_projected(tmp_path, images):
    found, _ = made(map_positions(explained_of(tmp_path, np.random.default_rng(0).normal(size=(images, 6)))))
    assert found.method == "pca"
    assert found.points.shape == (images, 2)
    assert np.isfinite(found.points).all()
    assert f"{images} images are too few" in found.description


@pytest.mark.parametrize("method", [*INSTALLED, "pca"])
def test_the_fewest_images_that_are_laid_out(tmp_path, method):
    found, _ = made(map_positions(explained_of(tmp_path, np.random.default_rng(0).normal(size=(12, 6))), method))
    assert found.method == method
    assert np.isfinite(found.points).all()


@pytest.mark.parametrize("method", ["auto", *INSTALLED, "pca"])
def test_equal_images_lie_on_one_point(tmp_path, method):
    found, _ = made(
        map_positions(explained_of(tmp_path, np.ones((20, 4))), method)
    )  # of length 2, which nothing rounds
    assert not found.points.any()


def test_a_kept_map_is_read_and_a_damaged_one_made_anew(tmp_path):
    explained = explained_of(tmp_path, blobs(40)[0])
    first, steps = made(map_positions(explained, "pca"))
    assert steps
    file = explained.folder / "map-pca.npy"
    again, steps = made(map_positions(explained, "pca"))
    assert not steps
    assert np.array_equal(again.points, first.points)
    whole = file.read_bytes()
    for damage in (b"", whole[: len(whole) // 2], b"not numpy", whole[:-4] + np.float32(np.nan).tobytes()):
        file.write_bytes(damage)
        assert np.array_equal(made(map_positions(explained, "pca"))[0].points, first.points)
        assert file.read_bytes() == whole
    np.save(file, np.zeros((39, 2), dtype=np.float32))  # of other images
    assert np.array_equal(made(map_positions(explained, "pca"))[0].points, first.points)


def test_the_fallback_needs_no_library(tmp_path, only_pca):
    explained = explained_of(tmp_path, blobs(40)[0])
    assert map_methods() == ("pca",)
    assert made(map_positions(explained))[0].method == "pca"
    with pytest.raises(ExploreError, match=r"UMAP is not installed here: `pip install umap-learn` .* one of pca"):
        next(map_positions(explained, "umap"))


def test_an_unknown_method_is_refused(tmp_path):
    with pytest.raises(ExploreError, match=r"no map 'sne': choose one of tsne, umap, pacmap, pca"):
        next(map_positions(explained_of(tmp_path, blobs(40)[0]), "sne"))


@needs_tsne
def test_stopped_work_leaves_nothing_behind(tmp_path):
    explained = explained_of(tmp_path, blobs(60)[0])
    before = sorted(explained.folder.iterdir())
    work = map_positions(explained, "tsne")
    for _ in range(5):
        next(work)
    work.close()
    assert sorted(explained.folder.iterdir()) == before


@needs_tsne
def test_work_goes_on_where_the_last_question_left_it(tmp_path):
    explained, keeper = explained_of(tmp_path, blobs(60)[0]), Maps()
    steps = []
    while not isinstance(found := keeper.advance(explained, "tsne", seconds=0), Map):
        steps.append(found)
        assert len(steps) < 100
    assert [step.done for step in steps] == sorted(step.done for step in steps)
    assert steps[-1].done > 0.9 * steps[-1].total
    (explained.folder / "map-tsne.npy").unlink()
    assert np.array_equal(found.points, made(map_positions(explained, "tsne"))[0].points)
    assert np.array_equal(keeper.advance(explained, "auto", seconds=0).points, found.points)
    assert not keeper._work


class Work:
    """A replacement of `map_positions` whose steps can be counted."""

    def __init__(self):
        self.open, self.inside, self.most = [], 0, 0

    def __call__(self, explained, method):
        self.open.append(explained.folder)
        try:
            for done in range(50):
                self.inside += 1
                self.most = max(self.most, self.inside)
                threading.Event().wait(0.001)
                self.inside -= 1
                yield Step(done, 50, "made")
        finally:
            self.open.remove(explained.folder)
        return Map(np.zeros((1, 2), dtype=np.float32), method, "made")


def test_only_the_last_unfinished_maps_are_held(tmp_path, monkeypatch):
    work, keeper = Work(), Maps(kept=2)
    monkeypatch.setattr(maps, "map_positions", work)
    several = [explained_of(tmp_path / str(number), blobs(40)[0]) for number in range(3)]
    for number in (0, 1, 0, 2):
        keeper.advance(several[number], "pca", seconds=0)
    assert sorted(work.open) == sorted([several[0].folder, several[2].folder])
    assert keeper.advance(several[0], "pca", seconds=0).done == 2
    assert keeper.advance(several[1], "pca", seconds=0).done == 0


def test_two_visitors_never_work_at_once(tmp_path, monkeypatch):
    work, keeper = Work(), Maps()
    monkeypatch.setattr(maps, "map_positions", work)
    explained = explained_of(tmp_path, blobs(40)[0])
    results = []

    def visit():
        while not isinstance(found := keeper.advance(explained, "pca", seconds=0.01), Map):
            pass
        results.append(found)

    visitors = [threading.Thread(target=visit) for _ in range(4)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join(timeout=200)
    assert len(results) == 4
    assert work.most == 1


def test_a_failed_map_can_be_asked_for_again(tmp_path, monkeypatch):
    keeper, explained = Maps(), explained_of(tmp_path, blobs(40)[0])
    with monkeypatch.context() as patch:
        patch.setattr(maps, "principal_components", lambda *_: (_ for _ in ()).throw(MemoryError))
        with pytest.raises(MemoryError):
            keeper.advance(explained, "pca", seconds=1)
    assert keeper.advance(explained, "pca", seconds=200).method == "pca"
