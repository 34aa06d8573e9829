"""SeLa's label solve at ImageNet's size: can this machine do it, in how much memory and time?

There is no rival: the plain form needs 31 GB for p^25 in float64. Scores of one head, 1,281,167 x 3000 (see
`HeadScores` in sela_solve.py; each row's largest is 0, as the method stores them), lie in a file of float16, which is
written in pieces, memory-mapped, and deleted at the end. Checked: the error is below the authors' tolerance 0.1, and
no cluster is far from N / K samples. Memory is sampled ten times a second: `RssAnon` is what the process has taken;
`VmRSS` also counts the file's pages, which the system may drop.

    python benchmarks/sela_imagenet.py [--quick] [--rows 64000] [--folder /large/disk]
"""

import argparse
import os
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from machine import bandwidth, exp_rate
from pairing import Limit, Mismatch, Report, Row, arguments
from sela_solve import STRENGTH, HeadScores

from ssl_zoo.functional import sinkhorn_solve
from ssl_zoo.functional.sinkhorn_kernel import ScaledKernel
from ssl_zoo.models.sela.configuration_sela import SelaConfig


_PIECE = 4_000


class MemoryPeak:
    """Largest `RssAnon` and `VmRSS` of this process within a `with`, in bytes (Linux)."""

    def __init__(self) -> None:
        self.bytes = dict.fromkeys(("RssAnon", "VmRSS"), 0)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._done.wait(0.1):
            for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
                key = line.split(":")[0]
                if key in self.bytes:
                    self.bytes[key] = max(self.bytes[key], int(line.split()[1]) * 1024)

    def __enter__(self) -> "MemoryPeak":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()


def write_scores(path: Path, rows: int, clusters: int) -> torch.Tensor:
    """Make the file, and map it."""
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, rows * clusters * 2)  # a full disk is an error now, not a crash later
    mapped = np.memmap(path, dtype=np.float16, mode="r+", shape=(rows, clusters))
    scores = HeadScores(clusters)
    for start in range(0, rows, _PIECE):
        piece = scores.rows(min(_PIECE, rows - start))
        mapped[start : start + len(piece)] = (piece - piece.amax(dim=1, keepdim=True)).half().numpy()
    mapped.flush()
    # Mapped anew: the pages that writing has touched don't count as resident.
    return torch.from_numpy(np.memmap(path, dtype=np.float16, mode="r+", shape=(rows, clusters)))


def counted_exponentials(counts: Counter[str]) -> None:
    """Count the scores that iterations go over, while the program runs."""
    plain = ScaledKernel.log_sums

    def counting(rows: ScaledKernel, log_r: torch.Tensor, precise: bool) -> tuple[torch.Tensor, torch.Tensor]:
        counts["float64" if precise else "float32"] += len(rows.row_shift) * rows.num_clusters
        return plain(rows, log_r, precise)

    ScaledKernel.log_sums = counting  # type: ignore[method-assign]


def main() -> None:
    """Run it."""

    def add(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--rows", type=int, help="images (default: ImageNet's 1,281,167; 8,000 with --quick)")
        parser.add_argument("--clusters", type=int, default=3000, help="clusters (default: %(default)s)")
        parser.add_argument("--folder", help="where the file goes (default: the system's temporary folder)")

    options = arguments(__doc__, add)
    rows, clusters = options.rows or (8_000 if options.quick else 1_281_167), options.clusters
    report = Report("sela_imagenet", question="Can ImageNet's labels be solved for on this machine?", options=options)
    config = SelaConfig()
    counts: Counter[str] = Counter()
    counted_exponentials(counts)
    rates = exp_rate(), bandwidth()  # before the pages of the file crowd the memory
    with tempfile.TemporaryDirectory(prefix="sela-", dir=options.folder) as folder:
        scores = write_scores(Path(folder) / "scores", rows, clusters)
        with MemoryPeak() as memory:
            start = time.perf_counter()
            solution = sinkhorn_solve(
                scores,
                strength=STRENGTH,
                tolerance=config.tolerance,
                max_kernel_bytes=int(config.solve_kernel_gib * 2**30 * min(1.0, rows / 1_281_167)),
            )
            elapsed = time.perf_counter() - start
        del scores
    sizes = torch.bincount(solution.labels, minlength=clusters)
    if not solution.converged:
        raise Mismatch(f"the error is {solution.error:.3g} samples, not below {config.tolerance}")
    passes = sum(counts.values()) / (rows * clusters)
    row = Row(
        f"N {rows:,} x K {clusters}",
        [elapsed],
        {},
        f"error {solution.error:.2g} samples; clusters have {int(sizes.min())} to {int(sizes.max())} images",
        limit=Limit(
            sum(counts.values()) / rates[0] + passes * rows * clusters * 2 / rates[1],
            f"the {passes:.1f} passes it took: an exponential a score, and the scores read",
        ),
        peak_bytes={"ours": memory.bytes["VmRSS"]},
        count=rows,
        unit="images",
    )
    report.add(row)
    gib = {key: value / 2**30 for key, value in {**memory.bytes, "file": rows * clusters * 2}.items()}
    report.note(
        f"{solution.num_iters} iterations, {passes:.1f} passes over all scores, "
        f"{counts['float64'] / (rows * clusters):.1f} of them in float64; {elapsed / 60:.1f} minutes (aim: 15). Peak "
        f"memory: {gib['RssAnon']:.2f} GiB taken, {gib['VmRSS']:.2f} GiB with the pages of the file, which has "
        f"{gib['file']:.2f} GiB (aim: 10 GB = 9.31 GiB)."
    )
    report.finish()


if __name__ == "__main__":
    main()
