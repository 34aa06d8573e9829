"""What CMSF logs about its constraint. Nothing here has an effect on training."""

import math

import torch

from ssl_zoo.functional.distributed import all_reduce_sum_
from ssl_zoo.functional.neighbors import Neighbors, label_agreement, other_images, spread
from ssl_zoo.models.cmsf.classifier import PseudoLabelClassifier
from ssl_zoo.models.cmsf.constraints import ClusterTable
from ssl_zoo.nn.memory_bank import UpdatedColumn


__all__ = ["diagnose"]


@torch.no_grad()
def diagnose(
    bank: dict[str, UpdatedColumn],
    local_rows: torch.Tensor,
    constrained: Neighbors,
    candidates: Neighbors | torch.Tensor,
    is_constrained: torch.Tensor,
    plain: Neighbors | None,
    classifier: PseudoLabelClassifier | None,
    clusters: ClusterTable | None,
) -> dict[str, torch.Tensor | None]:
    """Fill in the diagnostic fields of the output, by name.

    Args:
        bank (`dict`): The bank with this step's targets in it.
        local_rows (`torch.Tensor` of shape `(batch, 4)`): Class, sample id, known class and constraint label of this
            process's rows.
        constrained ([`Neighbors`]): Those within the constraint.
        candidates ([`Neighbors`] or `torch.Tensor`): The constraint sets, or the constraint label of every entry.
        is_constrained (`torch.Tensor` of shape `(batch,)`): Which rows have a constraint.
        plain ([`Neighbors`], *optional*): Those out of the whole bank.
        classifier (`PseudoLabelClassifier`, *optional*): The one in use.
        clusters (`ClusterTable`, *optional*): The one in use.

    Returns:
        `dict`: the same fields are filled on all processes.
    """
    labels, _, known, guess = local_rows.unbind(dim=1)
    size = len(bank["embeddings"].stored)
    fields: dict[str, torch.Tensor | None] = {
        "bank_filled": torch.tensor(len(bank["embeddings"]) / size, device=local_rows.device),
        "projection_std": spread(bank["embeddings"].pending),
        "constrained_share": is_constrained.float().mean(),
    }
    fields["purity"], fields["neighbor_distance"] = _describe(bank, local_rows, constrained, is_constrained)
    if plain is not None:
        fields["plain_purity"], fields["plain_distance"] = _describe(
            bank, local_rows, plain, torch.ones_like(is_constrained)
        )
    if isinstance(candidates, Neighbors):
        num_candidates = candidates.found.sum(dim=1)
    else:
        counts = candidates[candidates >= 0].bincount(minlength=int(max(guess.max(), candidates.max())) + 2)
        num_candidates = counts[guess.clamp_min(0)]
    fields["num_candidates"] = _mean(num_candidates, is_constrained)
    if classifier is not None:
        unlabelled = known < 0
        fields["pseudo_label_coverage"] = _mean((guess >= 0).float(), unlabelled)
        fields["pseudo_label_accuracy"] = label_agreement(labels, guess.unsqueeze(1), unlabelled.unsqueeze(1))
        fields["classifier_accuracy"] = classifier.accuracy.clone()
    if clusters is not None and int(clusters.num_solved) > 0:
        sizes = clusters.sizes()
        shares = sizes / sizes.sum().clamp_min(1)
        fields["cluster_entropy"] = torch.special.entr(shares).sum() / math.log(max(len(sizes), 2))
        fields["used_clusters"] = (sizes > 0).float().mean()
    return fields


def _describe(
    bank: dict[str, UpdatedColumn], local_rows: torch.Tensor, neighbors: Neighbors, rows: torch.Tensor
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Purity and mean distance of the neighbours of some rows, over all processes; the image itself doesn't count."""
    labels, ids = local_rows[:, 0], local_rows[:, 1]
    others = other_images(neighbors, bank["sample_ids"].take(neighbors.rows), ids) & rows.unsqueeze(1)
    purity = label_agreement(labels, bank["labels"].take(neighbors.rows), others)
    return purity, _mean(2.0 - 2.0 * neighbors.similarities, others)


def _mean(values: torch.Tensor, counted: torch.Tensor) -> torch.Tensor | None:
    """Mean of some values over all processes, the same on each of them; `None` when there are none."""
    sums = torch.stack([values[counted].float().sum(), counted.sum().float()])
    total, count = all_reduce_sum_(sums).tolist()
    return torch.tensor(total / count, device=values.device) if count else None
