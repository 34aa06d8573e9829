"""How fast are the steps of MSF and CMSF but for their networks: search, loss, gradient and the bank's update?

python benchmarks/mean_shift_step.py [--quick]

Ours is the real model's `forward`, gradient and `update_state`, with networks that return their inputs (and a
tiny backbone for the moving average). Rivals: the plain form of the authors' published algorithm, written here
(distances of targets and of predictions to a copy of the whole bank, top-k, gather; for CMSF a mask, or a second bank
and a third matrix), and lightly's `NNMemoryBankModule`, which finds the one nearest neighbour.
Equal: the loss, the gradient, which depends on which neighbours were found, and the bank afterwards.
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from machine import bandwidth, matmul_rate
from pairing import Limit, Mismatch, Report, Row, arguments, largest_difference
from torch import nn

import ssl_zoo
from ssl_zoo.functional.neighbors import nearest_neighbors
from ssl_zoo.nn.memory_bank import MemoryBank


NEIGHBORS = 10
TINY = {
    "architecture": "resnet18",
    "model_args": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]},
    "projector_hidden_features": [],
    "predictor_hidden_features": [],
}
Step = Callable[[], dict[str, torch.Tensor]]


class HandOn:
    """Instead of the networks: predictions and targets come in as the views."""

    def _online(self, view: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return view, view

    def _target(self, view: torch.Tensor) -> torch.Tensor:
        return view


class SearchOfMsf(HandOn, ssl_zoo.MsfForPreTraining):
    """MSF without networks."""


class SearchOfCmsf(HandOn, ssl_zoo.CmsfForPreTraining):
    """CMSF without networks."""


class Inputs:
    """A full bank, and a batch of the images that come next: those whose entries are the oldest.

    Args:
        size: Entries of the bank, and images of the data.
        batch: Images of a batch.
        width: Of the projections.
        classes: How many there are.
    """

    def __init__(self, size: int, batch: int, width: int, classes: int) -> None:
        generator = torch.Generator().manual_seed(0)

        def unit(count: int) -> torch.Tensor:
            return F.normalize(torch.randn(count, width, generator=generator), dim=1)

        self.embeddings, self.visits = unit(size), unit(size).half()
        self.labels = torch.randint(classes, (size,), generator=generator)
        self.ids = torch.arange(size)
        self.targets = torch.randn(batch, width, generator=generator)
        self.predictions = torch.randn(batch, width, generator=generator)

    def batch(self, position: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids and labels of the batch that is written at a position."""
        rows = slice(position, position + len(self.targets))
        return self.ids[rows], self.labels[rows]


def outcome(loss: torch.Tensor, predictions: torch.Tensor, bank: torch.Tensor) -> dict[str, torch.Tensor]:
    """What a step returns; the bank itself, without a copy."""
    (gradient,) = torch.autograd.grad(loss, predictions)
    return {"loss": loss.detach(), "gradient": gradient, "bank": bank}


def our_step(inputs: Inputs, model: SearchOfMsf | SearchOfCmsf) -> Step:
    """A training step of a model whose bank is full."""
    columns = {"embeddings": inputs.embeddings, "labels": inputs.labels, "sample_ids": inputs.ids}
    extra = {"visits": inputs.visits, "constraint_labels": inputs.labels}
    model.bank.write_(**columns, **{name: extra[name] for name in model.bank.columns if name in extra})
    if getattr(model, "visits", None) is not None:
        model.visits.embeddings.copy_(inputs.visits)
        model.visits.seen.fill_(True)

    def step() -> dict[str, torch.Tensor]:
        ids, labels = inputs.batch(int(model.bank.position))
        predictions = inputs.predictions.clone().requires_grad_()
        known = {"known_labels": labels} if model.config.learns_from_labels else {}
        # Each step is the first one, for which the visit is that of the bank.
        output = model([inputs.targets, predictions], sample_ids=ids, labels=labels, diagnostics=False, **known)
        found = outcome(output.loss, predictions, model.bank.embeddings)
        model.update_state([output], progress=0.0, epoch=0.0)
        return found

    return step


def plain_step(inputs: Inputs, variant: str) -> Step:
    """The authors' algorithm as they publish it, for `msf`, `self` or `full`."""
    bank, position = inputs.embeddings.clone(), 0
    pool = inputs.visits.float()  # the other augmentation of each image; the authors keep it in float32

    def step() -> dict[str, torch.Tensor]:
        nonlocal position
        ids, labels = inputs.batch(position)
        predictions = inputs.predictions.clone().requires_grad_()
        targets = F.normalize(inputs.targets, dim=1)
        bank[position : position + len(ids)] = targets
        position = (position + len(ids)) % len(bank)
        remembered = bank.clone()
        of_targets = 2 - 2 * torch.einsum("bd,nd->bn", targets, remembered)
        of_predictions = 2 - 2 * torch.einsum("bd,nd->bn", F.normalize(predictions, dim=1), remembered)
        if variant == "full":
            of_targets[labels[:, None] != inputs.labels[None, :]] = 5.0
        nearest = of_targets.topk(NEIGHBORS, dim=1, largest=False).indices
        loss = of_predictions.gather(1, nearest).mean()
        if variant == "self":
            of_visits = 2 - 2 * torch.einsum("bd,nd->bn", pool[ids], pool[inputs.ids])
            allowed = of_visits.topk(NEIGHBORS, dim=1, largest=False).indices
            of_targets += torch.zeros_like(of_targets).scatter_(1, allowed, -5.0)
            constrained = of_targets.topk(NEIGHBORS, dim=1, largest=False).indices
            loss = (loss + of_predictions.gather(1, constrained).mean()) / 2
        return outcome(loss, predictions, bank)

    return step


def check(ours: dict[str, torch.Tensor], theirs: dict[str, dict[str, torch.Tensor]]) -> str:
    """The same loss, gradient and bank."""
    (plain,) = theirs.values()
    largest_difference(ours["loss"], plain["loss"], tolerance=1e-5)
    if not torch.equal(ours["bank"], plain["bank"]):
        raise Mismatch("the banks differ after the step")
    # Another neighbour anywhere would change an entry by 1e-6.
    return "gradients' " + largest_difference(ours["gradient"], plain["gradient"], tolerance=1e-7)


def nearest_one(inputs: Inputs) -> tuple[Callable[[], Any], dict[str, Callable[[], Any]]]:
    """The work of lightly's bank by ours and by lightly's: the nearest neighbour of each target, then the update."""
    bank = MemoryBank(len(inputs.embeddings), inputs.embeddings.shape[1])
    bank.write_(embeddings=inputs.embeddings, labels=inputs.labels, sample_ids=inputs.ids)
    targets = F.normalize(inputs.targets, dim=1)

    def ours() -> torch.Tensor:
        ids, labels = inputs.batch(int(bank.position))
        found = nearest_neighbors(targets, bank.embeddings, k=1)
        nearest = bank.embeddings[found.rows[:, 0]]
        bank.write_(embeddings=targets, labels=labels, sample_ids=ids)
        return nearest

    try:
        from lightly.models.modules import NNMemoryBankModule
    except ImportError:
        return ours, {}
    module: nn.Module = NNMemoryBankModule(size=tuple(inputs.embeddings.shape))
    module.bank = inputs.embeddings.clone()
    return ours, {"lightly": lambda: module(targets, update=True)}


def memory_note(row: Row) -> str:
    """Ours as a share of the first rival's."""
    rival = next(iter(row.rivals))
    share = row.peak_bytes["ours"] / max(row.peak_bytes[rival], 1)
    return (
        f"{row.work}: at its peak ours takes {share:.0%} of the memory of {rival}, beyond the bank itself (aim 33%)."
    )


def measure(options: argparse.Namespace) -> None:
    """Run all rows."""
    size, batch, width, classes = (8192, 64, 128, 50) if options.quick else (128000, 256, 512, 1000)
    inputs = Inputs(size, batch, width, classes)
    report = Report("mean_shift_step", question=str(__doc__).splitlines()[0], options=options)
    work = f"bank {size // 1000}k x {width}, B {batch}, k {NEIGHBORS}"
    product = 2.0 * size * batch * width
    fields = {**TINY, "projection_features": width, "bank_size": size, "num_neighbors": NEIGHBORS}

    def searches(count: int) -> Limit:
        return Limit(count * product / matmul_rate(), f"{count} product(s) of the batch and a bank / measured rate")

    def pair(name: str, variant: str, model: SearchOfMsf | SearchOfCmsf, limit: Limit) -> None:
        row = report.pair(
            f"{name}, {work}",
            ours=our_step(inputs, model.train()),
            rivals={"plain form": plain_step(inputs, variant)},
            check=check,
            aims={"plain form": 3.0},
            limit=limit,
            memory=True,
        )
        report.note(memory_note(row))

    pair("MSF", "msf", SearchOfMsf(ssl_zoo.MsfConfig(**fields)), searches(1))
    unlabelled = ssl_zoo.CmsfConfig(**fields, num_candidates=NEIGHBORS, num_samples=size)
    pair(f"CMSF without labels, k' {NEIGHBORS}", "self", SearchOfCmsf(unlabelled), searches(2))
    config = ssl_zoo.CmsfConfig(**fields, supervision="full")
    config.fit_to_data(num_samples=size, num_classes=classes, num_labelled=size)
    _, labels = inputs.batch(0)
    read = int(torch.isin(inputs.labels, labels).sum()) * width * 4
    words = f"reading the {read / 2**20:.0f} MiB of the batch's classes / measured bandwidth"
    pair(f"CMSF with {classes} classes", "full", SearchOfCmsf(config), Limit(read / bandwidth(), words))
    ours, rivals = nearest_one(inputs)
    if rivals:
        row = report.pair(
            f"nearest one and update, bank {size // 1000}k x {width}, B {batch}",
            ours=ours,
            rivals=rivals,
            check=lambda own, theirs: largest_difference(own, theirs["lightly"], tolerance=0.0),
            aims={"lightly": 3.0},
            limit=searches(1),
            memory=True,
        )
        alone = statistics.median(row.rivals["lightly"]) / searches(1).seconds
        report.note(
            f"lightly's bank has no loss and no k: compared is what both do. It takes {alone:.1f} times the product "
            "of batch and bank alone, which is most of ours: a search that did nothing else would be so much faster."
        )
    else:
        report.note("lightly is not installed: `pip install lightly` for that row.")
    report.finish()


if __name__ == "__main__":
    measure(arguments(__doc__))
