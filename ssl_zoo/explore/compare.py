"""Two clusterings of the same images: where they agree, and which images moved."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ssl_zoo.evaluation.metrics.clustering import (
    adjusted_mutual_information,
    adjusted_rand_index,
    match_labels,
    normalized_mutual_information,
)
from ssl_zoo.explore.clusters import Clustering
from ssl_zoo.explore.workbench import ExploreError


__all__ = ["AgreementTable", "Comparison", "Move", "compare"]

Numbers = npt.NDArray[np.int64]


class Move(NamedTuple):
    """An image that isn't in the partner of its first cluster.

    Attributes:
        image, first, second (`int`): Its number, and its clusters.
        expected (`int`, *optional*): Partner of `first` in the second clustering; `None` where it has none.
        surprise (`float`): Product of both confidences.
    """

    image: int
    first: int
    second: int
    expected: int | None
    surprise: float


@dataclass(frozen=True)
class AgreementTable:
    """Images by cluster of both clusterings, for a figure: partners are on the diagonal.

    Attributes:
        counts (`numpy.ndarray` of shape `(rows, columns)`): Their sum is the number of images.
        rows, columns (`list` of `int` or `None`): Clusters of the first and of the second; `None` = all others.
        num_pairs (`int`): The first rows, which have their partner on the diagonal.
    """

    counts: Numbers
    rows: list[int | None]
    columns: list[int | None]
    num_pairs: int


class Comparison:
    """How two clusterings of one gallery agree.

    Attributes:
        first, second ([`Clustering`]): What was compared.
        partners (`dict`): Cluster of the first -> cluster of the second, by the one-to-one matching that leaves the
            most images where they are (Hungarian). Only clusters that share an image are partners.
        matched_share (`float`): Share of the images that stay under this matching, in (0, 1].
        nmi, ami, ari (`float`): Agreement that needs no matching; 1 = the same partition. AMI and ARI are about 0 for
            chance, NMI is not.
        moved (`numpy.ndarray` of shape `(moved,)`): Images that don't stay, the most surprising first: those that both
            clusterings are sure of.
    """

    def __init__(self, first: Clustering, second: Clustering) -> None:
        self.first, self.second = first, second
        self.nmi = normalized_mutual_information(first.pseudo_labels, second.pseudo_labels)
        self.ami = adjusted_mutual_information(first.pseudo_labels, second.pseudo_labels)
        self.ari = adjusted_rand_index(first.pseudo_labels, second.pseudo_labels)
        self.partners = match_labels(first.pseudo_labels, second.pseudo_labels)
        expected = np.full(len(first), -1)
        expected[list(self.partners)] = list(self.partners.values())
        moved = np.flatnonzero(expected[first.pseudo_labels] != second.pseudo_labels)
        self._surprise = first.confidence.astype(np.float64) * second.confidence
        self.moved: Numbers = moved[np.lexsort((moved, -self._surprise[moved]))]
        self.matched_share = 1.0 - len(moved) / len(first.pseudo_labels)

    def moves(self, start: int = 0, count: int | None = None) -> list[Move]:
        """A page of the images that moved, the most surprising first."""
        images = self.moved[start : None if count is None else start + count]
        before, after = (each.pseudo_labels[images].tolist() for each in (self.first, self.second))
        moved = zip(images.tolist(), before, after, self._surprise[images].tolist(), strict=True)
        return [Move(image, first, second, self.partners.get(first), value) for image, first, second, value in moved]

    def agreement(self, *, limit: int = 60) -> AgreementTable:
        """Images by cluster of both, with the largest clusters of the first at the top and partners on the diagonal.

        Args:
            limit: Rows and columns at most, >= 2. Of more clusters the largest `limit` - 1 are shown, and all others
                together in the last row or column. Empty clusters are left out; columns without a partner among the
                rows come last, by size.
        """
        if limit < 2:
            raise ValueError(f"`limit` must be >= 2, got {limit}")
        first_sizes, second_sizes = self.first.sizes.sizes, self.second.sizes.sizes
        rows, columns = _by_size(first_sizes), _by_size(second_sizes)
        rows = rows if len(rows) <= limit else rows[: limit - 1]
        rows.sort(key=lambda row: row not in self.partners)  # rows with a partner first: no gaps in the diagonal
        places = limit if len(columns) <= limit else limit - 1
        paired = [self.partners[row] for row in rows if row in self.partners][:places]
        columns = [*paired, *(column for column in columns if column not in paired)][:places]
        row_of, num_rows = _places(rows, first_sizes)
        column_of, num_columns = _places(columns, second_sizes)
        cells = row_of[self.first.pseudo_labels] * num_columns + column_of[self.second.pseudo_labels]
        counts = np.bincount(cells, minlength=num_rows * num_columns).reshape(num_rows, num_columns)
        return AgreementTable(
            counts=counts,
            rows=[*rows, *[None] * (num_rows - len(rows))],
            columns=[*columns, *[None] * (num_columns - len(columns))],
            num_pairs=len(paired),
        )


def compare(first: Clustering, second: Clustering) -> Comparison:
    """Compare two clusterings of the same images: of two models, two checkpoints, two heads or two modes.

    Raises:
        ExploreError: They are of different images.
    """
    if first.explained.gallery.identity != second.explained.gallery.identity:
        raise ExploreError("These don't show the same images: open both on the same data, split and number of images")
    return Comparison(first, second)


def _by_size(sizes: Numbers) -> list[int]:
    """Clusters that aren't empty, the largest first."""
    order: list[int] = np.lexsort((np.arange(len(sizes)), -sizes)).tolist()
    return order[: int((sizes > 0).sum())]


def _places(shown: list[int], sizes: Numbers) -> tuple[Numbers, int]:
    """Where each cluster stands, those not shown behind the last, and how many places that makes."""
    places = np.full(len(sizes), len(shown))
    places[shown] = np.arange(len(shown))
    return places, len(shown) + (int((sizes > 0).sum()) > len(shown))
