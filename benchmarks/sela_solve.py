"""SeLa's label solve: how much faster than the authors' algorithm, and than POT's Sinkhorn?

Rivals: the plain form of the authors' algorithm (https://huggingface.co/papers/1911.05371) in float64 NumPy, which
stops when sum_i |c_i / c_i,new - 1| < 0.1 in every 10th iteration; and `ot.sinkhorn` with cost -log p,
regularisation 1 / 25, its plain method (the fastest of its methods that solves this one: in float64 enough of p^25
survives) and a threshold on the clusters' masses as strict as ours. Equality: 99.9 % of the labels.

Scores: what a head makes of features that lie in clusters. Classes, a third as many as clusters, are random directions
of 128 numbers with unequal frequencies (~ rank^-0.5); a feature is its class's direction plus noise twice as long; a
cluster's weights are a class's direction plus noise half as long, and each class has one cluster or more; the logits
are 5 times their cosines. The largest cluster of argmax p is then several times the mean, as it is before a solve.

    python benchmarks/sela_solve.py [--quick]
"""

import warnings

import numpy as np
import numpy.typing as npt
import torch
from pairing import Mismatch, Report, Row, arguments, seconds
from torch.nn.functional import normalize

from ssl_zoo.functional import sinkhorn_labels


STRENGTH = 25.0


class HeadScores:
    """Makes log-probabilities of any number of rows, piece by piece; see above.

    Args:
        num_clusters: K.
        scale: Logits are this many times the cosines.
        noise: Length of the noise of a feature; that of its class's direction is 1.
        seed: Of everything.
    """

    def __init__(self, num_clusters: int, *, scale: float = 5.0, noise: float = 2.0, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._scale, self._noise = scale, noise
        classes = max(num_clusters // 3, 1)
        self._frequencies = torch.arange(1, classes + 1).float() ** -0.5
        self._centres = normalize(torch.randn(classes, 128, generator=self._generator), dim=1)
        more = torch.multinomial(
            self._frequencies, num_clusters - classes, replacement=True, generator=self._generator
        )
        self._weights = self._near(torch.cat([torch.arange(classes), more]), 0.5)

    def _near(self, classes: torch.Tensor, noise: float) -> torch.Tensor:
        centres = self._centres[classes]
        return normalize(centres + noise * torch.randn(centres.shape, generator=self._generator) / 128**0.5, dim=1)

    def rows(self, count: int) -> torch.Tensor:
        """The next rows, `(count, num_clusters)`, float32."""
        classes = torch.multinomial(self._frequencies, count, replacement=True, generator=self._generator)
        return torch.log_softmax(self._scale * self._near(classes, self._noise) @ self._weights.T, dim=1)


def plain_form(probabilities: npt.NDArray[np.float32], max_iters: int = 10_000) -> tuple[npt.NDArray[np.int64], int]:
    """Labels as the authors find them, and the number of iterations."""
    rows, clusters = probabilities.shape
    powers = probabilities.astype(np.float64) ** STRENGTH
    c = np.full(rows, 1 / rows)
    for iteration in range(max_iters):
        r = (1 / clusters) / (c @ powers)
        updated = (1 / rows) / (powers @ r)
        error = np.abs(c / updated - 1).sum()
        c = updated
        if iteration % 10 == 0 and error < 0.1:
            break
    powers *= c[:, None]
    powers *= r
    return powers.argmax(axis=1), iteration + 1


def pot(log_probabilities: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Labels by POT."""
    import ot

    rows, clusters = log_probabilities.shape
    # Clusters' masses that are each wrong by 0.1 / (rows K) are wrong by 0.1 samples together; POT takes their norm.
    threshold = 0.1 / rows / clusters**0.5
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plan = ot.sinkhorn(
            np.full(rows, 1 / rows),
            np.full(clusters, 1 / clusters),
            -log_probabilities.astype(np.float64),
            reg=1 / STRENGTH,
            stopThr=threshold,
            numItermax=10_000,
        )
    return np.asarray(plan).argmax(axis=1)


def same(ours: torch.Tensor, theirs: npt.NDArray[np.int64]) -> str:
    """Compare labels.

    Raises:
        Mismatch: If less than 99.9 % are the same.
    """
    share = float((ours.numpy() == theirs).mean())
    if share < 0.999:
        raise Mismatch(f"only {share:.2%} of the labels are the same, less than 99.9 %")
    return f"{share:.3%} of the labels the same"


def main() -> None:
    """Run it."""
    options = arguments(__doc__)
    report = Report("sela_solve", question="How fast are SeLa's labels found?", options=options)
    for rows, clusters in ((5_000, 128), (2_000, 100)) if options.quick else ((50_000, 128), (20_000, 1000)):
        log_p = HeadScores(clusters).rows(rows)
        probabilities, work = log_p.exp().numpy(), f"N {rows:,} x K {clusters}"
        iterations = plain_form(probabilities)[1]

        def ours(log_p: torch.Tensor = log_p) -> torch.Tensor:
            return sinkhorn_labels(log_p, strength=STRENGTH)

        report.pair(
            work,
            ours=ours,
            rivals={"plain NumPy": lambda probabilities=probabilities: plain_form(probabilities)[0]},
            check=lambda labels, theirs: same(labels, theirs["plain NumPy"]),
            aims=None if options.quick else {"plain NumPy": 4.0},
            repeats=3,
        )
        report.note(f"{work}: {iterations} iterations in the plain form.")
        try:
            import ot  # noqa: F401
        except ImportError:
            report.note("POT isn't installed: `pip install pot`.")
            continue
        # Once, as it takes minutes, and what it finds is compared at once; ours before and after.
        found: list[npt.NDArray[np.int64]] = []
        before = seconds(ours)
        theirs = seconds(lambda log_p=log_p, found=found: found.append(pot(log_p.numpy())))
        own = [before, seconds(ours)]
        aims = {} if options.quick else {"POT": 20.0}
        report.add(Row(f"{work}, POT", own, {"POT": [theirs, theirs]}, same(ours(), found[0]), aims))
    report.note(
        "At K 128 half of our time goes into products with the kernel and the rest into small operations "
        "on parts of the rows, at 70 iterations in all; smaller and larger parts were tried, and are as "
        "fast or slower."
    )
    report.finish()


if __name__ == "__main__":
    main()
