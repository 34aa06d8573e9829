"""The other kernels of `make test-kernels` round otherwise, repeatably, and by one unit in the last place at most."""

import torch

from tests.kernels import OtherKernels


def test_places_and_shapes_decide_how_a_product_rounds():
    memory = torch.randn(66, generator=torch.Generator().manual_seed(0))
    aligned, shifted = memory[:64].view(8, 8), memory[2:].view(8, 8)
    shifted.copy_(aligned.clone())
    aligned = shifted.clone()
    with OtherKernels():
        product, again, elsewhere = aligned @ aligned, aligned.clone() @ aligned.clone(), shifted @ shifted
        rows = torch.cat([row @ aligned for row in aligned.split(1)])
    assert torch.equal(product, again)
    assert not torch.equal(product, elsewhere)
    assert not torch.equal(product, rows)
    for other in (elsewhere, rows):
        torch.testing.assert_close(other, product, rtol=1e-6, atol=1e-6)


def test_exact_results_stay():
    with OtherKernels():
        assert torch.ones(3, 5).sum(dim=1).tolist() == [5.0] * 3
        assert (torch.eye(4) @ torch.eye(4)).tolist() == torch.eye(4).tolist()
