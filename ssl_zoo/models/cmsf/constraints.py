"""Tables by sample id that say where CMSF without labels looks for neighbours. They are persistent buffers."""

from importlib.util import find_spec

import torch
from torch import nn

from ssl_zoo.functional.distributed import broadcast_, rank
from ssl_zoo.nn.memory_bank import Column, empty_column


__all__ = ["ClusterTable", "VisitTable", "require_kmeans"]

# Coordinates of unused centroids: far from every unit vector.
_FAR_AWAY = 1000.0
_VARIANCE = 0.1
_KMEANS_BATCH = 4096
_KMEANS_PASSES = 20


class VisitTable(nn.Module):
    """The target projection of every training image at its last visit.

    Args:
        num_samples (`int`): Images in the training data.
        num_features (`int`): Width of the projections. In half precision, 1.3 GB for ImageNet at width 512 once all
            images were visited.
    """

    embeddings: torch.Tensor
    seen: torch.Tensor

    def __init__(self, num_samples: int, num_features: int) -> None:
        super().__init__()
        self.register_buffer("embeddings", empty_column(num_samples, Column((num_features,), torch.float16, 0.0)))
        self.register_buffer("seen", torch.zeros(num_samples, dtype=torch.bool))

    def look_up(self, sample_ids: torch.Tensor, otherwise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Look up the projections at the last visit.

        Args:
            sample_ids (`torch.Tensor` of shape `(batch,)`): Ids; negative for images without one.
            otherwise (`torch.Tensor` of shape `(batch, num_features)`): Stands in for images never visited.

        Returns:
            Projections `(batch, num_features)` in half precision, and which images were visited `(batch,)`.
        """
        seen = self.seen[sample_ids.clamp_min(0)] & (sample_ids >= 0)
        stored = self.embeddings[sample_ids.clamp_min(0)]
        return torch.where(seen.unsqueeze(1), stored, otherwise.to(stored.dtype)), seen

    @torch.no_grad()
    def write_(self, sample_ids: torch.Tensor, embeddings: torch.Tensor) -> None:
        """Store the projections of visited images, the same on all processes; of repeated ids the last row counts.

        Args:
            sample_ids (`torch.Tensor` of shape `(batch,)`): Ids; negative ones are left out.
            embeddings (`torch.Tensor` of shape `(batch, num_features)`): Unit target projections.
        """
        # On a GPU the result of writing twice to one place is undefined: keep the last row of each id.
        unique, number = sample_ids.unique(return_inverse=True)
        order = torch.arange(len(sample_ids), device=sample_ids.device)
        last = torch.zeros_like(unique).scatter_reduce(0, number, order, "amax", include_self=False)[unique >= 0]
        self.embeddings[sample_ids[last]] = embeddings[last].to(self.embeddings.dtype)
        self.seen[sample_ids[last]] = True


class ClusterTable(nn.Module):
    """The k-means cluster of every training image, from its projection at the last visit.

    Args:
        num_samples (`int`): Images in the training data.
        num_features (`int`): Width of the projections.
        num_clusters (`int`): How many clusters at most.
    """

    ids: torch.Tensor
    centroids: torch.Tensor
    num_solved: torch.Tensor

    def __init__(self, num_samples: int, num_features: int, num_clusters: int) -> None:
        super().__init__()
        self.register_buffer("ids", torch.full((num_samples,), -1))
        self.register_buffer("centroids", torch.full((num_clusters, num_features), _FAR_AWAY))
        self.register_buffer("num_solved", torch.zeros((), dtype=torch.int64))

    def look_up(self, sample_ids: torch.Tensor) -> torch.Tensor:
        """Clusters of images by id, int64, of the shape of `sample_ids`; -1 for images that are in none."""
        return torch.where(sample_ids >= 0, self.ids[sample_ids.clamp_min(0)], -1)

    @torch.no_grad()
    def solve_when_due_(self, visits: VisitTable, *, moment: int) -> None:
        """Cluster all visited images, unless this was done. Process 0 computes it and broadcasts the result.

        `moment` is the seed of the mini-batch k-means, so a resumed run gets the same clusters.

        Args:
            visits (`VisitTable`): Where the projections are.
            moment (`int`): Number of this solution, counted from 1.

        Raises:
            ImportError: if scikit-learn isn't installed.
        """
        if moment <= int(self.num_solved):
            return
        require_kmeans()
        rows = visits.seen.nonzero().flatten()
        if rank() == 0:
            # Imported here: only training CMSF-KM needs it, and importing it takes longer than timm.
            from sklearn.cluster import MiniBatchKMeans

            data = visits.embeddings[rows].float().cpu().numpy()
            kmeans = MiniBatchKMeans(
                min(len(self.centroids), len(data)),
                batch_size=_KMEANS_BATCH,
                max_iter=_KMEANS_PASSES,
                n_init=1,
                random_state=moment,
            ).fit(data)
            self.ids.fill_(-1)
            self.ids[rows] = torch.from_numpy(kmeans.labels_).to(self.ids)
            self.centroids.fill_(_FAR_AWAY)
            centroids = torch.from_numpy(kmeans.cluster_centers_).to(self.centroids)
            self.centroids[: len(centroids)] = centroids
        broadcast_(self.ids)
        broadcast_(self.centroids)
        self.num_solved.fill_(moment)

    @torch.no_grad()
    def probabilities(self, projections: torch.Tensor) -> torch.Tensor:
        """Probability of each cluster for unit projections `(batch, num_features)`, `(batch, num_clusters)`.

        k-means knows no probabilities. These are those of equally likely, round clusters of variance `_VARIANCE` in
        each direction, so the most likely cluster is the one with the nearest centroid.
        """
        # -|z - c|^2 / 2 without the term that is the same for all centroids c of an image z.
        nearness = projections.float() @ self.centroids.T - self.centroids.square().sum(dim=1) / 2
        return torch.softmax(nearness / _VARIANCE, dim=-1)

    @torch.no_grad()
    def sizes(self) -> torch.Tensor:
        """Images in each cluster, `(num_clusters,)`."""
        return self.ids[self.ids >= 0].bincount(minlength=len(self.centroids))


def require_kmeans() -> None:
    """Raise an `ImportError` that says what to install if scikit-learn is missing."""
    if find_spec("sklearn") is None:
        raise ImportError("CMSF with `constraint: kmeans` clusters by scikit-learn: `pip install scikit-learn`")
