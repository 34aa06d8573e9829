"""How well pseudo-labels agree with classes: plain functions of two labellings, each exact at any size.

All are computed from the pairs (class, cluster) that occur, never from a table of all pairs: 1.28 million images in as
many clusters fit. `references` (classes, or other clusters) and `predictions` (pseudo-labels) are arrays of shape
`(samples,)`: any numbers, only which ones are equal counts. A `ValueError` says that there are no samples, that their
numbers differ, or that some are NaN.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


__all__ = [
    "adjusted_mutual_information",
    "adjusted_rand_index",
    "clustering_agreement",
    "hungarian_accuracy",
    "match_labels",
    "normalized_mutual_information",
    "purity",
]

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Contingency:
    """Number of samples of each pair of a class and a cluster that occurs, with the sizes of both."""

    rows: Counts
    columns: Counts
    counts: Counts
    row_sizes: Counts
    column_sizes: Counts

    @property
    def num_samples(self) -> int:
        return int(self.row_sizes.sum())


def _contingency(references: npt.ArrayLike, predictions: npt.ArrayLike) -> _Contingency:
    first, second = np.asarray(references), np.asarray(predictions)
    if first.ndim != 1 or first.shape != second.shape or first.size == 0:
        raise ValueError(
            f"`references` and `predictions` must be vectors of one length > 0, got {first.shape}, {second.shape}"
        )
    for name, labels in (("references", first), ("predictions", second)):
        if labels.dtype.kind == "f" and not np.isfinite(labels).all():
            raise ValueError(f"`{name}` must be class or cluster numbers, but some are NaN or infinite")
    rows, columns = (np.unique(labels, return_inverse=True)[1].astype(np.int64) for labels in (first, second))
    num_columns = int(columns.max()) + 1
    pairs, counts = np.unique(rows * num_columns + columns, return_counts=True)
    return _Contingency(pairs // num_columns, pairs % num_columns, counts, np.bincount(rows), np.bincount(columns))


def _entropy(counts: Counts) -> float:
    shares = counts / counts.sum()
    return float(-(shares * np.log(shares)).sum()) if counts.size > 1 else 0.0


def _mutual_information(table: _Contingency) -> float:
    return _entropy(table.row_sizes) + _entropy(table.column_sizes) - _entropy(table.counts)


def normalized_mutual_information(references: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """Mutual information of two labellings over the arithmetic mean of their entropies.

    Returns:
        `float`: in [0, 1], symmetric; 1 for the same partition, and for two that have one part only.
    """
    table = _contingency(references, predictions)
    entropies = _entropy(table.row_sizes) + _entropy(table.column_sizes)
    return float(np.clip(2.0 * _mutual_information(table) / entropies, 0.0, 1.0)) if entropies > 0 else 1.0


def adjusted_mutual_information(references: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """Mutual information above that of chance, over the mean entropy above that of chance (Vinh et al., JMLR 2010).

    Chance is a random labelling with the same sizes; many small clusters gain nothing here, as they do in the NMI.

    Returns:
        `float`: at most 1 (the same partition), about 0 for chance, symmetric.
    """
    table = _contingency(references, predictions)
    if len(table.counts) == len(table.row_sizes) == len(table.column_sizes):
        return 1.0  # the same partition; of single samples chance reaches 1 too, and 0 / 0 follows
    if 1 in (len(table.row_sizes), len(table.column_sizes)):
        return 0.0
    expected = _expected_mutual_information(table)
    mean_entropy = (_entropy(table.row_sizes) + _entropy(table.column_sizes)) / 2
    return (_mutual_information(table) - expected) / (mean_entropy - expected)


def _expected_mutual_information(table: _Contingency) -> float:
    """Mean mutual information over all labellings with these sizes.

    The overlap n of a class of size a with a cluster of size b is hypergeometric; only the sizes count, so equal ones
    are computed once (scikit-learn takes each pair: minutes for 1000 classes, 3000 clusters). Overlaps further than
    12 standard deviations + 60 from the mean have together a probability below 1e-30 (Bernstein) and are left out.
    """
    total = table.num_samples
    sizes, repeats = np.unique(table.column_sizes, return_counts=True)
    expected = 0.0
    for size, repeat in zip(*np.unique(table.row_sizes, return_counts=True), strict=True):
        mean = size * sizes / total
        reach = 60 + 12 * np.sqrt(mean * (total - size) / total * (total - sizes) / max(total - 1, 1))
        low = np.maximum(np.maximum(0, size + sizes - total), np.floor(mean - reach).astype(np.int64))
        high = np.minimum(np.minimum(size, sizes), np.ceil(mean + reach).astype(np.int64))
        lengths = high - low + 1
        starts = np.cumsum(lengths) - lengths
        pair = np.repeat(np.arange(len(sizes)), lengths)
        overlap = np.arange(lengths.sum()) - (starts - low)[pair]
        # log P(n) up to a constant by P(n) / P(n - 1); the constant follows from the sum being 1.
        previous = np.maximum(overlap - 1, low[pair])
        odds = (
            (size - previous) * (sizes[pair] - previous) / (previous + 1) / (total - size - sizes[pair] + previous + 1)
        )
        logs = np.cumsum(np.log(np.where(overlap > low[pair], odds, 1.0)))
        weights = np.exp(logs - np.maximum.reduceat(logs, starts)[pair])
        information = overlap / total * np.log(np.maximum(overlap, 1) * total / size / sizes[pair])
        means = np.add.reduceat(weights * information, starts) / np.add.reduceat(weights, starts)
        expected += float(repeat * (repeats * means).sum())
    return expected


def adjusted_rand_index(references: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """Share of pairs of samples that two labellings agree on, above chance (Hubert & Arabie, 1985).

    Returns:
        `float`: at most 1 (the same partition), about 0 for chance, symmetric.
    """
    table = _contingency(references, predictions)
    # Python's whole numbers: products of numbers of pairs don't fit 64 bits.
    both, first, second = (
        sum(int(count) * (int(count) - 1) // 2 for count in counts)
        for counts in (table.counts, table.row_sizes, table.column_sizes)
    )
    pairs = table.num_samples * (table.num_samples - 1) // 2
    span = (first + second) * pairs - 2 * first * second
    return 2 * (both * pairs - first * second) / span if span else 1.0


def hungarian_accuracy(references: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """Accuracy after the best one-to-one matching of clusters to classes.

    With more clusters than classes, the clusters left over count as wrong altogether; with fewer, the classes left
    over do. So an over-clustering can't reach 1 however pure it is: see [`purity`].

    Returns:
        `float`: in (0, 1].
    """
    table = _contingency(references, predictions)
    partner = np.full(len(table.row_sizes), -1)
    rows, columns = _match(table)
    partner[rows] = columns
    return int(table.counts[partner[table.rows] == table.columns].sum()) / table.num_samples


def match_labels(references: npt.ArrayLike, predictions: npt.ArrayLike) -> dict[int, int]:
    """Partners by the one-to-one matching with the most samples in common, as in [`hungarian_accuracy`].

    Returns:
        `dict[int, int]`: label in `references` -> its partner, if it has one with which it shares a sample.
    """
    rows, columns = _match(_contingency(references, predictions))
    return dict(zip(np.unique(references)[rows].tolist(), np.unique(predictions)[columns].tolist(), strict=True))


def _match(table: _Contingency) -> tuple[Counts, Counts]:
    """Numbers of the matched rows and columns; only pairs that occur are looked at."""
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import min_weight_full_bipartite_matching

    sides = [(table.rows, len(table.row_sizes)), (table.columns, len(table.column_sizes))]
    swapped = sides[0][1] > sides[1][1]
    (rows, num_rows), (columns, num_columns) = reversed(sides) if swapped else sides
    # Each row may also stay alone, in a column of its own: then every row is matched, and 1 more in every entry, which
    # keeps "no sample in common" apart from "no entry", changes no comparison.
    spare = np.arange(num_rows)
    weights = np.concatenate([table.counts + 1, np.ones(num_rows, dtype=np.int64)]).astype(np.float64)
    where = np.concatenate([rows, spare]), np.concatenate([columns, num_columns + spare])
    graph = csr_array((weights, where), shape=(num_rows, num_columns + num_rows))
    matched_rows, matched_columns = min_weight_full_bipartite_matching(graph, maximize=True)
    paired = matched_columns < num_columns
    pairs = matched_rows[paired], matched_columns[paired]
    return (pairs[1], pairs[0]) if swapped else pairs


def purity(references: npt.ArrayLike, predictions: npt.ArrayLike) -> float:
    """Share of samples that belong to the most frequent class of their cluster: many clusters may share a class.

    Returns:
        `float`: in (0, 1]; 1 if every sample is its own cluster, so compare equal numbers of clusters only.
    """
    table = _contingency(references, predictions)
    largest = np.zeros(len(table.column_sizes), dtype=np.int64)
    np.maximum.at(largest, table.columns, table.counts)
    return int(largest.sum()) / table.num_samples


def clustering_agreement(references: npt.ArrayLike, predictions: npt.ArrayLike) -> dict[str, float]:
    """All measures of agreement at once.

    Args:
        references (array of shape `(samples,)`): Classes, >= 0, at least two different ones.
        predictions (array of shape `(samples,)`): Pseudo-labels; any numbers.

    Returns:
        `dict[str, float]`: `nmi`, `ami`, `ari`, `hungarian_accuracy`, `purity`, and `num_clusters` that hold a sample.

    Raises:
        ValueError: If there are no samples, their numbers differ, a class is < 0 or there is one class only.
    """
    table = _contingency(references, predictions)
    if np.min(np.asarray(references)) < 0:
        raise ValueError("`references` must be >= 0, got negative ones: leave samples without a label out")
    if len(table.row_sizes) < 2:
        raise ValueError("`references` hold one class only: agreement with classes needs samples of two or more")
    return {
        "nmi": normalized_mutual_information(references, predictions),
        "ami": adjusted_mutual_information(references, predictions),
        "ari": adjusted_rand_index(references, predictions),
        "hungarian_accuracy": hungarian_accuracy(references, predictions),
        "purity": purity(references, predictions),
        "num_clusters": len(table.column_sizes),
    }
