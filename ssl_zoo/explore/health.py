"""Whether clusters and features are in order: the numbers, and in words what is wrong.

What is said, and when (K clusters, n images, shares of 1):

| finding          | watch                                            | bad                                       |
|------------------|--------------------------------------------------|-------------------------------------------|
| empty clusters   | share above chance > 0.1                         | > 0.5                                     |
| over-full ones   | hold > 0.1 of the images                         | one cluster holds > 0.5                   |
| images alike     | mutual information < 0.05 ln K                   | < 0.01 ln K, or features' cosine > 0.99   |
| crowding         |                                                  | entropy of the mean < 0.5 ln K            |
| sureness         | mean entropy < 0.01 ln K or > 0.95 ln K          |                                           |
| rank             | effective rank < 0.1 min(n, width)               | < 0.03 min(n, width)                      |
| neighbours       | (accuracy - chance) / (1 - chance) < 0.1         | within three standard errors of chance    |
| confused classes | > 0.25 of the images of two are taken for others |                                           |
| classes          | adjusted mutual information < 0.05               |                                           |

A cluster is over-full above four times an equal share. By chance (1 - 1 / K)^n of the clusters are empty. Crowding and
the lower bound of mutual information are those at which training itself warns. Healthy small models have mutual
information of 0.1 to 0.4 ln K under the softmax, and effective ranks of 0.2 to 0.4 of their width.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from ssl_zoo.evaluation.metrics.clustering import adjusted_mutual_information
from ssl_zoo.explore.clusters import Clustering
from ssl_zoo.explore.feature_health import FeatureHealth, feature_health
from ssl_zoo.explore.workbench import ExploreError


__all__ = ["Finding", "Health", "health"]

Level = Literal["good", "watch", "bad"]
_ORDER = ("bad", "watch", "good")


@dataclass(frozen=True)
class Finding:
    """Something that was looked at.

    Attributes:
        level (`str`): `good`, `watch` or `bad`.
        sentence (`str`): What was found.
        cure (`str`): What to do about it; empty where nothing need be done.
    """

    level: Level
    sentence: str
    cure: str = ""


class Health:
    """Numbers of a clustering and of the features behind it.

    Attributes:
        clustering ([`Clustering`]): What was looked at.
        features ([`FeatureHealth`]): Of the features: spectrum, rank, k-NN confusion.
        mean_entropy (`float`): Mean entropy of the images' distributions over clusters, in nats.
        marginal_entropy (`float`): Entropy of their mean, in nats; ln K when all clusters are used equally.
        mutual_information (`float`): The difference: what clusters tell of images, in nats.
        ami (`float`, *optional*): Adjusted mutual information of clusters and classes, over images that have one.
    """

    def __init__(self, clustering: Clustering, features: FeatureHealth) -> None:
        self.clustering, self.features = clustering, features
        used = clustering.marginal[clustering.marginal > 0]
        self.mean_entropy = float(clustering.entropy.mean(dtype=np.float64))
        self.marginal_entropy = abs(float((used * np.log(used)).sum()))
        self.mutual_information = max(self.marginal_entropy - self.mean_entropy, 0.0)
        classes = clustering.explained.gallery.labels
        known = classes >= 0
        several = len(np.unique(classes[known])) > 1
        self.ami = adjusted_mutual_information(classes[known], clustering.labels[known]) if several else None

    @property
    def largest_entropy(self) -> float:
        """Logarithm of the number of clusters, in nats: what entropies and mutual information can reach."""
        return math.log(len(self.clustering))

    @property
    def information_share(self) -> float:
        """Mutual information over ln K."""
        return self._share(self.mutual_information)

    @property
    def empty_by_chance(self) -> float:
        """Clusters that images thrown into clusters at random would leave empty, on average."""
        count = len(self.clustering)
        return float(count * (1 - 1 / count) ** len(self.clustering.labels))

    def size_histogram(self, *, bins: int = 24) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Clusters by size: counts, and their edges, whole numbers, the upper one not included; empty ones first."""
        sizes = self.clustering.sizes.sizes
        step = max(1, math.ceil(int(sizes.max()) / bins))
        edges = np.concatenate([[0], np.arange(1, int(sizes.max()) + step + 1, step)])
        return np.histogram(sizes, bins=edges)[0].astype(np.int64), edges

    @cached_property
    def findings(self) -> list[Finding]:
        """What was looked at, in words, the worst first; thresholds stand in the docstring of this file."""
        found = [*self._sizes(), *self._information(), *self._features(), *self._classes()]
        return sorted(found, key=lambda finding: _ORDER.index(finding.level))

    def _share(self, entropy: float) -> float:
        return entropy / self.largest_entropy if len(self.clustering) > 1 else 0.0

    def _sizes(self) -> Iterator[Finding]:
        sizes, count = self.clustering.sizes, len(self.clustering)
        cure = "If these are images like those it was trained on, train with fewer clusters or fill them more equally."
        if self.clustering.explained.about["kmeans"]:
            cure = "Ask for fewer clusters."
        share = max(sizes.num_empty - self.empty_by_chance, 0.0) / count
        words = f"{sizes.num_empty:,} of {count:,} clusters are empty"
        if self.empty_by_chance >= 0.5:
            words += f"; so few images leave about {self.empty_by_chance:,.0f} empty by chance"
        level: Level = "bad" if share > 0.5 else "watch" if share > 0.1 else "good"
        yield Finding(level, f"{words}.", "" if level == "good" else cure)
        swallowed = int(sizes.sizes[sizes.sizes > sizes.overfull].sum()) / int(sizes.sizes.sum())
        largest = int(sizes.sizes.argmax())
        if count > 1 and sizes.largest_share > 0.5:
            words = f"Cluster {largest} swallows {100 * sizes.largest_share:.0f} % of the images"
            yield Finding("bad", f"{words}.", "It is collapsing: look at the mutual information during training.")
        elif swallowed > 0.1:
            which = (
                "1 over-full cluster holds"
                if sizes.num_overfull == 1
                else f"{sizes.num_overfull:,} over-full clusters hold"
            )
            words = f"{which} {100 * swallowed:.0f} % of the images"
            yield Finding("watch", f"{words}.", "Open the largest: they often hold what the model can't tell apart.")
        else:
            words = f"the largest cluster holds {100 * sizes.largest_share:.1f} % of the images"
            yield Finding("good", f"Images spread over the clusters; {words}.")

    def _information(self) -> Iterator[Finding]:
        if len(self.clustering) < 2:
            return
        told = f"clusters tell {self.mutual_information:.2f} of {self.largest_entropy:.2f} nats about an image"
        if self.information_share < 0.01:
            cure = "The model has collapsed, or its temperature is far too high: lower it and look again."
            yield Finding("bad", f"All images get nearly the same distribution; {told}.", cure)
        elif self.information_share < 0.05:
            cure = "Lower the temperature; where it changes little, the model hardly tells these images apart."
            yield Finding("watch", f"Distributions of images differ little; {told}.", cure)
        else:
            yield Finding("good", f"Distributions of images differ; {told}.")
        if self._share(self.marginal_entropy) < 0.5:
            words = f"entropy of the mean {self.marginal_entropy:.2f} of {self.largest_entropy:.2f} nats"
            cure = "Use images like those it was trained on; if these are, weigh equal clusters more in training."
            yield Finding("bad", f"Probability crowds on few clusters; {words}.", cure)
        entropy = f"mean entropy {self.mean_entropy:.2f} of {self.largest_entropy:.2f} nats"
        if self._share(self.mean_entropy) < 0.01:
            cure = "Raise the temperature, or sort by other things than confidence."
            yield Finding("watch", f"The model is sure of nearly every image; {entropy}.", cure)
        elif self._share(self.mean_entropy) > 0.95:
            cure = "Lower the temperature; of a model trained by MIRA look at its assignment."
            yield Finding("watch", f"The model is sure of hardly any image; {entropy}.", cure)

    def _features(self) -> Iterator[Finding]:
        features = self.features
        if features.mean_cosine > 0.99:
            words = f"Features of all images point the same way; their mean cosine is {features.mean_cosine:.3f}"
            yield Finding("bad", f"{words}.", "The backbone has collapsed, or needs images prepared in another way.")
        largest = min(features.num_images, features.width)
        words = f"an effective rank of {features.effective_rank:.1f}, of {largest} at most"
        level: Level = "bad" if features.rank_share < 0.03 else "watch" if features.rank_share < 0.1 else "good"
        cure = "Features use few of their dimensions: train longer, with stronger views, or with more varied images."
        yield Finding(level, f"Features have {words}.", "" if level == "good" else cure)

    def _classes(self) -> Iterator[Finding]:
        confusion, gallery = self.features.confusion, self.clustering.explained.gallery
        if confusion is None or self.ami is None:
            return
        chance, accuracy = confusion.chance, confusion.accuracy
        error = math.sqrt(chance * (1 - chance) / len(confusion.classes))
        words = f"{confusion.neighbors} neighbours name the class of {100 * accuracy:.0f} % of the images; the most "
        words += f"frequent class alone would be right for {100 * chance:.0f} %"
        level: Level = "good"
        if accuracy <= chance + 3 * error:
            level = "bad"
        elif (accuracy - chance) / (1 - chance) < 0.1:
            level = "watch"
        cure = "These classes aren't what the features tell apart: look at the map coloured by class."
        yield Finding(level, f"{words}.", "" if level == "good" else cure)
        pairs = [pair for pair in confusion.mistaken(limit=3) if pair.share > 0.25]
        if pairs:
            named = ", ".join(
                f"{gallery.class_name(pair.first)} and {gallery.class_name(pair.second)} ({100 * pair.share:.0f} %)"
                for pair in pairs
            )
            cure = "Search for their clusters and look whether images or labels are to blame."
            yield Finding("watch", f"Classes that neighbours take for each other: {named}.", cure)
        words = f"Clusters and classes share an adjusted mutual information of {self.ami:.2f}"
        if self.ami < 0.05:
            cure = "Clusters go by something else than these classes: open some and look."
            yield Finding("watch", f"{words}; chance is 0.", cure)
        else:
            yield Finding("good", f"{words}; chance is 0, the same partition 1.")


def health(clustering: Clustering) -> Health:
    """Look at a clustering and the features behind it. What takes long is kept on disk.

    Args:
        clustering ([`Clustering`]): Of two images at least.

    Returns:
        [`Health`].

    Raises:
        ExploreError: There is only one image.
    """
    if len(clustering.labels) < 2:
        raise ExploreError("One image has no health to speak of: open two or more.")
    return Health(clustering, feature_health(clustering.explained))
