"""Two gloo processes for tests: started once per session, with real collectives."""

from __future__ import annotations

import functools
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from typing import Any

import torch

from tests.kernels import chosen_kernels


TIMEOUT = 600.0  # the first test of a session waits for the imports of two processes


def run_in_two_processes(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Call `function(rank, *arguments)` in two processes of one group; returns [result of rank 0, of rank 1].

    `function` must be importable (top level of a test module), arguments and results picklable.
    """
    futures = [pool.submit(function, rank, *arguments) for rank, pool in enumerate(_pools())]
    return [future.result(timeout=TIMEOUT) for future in futures]


@functools.cache
def _pools() -> list[ProcessPoolExecutor]:
    store = os.path.join(tempfile.mkdtemp(prefix="ssl_zoo_gloo_"), "store")
    context = multiprocessing.get_context("spawn")
    return [ProcessPoolExecutor(1, context, initializer=_join_group, initargs=(rank, store)) for rank in range(2)]


def _join_group(rank: int, store: str) -> None:
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    chosen_kernels().__enter__()  # until the process ends
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=rank, world_size=2, timeout=timedelta(seconds=TIMEOUT)
    )
    if torch.distributed.get_world_size() != 2:
        raise RuntimeError("the test needs two processes")
