"""Collects the features of all images and solves for their labels, head by head, in bounded memory."""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
import torch.nn.functional as F

from ssl_zoo.functional.distributed import all_gather_rows
from ssl_zoo.functional.sinkhorn import sinkhorn_solve
from ssl_zoo.models.sela.configuration_sela import SelaConfig


__all__ = ["Features", "Storage", "collect", "solve_labels", "update_table_"]

_BLOCK_BYTES = 2**25  # of features allocated at a time
_CHUNK_SCORES = 2**22  # scores computed at a time


class Storage(contextlib.AbstractContextManager["Storage"]):
    """Matrices in memory or in files. The files are deleted with the storage, also after an error or a killed process.

    Args:
        on_disk (`bool`): Files instead of memory.
        folder (`str`, *optional*): Where the files go; the system's folder for temporary files when `None`.
    """

    def __init__(self, *, on_disk: bool, folder: str | None = None) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sela-", dir=folder) if on_disk else None
        self._count = 0
        self.num_bytes = 0

    def empty(self, rows: int, columns: int, dtype: torch.dtype) -> torch.Tensor:
        """Allocate an uninitialised matrix `(rows, columns)` on the CPU.

        Raises:
            OSError: if the disk is too small; raised here, not when it runs full.
        """
        size = rows * columns
        self.num_bytes += size * dtype.itemsize
        if self._folder is None or size == 0:
            return torch.empty(rows, columns, dtype=dtype, device="cpu")
        path = Path(self._folder.name) / str(self._count)
        self._count += 1
        with path.open("wb") as file:
            # With a sparse file, a full disk would kill the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size * dtype.itemsize)
            else:
                file.truncate(size * dtype.itemsize)
        matrix = torch.from_file(str(path), shared=True, size=size, dtype=dtype).view(rows, columns)
        with contextlib.suppress(OSError):  # an open file without a name is deleted even after `kill -9`
            path.unlink()
        return matrix

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._folder is not None:
            self._folder.cleanup()


@dataclass
class Features:
    """Features of this process's images.

    Args:
        blocks: Tensors `(rows, num_features)` on the CPU.
        sample_ids: `(rows of all blocks,)`, on the device of the model.
    """

    blocks: list[torch.Tensor]
    sample_ids: torch.Tensor


def collect(
    batches: Iterable[tuple[list[torch.Tensor], torch.Tensor]],
    embed: Callable[[torch.Tensor], torch.Tensor],
    storage: Storage,
    dtype: torch.dtype,
) -> Features:
    """Compute and store the features of the first view of each image.

    Args:
        batches: From `TrainingData.one_pass`; rows with the sample id -1 are computed and dropped.
        embed: From views to features `(batch, num_features)`.
        storage: Where they go.
        dtype: In which precision.
    """
    blocks: list[torch.Tensor] = []
    ids: list[torch.Tensor] = []
    free = 0
    for views, sample_ids in batches:
        known = sample_ids >= 0
        ids.append(sample_ids[known])
        features = embed(views[0])[known].to("cpu", dtype)
        while len(features):
            if not free:
                free = max(_BLOCK_BYTES // (features.shape[1] * dtype.itemsize), 1)
                blocks.append(storage.empty(free, features.shape[1], dtype))
            taken = min(free, len(features))
            start = len(blocks[-1]) - free
            blocks[-1][start : start + taken] = features[:taken]
            features, free = features[taken:], free - taken
    if blocks:
        blocks[-1] = blocks[-1][: len(blocks[-1]) - free]
    return Features(blocks, torch.cat(ids))


@torch.no_grad()
def solve_labels(
    features: Features, heads: torch.nn.Linear, which: list[int], storage: Storage, config: SelaConfig
) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, int]]:
    """Solve for the labels of some heads, one after the other. All processes take part.

    Args:
        features: This process's.
        heads: `num_heads` x `num_clusters` outputs.
        which: Numbers of the heads.
        storage: Holds the scores of one head at a time.
        config: Of the model.

    Yields:
        Number of the head, sample ids and labels of the images of all processes, and the iterations it took.
    """
    device, num_clusters = heads.weight.device, config.num_clusters
    rows = len(features.sample_ids)
    scores = storage.empty(rows, num_clusters, getattr(torch, config.solve_dtype))
    sample_ids = all_gather_rows(features.sample_ids)
    for head in which:
        outputs = slice(head * num_clusters, (head + 1) * num_clusters)
        weight, bias = heads.weight[outputs].float(), heads.bias[outputs].float()
        start = 0
        for block in features.blocks:
            for part in block.split(max(_CHUNK_SCORES // num_clusters, 1)):
                logits = F.linear(part.to(device, torch.float32), weight, bias)
                # A constant per row changes no label. With the maximum at 0, float16 is most precise at the top.
                logits -= logits.amax(dim=1, keepdim=True)
                scores[start : start + len(part)] = logits.to("cpu", scores.dtype)
                start += len(part)
        solution = sinkhorn_solve(
            scores,
            strength=config.strength,
            tolerance=config.tolerance,
            max_iters=config.max_iters,
            max_kernel_bytes=int(config.solve_kernel_gib * 2**30),
            device=device,
        )
        yield head, sample_ids, all_gather_rows(solution.labels.to(device)), solution.num_iters


def update_table_(
    table: torch.Tensor,
    solved: Iterable[tuple[int, torch.Tensor, torch.Tensor, int]],
    *,
    num_clusters: int,
    storage: Storage,
    since: float,
) -> dict[str, float]:
    """Write new labels into the table, in place, and return statistics of them.

    Args:
        table: `(num_heads, num_samples)`; images that no process has seen keep their labels.
        solved: From `solve_labels`.
        num_clusters: Clusters of each head.
        storage: Counts the bytes that this process stored.
        since: `time.perf_counter()` at its start.

    Returns:
        Numbers to log, averaged over the solved heads.
    """
    rows = []
    for head, sample_ids, labels, num_iters in solved:
        new = labels.to(table.dtype)
        changed = (table[head, sample_ids] != new).float().mean()
        table[head, sample_ids] = new
        sizes = torch.bincount(labels, minlength=num_clusters).float()
        entropy = torch.special.entr(sizes / sizes.sum()).sum()
        empty = (sizes == 0).float().mean()
        rows.append(
            torch.stack([changed, entropy, sizes.min(), sizes.max(), empty, torch.full_like(empty, num_iters)])
        )
    names = ("labels_changed", "label_entropy", "smallest_cluster", "largest_cluster", "empty_clusters", "solve_iters")
    numbers = dict(zip(names, torch.stack(rows).mean(dim=0).tolist(), strict=True))
    return {**numbers, "solve_gib": storage.num_bytes / 2**30, "solve_seconds": time.perf_counter() - since}
