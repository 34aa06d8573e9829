import math
from collections import Counter

import pytest
import scipy.optimize
import torch
from torch.nn.functional import normalize

import ssl_zoo.functional.assignment as assignment_module
from ssl_zoo.functional import mira_assignment
from tests.two_processes import run_in_two_processes


def cosine_scores(batch: int, num_prototypes: int, *, seed: int = 0, dim: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    samples = normalize(torch.randn(batch, dim, generator=generator, dtype=torch.float64), dim=-1)
    prototypes = normalize(torch.randn(num_prototypes, dim, generator=generator, dtype=torch.float64), dim=-1)
    return samples @ prototypes.T


def published_iteration(scores: torch.Tensor, temperature: float, beta: float, num_iters: int = 30) -> torch.Tensor:
    kernel = torch.softmax(scores / (temperature * (1 - beta)), dim=-1)
    v = kernel.mean(dim=0) ** (1 - beta)
    for _ in range(num_iters):
        v = (kernel / (v ** (-beta / (1 - beta)) * kernel).sum(dim=1, keepdim=True)).mean(dim=0) ** (1 - beta)
    weighted = v ** (-beta / (1 - beta)) * kernel
    return weighted / weighted.sum(dim=1, keepdim=True)


def log_space_iteration(scores: torch.Tensor, temperature: float, beta: float, num_iters: int = 30) -> torch.Tensor:
    log_kernel = torch.log_softmax(scores.double() / (temperature * (1 - beta)), dim=-1)
    log_a = torch.zeros_like(log_kernel[0])
    for _ in range(num_iters + 1):
        log_sums = torch.logsumexp(log_kernel + log_a, dim=1, keepdim=True)
        log_a = -beta * (torch.logsumexp(log_kernel - log_sums, dim=0) - math.log(len(scores)))
    return torch.softmax(log_kernel + log_a, dim=1)


def objective(assignments: torch.Tensor, scores: torch.Tensor, temperature: float, beta: float) -> torch.Tensor:
    log_p = torch.log_softmax(scores / temperature, dim=-1)
    divergence = (torch.special.xlogy(assignments, assignments) - assignments * log_p).sum(dim=1).mean()
    entropy = torch.special.entr(assignments).sum(dim=1).mean()
    return divergence - beta * (torch.special.entr(assignments.mean(dim=0)).sum() - entropy)


@pytest.mark.parametrize("beta", [0.0, 0.3, 2 / 3, 0.75, 0.9])
@pytest.mark.parametrize("num_iters", [0, 1, 5, 30])
def test_equals_the_published_iteration(beta, num_iters):
    scores = cosine_scores(48, 12)
    expected = published_iteration(scores, 0.225, beta, num_iters)
    torch.testing.assert_close(
        mira_assignment(scores, temperature=0.225, beta=beta, num_iters=num_iters), expected, rtol=0, atol=1e-12
    )


@pytest.mark.parametrize(("temperature", "beta"), [(0.225, 0.75), (0.225, 2 / 3), (0.1, 0.5), (0.5, 0.95)])
def test_fulfils_the_optimality_condition(temperature, beta):
    scores = cosine_scores(40, 10)
    assignments = mira_assignment(scores, temperature=temperature, beta=beta, num_iters=5000, tolerance=1e-14)
    log_p = torch.log_softmax(scores / temperature, dim=-1)
    gradient = (1 - beta) * assignments.log() - log_p + beta * assignments.mean(dim=0).log()
    spread = (gradient - gradient.mean(dim=1, keepdim=True)).abs().max()
    assert spread < 1e-11
    # ... and that is the gradient of the objective, up to a constant per row.
    leaf = assignments.clone().requires_grad_()
    (autograd,) = torch.autograd.grad(objective(leaf, scores, temperature, beta) * len(scores), leaf)
    torch.testing.assert_close(autograd, gradient + 1, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("temperature", "beta"), [(0.225, 0.75), (0.225, 2 / 3), (0.15, 0.4)])
def test_agrees_with_exponentiated_gradient_descent(temperature, beta):
    """Mirror descent on the simplex uses only the objective; it starts elsewhere and takes other steps."""
    scores = cosine_scores(20, 6)
    logits = torch.zeros_like(scores)
    for _ in range(600):
        leaf = torch.softmax(logits, dim=1).requires_grad_()
        (gradient,) = torch.autograd.grad(objective(leaf, scores, temperature, beta) * len(scores), leaf)
        logits = torch.log_softmax(logits - 0.5 * gradient, dim=1)
    assignments = mira_assignment(scores, temperature=temperature, beta=beta, num_iters=1000, tolerance=1e-14)
    torch.testing.assert_close(assignments, torch.softmax(logits, dim=1), rtol=0, atol=1e-9)


def test_agrees_with_a_general_purpose_solver():
    scores = cosine_scores(7, 4)

    def value_and_gradient(logits):
        leaf = torch.tensor(logits, dtype=torch.float64).reshape(scores.shape).requires_grad_()
        value = objective(torch.softmax(leaf, dim=1), scores, 0.225, 0.75)
        (gradient,) = torch.autograd.grad(value, leaf)
        return value.item(), gradient.flatten().numpy()

    solution = scipy.optimize.minimize(
        value_and_gradient,
        torch.log_softmax(scores / 0.225, dim=1).flatten().numpy(),
        jac=True,
        method="L-BFGS-B",
        options={"maxiter": 5000, "maxfun": 10000, "ftol": 0.0, "gtol": 1e-10},
    )
    expected = torch.softmax(torch.tensor(solution.x).reshape(scores.shape), dim=1)
    assignments = mira_assignment(scores, temperature=0.225, beta=0.75, num_iters=1000, tolerance=1e-14)
    torch.testing.assert_close(assignments, expected, rtol=0, atol=1e-5)
    assert objective(assignments, scores, 0.225, 0.75) <= solution.fun + 1e-12


def test_without_mutual_information_is_the_softmax():
    scores = cosine_scores(20, 6)
    assignments = mira_assignment(scores, temperature=0.1, beta=0.0)
    torch.testing.assert_close(assignments, torch.softmax(scores / 0.1, dim=1))


@pytest.mark.parametrize("beta", [0.5, 0.75, 0.9])
def test_equal_rows_keep_their_softmax(beta):
    scores = cosine_scores(1, 6).expand(16, 6)
    assignments = mira_assignment(scores, temperature=0.225, beta=beta, num_iters=2000, tolerance=1e-14)
    torch.testing.assert_close(assignments, torch.softmax(scores / 0.225, dim=1), rtol=0, atol=1e-12)


def test_one_prototype_takes_everything():
    assignments = mira_assignment(cosine_scores(9, 1).float(), temperature=1e-4, beta=0.75)
    torch.testing.assert_close(assignments, torch.ones(9, 1))


def test_one_sample():
    scores = cosine_scores(1, 5)
    assignments = mira_assignment(scores, temperature=0.225, beta=0.75, num_iters=500)
    torch.testing.assert_close(assignments, torch.softmax(scores / 0.225, dim=1))


def test_permuting_samples_or_prototypes_permutes_the_assignments():
    scores = cosine_scores(30, 11)
    rows = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    columns = torch.randperm(11, generator=torch.Generator().manual_seed(2))
    assignments = mira_assignment(scores, temperature=0.225, beta=0.75)
    permuted = mira_assignment(scores[rows][:, columns], temperature=0.225, beta=0.75)
    torch.testing.assert_close(permuted, assignments[rows][:, columns], rtol=0, atol=1e-14)


def scores_without_mass() -> torch.Tensor:
    """Prototypes that no sample is near, and prototypes that only one sample of 512 is near."""
    scores = cosine_scores(512, 24).float()
    scores[:, 3] = -1.0
    scores[:, 4] = 1.0
    scores[:, 5] = -1.0
    scores[17, 5] = 1.0
    return scores


@pytest.mark.parametrize("temperature", [0.225, 1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("beta", [0.5, 0.75, 0.8, 0.9, 0.99])
def test_extreme_temperatures_in_float32(temperature, beta):
    scores = scores_without_mass()
    assignments = mira_assignment(scores, temperature=temperature, beta=beta)
    assert assignments.dtype == torch.float32
    assert assignments.isfinite().all()
    torch.testing.assert_close(assignments.sum(dim=1), torch.ones(len(scores)))
    expected = log_space_iteration(scores, temperature, beta)
    torch.testing.assert_close(assignments.double(), expected, rtol=0, atol=3e-5 if beta > 0.9 else 5e-6)


def test_the_published_form_would_not_survive_these_scores():
    assert published_iteration(scores_without_mass(), 1e-2, 0.75).isnan().any()


@pytest.mark.parametrize("beta", [0.8, 0.9, 0.95])
def test_weights_further_apart_than_float32_reaches(beta):
    """4,095 samples on one prototype, a single one on another: v differs by 4,095, its power by up to 1e68."""
    scores = torch.full((4096, 2), 0.999)
    scores[:, 1] = -1.0
    scores[7] = scores[7].flip(0)
    assignments = mira_assignment(scores, temperature=0.01, beta=beta)
    torch.testing.assert_close(assignments.double(), log_space_iteration(scores, 0.01, beta), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_are_solved_in_float32(dtype):
    scores = cosine_scores(64, 10).to(dtype)
    assignments = mira_assignment(scores, temperature=0.225, beta=0.75)
    assert assignments.dtype == torch.float32
    torch.testing.assert_close(assignments, mira_assignment(scores.float(), temperature=0.225, beta=0.75))


def test_autocast_changes_nothing(monkeypatch):
    scores = cosine_scores(64, 10).float()
    expected = mira_assignment(scores, temperature=0.225, beta=0.75)
    states, column_sums = [], assignment_module._column_sums

    def watching(kernel, weights):
        states.append(torch.is_autocast_enabled("cpu"))
        return column_sums(kernel, weights)

    # Autocast casts `mv` on a GPU only, so the values alone would prove nothing here.
    monkeypatch.setattr(assignment_module, "_column_sums", watching)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assignments = mira_assignment(scores, temperature=0.225, beta=0.75)
    assert torch.equal(assignments, expected)
    assert set(states) == {False}


def test_leading_dimensions_are_independent_problems():
    scores = torch.stack([cosine_scores(30, 9, seed=seed) for seed in range(6)]).reshape(2, 3, 30, 9)
    assignments = mira_assignment(scores, temperature=0.225, beta=0.75)
    for index in torch.cartesian_prod(torch.arange(2), torch.arange(3)).tolist():
        alone = mira_assignment(scores[*index], temperature=0.225, beta=0.75)
        torch.testing.assert_close(assignments[*index], alone, rtol=0, atol=1e-14)


def test_neither_gradient_nor_change_of_the_argument():
    scores = cosine_scores(12, 5).requires_grad_()
    before = scores.detach().clone()
    assert not mira_assignment(scores, temperature=0.225, beta=0.75).requires_grad
    assert torch.equal(scores, before)


def test_nan_gives_nan():
    scores = cosine_scores(12, 5)
    scores[3, 2] = math.nan
    assert mira_assignment(scores, temperature=0.225, beta=0.75, tolerance=1e-6).isnan().any()


@pytest.fixture
def reductions(monkeypatch):
    calls = Counter()
    for name in ("all_reduce_sum_", "all_reduce_max_"):

        def counting(tensor, name=name):
            calls[name, tuple(tensor.shape)] += 1
            return tensor

        monkeypatch.setattr(assignment_module, name, counting)
    return calls


def test_one_small_reduction_per_iteration_serves_both_views(reductions):
    mira_assignment(torch.stack([cosine_scores(20, 7)] * 2), temperature=0.225, beta=0.75, num_iters=30)
    assert reductions == {("all_reduce_max_", ()): 1, ("all_reduce_sum_", (2, 7)): 31}


@pytest.mark.parametrize("tolerance", [0.3, 0.1, 1e-2, 1e-4, 1e-6])
def test_tolerance_stops_where_the_published_v_does(reductions, tolerance):
    scores = cosine_scores(2000, 9)
    kernel = torch.softmax(scores / (0.225 * 0.25), dim=-1)
    v, change, num_iters = kernel.mean(dim=0) ** 0.25, math.inf, 0
    while change >= tolerance:
        previous, num_iters = v, num_iters + 1
        v = (kernel / (v**-3 * kernel).sum(dim=1, keepdim=True)).mean(dim=0) ** 0.25
        ratios = v / previous
        change = (ratios.max() / ratios.min()).log().item()
    assignments = mira_assignment(scores, temperature=0.225, beta=0.75, num_iters=2000, tolerance=tolerance)
    assert reductions["all_reduce_sum_", (1, 9)] == num_iters + 1
    torch.testing.assert_close(assignments, published_iteration(scores, 0.225, 0.75, num_iters), rtol=0, atol=1e-12)


def solve_part(rank, scores, boundary, beta, tolerance):
    part = scores[..., :boundary, :] if rank == 0 else scores[..., boundary:, :]
    return mira_assignment(part, temperature=0.225, beta=beta, tolerance=tolerance)


@pytest.mark.parametrize("boundary", [32, 5])
@pytest.mark.parametrize(("beta", "tolerance"), [(0.75, None), (0.75, 1e-5), (0.9, None)])
def test_two_processes_solve_the_problem_of_one(boundary, beta, tolerance):
    scores = torch.stack([cosine_scores(64, 9, seed=seed) for seed in range(2)])
    expected = mira_assignment(scores, temperature=0.225, beta=beta, tolerance=tolerance)
    parts = run_in_two_processes(solve_part, scores, boundary, beta, tolerance)
    assert [part.shape[1] for part in parts] == [boundary, 64 - boundary]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0.0}, "`temperature` must be > 0"),
        ({"temperature": math.nan}, "`temperature` must be > 0"),
        ({"beta": 1.0}, r"`beta` must lie in \[0, 1\), got 1.0"),
        ({"beta": -0.1}, "`beta`"),
        ({"num_iters": -1}, "`num_iters` must be >= 0, got -1"),
        ({"tolerance": 0.0}, "`tolerance` must be > 0 or None"),
        ({"scores": torch.zeros(4)}, r"got \(4,\)"),
        ({"scores": torch.zeros(0, 4)}, r"got \(0, 4\)"),
        ({"scores": torch.zeros(3, 4, dtype=torch.int64)}, "floating point"),
    ],
)
def test_arguments_out_of_range(changes, message):
    arguments = {"scores": cosine_scores(4, 3), "temperature": 0.225, "beta": 0.75, **changes}
    with pytest.raises(ValueError, match=message):
        mira_assignment(arguments.pop("scores"), **arguments)
