import torch

from ssl_zoo.functional.distributed import all_reduce_max_, all_reduce_sum_, is_distributed, rank, world_size
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
