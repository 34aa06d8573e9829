import math

import pytest
import torch

from ssl_zoo.functional import effective_rank, information
from tests.two_processes import run_in_two_processes


def random_assignments(*shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.softmax(3 * torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def test_known_values():
    hard = torch.eye(4).repeat(3, 1)
    assert [value.item() for value in information(hard)] == pytest.approx([0.0, math.log(4), math.log(4)], abs=1e-6)
    uniform = torch.full((6, 4), 0.25)
    assert [value.item() for value in information(uniform)] == pytest.approx([math.log(4), math.log(4), 0.0], abs=1e-6)
    collapsed = torch.tensor([[1.0, 0.0, 0.0]]).repeat(5, 1)
    assert [value.item() for value in information(collapsed)] == pytest.approx([0.0, 0.0, 0.0], abs=1e-6)


def test_formula_and_leading_dimensions():
    assignments = random_assignments(2, 30, 6)
    entropy, marginal_entropy, mutual_information = information(assignments)
    for view in range(2):
        rows = assignments[view]
        mean = rows.mean(dim=0)
        expected = -(rows * rows.log()).sum(dim=1).mean(), -(mean * mean.log()).sum()
        torch.testing.assert_close(torch.stack(expected), torch.stack([entropy[view], marginal_entropy[view]]))
    torch.testing.assert_close(mutual_information, marginal_entropy - entropy)


def test_half_precision_counts_beyond_its_range():
    entropy, marginal_entropy, _ = information(torch.full((70_000, 2), 0.5, dtype=torch.float16))
    assert entropy.dtype == torch.float32
    assert (entropy.item(), marginal_entropy.item()) == pytest.approx((math.log(2), math.log(2)), rel=1e-4)


def information_of_part(rank, assignments, boundary):
    return tuple(information(assignments[:boundary] if rank == 0 else assignments[boundary:]))


def test_two_processes_of_different_batch_equal_one():
    assignments = random_assignments(40, 5)
    for values in run_in_two_processes(information_of_part, assignments, 7):
        torch.testing.assert_close(values, tuple(information(assignments)))


def test_a_vector_is_refused():
    with pytest.raises(ValueError, match=r"got \(3,\)"):
        information(torch.ones(3))


def test_effective_rank_of_known_spectra():
    spectra = torch.tensor([[3.0, 0, 0, 0], [2, 2, 2, 2], [0, 0, 0, 0], [1, 1, 0, 0]])
    assert effective_rank(spectra).tolist() == pytest.approx([1.0, 4.0, 0.0, 2.0])
    half = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    assert effective_rank(7 * half).item() == pytest.approx(2**1.5)
