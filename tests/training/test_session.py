"""What processes exchange before an evaluation."""

import torch
from torch import nn

from ssl_zoo.training.session import Session
from tests.two_processes import run_in_two_processes


def share(process):
    session = object.__new__(Session)
    session.core = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 2))
    session.core.register_buffer("bank", torch.full((3,), float(process)))
    session.core[0].running_mean.fill_(1.0 + process)
    session.core[0].num_batches_tracked.fill_(5 + process)
    session.share_buffers()
    norm = session.core[0]
    return norm.running_mean.tolist(), norm.num_batches_tracked.item(), session.core.bank.tolist()


def test_running_statistics_of_the_main_process_count_and_nothing_else_travels():
    first, second = run_in_two_processes(share)
    assert first == ([1.0, 1.0], 5, [0.0] * 3)
    assert second == ([1.0, 1.0], 5, [1.0] * 3)
