"""SeLa's label solve: marginals, optimality, a linear programme, extreme strengths, shards, memory."""

import math
import subprocess
import sys
import warnings
from collections import Counter

import numpy as np
import pytest
import scipy.optimize
import torch

import ssl_zoo.functional.sinkhorn_kernel as kernel_module
from ssl_zoo.functional import SinkhornSolution, sinkhorn_labels, sinkhorn_solve
from tests.two_processes import run_in_two_processes


def log_probabilities(rows: int, num_clusters: int, *, seed: int = 0, scale: float = 2.0) -> torch.Tensor:
    """Log-softmax of random scores; some clusters are much likelier than others."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, 8, generator=generator, dtype=torch.float64)
    weights = torch.randn(8, num_clusters, generator=generator, dtype=torch.float64) / 8**0.5
    bias = torch.randn(num_clusters, generator=generator, dtype=torch.float64)
    return torch.log_softmax(scale * (features @ weights + bias), dim=1)


def separated(rows: int, num_clusters: int, *, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of samples that clearly belong to one cluster each, and that cluster; all equally large."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.randperm(rows, generator=generator) % num_clusters
    logits = torch.rand(rows, num_clusters, generator=generator, dtype=torch.float64)
    logits[torch.arange(rows), truth] += 8.0
    return torch.log_softmax(logits, dim=1), truth


def log_domain_reference(log_p: torch.Tensor, strength: float, num_iters: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The two updates with logsumexp, from r = 1; returns log Q, columns updated last, and the rows' log scalings."""
    power = strength * log_p.double()
    log_r = torch.zeros(log_p.shape[1], dtype=torch.float64)
    for _ in range(num_iters):
        log_c = -torch.logsumexp(power + log_r, dim=1, keepdim=True) - math.log(len(log_p))
        log_r = -torch.logsumexp(power + log_c, dim=0) - math.log(log_p.shape[1])
    return power + log_c + log_r, log_c


def transport(log_p: torch.Tensor, column_potentials: torch.Tensor, strength: float) -> torch.Tensor:
    """Q with exact row sums 1/N from the solver's scalings of the columns."""
    return torch.softmax(strength * log_p.double() + column_potentials, dim=1) / len(log_p)


@pytest.mark.parametrize(("strength", "scale"), [(1.0, 2.0), (10.0, 1.0), (25.0, 1.0), (100.0, 0.5), (1000.0, 0.1)])
def test_columns_get_equal_mass(strength, scale):
    log_p = log_probabilities(400, 7, scale=scale)
    solution = sinkhorn_solve(log_p, strength=strength, tolerance=1e-8)
    assert solution.converged
    assert solution.error < 1e-8
    columns = transport(log_p, solution.column_potentials, strength).sum(dim=0)
    torch.testing.assert_close(columns, torch.full_like(columns, 1 / 7), rtol=1e-8, atol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("strength", [5.0, 25.0])
def test_agrees_with_the_log_domain_iteration(dtype, strength):
    log_p = log_probabilities(300, 9).to(dtype)
    solution = sinkhorn_solve(log_p, strength=strength, tolerance=1e-10)
    expected, _ = log_domain_reference(log_p, strength, 5000)
    torch.testing.assert_close(
        transport(log_p, solution.column_potentials, strength), expected.exp(), rtol=0, atol=1e-9
    )
    assert torch.equal(solution.labels, expected.argmax(dim=1))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("tolerance", [10.0, 0.1, 1e-3, 1e-6])
@pytest.mark.parametrize("max_kernel_bytes", [0, 2**29])
def test_the_error_is_within_the_tolerance_and_bounds_the_authors(tolerance, dtype, max_kernel_bytes):
    log_p = log_probabilities(300, 9).to(dtype)
    solution = sinkhorn_solve(log_p, strength=10.0, tolerance=tolerance, max_kernel_bytes=max_kernel_bytes)
    assert solution.converged
    assert solution.error < tolerance
    # One plain step further from the solution: what the authors compare, with its own sums.
    power, log_r = 10.0 * log_p.double(), solution.column_potentials
    log_c = -torch.logsumexp(power + log_r, dim=1, keepdim=True)
    next_r = -torch.logsumexp(power + log_c, dim=0)
    next_c = -torch.logsumexp(power + next_r - next_r.mean() + log_r.mean(), dim=1, keepdim=True)
    ratio = (log_c - next_c - (log_c - next_c).mean()).exp()
    rounding = 1e-9 if dtype == torch.float64 else 300 * 1e-8  # of the kernel
    assert float((ratio - 1).abs().sum()) < tolerance * (1 + 1e-6) + rounding


def test_it_needs_far_fewer_iterations_than_the_plain_ones():
    log_p = log_probabilities(300, 9)
    num_iters, error = 0, math.inf
    while error >= 1e-3:
        num_iters += 10
        before, now = (log_domain_reference(log_p, 10.0, iters)[1] for iters in (num_iters - 1, num_iters))
        error = float(((before - now).exp() - 1).abs().sum())  # c / c_new
    assert sinkhorn_solve(log_p, strength=10.0, tolerance=1e-3).num_iters < num_iters / 2


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("rows", "num_clusters"), [(24, 4), (30, 5)])
def test_at_large_strength_it_solves_the_linear_programme(seed, rows, num_clusters):
    """Equal clusters of most likely samples: an assignment problem with each cluster rows / num_clusters times."""
    log_p = log_probabilities(rows, num_clusters, seed=seed)
    slots = log_p.repeat_interleave(rows // num_clusters, dim=1)
    samples, chosen = scipy.optimize.linear_sum_assignment(-slots.numpy())
    assert (samples == np.arange(rows)).all()
    expected = torch.from_numpy(chosen) // (rows // num_clusters)
    labels = sinkhorn_labels(log_p, strength=2000.0, tolerance=1e-3, max_iters=20000)
    assert torch.equal(labels, expected)
    assert not torch.equal(labels, log_p.argmax(dim=1))  # the constraint matters here


def test_value_is_the_optimum_of_the_linear_programme_with_unequal_divisor():
    """17 samples, 3 clusters: samples are split, so compare the value of Q with that of a general LP solver."""
    log_p = log_probabilities(17, 3)
    rows = np.kron(np.eye(17), np.ones((1, 3)))
    columns = np.kron(np.ones((1, 17)), np.eye(3))
    solution = scipy.optimize.linprog(
        -log_p.flatten().numpy(),
        A_eq=np.vstack([rows, columns]),
        b_eq=np.concatenate([np.full(17, 1 / 17), np.full(3, 1 / 3)]),
    )
    potentials = sinkhorn_solve(log_p, strength=1000.0, tolerance=1e-6, max_iters=50000).column_potentials
    value = -float((transport(log_p, potentials, 1000.0) * log_p).sum())
    assert value == pytest.approx(solution.fun, abs=math.log(17 * 3) / 1000.0)  # entropy / strength at most
    assert value >= solution.fun - 1e-6


@pytest.mark.parametrize("strength", [10.0, 25.0, 300.0])
def test_permuting_samples_or_clusters_permutes_the_labels(strength):
    log_p = log_probabilities(200, 8)
    rows = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    columns = torch.randperm(8, generator=torch.Generator().manual_seed(2))
    labels = sinkhorn_labels(log_p, strength=strength)
    assert torch.equal(sinkhorn_labels(log_p[rows], strength=strength), labels[rows])
    permuted = sinkhorn_labels(log_p[:, columns], strength=strength)
    assert torch.equal(columns[permuted], labels)


@pytest.mark.parametrize("strength", [10.0, 25.0, 300.0])
def test_a_constant_added_to_a_row_changes_nothing(strength):
    log_p = log_probabilities(200, 8)
    shifts = 100 * torch.randn(200, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    plain = sinkhorn_solve(log_p, strength=strength)
    shifted = sinkhorn_solve(log_p + shifts, strength=strength)
    assert shifted.num_iters == plain.num_iters
    assert torch.equal(shifted.labels, plain.labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("strength", [10.0, 25.0, 100.0, 1000.0])
def test_separated_samples_keep_their_cluster_in_any_precision(dtype, strength):
    log_p, truth = separated(600, 12)
    labels = sinkhorn_labels(log_p.to(dtype), strength=strength)
    assert labels.dtype == torch.int64
    assert torch.equal(labels, truth)
    assert torch.bincount(labels).tolist() == [50] * 12


def test_labels_are_balanced_where_the_most_likely_cluster_is_not():
    log_p = log_probabilities(2000, 10, scale=3.0)
    sizes = torch.bincount(sinkhorn_labels(log_p.float(), strength=100.0), minlength=10)
    assert torch.bincount(log_p.argmax(dim=1), minlength=10).max() > 400
    assert sizes.min() >= 190
    assert sizes.max() <= 210


def without_mass() -> torch.Tensor:
    """A cluster unlikely for all samples, one likely for all, and one likely for a single sample."""
    log_p = log_probabilities(512, 12)
    log_p[:, 3] -= 200.0
    log_p[:, 4] += 8.0
    log_p[:, 5] -= 40.0
    log_p[17, 5] = 15.0
    return torch.log_softmax(log_p, dim=1).float()


@pytest.mark.parametrize("strength", [1e-3, 1.0, 25.0, 100.0, 1000.0, 1e5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_clusters_without_mass_at_any_strength(strength, dtype):
    log_p = without_mass().to(dtype)
    assert not torch.exp(25.0 * log_p.float())[:, 3].any()  # the plain form divides by zero here
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not all of them converge
        solution = sinkhorn_solve(log_p, strength=strength, max_iters=1000)
    assert solution.column_potentials.isfinite().all()
    assert math.isfinite(solution.error)
    assert (solution.labels >= 0).all()
    assert (solution.labels < 12).all()
    if strength in (25.0, 100.0, 1000.0):
        assert torch.bincount(solution.labels, minlength=12).min() > 30


def test_a_cluster_that_is_impossible_for_all_is_left_out():
    log_p = log_probabilities(120, 5)
    log_p[:, 2] = -math.inf
    log_p[:10, 0] = -math.inf
    solution = sinkhorn_solve(log_p, strength=10.0, tolerance=1e-6)
    others = sinkhorn_labels(log_p[:, [0, 1, 3, 4]], strength=10.0, tolerance=1e-6)
    assert solution.converged
    assert torch.equal(solution.labels, torch.tensor([0, 1, 3, 4])[others])
    assert solution.column_potentials[2] == -math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_bad_rows_are_counted(value):
    log_p = log_probabilities(20, 4)
    log_p[3, 2] = value
    log_p[5] = -math.inf
    with pytest.raises(ValueError, match="2 of 20 rows"):
        sinkhorn_labels(log_p, strength=10.0)


def test_ties_are_dealt_out_evenly_and_always_alike():
    assert sinkhorn_labels(torch.zeros(8, 4), strength=25.0).tolist() == [0, 1, 2, 3] * 2
    equal_rows = torch.log_softmax(torch.randn(6, generator=torch.Generator().manual_seed(0)), dim=0).expand(60, 6)
    labels = sinkhorn_labels(equal_rows, strength=25.0)
    assert torch.bincount(labels).tolist() == [10] * 6
    log_p = log_probabilities(100, 5)
    twins = torch.cat([log_p, log_p[:, :1]], dim=1)  # cluster 5 equals cluster 0
    labels = sinkhorn_labels(twins, strength=25.0, tolerance=1e-4)
    sizes = torch.bincount(labels, minlength=6)
    assert sizes.min() >= 10
    assert torch.equal(sinkhorn_labels(twins, strength=25.0, tolerance=1e-4), labels)


def test_one_cluster_or_one_sample():
    assert sinkhorn_labels(torch.randn(5, 1), strength=25.0).tolist() == [0] * 5
    assert sinkhorn_labels(torch.tensor([[0.1, 3.0, 0.2]]), strength=25.0).shape == (1,)


def test_more_clusters_than_samples():
    labels = sinkhorn_labels(log_probabilities(5, 20), strength=25.0)
    assert labels.unique().numel() == 5


def centred(solution: SinkhornSolution) -> torch.Tensor:
    """Potentials without their arbitrary constant."""
    return solution.column_potentials - solution.column_potentials.mean()


@pytest.mark.parametrize(
    "options", [{"chunk_rows": 7}, {"max_kernel_bytes": 0}, {"chunk_rows": 64, "max_kernel_bytes": 0}]
)
def test_chunks_and_recomputed_exponentials_change_nothing(options):
    log_p = log_probabilities(300, 9).float()
    plain = sinkhorn_solve(log_p, strength=100.0, tolerance=1e-5)
    other = sinkhorn_solve(log_p, strength=100.0, tolerance=1e-5, **options)
    assert torch.equal(other.labels, plain.labels)
    torch.testing.assert_close(centred(other), centred(plain), rtol=0, atol=1e-3)


def test_the_argument_is_not_changed():
    log_p = log_probabilities(100, 5).float()
    before = log_p.clone()
    sinkhorn_labels(log_p, strength=25.0)
    assert torch.equal(log_p, before)


def test_warns_when_it_does_not_converge():
    with pytest.warns(UserWarning, match=r"`max_iters` = 20 iterations: error .* raise `max_iters`"):
        solution = sinkhorn_solve(log_probabilities(300, 9), strength=25.0, tolerance=1e-9, max_iters=20)
    assert not solution.converged
    assert solution.num_iters == 20


@pytest.mark.parametrize("strength", [25.0, 1000.0])
def test_reductions_are_as_small_as_the_clusters(monkeypatch, strength):
    largest = Counter()
    for name in ("all_reduce_sum_", "all_reduce_max_"):

        def counting(tensor, name=name):
            largest[name] = max(largest[name], tensor.numel())
            return tensor

        monkeypatch.setattr(kernel_module, name, counting)
    sinkhorn_labels(log_probabilities(200, 6), strength=strength)
    assert largest == {"all_reduce_sum_": 7, "all_reduce_max_": 6}


def solve_part(rank, log_p, boundary, strength):
    part = log_p[:boundary] if rank == 0 else log_p[boundary:]
    return sinkhorn_solve(part, strength=strength, tolerance=1e-5)


@pytest.mark.parametrize(("boundary", "strength"), [(150, 25.0), (11, 25.0), (0, 25.0), (70, 300.0)])
def test_two_processes_solve_the_problem_of_one(boundary, strength):
    log_p = log_probabilities(300, 9).float()
    expected = sinkhorn_solve(log_p, strength=strength, tolerance=1e-5)
    parts = run_in_two_processes(solve_part, log_p, boundary, strength)
    assert [len(part.labels) for part in parts] == [boundary, 300 - boundary]
    assert torch.equal(torch.cat([part.labels for part in parts]), expected.labels)
    for part in parts:
        assert part.num_iters == parts[0].num_iters
        assert part.error == parts[0].error
        torch.testing.assert_close(centred(part), centred(expected), rtol=0, atol=1e-5)


def test_two_processes_deal_ties_out_as_one():
    parts = run_in_two_processes(solve_part, torch.zeros(7, 3), 4, 25.0)
    assert torch.cat([part.labels for part in parts]).tolist() == [0, 1, 2, 0, 1, 2, 0]


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_a_memory_map_gives_the_labels_of_memory(tmp_path, dtype):
    log_p = log_probabilities(500, 9).numpy().astype(dtype)
    log_p.tofile(tmp_path / "scores")
    mapped = np.memmap(tmp_path / "scores", dtype=dtype, mode="r+", shape=(500, 9))
    expected = sinkhorn_labels(torch.from_numpy(log_p), strength=25.0)
    assert torch.equal(sinkhorn_labels(torch.from_numpy(mapped), strength=25.0, max_kernel_bytes=0), expected)
    assert torch.equal(sinkhorn_labels(mapped, strength=25.0, chunk_rows=100), expected)


MEMORY = """
import resource, sys
import numpy as np, torch
from ssl_zoo.functional.sinkhorn import sinkhorn_labels
torch.set_num_threads(1)
rows, clusters = 400_000, 100
mapped = np.memmap(sys.argv[1], dtype=np.float16, mode="w+", shape=(rows, clusters))
part = np.random.default_rng(0).normal(size=(10_000, clusters))
for start in range(0, rows, 10_000):
    mapped[start:start + 10_000] = part
sinkhorn_labels(torch.randn(1000, 100), strength=10.0)  # libraries have their buffers now
taken = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData:")) * 1024
# 76 MiB of scores, 153 MiB of kernel: neither fits into what is left. Mapped pages of the file don't count.
resource.setrlimit(resource.RLIMIT_DATA, (taken + 64 * 2**20,) * 2)
labels = sinkhorn_labels(torch.from_numpy(mapped), strength=10.0, tolerance=1e9, chunk_rows=2000, max_kernel_bytes=0)
print(len(labels), int(torch.bincount(labels, minlength=clusters).min()) > 0)
try:
    sinkhorn_labels(torch.from_numpy(mapped), strength=10.0, tolerance=1e9)
except RuntimeError as error:
    print("memory" in str(error))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit works on Linux only")
def test_memory_is_bounded_by_chunks(tmp_path):
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "scores")]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == ["400000", "True", "True"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strength": 0.0}, "`strength` must be > 0 and finite, got 0.0"),
        ({"strength": math.inf}, "`strength`"),
        ({"tolerance": 0.0}, "`tolerance` must be > 0, got 0.0"),
        ({"max_iters": 0}, "`max_iters` must be at least 1, got 0"),
        ({"chunk_rows": 0}, "`chunk_rows` must be at least 1, got 0"),
        ({"log_probabilities": torch.zeros(4)}, r"\(rows, num_clusters\), got \(4,\)"),
        ({"log_probabilities": torch.zeros(4, 0)}, r"got \(4, 0\)"),
        ({"log_probabilities": torch.zeros(0, 4)}, "must have rows"),
        ({"log_probabilities": torch.zeros(3, 4, dtype=torch.int64)}, "floating point, got torch.int64"),
    ],
)
def test_arguments_out_of_range(changes, message):
    arguments = {"log_probabilities": log_probabilities(4, 3), "strength": 10.0, **changes}
    with pytest.raises(ValueError, match=message):
        sinkhorn_labels(arguments.pop("log_probabilities"), **arguments)
