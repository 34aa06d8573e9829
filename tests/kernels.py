"""A machine whose products and sums round as the shapes of their operands and their places in memory decide.

Every machine is one: vector units, the edges of tiles and misaligned operands have kernels of their own, which add up
in another order. Which results differ depends on the machine, so a test that compares bits passes on one by luck and
fails on another. With `SSL_ZOO_TEST_KERNELS=other` (`make test-kernels`) each inexact result moves by one unit in the
last place at most. Equal shapes at equal alignments move alike, as on every machine; nothing else does.
"""

import contextlib
import os
import zlib
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


_PRODUCTS = (
    "addbmm addmm addmv addr baddbmm bmm dot mm mv matmul linear einsum convolution convolution_backward conv2d "
    "_scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_flash_attention_for_cpu_backward "
    "scaled_dot_product_attention cdist _cdist_forward"
)
_SUMS = (
    "sum mean var std var_mean std_mean cumsum prod trace logsumexp softmax _softmax _softmax_backward_data "
    "log_softmax _log_softmax _log_softmax_backward_data linalg_vector_norm norm batch_norm native_batch_norm "
    "native_batch_norm_backward _native_batch_norm_legit layer_norm native_layer_norm native_layer_norm_backward "
    "native_group_norm avg_pool2d _adaptive_avg_pool2d nll_loss_forward"
)
_OPERATORS = frozenset((_PRODUCTS + " " + _SUMS).split())
_BITS = {torch.float32: torch.int32, torch.float64: torch.int64}
_CACHE_LINE = 64  # bytes; torch's own memory begins at a multiple


def chosen_kernels() -> contextlib.AbstractContextManager[Any]:
    """Those of this machine, or others if the environment says so; for every process that tests compute in."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    return OtherKernels() if os.environ.get("SSL_ZOO_TEST_KERNELS") == "other" else contextlib.nullcontext()


class OtherKernels(TorchDispatchMode):
    """While it is active, products and sums of this thread round otherwise."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name in _OPERATORS:
            seed = zlib.crc32(repr((name, [_place(arg) for arg in args])).encode())
            for tensor in result if isinstance(result, tuple | list) else [result]:
                if _has_memory(tensor) and tensor.dtype in _BITS:
                    _move(tensor, seed)
        return result


def _has_memory(value: Any) -> bool:
    return type(value) in (torch.Tensor, torch.nn.Parameter) and value.device.type == "cpu"


def _place(value: Any) -> Any:
    """What a kernel is chosen by."""
    if _has_memory(value):
        return tuple(value.shape), value.stride(), value.data_ptr() % _CACHE_LINE
    return [_place(each) for each in value] if isinstance(value, list | tuple) else None


def _move(tensor: torch.Tensor, seed: int) -> None:
    """Add -1, 0 or 1 to the last place, except where the last bits are 0: such results are exact, as counts are."""
    with torch.no_grad():
        values = tensor.detach()
        bits = values.view(_BITS[tensor.dtype])
        places = torch.arange(tensor.numel()).view(tensor.shape)
        steps = ((places * 2654435761 + seed) >> 7) % 3 - 1
        bits.add_(steps.to(bits.dtype).masked_fill_((bits & 63 == 0) | ~values.isfinite(), 0))
