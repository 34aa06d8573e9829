"""How fast are CorInfoMax's loss, its gradient and the update of its state?

python benchmarks/corinfomax_loss.py [--quick]

Ours is the real model's `forward`, gradient and `update_state`, with projections handed in instead of images. The
rival is the plain form of the authors' published algorithm, written here: means and covariances of each view,
log-determinants by `torch.logdet` in float64, gradient by autograd. The batch is the ImageNet recipe's. The 8192 of
that recipe is the width of the projector's hidden layers. One row measures loss and projector together, where the
projector takes nearly all of the time of both. Another row has projections four times as wide, which no recipe has.
Equal: loss and gradient of two steps; the second starts from the statistics of the first.
"""

import argparse
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from machine import matmul_rate
from pairing import Limit, Report, arguments, largest_difference
from torch import nn

import ssl_zoo
from ssl_zoo.nn.heads import Projector


OFFSET, FORGETTING, SIMILARITY_WEIGHT = 1e-8, 0.1, 2000.0
TINY = {
    "architecture": "resnet18",
    "model_args": {"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]},
    "projector_hidden_features": [],
}
Step = Callable[[], tuple[torch.Tensor, list[torch.Tensor]]]


class LossOfCorinfomax(ssl_zoo.CorinfomaxForPreTraining):
    """CorInfoMax without a backbone and with a given head, whose inputs are the views."""

    def _project(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return images, self.projector(images)


def our_step(views: list[torch.Tensor], width: int, head: nn.Module) -> Step:
    """A step of ours; the model keeps its running statistics."""
    model = LossOfCorinfomax(ssl_zoo.CorinfomaxConfig(**TINY, projection_features=width)).train()
    model.projector = head

    def step() -> tuple[torch.Tensor, list[torch.Tensor]]:
        inputs = [view.clone().requires_grad_() for view in views]
        output = model(inputs, diagnostics=False)
        gradients = torch.autograd.grad(output.loss, [*inputs, *head.parameters()])
        model.update_state([output], progress=0.0, epoch=0.0)
        return output.loss.detach(), list(gradients[:2])

    return step


def plain_step(views: list[torch.Tensor], width: int, head: nn.Module) -> Step:
    """A step of the authors' form."""
    means = [torch.zeros(width, dtype=torch.float64) for _ in range(2)]
    covariances = [torch.eye(width, dtype=torch.float64) for _ in range(2)]
    offset = OFFSET * torch.eye(width, dtype=torch.float64)

    def step() -> tuple[torch.Tensor, list[torch.Tensor]]:
        inputs = [view.clone().requires_grad_() for view in views]
        units = [F.normalize(head(view), dim=1) for view in inputs]
        loss = SIMILARITY_WEIGHT * F.mse_loss(*units)
        for view, unit in enumerate(units):
            mean = FORGETTING * means[view] + (1 - FORGETTING) * unit.mean(dim=0)
            centred = unit - mean
            covariance = FORGETTING * covariances[view] + (1 - FORGETTING) * (centred.T @ centred) / len(unit)
            loss = loss - torch.logdet(covariance + offset) / width
            means[view], covariances[view] = mean.detach(), covariance.detach()
        gradients = torch.autograd.grad(loss, [*inputs, *head.parameters()])
        return loss.detach(), list(gradients[:2])

    return step


def both(views: list[torch.Tensor], width: int, head: nn.Module | None = None) -> dict[str, Any]:
    """Arguments of `Report.pair`, after both agreed on a first step. Without a head the views are the projections."""
    head = nn.Identity() if head is None else head
    ours, plain = our_step(views, width, head), plain_step(views, width, head)
    check(ours(), {"plain form": plain()})
    return {"ours": ours, "rivals": {"plain form": plain}, "check": check}


def check(ours: tuple[torch.Tensor, list[torch.Tensor]], theirs: dict[str, Any]) -> str:
    """The same loss, and gradients the same to float32's precision of the largest entry."""
    (plain,) = theirs.values()
    largest_difference(ours[0].double(), plain[0], tolerance=1e-5 * float(plain[0].abs()))
    scale = max(float(gradient.abs().max()) for gradient in plain[1])
    pair = [torch.stack(gradients) / scale for gradients in (ours[1], plain[1])]
    return "gradients' " + largest_difference(*pair, tolerance=1e-4) + " of the largest entry"


def limit(batch: int, width: int) -> Limit:
    """Per view a symmetric product and Cholesky's decomposition in float64, and two triangular solves in float32."""
    seconds = 2 * (batch * width**2 + width**3 / 3) / matmul_rate(torch.float64)
    seconds += 2 * 2 * batch * width**2 / matmul_rate()
    words = (
        "of both views, covariances and Cholesky at the float64 rate of products, two triangular solves at float32's"
    )
    return Limit(seconds, words)


def measure(options: argparse.Namespace) -> None:
    """Run all rows."""
    report = Report("corinfomax_loss", question=str(__doc__).splitlines()[0], options=options)
    generator = torch.Generator().manual_seed(0)
    batch, width = (256, 64) if options.quick else (1536, 512)

    def views(features: int) -> list[torch.Tensor]:
        """Two noisy copies of the same random vectors, as of a network in training."""
        common = torch.randn(batch, features, generator=generator)
        return [common + torch.randn(batch, features, generator=generator) for _ in range(2)]

    report.pair(
        f"loss, gradient and state, B {batch}, D {width}",
        **both(views(width), width),
        aims={"plain form": 2.0},
        limit=limit(batch, width),
        memory=True,
        repeats=21,
    )
    hidden = 256 if options.quick else 8192
    torch.manual_seed(0)
    head = Projector(hidden // 4, [hidden, hidden], width, hidden_bias=True, out_bias=False)
    operations = 3 * 2 * 2 * batch * sum(p.numel() for p in head.parameters() if p.ndim == 2)
    report.pair(
        f"the same with the projector {hidden // 4}-{hidden}-{hidden}-{width}, forward and backward",
        **both(views(hidden // 4), width, head),
        limit=Limit(operations / matmul_rate(), "the projector's products / measured rate"),
        repeats=3,
    )
    report.note("With the projector both do the same products but for the loss: no ratio was aimed at.")
    wide = 256 if options.quick else 2048
    report.pair(
        f"loss, gradient and state, B {batch}, D {wide}",
        **both(views(wide), wide),
        aims={"plain form": 2.0},
        limit=limit(batch, wide),
        repeats=5,
    )
    report.note(
        "The plain form spends two thirds of its time in its float64 products, which ours halves: one is symmetric, "
        "and the gradient is float32's. What is left, Cholesky's decomposition and passes over projections and "
        "covariances, weighs on both alike and runs at a fraction of the products' rate. Tried and no faster: the "
        "inverse and a product with it, sums of the covariance over parts of the batch, other numbers of blocks, "
        "Cholesky's decomposition of the transposed matrix. A covariance in float32 would help, but blur its small "
        "eigenvalues; the authors' precision is float64."
    )
    report.finish()


if __name__ == "__main__":
    measure(arguments(__doc__))
