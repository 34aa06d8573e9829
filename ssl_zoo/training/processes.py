"""Creates the `Accelerator`, and checks that the launched processes form one group."""

import ctypes
import os
from typing import Any

import torch
from accelerate import Accelerator

from ssl_zoo.training.config import RecipeError


__all__ = ["create_accelerator"]


def create_accelerator(**options: Any) -> Accelerator:
    """Create the `Accelerator` of a run.

    On a machine without a GPU, a plain `Accelerator()` in one of two launched processes runs alone: both
    train separately, without a warning, and write to the same folder. `cpu=True` joins them by gloo.

    Args:
        options (`Any`): passed on to `accelerate.Accelerator`.

    Raises:
        RecipeError: if the processes are not joined, or for bfloat16 on a CPU that has no instructions for it.
    """
    accelerator = Accelerator(cpu=not torch.accelerator.is_available(), **options)
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started != accelerator.num_processes:
        raise RecipeError(
            f"{started} processes were started, but each sees {accelerator.num_processes}: they would train apart and "
            "overwrite each other. Launch with one of recipes/accelerate/*.yaml"
        )
    if accelerator.device.type == "cpu":
        if accelerator.mixed_precision == "bf16" and not _computes_bfloat16():
            raise RecipeError(
                "`mixed_precision: bf16` was asked for on a CPU without AMX or AVX512-BF16, where it takes 10 to 25 "
                "times as long as float32; launch with `--mixed_precision no`, or with recipes/accelerate/cpu.yaml"
            )
        _keep_freed_memory()
    return accelerator


def _computes_bfloat16() -> bool:
    return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()


def _keep_freed_memory() -> None:
    """Have malloc keep what a step frees for the next one, where it is glibc's.

    By default it hands large blocks back to the kernel at once, which has to clear each page when it is asked for it
    again: 55,000 pages and 8 % of the processor time of a step of ResNet-18 with 128 images of 64 pixels.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        trim_threshold, mmap_max = -1, -4  # M_TRIM_THRESHOLD and M_MMAP_MAX of malloc.h
        mallopt(trim_threshold, -1)
        mallopt(mmap_max, 0)
