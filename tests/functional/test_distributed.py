import torch

from ssl_zoo.functional.distributed import (
    all_gather_rows_with_gradient,
    all_reduce_max_,
    all_reduce_sum,
    all_reduce_sum_,
    broadcast_,
    is_distributed,
    rank,
    world_size,
)
from tests.two_processes import run_in_two_processes


def test_one_process_needs_no_group():
    tensor = torch.arange(3.0)
    assert all_reduce_sum_(tensor) is tensor
    assert all_reduce_max_(tensor) is tensor
    assert torch.equal(tensor, torch.arange(3.0))
    assert (world_size(), rank(), is_distributed()) == (1, 0, False)


def reduce_both(process):
    total, largest = torch.tensor([1.0, 10.0 * process]), torch.tensor([1.0 - process, 10.0 * process])
    all_reduce_sum_(total)
    all_reduce_max_(largest)
    return total.tolist(), largest.tolist(), world_size(), rank(), is_distributed()


def test_two_processes():
    expected = [([2.0, 10.0], [1.0, 10.0], 2, process, True) for process in range(2)]
    assert run_in_two_processes(reduce_both) == expected


def differentiate_both(process):
    """Each process computes the same function of all rows; its gradient, averaged as DDP does, is that of one."""
    rows = torch.arange(6.0, dtype=torch.float64).view(3, 2).sin()
    own = (rows if process is None else rows[:1] if process == 0 else rows[1:]).clone().requires_grad_()
    weight = torch.tensor(1.5, dtype=torch.float64, requires_grad=True)
    total = all_reduce_sum((weight * own).square().sum(dim=0)).prod()
    gathered = all_gather_rows_with_gradient(weight * own)
    (total + (gathered.cumsum(dim=0) ** 3).sum()).backward()
    return gathered.detach(), own.grad, weight.grad


def test_gradients_of_two_processes_average_to_that_of_one():
    gathered, gradient, of_weight = differentiate_both(None)
    halves = run_in_two_processes(differentiate_both)
    for half in halves:
        torch.testing.assert_close(half[0], gathered)
    torch.testing.assert_close(torch.cat([half[1] for half in halves]) / 2, gradient)
    torch.testing.assert_close(sum(half[2] for half in halves) / 2, of_weight)


def broadcast_both(process):
    return broadcast_(torch.tensor([process + 1.0])).item()


def test_all_get_what_the_first_process_has():
    assert run_in_two_processes(broadcast_both) == [1.0, 1.0]
    assert broadcast_both(4) == 5.0
