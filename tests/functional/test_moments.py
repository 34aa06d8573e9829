"""Moments of batches: numpy as the reference, precision, gradients, and several processes as one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ssl_zoo.functional.moments import Moments, batch_moments, combine_moments, unit_rows
from tests.two_processes import run_in_two_processes


def _rows(*shape: int, offset: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64) + offset


def test_agree_with_numpy_for_each_set() -> None:
    rows = _rows(2, 7, 3)
    moments = batch_moments(rows)
    for index in range(2):
        np.testing.assert_allclose(moments.mean[index], rows[index].numpy().mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(moments.covariance[index], np.cov(rows[index].numpy().T, bias=True), rtol=1e-12)


def test_nothing_cancels_when_the_mean_is_large() -> None:
    rows = _rows(64, 4, offset=1000.0).float()
    expected = np.cov(rows.double().numpy().T, bias=True)
    np.testing.assert_allclose(batch_moments(rows).covariance, expected, rtol=0, atol=2e-5)


def test_order_of_the_rows_does_not_matter() -> None:
    rows = _rows(9, 4)
    shuffled = batch_moments(rows[torch.randperm(9)])
    torch.testing.assert_close(shuffled.covariance, batch_moments(rows).covariance, rtol=0, atol=1e-14)


def test_gradients_are_exact() -> None:
    assert torch.autograd.gradcheck(lambda rows: tuple(batch_moments(rows)), _rows(2, 5, 3).requires_grad_())


def test_parts_combine_to_the_whole() -> None:
    rows = _rows(2, 12, 3)
    combined = combine_moments([batch_moments(part) for part in rows.chunk(3, dim=1)])
    for found, expected in zip(combined, batch_moments(rows), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_one_part_is_the_whole() -> None:
    whole = Moments(_rows(3), _rows(3, 3))
    assert all(torch.equal(*pair) for pair in zip(combine_moments([whole]), whole, strict=True))


@pytest.mark.parametrize("width", [1, 2, 5, 10, 16])
def test_widths_that_do_not_divide_evenly_have_whole_symmetric_covariances(width: int) -> None:
    rows = _rows(2, 7, width)
    found = batch_moments(rows).covariance
    centred = rows - rows.mean(dim=1, keepdim=True)
    torch.testing.assert_close(found, torch.einsum("nbi,nbj->nij", centred, centred) / 7, rtol=0, atol=1e-14)


def test_rows_are_taken_in_a_higher_precision_with_a_gradient_in_their_own() -> None:
    rows = _rows(2, 9, 6, offset=3.0).float().requires_grad_()
    reference = rows.detach().double().requires_grad_()
    moments = batch_moments(rows, dtype=torch.float64)
    mean = reference.mean(dim=1)
    centred = reference - mean.unsqueeze(1)
    covariance = centred.mT @ centred / 9
    torch.testing.assert_close(moments.covariance, covariance, rtol=0, atol=1e-14)
    weights = _rows(2, 6, 6)  # not symmetric
    for found in (moments, Moments(mean, covariance)):
        ((found.covariance * weights).sum() + found.mean.sin().sum()).backward()
    assert rows.grad is not None
    assert reference.grad is not None
    torch.testing.assert_close(rows.grad, reference.grad.float(), rtol=1e-5, atol=1e-6)


def test_unit_rows_are_normalize_with_its_gradient() -> None:
    rows = _rows(2, 5, 3)
    torch.testing.assert_close(unit_rows(rows), F.normalize(rows, dim=-1), rtol=0, atol=1e-15)
    assert torch.autograd.gradcheck(unit_rows, rows.requires_grad_())
    assert torch.equal(unit_rows(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(..., batch, features\), got \(3,\)"):
        batch_moments(torch.zeros(3))


def _moments_and_gradient(process: int | None, parts: list[torch.Tensor]) -> list[torch.Tensor]:
    own = (torch.cat(parts) if process is None else parts[process]).clone().requires_grad_()
    moments = batch_moments(own)
    (moments.covariance.square().sum() + moments.mean.sin().sum()).backward()
    assert own.grad is not None
    return [moments.mean.detach(), moments.covariance.detach(), own.grad]


def test_two_processes_with_unequal_batches_are_one() -> None:
    parts = [_rows(8, 3)[:5] + 2, _rows(8, 3)[5:]]
    whole = _moments_and_gradient(None, parts)
    both = run_in_two_processes(_moments_and_gradient, parts)
    for own in both:
        torch.testing.assert_close(own[0], whole[0], rtol=0, atol=1e-14)
        torch.testing.assert_close(own[1], whole[1], rtol=0, atol=1e-14)
    # Each of two processes has twice the gradient: DistributedDataParallel halves it.
    torch.testing.assert_close(torch.cat([own[2] for own in both]) / 2, whole[2], rtol=0, atol=1e-13)
