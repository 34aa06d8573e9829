"""Whether clusters and features are healthy: the numbers, and in words what is wrong.

The findings and their thresholds (K clusters, n images, shares of 1):

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
the lower threshold of mutual information are those of the warnings in training. Healthy small models have a mutual
information of 0.1 to 0.4 ln K with the softmax, and effective ranks of 0.2 to 0.4 of their width.
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
    """The result of one check: how bad it is, in a sentence, and what to do about it (empty if nothing)."""

    level: Level
    sentence: str
    cure: str = ""


class Health:
    """Numbers of a clustering and of the features behind it.

    Attributes:
        clustering ([`Clustering`]): What was checked.
        features ([`FeatureHealth`]): Spectrum, rank and k-NN confusion of the features.
        mean_entropy (`float`): Mean entropy of the images' distributions over clusters, in nats.
        marginal_entropy (`float`): Entropy of their mean, in nats; ln K when all clusters are used equally.
        mutual_information (`float`): The difference: what the cluster tells about an image, in nats.
        ami (`float`, *optional*): Adjusted mutual information of clusters and classes, over images with a class.
    """

    def __init__(self, clustering: Clustering, features: FeatureHealth) -> None:
        self.clustering, self.features = clustering, features
        used = clustering.marginal[clustering.marginal > 0]
        self.mean_entropy = float(clustering.entropy.mean(dtype=np.float64))
        self.marginal_entropy = abs(float((used * np.log(used)).sum()))
        self.mutual_information = max(self.marginal_entropy - self.mean_entropy, 0.0)
        has_class = clustering.explained.gallery.labels >= 0
        classes, pseudo_labels = clustering.explained.gallery.labels[has_class], clustering.pseudo_labels[has_class]
        several = len(np.unique(classes)) > 1
        self.ami = adjusted_mutual_information(classes, pseudo_labels) if several else None

    @property
    def largest_entropy(self) -> float:
        """Logarithm of the number of clusters, in nats: the maximum of entropies and of the mutual information."""
        return math.log(len(self.clustering))

    @property
    def information_share(self) -> float:
        """Mutual information over ln K."""
        return self._share(self.mutual_information)

    @property
    def empty_by_chance(self) -> float:
        """Expected number of empty clusters if images were assigned at random."""
        count = len(self.clustering)
        return float(count * (1 - 1 / count) ** len(self.clustering.pseudo_labels))

    def size_histogram(self, *, bins: int = 24) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Clusters by size: counts, and their edges (whole numbers, upper ones excluded); the first bin is size 0."""
        sizes = self.clustering.sizes.sizes
        step = max(1, math.ceil(int(sizes.max()) / bins))
        edges = np.concatenate([[0], np.arange(1, int(sizes.max()) + step + 1, step)])
        return np.histogram(sizes, bins=edges)[0].astype(np.int64), edges

    @cached_property
    def findings(self) -> list[Finding]:
        """The results of all checks, the worst first; the docstring of this file lists the thresholds."""
        findings = [*self._sizes(), *self._information(), *self._features(), *self._classes()]
        return sorted(findings, key=lambda finding: _ORDER.index(finding.level))

    def _share(self, entropy: float) -> float:
        return entropy / self.largest_entropy if len(self.clustering) > 1 else 0.0

    def _sizes(self) -> Iterator[Finding]:
        sizes, count = self.clustering.sizes, len(self.clustering)
        cure = "If the images are like the training images, train with fewer clusters or balance them more."
        if self.clustering.explained.about["kmeans"]:
            cure = "Ask for fewer clusters."
        share = max(sizes.num_empty - self.empty_by_chance, 0.0) / count
        sentence = f"{sizes.num_empty:,} of {count:,} clusters are empty"
        if self.empty_by_chance >= 0.5:
            sentence += f"; with so few images about {self.empty_by_chance:,.0f} are empty by chance"
        level: Level = "bad" if share > 0.5 else "watch" if share > 0.1 else "good"
        yield Finding(level, f"{sentence}.", "" if level == "good" else cure)
        overfull_share = int(sizes.sizes[sizes.sizes > sizes.overfull].sum()) / int(sizes.sizes.sum())
        largest = int(sizes.sizes.argmax())
        if count > 1 and sizes.largest_share > 0.5:
            sentence = f"Cluster {largest} holds {100 * sizes.largest_share:.0f} % of the images."
            yield Finding("bad", sentence, "The model is collapsing: check the mutual information during training.")
        elif overfull_share > 0.1:
            several = sizes.num_overfull > 1
            sentence = f"{sizes.num_overfull:,} over-full {'clusters hold' if several else 'cluster holds'}"
            cure = "Open the largest: they often hold images that the model can't distinguish."
            yield Finding("watch", f"{sentence} {100 * overfull_share:.0f} % of the images.", cure)
        else:
            percent = f"{100 * sizes.largest_share:.1f} %"
            yield Finding("good", f"Images spread over the clusters; the largest cluster holds {percent} of them.")

    def _information(self) -> Iterator[Finding]:
        if len(self.clustering) < 2:
            return
        nats = f"{self.mutual_information:.2f} of {self.largest_entropy:.2f} nats"
        information = f"the mutual information of images and clusters is {nats}"
        if self.information_share < 0.01:
            cure = "The model has collapsed, or its temperature is far too high: lower it and check again."
            yield Finding("bad", f"All images get nearly the same distribution; {information}.", cure)
        elif self.information_share < 0.05:
            cure = "Lower the temperature; if little changes, the model hardly distinguishes these images."
            yield Finding("watch", f"Distributions of images differ little; {information}.", cure)
        else:
            yield Finding("good", f"Distributions of images differ; {information}.")
        if self._share(self.marginal_entropy) < 0.5:
            nats = f"{self.marginal_entropy:.2f} of {self.largest_entropy:.2f} nats"
            cure = "Use images like the training images; if these are, balance the clusters more in training."
            yield Finding("bad", f"Few clusters get most of the probability; the entropy of the mean is {nats}.", cure)
        entropy = f"mean entropy {self.mean_entropy:.2f} of {self.largest_entropy:.2f} nats"
        if self._share(self.mean_entropy) < 0.01:
            cure = "Raise the temperature, or don't sort by confidence."
            yield Finding("watch", f"The model is confident about nearly every image; {entropy}.", cure)
        elif self._share(self.mean_entropy) > 0.95:
            cure = "Lower the temperature; for a model trained by MIRA, use its assignment."
            yield Finding("watch", f"The model is confident about hardly any image; {entropy}.", cure)

    def _features(self) -> Iterator[Finding]:
        features = self.features
        if features.mean_cosine > 0.99:
            sentence = f"The features of all images have the same direction; mean cosine {features.mean_cosine:.3f}."
            yield Finding("bad", sentence, "The backbone has collapsed, or expects images prepared in another way.")
        largest = min(features.num_images, features.width)
        rank = f"{features.effective_rank:.1f} of at most {largest}"
        level: Level = "bad" if features.rank_share < 0.03 else "watch" if features.rank_share < 0.1 else "good"
        cure = "The features use few dimensions: train longer, with stronger augmentation, or with more varied images."
        yield Finding(level, f"The effective rank of the features is {rank}.", "" if level == "good" else cure)

    def _classes(self) -> Iterator[Finding]:
        confusion, gallery = self.features.confusion, self.clustering.explained.gallery
        if confusion is None or self.ami is None:
            return
        chance, accuracy = confusion.chance, confusion.accuracy
        error = math.sqrt(chance * (1 - chance) / len(confusion.classes))
        sentence = f"{confusion.neighbors} neighbours predict the class of {100 * accuracy:.0f} % of the images; the "
        sentence += f"most frequent class is right for {100 * chance:.0f} %."
        is_chance = accuracy <= chance + 3 * error
        level: Level = "bad" if is_chance else "watch" if (accuracy - chance) / (1 - chance) < 0.1 else "good"
        cure = "The features don't separate these classes: look at the map coloured by class."
        yield Finding(level, sentence, "" if level == "good" else cure)
        pairs = [pair for pair in confusion.mistaken(limit=3) if pair.share > 0.25]
        if pairs:
            name = gallery.class_name
            named = ", ".join(f"{name(one)} and {name(two)} ({100 * share:.0f} %)" for one, two, share in pairs)
            cure = "Search for their clusters, and check whether images or labels are the cause."
            yield Finding("watch", f"Classes that neighbours confuse: {named}.", cure)
        sentence = f"Clusters and classes have an adjusted mutual information of {self.ami:.2f}; 0 is chance"
        if self.ami < 0.05:
            cure = "The clusters follow something else than these classes: open some to see what."
            yield Finding("watch", f"{sentence}.", cure)
        else:
            yield Finding("good", f"{sentence}, 1 the same partition.")


def health(clustering: Clustering) -> Health:
    """Check a clustering and the features behind it. What takes long is cached on the disk.

    Raises:
        ExploreError: There is only one image.
    """
    if len(clustering.pseudo_labels) < 2:
        raise ExploreError("A single image can't be checked: open two or more")
    return Health(clustering, feature_health(clustering.explained))
