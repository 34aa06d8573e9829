"""Weighted k-nearest-neighbour classification, the protocol of DINO (https://huggingface.co/papers/2104.14294)."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ssl_zoo.evaluation.frozen.rows import move_if_it_fits
from ssl_zoo.functional.distributed import all_reduce_sum_, rank


__all__ = ["WeightedKnn", "count_correct"]

Array = np.ndarray[Any, np.dtype[Any]]

# Similarities are compared on this grid, far finer than any temperature in use: rounding errors of a matrix product
# change with its shape and must not order neighbours. Among equals the earlier row of the bank is nearer.
_GRID = 2.0**22
_ROW_BITS = 32
_LAST_ROW = 2**_ROW_BITS - 1
_NO_KEY = -(2**63)
# Votes are whole numbers of this unit: their sum is exact, so neither the device nor the order of the sum matters.
_VOTE_UNIT = 2.0**40
# Queries that share one pass over the bank: each chunk of it is made float32 and of length 1 once for all of them.
_BLOCK_CHUNKS = 4
_CHECKED_VALUES = 2**17  # float64, 1 MB: they stay in the cache


class WeightedKnn:
    r"""Classifier that lets the k rows of a labelled bank vote which are most similar to a query.

    A neighbour of cosine similarity s votes for its class with weight exp(s / temperature); the class with the most
    votes wins, the lower number on a tie. Queries and bank are taken in chunks with a running list of the nearest, so
    besides the bank itself the memory is bank_chunk x (query_chunk + features) + 4 x query_chunk x (features + k)
    values, whatever the number of rows and queries. The bank is neither copied nor changed, only measured: it may be a
    memory-mapped file of half precision.

    Args:
        bank (`torch.Tensor` of shape `(rows, features)`): Embeddings of any length, floating; they are compared as if
            they had length 1, in float32.
        labels (`torch.Tensor` of shape `(rows,)`): Class of each row, int64, >= 0.
        temperature: Temperature of the weights, > 0.
        query_chunk: Queries per product.
        bank_chunk: Rows of the bank per product.
        device: Where to compute, the bank's device by default. A bank that is elsewhere moves to a GPU that has three
            times the memory free, and travels in chunks otherwise.

    Raises:
        ValueError: If shapes or values don't fit; the message names them, and the first row that is not finite.
    """

    def __init__(
        self,
        bank: torch.Tensor,
        labels: torch.Tensor,
        *,
        temperature: float = 0.07,
        query_chunk: int = 1024,
        bank_chunk: int = 8192,
        device: torch.device | str | None = None,
    ) -> None:
        if bank.ndim != 2 or labels.shape != bank.shape[:1] or len(bank) == 0:
            raise ValueError(
                f"`bank` must have shape (rows, features) and `labels` (rows,), with rows > 0; "
                f"got {tuple(bank.shape)} and {tuple(labels.shape)}"
            )
        if len(bank) >= 2**_ROW_BITS:
            raise ValueError(f"`bank` must have fewer than {2**_ROW_BITS} rows, got {len(bank)}")
        if int(labels.min()) < 0:
            raise ValueError(f"`labels` must be >= 0, got {int(labels.min())}: leave rows without a label out")
        for name, value in (("temperature", temperature), ("query_chunk", query_chunk), ("bank_chunk", bank_chunk)):
            if not value > 0:
                raise ValueError(f"`{name}` must be > 0, got {value}")
        self.device = torch.device(device) if device is not None else bank.device
        self._bank, self._labels = move_if_it_fits(bank, self.device), labels.to(self.device)
        self._lengths = _lengths(self._bank, "bank").to(self.device)
        self._num_classes = int(labels.max()) + 1
        self._temperature, self._query_chunk, self._bank_chunk = temperature, query_chunk, bank_chunk

    def check_k(self, k: int | Sequence[int]) -> None:
        """Raise a `ValueError` if the bank doesn't hold as many rows, before any query is made."""
        sizes = [k] if isinstance(k, int) else list(k)
        if not sizes or min(sizes) < 1 or max(sizes) > len(self._bank):
            raise ValueError(f"`k` must lie in [1, {len(self._bank)}], the number of rows in the bank; got {k}")

    @torch.no_grad()
    def predict(
        self, queries: torch.Tensor, *, k: int | Sequence[int] = 20, description: str | None = None
    ) -> torch.Tensor:
        """Class of each query for one or more numbers of neighbours, found in one pass over the bank.

        Args:
            queries (`torch.Tensor` of shape `(queries, features)`): Embeddings, of any length.
            k: Number(s) of neighbours, each in [1, rows of the bank].
            description (`str`, *optional*): What a progress bar says; without it there is none.

        Returns:
            `torch.Tensor` of shape `(queries,)`, or `(len(k), queries)` for a sequence: classes, int64, on `device`.

        Raises:
            ValueError: If a `k` is out of range, or the queries' shape or values don't fit.
        """
        self.check_k(k)
        sizes = [k] if isinstance(k, int) else list(k)
        if queries.ndim != 2 or queries.shape[1] != self._bank.shape[1]:
            expected = f"(queries, {self._bank.shape[1]})"
            raise ValueError(f"`queries` must have shape {expected} to fit the bank, got {tuple(queries.shape)}")
        blocks = torch.split(queries, _BLOCK_CHUNKS * self._query_chunk)
        steps = len(blocks) * -(-len(self._bank) // self._bank_chunk)
        hidden = description is None or rank() != 0
        with tqdm(total=steps, desc=description, unit="chunk", disable=hidden, leave=False, dynamic_ncols=True) as bar:
            chunks = [self._vote(*self._neighbors(block, max(sizes), bar), sizes) for block in blocks]
        classes = torch.cat(chunks, dim=1)
        return classes[0] if isinstance(k, int) else classes

    def _neighbors(self, queries: torch.Tensor, k: int, bar: "tqdm[Any]") -> tuple[torch.Tensor, torch.Tensor]:
        """Similarities and rows of the `k` nearest, each `(queries, k)`, nearest first."""
        queries = queries.to(self.device)
        queries = queries.float() / _lengths(queries, "queries")[:, None]
        parts = torch.split(queries, self._query_chunk)
        nearest = [torch.full((len(part), k), _NO_KEY, device=self.device) for part in parts]
        chunk = queries.new_empty(min(self._bank_chunk, len(self._bank)), queries.shape[1])
        space = queries.new_empty(len(parts[0]) * len(chunk))  # used again and again: new memory is slow
        # numpy has one thread, so each of ours takes some of the queries.
        threads = torch.get_num_threads() if self.device.type == "cpu" else 1
        with ThreadPoolExecutor(threads) as pool:
            for start in range(0, len(self._bank), self._bank_chunk):
                rows = slice(start, min(start + self._bank_chunk, len(self._bank)))
                candidates = chunk[: rows.stop - start].copy_(self._bank[rows]).div_(self._lengths[rows, None])
                for number, part in enumerate(parts):
                    similarities = space[: len(part) * len(candidates)].view(len(part), len(candidates))
                    torch.mm(part, candidates.T, out=similarities)
                    shares = nearest[number].chunk(threads), similarities.chunk(threads)
                    nearest[number] = torch.cat(list(pool.map(partial(_merge, start=start, k=k), *shares)))
                bar.update()
        keys = torch.cat(nearest).sort(dim=1, descending=True).values
        return (keys >> _ROW_BITS) / _GRID, _LAST_ROW - (keys & _LAST_ROW)

    def _vote(self, similarities: torch.Tensor, rows: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        """Classes of shape `(len(sizes), queries)`."""
        weights = torch.exp((similarities.double() - similarities[:, :1].double()) / self._temperature)
        weights, classes = torch.round(weights * _VOTE_UNIT).to(torch.int64), self._labels[rows]
        votes = torch.zeros(len(rows), self._num_classes, dtype=torch.int64, device=self.device)
        winners, counted = {}, 0
        for size in sorted(set(sizes)):
            votes.scatter_add_(1, classes[:, counted:size], weights[:, counted:size])
            winners[size], counted = votes.argmax(dim=1), size
        return torch.stack([winners[size] for size in sizes])


@torch.no_grad()
def count_correct(
    classifier: WeightedKnn, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], *, k: Sequence[int]
) -> list[int]:
    """Count right answers over all processes, in whole numbers: neither batches nor processes change the result.

    Args:
        classifier ([`WeightedKnn`]): The bank.
        batches (`Iterable` of `tuple`): The share of this process: embeddings `(queries, features)` and classes.
        k: Numbers of neighbours.

    Returns:
        `list[int]`: right answers for each `k`, then the number of queries.

    Raises:
        ValueError: If a `k` is larger than the bank, before any batch is read.
    """
    classifier.check_k(k)
    counts = torch.zeros(len(k) + 1, dtype=torch.int64, device=classifier.device)
    for queries, labels in batches:
        answers = classifier.predict(queries, k=k)
        counts[:-1] += (answers == labels.to(classifier.device)).sum(dim=1)
        counts[-1] += len(labels)
    totals: list[int] = all_reduce_sum_(counts).tolist()
    return totals


def _merge(nearest: torch.Tensor, similarities: torch.Tensor, *, start: int, k: int) -> torch.Tensor:
    """Keys of the `k` nearest rows, in any order: of those so far and of the chunk that begins at row `start`."""
    width = similarities.shape[1]
    if similarities.device.type != "cpu":
        keys = _keys(similarities, torch.arange(start, start + width, device=similarities.device))
        return torch.cat([nearest, keys], dim=1).topk(k).values
    # On a CPU numpy searches and orders in a fraction of torch's time.
    values = similarities.numpy()
    hits = _hits(values, ((nearest.amin(dim=1) >> _ROW_BITS) / _GRID).numpy(), k)
    queries, rows = np.divmod(hits, width)
    ends = np.searchsorted(hits, width * np.arange(1, len(values) + 1))
    counts = np.diff(ends, prepend=0)
    table = np.full((len(values), k + counts.max(initial=0)), _NO_KEY)
    table[:, :k] = nearest
    places = k + np.arange(len(hits)) - (ends - counts)[queries]
    table[queries, places] = _keys(torch.from_numpy(values.reshape(-1)[hits]), torch.from_numpy(rows + start))
    return torch.from_numpy(np.partition(table, -k)[:, -k:])


def _hits(similarities: Array, bounds: Array, k: int) -> Array:
    """Flat positions, query by query, of the `k` nearest rows of each query above its bound, and of few others."""
    margin = np.float32(1 / _GRID)  # what is less apart may be equal on the grid
    near = similarities >= (bounds - margin)[:, None]
    num_blocks = max(4 * k, 64)
    depth = similarities.shape[1] // num_blocks
    if depth > 1 and np.count_nonzero(near) > 2 * k * len(near):
        # k blocks have a maximum of at least the k-th largest one, so k rows have. A block takes every
        # num_blocks-th row: the near ones may stand side by side, as in a bank sorted by class.
        blocks = similarities[:, : depth * num_blocks].reshape(-1, depth, num_blocks)
        bounds = np.maximum(bounds, np.partition(blocks.max(axis=1), -k)[:, -k])
        near = similarities >= (bounds - margin)[:, None]
    return np.flatnonzero(near)


def _keys(similarities: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """One whole number that orders by similarity, then by row: all differ, so there is only one answer."""
    return (similarities * _GRID).round_().to(torch.int64).bitwise_left_shift_(_ROW_BITS).add_(_LAST_ROW - rows)


def _lengths(embeddings: torch.Tensor, name: str) -> torch.Tensor:
    """Length of each row, float32, never 0, on the device of the embeddings; refuses rows that are not finite."""
    size = max(1, _CHECKED_VALUES // max(1, embeddings.shape[1]))
    # In float64 no square overflows, and a length doesn't depend on how its sum is ordered.
    parts = [part.double().square_().sum(dim=1).sqrt_().float() for part in torch.split(embeddings, size)]
    lengths = torch.cat(parts)
    if len(bad := (~lengths.isfinite()).nonzero().flatten()):
        raise ValueError(
            f"`{name}` holds infinite or NaN values in {len(bad)} of {len(lengths)} rows, first in row {int(bad[0])}: "
            "the model that made them has diverged"
        )
    return lengths.clamp_min_(1e-12)
