import math

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.special import hyp0f1

import ssl_zoo.evaluation.metrics.spectrum as module
from ssl_zoo.evaluation.metrics.cluster_sizes import cluster_sizes
from ssl_zoo.evaluation.metrics.spectrum import measure_spectrum
from ssl_zoo.evaluation.pictures.spectrum import save_spectrum_picture


def gaussian(rows, features, seed=0):
    return torch.randn(rows, features, generator=torch.Generator().manual_seed(seed))


def with_eigenvalues(eigenvalues, rows=1000, seed=0):
    """Rows whose covariance has exactly these eigenvalues, far from 0."""
    width = len(eigenvalues)
    columns = gaussian(rows, width, seed).double()
    columns = torch.linalg.qr(columns - columns.mean(dim=0))[0]
    turned = torch.linalg.qr(gaussian(width, width, seed + 1).double())[0]
    return columns * torch.tensor(eigenvalues).mul(rows).sqrt() @ turned.T + 3.0


def test_eigenvalues_and_their_decay():
    eigenvalues = np.arange(1, 101) ** -1.5
    found = measure_spectrum(with_eigenvalues(eigenvalues))
    np.testing.assert_allclose(found.eigenvalues, eigenvalues, rtol=1e-9)
    assert found.alpha == pytest.approx(1.5, abs=1e-9)
    assert found.alpha_offset == pytest.approx(0.0, abs=1e-9)
    assert found.alpha_range == (2, 50)
    assert found.participation_ratio == pytest.approx(eigenvalues.sum() ** 2 / (eigenvalues**2).sum())


def test_singular_values_and_rank_are_those_of_an_svd_in_float64():
    features = gaussian(500, 40) @ gaussian(40, 40, seed=1) + 0.5
    found = measure_spectrum(features)
    singular_values = torch.linalg.svdvals(features.double()).numpy()
    np.testing.assert_allclose(found.singular_values, singular_values, rtol=1e-7)
    shares = singular_values / singular_values.sum()
    assert found.rankme == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-9)
    np.testing.assert_allclose(found.eigenvalues, np.linalg.eigvalsh(np.cov(features.double().T, ddof=0))[::-1])


def test_an_isotropic_gaussian_has_full_rank():
    rows, width = 20_000, 16
    found = measure_spectrum(gaussian(rows, width), max_pair_rows=100)
    assert found.rankme == pytest.approx(width, rel=1e-3)
    # Marchenko-Pastur: mean of the squared eigenvalues is 1 + features / rows.
    assert found.participation_ratio == pytest.approx(width / (1 + width / rows), rel=1e-3)
    assert found.alpha == pytest.approx(0.0, abs=0.05)


def test_the_rank_of_features_of_rank_r():
    directions = torch.linalg.qr(gaussian(60, 5, seed=1).double())[0]
    features = torch.linalg.qr(gaussian(300, 5).double())[0] @ directions.T
    found = measure_spectrum(features.double())
    assert found.rankme == pytest.approx(5.0, abs=1e-9)
    assert (found.singular_values > 0).sum() == 5
    assert found.alpha is None
    assert "alpha" not in found.numbers()


@pytest.mark.parametrize("value", [0.1, -1e6, 0.0])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_one_constant_vector(value, dtype):
    if dtype == torch.float16:
        value = max(value, -1e4)
    found = measure_spectrum(torch.full((5001, 8), value, dtype=dtype), max_pair_rows=300)
    assert found.rankme == pytest.approx(1.0 if value else 0.0)
    assert found.participation_ratio == 0.0
    assert not found.eigenvalues.any()
    assert found.uniformity == pytest.approx(0.0, abs=1e-5)
    assert found.alpha is None
    assert all(math.isfinite(number) for number in found.numbers().values())


@pytest.mark.parametrize("width", [3, 64])
def test_uniformity_of_rows_uniform_on_a_sphere(width):
    found = measure_spectrum(gaussian(4000, width) * gaussian(4000, 1, seed=1).abs().add(0.1))
    # E exp(-2 |x - y|^2) = exp(-4) E exp(4 cos), a Bessel function.
    assert found.uniformity == pytest.approx(-4 + math.log(hyp0f1(width / 2, 4.0)), abs=5e-3)
    assert found.mean_cosine == pytest.approx(0.0, abs=1e-3)


def test_pairs_are_all_pairs_of_different_rows(monkeypatch):
    features = gaussian(150, 5)
    features[7] = 0
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    first, second = torch.triu_indices(150, 150, offset=1)
    squared = (unit[first] - unit[second]).square().sum(dim=1)
    cosines = (unit[first] * unit[second]).sum(dim=1)
    for block in (1, 64, 1000):
        monkeypatch.setattr(module, "_PAIR_BLOCK_ROWS", block)
        found = measure_spectrum(features)
        assert found.uniformity == pytest.approx(float(torch.exp(-2 * squared).mean().log()), abs=1e-6)
        assert found.mean_cosine == pytest.approx(float(cosines.mean()), abs=1e-7)
        counts = np.histogram(cosines, bins=100, range=(-1, 1))[0]
        assert np.abs(found.cosine_counts - counts).sum() <= 4  # float32 may put one on the edge of two bins
        assert found.num_pair_rows == 150


def test_alignment():
    features = gaussian(3000, 8)
    assert measure_spectrum(features).alignment is None
    assert measure_spectrum(features, 7 * features).alignment == pytest.approx(0.0, abs=1e-12)
    assert measure_spectrum(features, -features).alignment == pytest.approx(4.0)
    # Independent directions: |x - y|^2 is 2 on average.
    assert measure_spectrum(features, gaussian(3000, 8, seed=1)).alignment == pytest.approx(2.0, abs=0.05)


def test_blocks_subsets_and_global_randomness(monkeypatch, tmp_path):
    features = (gaussian(700, 12) @ gaussian(12, 12, seed=1)).half()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    found = measure_spectrum(features, features.flip(0), seed=1, max_pair_rows=200)
    again = measure_spectrum(features, features.flip(0), seed=1, max_pair_rows=200)
    assert torch.equal(torch.get_rng_state(), state)
    assert again.numbers() == found.numbers()
    assert found.num_pair_rows == 200
    assert measure_spectrum(features, seed=2, max_pair_rows=200).uniformity != found.uniformity
    np.save(tmp_path / "features.npy", features.numpy())
    mapped = torch.from_numpy(np.load(tmp_path / "features.npy", mmap_mode="c"))
    monkeypatch.setattr(module, "_BLOCK_ROWS", 33)
    other = measure_spectrum(mapped, mapped.flip(0), seed=1, max_pair_rows=200)
    assert other.numbers() == pytest.approx(found.numbers(), rel=1e-12)


def test_cluster_sizes():
    found = cluster_sizes([0] * 70 + [1] * 20 + [5] * 10, 8)
    assert found.sizes.tolist() == [70, 20, 0, 0, 0, 10, 0, 0]
    assert (found.num_empty, found.num_overfull, found.overfull) == (5, 1, 50.0)
    entropy = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    assert found.normalized_entropy == pytest.approx(entropy / math.log(8))
    assert found.largest_share == 0.7
    assert cluster_sizes(np.arange(100) % 4, 4).normalized_entropy == pytest.approx(1.0)
    assert cluster_sizes([3, 3], 4).normalized_entropy == 0.0
    assert cluster_sizes([0], 1).normalized_entropy == 1.0
    numbers = measure_spectrum(gaussian(9, 2), pseudo_labels=[0, 1, 1], num_clusters=3).numbers()
    assert numbers["cluster_num_empty"] == 1


@pytest.mark.parametrize(
    ("arguments", "settings", "message"),
    [
        ((torch.ones(0, 4),), {}, "2 rows or more"),
        ((torch.ones(1, 4),), {}, "2 rows or more"),
        ((torch.ones(4, 2, 2),), {}, r"shape \(rows, features\)"),
        ((torch.ones(4, 2, dtype=torch.int64),), {}, "floating-point"),
        ((torch.tensor([[1.0], [float("nan")]]),), {}, "first in row 1"),
        ((torch.ones(4, 2), torch.ones(5, 2)), {}, "`second_view` must have"),
        ((torch.ones(2, 1), torch.tensor([[1.0], [float("inf")]])), {}, "first in row 1"),
        ((torch.ones(4, 2),), {"max_pair_rows": 1}, "must be >= 2"),
        ((torch.ones(4, 2),), {"pseudo_labels": [0]}, "both, or neither"),
        ((torch.ones(4, 2),), {"pseudo_labels": [], "num_clusters": 3}, "length > 0"),
        ((torch.ones(4, 2),), {"pseudo_labels": [-1, 0], "num_clusters": 3}, "got -1 to 0"),
        ((torch.ones(4, 2),), {"pseudo_labels": [3, 0], "num_clusters": 3}, r"lie in \[0, 3\)"),
    ],
)
def test_what_does_not_fit_is_refused(arguments, settings, message):
    with pytest.raises(ValueError, match=message):
        measure_spectrum(*arguments, **settings)


@pytest.mark.parametrize("with_clusters", [True, False])
def test_a_picture_is_drawn(tmp_path, with_clusters):
    clusters = {"pseudo_labels": np.repeat([0, 3], [90, 10]), "num_clusters": 6} if with_clusters else {}
    found = measure_spectrum(gaussian(100, 20), **clusters)
    path = tmp_path / "spectrum.png"
    save_spectrum_picture(path, found, title="Title")
    first = path.read_bytes()
    with Image.open(path) as picture:
        colors = {color for _, color in picture.convert("RGB").getcolors(1 << 20)}
        assert picture.width > picture.height
        assert (0x00, 0x72, 0xB2) in colors
    save_spectrum_picture(path, found, title="Title")
    assert path.read_bytes() == first


def test_a_picture_of_collapsed_features_is_drawn(tmp_path):
    found = measure_spectrum(torch.ones(10, 4), pseudo_labels=[0] * 10, num_clusters=1)
    save_spectrum_picture(tmp_path / "spectrum.png", found, title="Collapsed")
    assert (tmp_path / "spectrum.png").stat().st_size > 0
