"""MIRA's assignment: how much faster than the iteration as published?

Rival: the plain form of the authors' algorithm, elementwise passes over the (batch, prototypes) matrix, 30 iterations
(https://huggingface.co/papers/2211.02284). Equality: every assignment within 1e-5 of the rival's, for one view.

Scores: cosines of vectors of 256 numbers, like those of a trained projector. Prototypes are random directions; a
sample is a prototype, drawn with unequal frequencies (~ rank^-0.5), plus noise of the same length. So a sample's own
prototype has a cosine near 0.7, and those of the others have a standard deviation of 1/16.

    python benchmarks/mira_assignment.py [--quick]
"""

import torch
from machine import bandwidth, exp_rate
from pairing import Limit, Report, arguments, largest_difference
from torch.nn.functional import normalize

from ssl_zoo.functional import mira_assignment


TEMPERATURE = 0.225
NUM_PROTOTYPES = 3000


def cosines(batch: int, num_prototypes: int, *, features: int = 256, seed: int = 0) -> torch.Tensor:
    """Scores `(batch, num_prototypes)`; see above."""
    generator = torch.Generator().manual_seed(seed)
    prototypes = normalize(torch.randn(num_prototypes, features, generator=generator), dim=1)
    frequencies = torch.arange(1, num_prototypes + 1).float() ** -0.5
    own = torch.multinomial(frequencies, batch, replacement=True, generator=generator)
    noise = torch.randn(batch, features, generator=generator) / features**0.5
    return normalize(prototypes[own] + noise, dim=1) @ prototypes.T


def plain_form(scores: torch.Tensor, beta: float, num_iters: int = 30) -> torch.Tensor:
    """The iteration as the paper writes it."""
    power = -beta / (1 - beta)
    kernel = torch.softmax(scores / (TEMPERATURE * (1 - beta)), dim=1)
    v = kernel.mean(dim=0) ** (1 - beta)
    for _ in range(num_iters):
        weighted = v**power * kernel
        v = (kernel / weighted.sum(dim=1, keepdim=True)).mean(dim=0) ** (1 - beta)
    weighted = v**power * kernel
    return weighted / weighted.sum(dim=1, keepdim=True)


def main() -> None:
    """Run it."""
    options = arguments(__doc__)
    report = Report("mira_assignment", question="How fast are MIRA's assignments of a batch?", options=options)
    for batch, beta, aim in ((4096, 2 / 3, 12.0), (256, 2 / 3, 4.0), (4096, 0.75, 0.0), (256, 0.9, 0.0)):
        if options.quick and batch > 256:
            batch = 512
        scores = cosines(batch, NUM_PROTOTYPES)
        numbers = scores.numel()
        report.pair(
            f"B {batch}, K {NUM_PROTOTYPES}, beta {beta:.3g}",
            ours=lambda scores=scores, beta=beta: mira_assignment(scores, temperature=TEMPERATURE, beta=beta),
            rivals={"plain form": lambda scores=scores, beta=beta: plain_form(scores, beta)},
            check=lambda ours, theirs: largest_difference(ours, theirs["plain form"], tolerance=1e-5),
            aims={"plain form": aim} if aim and not options.quick else None,
            limit=Limit(
                numbers / exp_rate() + 2 * numbers * 4 / bandwidth(),
                "one exponential a score, scores read and assignments written once",
            ),
            memory=batch > 256,
            repeats=15 if batch > 256 else 41,
        )
    report.note(
        "One view (the method solves two at once, as two problems). The plain form always runs 30 iterations; ours "
        "stops when the contraction by beta guarantees that the rest of the 30 can't change an assignment by 4e-6."
    )
    report.finish()


if __name__ == "__main__":
    main()
