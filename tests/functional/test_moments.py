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


def _moments(rows: torch.Tensor, dtype: torch.dtype | None = None) -> Moments:
    return batch_moments(rows, dtype=dtype)[0]


def test_agree_with_numpy_for_each_set() -> None:
    rows = _rows(2, 7, 3)
    moments = _moments(rows)
    for index in range(2):
        np.testing.assert_allclose(moments.mean[index], rows[index].numpy().mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(moments.covariance[index], np.cov(rows[index].numpy().T, bias=True), rtol=1e-12)


def test_nothing_cancels_when_the_mean_is_large() -> None:
    rows = _rows(64, 4, offset=1000.0).float()
    expected = np.cov(rows.double().numpy().T, bias=True)
    np.testing.assert_allclose(_moments(rows).covariance, expected, rtol=0, atol=2e-5)


def test_order_of_the_rows_does_not_matter() -> None:
    rows = _rows(9, 4)
    shuffled = _moments(rows[torch.randperm(9)])
    torch.testing.assert_close(shuffled.covariance, _moments(rows).covariance, rtol=0, atol=1e-14)


def test_parts_combine_to_the_whole() -> None:
    rows = _rows(2, 12, 3)
    combined = combine_moments([_moments(part) for part in rows.chunk(3, dim=1)])
    for found, expected in zip(combined, _moments(rows), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_one_part_is_the_whole() -> None:
    whole = Moments(_rows(3), _rows(3, 3))
    assert all(torch.equal(*pair) for pair in zip(combine_moments([whole]), whole, strict=True))


@pytest.mark.parametrize("width", [1, 2, 5, 10, 16])
def test_widths_that_do_not_divide_evenly_have_whole_symmetric_covariances(width: int) -> None:
    rows = _rows(2, 7, width)
    found = _moments(rows).covariance
    centred = rows - rows.mean(dim=1, keepdim=True)
    torch.testing.assert_close(found, torch.einsum("nbi,nbj->nij", centred, centred) / 7, rtol=0, atol=1e-14)


def test_rows_are_taken_in_a_higher_precision() -> None:
    rows = _rows(2, 9, 6, offset=3.0).float()
    for found, expected in zip(_moments(rows, dtype=torch.float64), _moments(rows.double()), strict=True):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-14)


def test_unit_rows_are_normalize_with_its_gradient() -> None:
    rows = _rows(2, 5, 3)
    torch.testing.assert_close(unit_rows(rows), F.normalize(rows, dim=-1), rtol=0, atol=1e-15)
    assert torch.autograd.gradcheck(unit_rows, rows.requires_grad_())
    assert torch.equal(unit_rows(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(..., batch, features\), got \(3,\)"):
        batch_moments(torch.zeros(3))


def _of_process(process: int, parts: list[torch.Tensor]) -> tuple[Moments, torch.Tensor]:
    return batch_moments(parts[process])


def test_two_processes_with_unequal_batches_are_one() -> None:
    parts = [_rows(8, 3)[:5] + 2, _rows(8, 3)[5:]]
    whole = _moments(torch.cat(parts))
    for own, count in run_in_two_processes(_of_process, parts):
        assert count.tolist() == [8]
        torch.testing.assert_close(own[0], whole.mean, rtol=0, atol=1e-14)
        torch.testing.assert_close(own[1], whole.covariance, rtol=0, atol=1e-14)
