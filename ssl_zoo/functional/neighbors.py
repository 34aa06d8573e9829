"""Exact nearest neighbours by cosine similarity in a large table, and losses and diagnostics made of them."""

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
# With labels a chunk should hold few of them, so that few queries have to do with it.
_LABELLED_CHUNK_SIZE = 1024
# Top-k sees one number, the largest, of so many similarities.
_BLOCK_SIZE = 8


class Rows(Protocol):
    """Something that is read by slices, or by row numbers: a tensor, or a table put together only as it is read."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice | torch.Tensor, /) -> torch.Tensor: ...


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

    Exact. Takes the candidates in chunks with a running list of the best, so that besides the candidates themselves
    the memory is about batch x (chunk_size + 20 k), however many candidates there are. With labels the time shrinks
    as there are more of them: each query meets little more than the candidates of its own.

    A query with label -1 searches all candidates. A candidate with label -1 is found by such queries alone.

    Of equally similar candidates any may be taken: the same ones whenever queries, candidates, labels and
    `chunk_size` are the same.

    Args:
        queries (`torch.Tensor` of shape `(batch, features)`): Unit vectors, local to this process.
        candidates (`Rows` of shape `(candidates, features)`): Unit vectors; may be empty. Any floating dtype: chunks
            are compared in float32.
        k: Number of neighbours, >= 1. There are fewer where there are fewer candidates.
        query_labels (`torch.Tensor` of shape `(batch,)`, *optional*): Labels of the queries, int64.
        candidate_labels (`Rows` of shape `(candidates,)`, *optional*): Labels of the candidates, int64.
        chunk_size: Candidates per product at most, >= 1.

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
        if query_labels is None or candidate_labels is None:
            best, rows = _search_all(queries, candidates, k, chunk_size)
        else:
            order = query_labels.argsort()
            in_order = queries[order], query_labels[order]
            best, rows = _search_labels(*in_order, candidates, candidate_labels[:], k, chunk_size)
            back = order.argsort()
            best, rows = best[back], rows[back]
    exists = best > -torch.inf
    return Neighbors(rows.masked_fill(~exists, 0), best, exists)


def _search_all(queries: torch.Tensor, candidates: Rows, k: int, chunk_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Similarities and rows of the best candidates, `(batch, k)`; where there are too few, -inf and any row.

    Top-k costs a third of the product that it follows. So it looks for the blocks with the largest maxima first: the k
    largest of a row are in k of them.
    """
    best, rows = _nothing_found(queries, k)
    num_blocks = -(-min(chunk_size, len(candidates)) // _BLOCK_SIZE)
    similarities = queries.new_empty(len(queries), _BLOCK_SIZE * num_blocks)
    # Block number j is made of every num_blocks-th column from j on, which is the fastest way to find its maximum.
    members = num_blocks * torch.arange(_BLOCK_SIZE, device=queries.device).unsqueeze(1)
    for start in range(0, len(candidates), chunk_size):
        chunk = candidates[start : start + chunk_size].float()
        torch.mm(queries, chunk.T, out=similarities[:, : len(chunk)])
        similarities[:, len(chunk) :] = -torch.inf
        maxima = similarities.view(len(queries), _BLOCK_SIZE, num_blocks).amax(dim=1)
        blocks = maxima.topk(min(k, num_blocks), sorted=False).indices
        columns = (members + blocks.unsqueeze(1)).flatten(1)
        best, rows = _better(best, rows, similarities.gather(1, columns), columns + start)
    return best, rows


def _search_labels(
    queries: torch.Tensor,
    labels: torch.Tensor,
    candidates: Rows,
    candidate_labels: torch.Tensor,
    k: int,
    chunk_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `_search_all`, for queries in the order of their labels, each among the candidates with its label.

    The candidates are taken in the order of their labels, too. Then the queries that have to do with a chunk of them
    are neighbours themselves, and few.
    """
    best, rows = _nothing_found(queries, k)
    free = int((labels < 0).sum())
    if free:
        best[:free], rows[:free] = _search_all(queries[:free], candidates, k, chunk_size)
    wanted = torch.isin(candidate_labels, labels[free:]).nonzero().flatten()
    wanted = wanted[candidate_labels[wanted].argsort()]
    their_labels = candidate_labels[wanted]
    size = min(chunk_size, _LABELLED_CHUNK_SIZE)
    starts = torch.arange(0, len(wanted), size, device=wanted.device)
    first = torch.searchsorted(labels, their_labels[starts])
    after = torch.searchsorted(labels, their_labels[(starts + size).clamp_max(len(wanted)) - 1], right=True)
    for start, *ends in torch.stack([starts, first, after], dim=1).tolist():
        chunk, span = slice(start, start + size), slice(*ends)
        similarities = queries[span] @ candidates[wanted[chunk]].float().T
        similarities.masked_fill_(labels[span].unsqueeze(1) != their_labels[chunk], -torch.inf)
        numbers = wanted[chunk].expand_as(similarities)
        best[span], rows[span] = _better(best[span], rows[span], similarities, numbers)
    return best, rows


def _nothing_found(queries: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    best = queries.new_full((len(queries), k), -torch.inf)
    return best, torch.zeros_like(best, dtype=torch.int64)


def _better(
    best: torch.Tensor, rows: torch.Tensor, similarities: torch.Tensor, numbers: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The best so far and some more candidates, cut to the best, nearest first."""
    kept, order = torch.cat([best, similarities], dim=1).topk(best.shape[1])
    return kept, torch.cat([rows, numbers], dim=1).gather(1, order)


@torch.no_grad()
def nearest_of_few(queries: torch.Tensor, embeddings: torch.Tensor, candidates: Neighbors, *, k: int) -> Neighbors:
    """Find the `k` most similar of a few candidates, which differ from query to query.

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
    compared = (labels.unsqueeze(1) >= 0) & (neighbor_labels >= 0)
    if counted is not None:
        compared &= counted
    agree = compared & (labels.unsqueeze(1) == neighbor_labels)
    agreeing, total = all_reduce_sum_(torch.stack([agree.sum(), compared.sum()])).tolist()
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
