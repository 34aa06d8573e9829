"""Exact nearest neighbours by cosine similarity in a large table, chunk by chunk, and what is made of them."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F

from ssl_zoo.functional.distributed import all_reduce_sum_


__all__ = [
    "Neighbors",
    "Rows",
    "label_agreement",
    "mean_neighbor_distance",
    "nearest_neighbors",
    "nearest_of_few",
    "other_images",
    "spread",
]

# A chunk of similarities of a batch of 256 then takes 8 MB, which stays in the cache for top-k.
_CHUNK_SIZE = 8192


class Rows(Protocol):
    """Something that is read slice by slice: a tensor, or a table put together only as it is read."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> torch.Tensor: ...


class Neighbors(NamedTuple):
    """The neighbours of some queries, nearest first.

    Attributes:
        rows (`torch.Tensor` of shape `(batch, k)`): Row numbers of the candidates, int64; 0 where there is none.
        similarities (`torch.Tensor` of shape `(batch, k)`): Products of query and candidate; -inf where there is none.
        found (`torch.Tensor` of shape `(batch, k)`): Whether there is one, bool. False only behind the last True.
    """

    rows: torch.Tensor
    similarities: torch.Tensor
    found: torch.Tensor


@torch.no_grad()
def nearest_neighbors(
    queries: torch.Tensor,
    candidates: Rows,
    *,
    k: int,
    query_labels: torch.Tensor | None = None,
    candidate_labels: Rows | None = None,
    chunk_size: int = _CHUNK_SIZE,
) -> Neighbors:
    """Find the `k` candidates most similar to each query, among those with the query's label if labels are given.

    Takes the candidates in chunks with a running list of the best, so that besides the candidates themselves the
    memory is batch x (chunk_size + k), however many candidates there are.

    A query with label -1 searches all candidates. A candidate with label -1 is found by such queries alone.

    Of equally similar candidates `torch.topk` takes its pick: the same one whenever queries, candidates and
    `chunk_size` are the same.

    Args:
        queries (`torch.Tensor` of shape `(batch, features)`): Unit vectors, local to this process.
        candidates (`Rows` of shape `(candidates, features)`): Unit vectors; may be empty. Any floating dtype: chunks
            are compared in float32.
        k: Number of neighbours, >= 1. There are fewer where there are fewer candidates.
        query_labels (`torch.Tensor` of shape `(batch,)`, *optional*): Labels of the queries, int64.
        candidate_labels (`Rows` of shape `(candidates,)`, *optional*): Labels of the candidates, int64.
        chunk_size: Candidates per product, >= 1.

    Returns:
        [`Neighbors`]: of shape `(batch, k)`.

    Raises:
        ValueError: If a number is out of its range, or only one of the two kinds of labels is given.
    """
    if k < 1 or chunk_size < 1:
        raise ValueError(f"`k` and `chunk_size` must be at least 1, got {k} and {chunk_size}")
    if (query_labels is None) != (candidate_labels is None):
        raise ValueError("`query_labels` and `candidate_labels` go together: give both or none")
    with torch.autocast(queries.device.type, enabled=False):
        queries = queries.float()
        best = queries.new_empty(len(queries), 0)
        best_rows = torch.empty(len(queries), 0, dtype=torch.int64, device=queries.device)
        for start in range(0, len(candidates), chunk_size):
            chunk = slice(start, start + chunk_size)
            similarities = queries @ candidates[chunk].float().T
            if query_labels is not None and candidate_labels is not None:
                differs = query_labels.unsqueeze(1) != candidate_labels[chunk]
                similarities.masked_fill_(differs & query_labels.ge(0).unsqueeze(1), -torch.inf)
            found, rows = similarities.topk(min(k, similarities.shape[1]))
            # Most similar of the list so far and of the chunk.
            best = torch.cat([best, found], dim=1)
            best_rows = torch.cat([best_rows, rows + start], dim=1)
            best, order = best.topk(min(k, best.shape[1]))
            best_rows = best_rows.gather(1, order)
    missing = k - best.shape[1]
    best, best_rows = F.pad(best, (0, missing), value=-torch.inf), F.pad(best_rows, (0, missing))
    exists = best > -torch.inf
    return Neighbors(best_rows.masked_fill(~exists, 0), best, exists)


@torch.no_grad()
def nearest_of_few(queries: torch.Tensor, embeddings: torch.Tensor, candidates: Neighbors, *, k: int) -> Neighbors:
    """Find the `k` most similar among a few candidates that are each query's own.

    Args:
        queries (`torch.Tensor` of shape `(batch, features)`): Unit vectors.
        embeddings (`torch.Tensor` of shape `(batch, num_candidates, features)`): Unit vectors of `candidates.rows`.
        candidates ([`Neighbors`] of shape `(batch, num_candidates)`): Which rows they are, and whether they exist.
        k: Number of neighbours, >= 1.

    Returns:
        [`Neighbors`]: of shape `(batch, min(k, num_candidates))`.
    """
    with torch.autocast(queries.device.type, enabled=False):
        similarities = torch.einsum("bd,bcd->bc", queries.float(), embeddings.float())
    similarities = similarities.masked_fill(~candidates.found, -torch.inf)
    best, order = similarities.topk(min(k, similarities.shape[1]))
    return Neighbors(candidates.rows.gather(1, order), best, candidates.found.gather(1, order))


def mean_neighbor_distance(
    predictions: torch.Tensor, embeddings: torch.Tensor, found: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared distance 2 - 2 cos of each prediction to its neighbours; differentiable in the predictions.

    Args:
        predictions (`torch.Tensor` of shape `(batch, features)`): Of any length; they are normalised here.
        embeddings (`torch.Tensor` of shape `(batch, k, features)`): Unit vectors of the neighbours.
        found (`torch.Tensor` of shape `(batch, k)`, *optional*): Which of them exist; all by default.

    Returns:
        `torch.Tensor` of shape `(batch,)`: mean over the neighbours that exist, 0 where there are none. float32.
    """
    with torch.autocast(predictions.device.type, enabled=False):
        dtype = torch.promote_types(predictions.dtype, torch.float32)
        unit = F.normalize(predictions.to(dtype), dim=-1)
        distances = 2.0 - 2.0 * torch.einsum("bd,bkd->bk", unit, embeddings.to(dtype))
    if found is None:
        return distances.mean(dim=1)
    return distances.masked_fill(~found, 0.0).sum(dim=1) / found.sum(dim=1).clamp_min(1)


@torch.no_grad()
def label_agreement(
    labels: torch.Tensor, neighbor_labels: torch.Tensor, counted: torch.Tensor | None = None
) -> torch.Tensor | None:
    """Share of neighbours (or guesses) with the label of the query, over all processes.

    Args:
        labels (`torch.Tensor` of shape `(batch,)`): -1 where there is none; such queries don't count.
        neighbor_labels (`torch.Tensor` of shape `(batch, k)`): -1 where there is none; such neighbours don't count.
        counted (`torch.Tensor` of shape `(batch, k)`, *optional*): Which neighbours to look at; all by default.

    Returns:
        `torch.Tensor` of shape `()` in [0, 1], equal on every process; `None` on all of them when nothing counts.
    """
    known = (labels.unsqueeze(1) >= 0) & (neighbor_labels >= 0)
    if counted is not None:
        known &= counted
    agree = known & (labels.unsqueeze(1) == neighbor_labels)
    agreeing, total = all_reduce_sum_(torch.stack([agree.sum(), known.sum()])).tolist()
    return torch.tensor(agreeing / total, device=labels.device) if total else None


def other_images(neighbors: Neighbors, neighbor_ids: torch.Tensor, sample_ids: torch.Tensor) -> torch.Tensor:
    """Which neighbours are of another image than the query.

    Args:
        neighbors ([`Neighbors`] of shape `(batch, k)`): Each query itself is among them, as the nearest.
        neighbor_ids (`torch.Tensor` of shape `(batch, k)`): Their sample ids.
        sample_ids (`torch.Tensor` of shape `(batch,)`): Those of the queries; -1 where there is none.

    Returns:
        `torch.Tensor` of shape `(batch, k)`: bool. Without an id, all that exist but the nearest.
    """
    has_id = (sample_ids >= 0).unsqueeze(1)
    same = has_id & (neighbor_ids == sample_ids.unsqueeze(1))
    same[:, :1] |= ~has_id
    return neighbors.found & ~same


@torch.no_grad()
def spread(unit_vectors: torch.Tensor) -> torch.Tensor:
    """Standard deviation of unit vectors about their mean: sqrt(mean |u - mean u|^2) = sqrt(1 - |mean u|^2).

    Args:
        unit_vectors (`torch.Tensor` of shape `(batch, features)`): At least one.

    Returns:
        `torch.Tensor` of shape `()`: 0 when all are equal (collapse), about 1 when they point everywhere.
    """
    mean = unit_vectors.float().mean(dim=0)
    return (1.0 - mean.square().sum()).clamp_min(0.0).sqrt()
