"""What this machine can do at most: bandwidth, products, exponentials. Measured, with the current threads of torch."""

import functools
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


_REPEATS = 10


def describe_machine() -> dict[str, Any]:
    """Processor, cores and memory, without names that identify the host."""
    names = [line.split(":")[1].strip() for line in _read("/proc/cpuinfo") if line.startswith("model name")]
    total = next((int(line.split()[1]) for line in _read("/proc/meminfo") if line.startswith("MemTotal")), 0)
    return {
        "processor": names[0] if names else platform.processor(),
        "cores": len(names),
        "vector_width": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(total / 2**20),
    }


def _read(path: str) -> list[str]:
    file = Path(path)
    return file.read_text(encoding="utf-8").splitlines() if file.exists() else []


@functools.cache
def bandwidth() -> float:
    """Bytes per second of reading memory that no cache holds."""
    numbers = torch.ones(2**28)  # 1 GiB
    return numbers.numel() * 4 / _fastest(numbers.sum)


@functools.cache
def matmul_rate(dtype: torch.dtype = torch.float32) -> float:
    """Floating-point operations per second of a matrix product: the best of a large one and one that a cache holds."""
    rates = []
    for rows, inner, columns in ((3072, 3072, 3072), (256, 512, 8192)):
        left, right = torch.randn(rows, inner).to(dtype), torch.randn(columns, inner).to(dtype)
        out = torch.empty(rows, columns, dtype=dtype)
        product = functools.partial(torch.mm, left, right.T, out=out)
        rates.append(2 * rows * inner * columns / _fastest(product))
    return max(rates)


@functools.cache
def exp_rate(dtype: torch.dtype = torch.float32) -> float:
    """Exponentials per second, in the cache."""
    numbers = torch.randn(2**17).to(dtype)
    out = torch.empty_like(numbers)

    def many() -> None:
        for _ in range(100):
            torch.exp(numbers, out=out)

    return 100 * numbers.numel() / _fastest(many)


def _fastest(run: Callable[[], Any]) -> float:
    """Of a few runs: a limit is what the machine can do when nothing else disturbs it."""
    run()
    times = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)
