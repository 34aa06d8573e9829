"""k-NN: how fast, and with how much memory, are 10,000 queries classified by a bank of 50,000 rows?

    python benchmarks/knn.py               # bank 50,000 x 512, k 200, 10 and 1,000 classes
    python benchmarks/knn.py --imagenet    # also 1.28 M x 2048, half precision, in a file (5.3 GB, deleted afterwards)

Rivals: lightly's `knn_predict`, called as lightly's own evaluation does (rows made unit vectors, the bank transposed
once, batches of 256 queries), and faiss' `IndexFlatIP` with votes counted by numpy. All get features as a model gives
them, not normalised. Checked: all predict the same class, except for queries whose two best classes have equal votes
up to rounding, and the similarities of the k nearest have the same sum. The limit is the float32 product of queries
and bank. `--threads 1` shows one core.

Features look like trained ones: each class has a centre and the rows scatter about it, both in 128 directions of
falling variance; a random linear map and a ReLU make 512 features that are not negative and share a mean.
"""

import argparse
import tempfile
import threading
from pathlib import Path

import faiss
import numpy as np
import torch
import torch.nn.functional as F
from lightly.utils.benchmarking import knn_predict
from machine import matmul_rate
from pairing import Limit, Mismatch, Report, Row, arguments, seconds
from tqdm import tqdm

from ssl_zoo.evaluation.frozen.knn import WeightedKnn


TEMPERATURE, K, WIDTH, LATENT = 0.07, 200, 512, 128
LIGHTLY_BATCH = 256
IMAGENET = 1_281_167
LIMIT_GB = 2.0


def clustered_features(
    num_rows: int, num_classes: int, *, spread: float, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features `(num_rows, 512)` and their classes, as the docstring above says.

    Args:
        num_rows: Bank and queries together.
        num_classes: Classes, all equally likely.
        spread: Standard deviation within a class, divided by that of the centres.
        seed: Of everything.
    """
    generator = torch.Generator().manual_seed(seed)
    deviations = torch.arange(1, LATENT + 1).float().rsqrt()
    centres = torch.randn(num_classes, LATENT, generator=generator)
    mixing = torch.randn(LATENT, WIDTH, generator=generator) / LATENT**0.5
    labels = torch.randint(num_classes, (num_rows,), generator=generator)
    latent = (centres[labels] + spread * torch.randn(num_rows, LATENT, generator=generator)) * deviations
    return torch.relu(latent @ mixing), labels


def lightly_knn(
    bank: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, num_classes: int
) -> tuple[torch.Tensor, ...]:
    """Classes by lightly."""
    transposed = F.normalize(bank, dim=1).t().contiguous()
    batches = F.normalize(queries, dim=1).split(LIGHTLY_BATCH)
    return (torch.cat([knn_predict(part, transposed, labels, num_classes, K, TEMPERATURE)[:, 0] for part in batches]),)


def faiss_knn(
    bank: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor, num_classes: int
) -> tuple[torch.Tensor, ...]:
    """Classes, votes of each class, and sums of similarities, by faiss and numpy."""
    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(F.normalize(bank, dim=1).numpy())
    similarities, rows = index.search(F.normalize(queries, dim=1).numpy(), K)
    cells = np.arange(len(rows))[:, None] * num_classes + labels.numpy()[rows]
    votes = np.bincount(
        cells.ravel(), np.exp(similarities / TEMPERATURE).ravel(), minlength=len(rows) * num_classes
    ).reshape(len(rows), num_classes)
    sums = similarities.sum(axis=1, dtype=np.float64)
    return torch.from_numpy(votes.argmax(axis=1)), torch.from_numpy(votes), torch.from_numpy(sums)


def similarity_sums(bank: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Sum of each query's k largest similarities, by ours."""
    similarities, _ = WeightedKnn(bank, labels)._neighbors(queries, K, tqdm(disable=True))
    return similarities.double().sum(dim=1)


def compare(ours: torch.Tensor, results: dict[str, tuple[torch.Tensor, ...]], sums: torch.Tensor) -> str:
    """Same classes, except where the two best have equal votes to 1e-4, and same sums of similarities."""
    _, votes, their_sums = results["faiss"]
    best, second = votes.topk(2, dim=1).values.T
    tied = best - second <= 1e-4 * best
    for name, (classes, *_) in results.items():
        differs = ours != classes
        if bool((differs & ~tied).any()):
            raise Mismatch(f"{int((differs & ~tied).sum())} queries get another class from {name}")
    largest = float((sums - their_sums).abs().max())
    if not largest <= 1e-4 * K:
        raise Mismatch(f"sums of similarities differ by {largest:.3g}")
    equal = min(float((ours == classes).double().mean()) for classes, *_ in results.values())
    return f"{100 * equal:.2f} % equal classes ({int(tied.sum())} ties), sums of similarities within {largest:.0e}"


def measure(report: Report, num_classes: int, spread: float, options: argparse.Namespace) -> None:
    """One row of the table."""
    num_bank, num_queries = (5000, 512) if options.quick else (50_000, 10_000)
    features, labels = clustered_features(num_bank + num_queries, num_classes, spread=spread)
    bank, bank_labels = features[:num_bank].clone(), labels[:num_bank]
    queries, classes = features[num_bank:].clone(), labels[num_bank:]
    sums = similarity_sums(bank, bank_labels, queries)

    def ours() -> torch.Tensor:
        return WeightedKnn(bank, bank_labels, temperature=TEMPERATURE).predict(queries, k=K)

    operations = 2 * num_bank * num_queries * WIDTH
    rate = matmul_rate()
    words = f"{operations / 1e9:,.0f} GFLOP of the product at {rate / 1e9:,.0f} GFLOP/s"
    row = report.pair(
        f"bank {num_bank:,} x {WIDTH}, {num_queries:,} queries, k {K}, {num_classes:,} classes",
        ours=ours,
        rivals={
            "lightly": lambda: lightly_knn(bank, bank_labels, queries, num_classes),
            "faiss": lambda: faiss_knn(bank, bank_labels, queries, num_classes),
        },
        check=lambda found, results: compare(found, results, sums),
        aims={"lightly": 4.0, "faiss": 1.2},
        limit=Limit(operations / rate, words),
        memory=True,
        repeats=3,
        count=num_queries,
        unit="queries",
    )
    accuracy = 100 * float((ours() == classes).double().mean())
    theirs = np.median(row.rivals["lightly"])
    report.note(
        f"{num_classes:,} classes: {accuracy:.1f} % of the queries are right. lightly takes "
        f"{theirs / (operations / rate):.2f} times the product alone: no float32 form could be further ahead of it."
    )


class AnonymousMemory(threading.Thread):
    """Samples the process's anonymous resident memory (`RssAnon`, Linux) every 10 ms; `peak` is in bytes."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.start_bytes = self.peak = self.read()
        self._done = threading.Event()

    @staticmethod
    def read() -> int:
        """Bytes now."""
        for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        raise OSError("/proc/self/status has no RssAnon: this needs Linux >= 4.5")

    def run(self) -> None:
        """Sample until `stop`."""
        while not self._done.wait(0.01):
            self.peak = max(self.peak, self.read())

    def stop(self) -> int:
        """Stop sampling; returns the peak in bytes beyond the start."""
        self._done.set()
        self.join()
        return max(self.peak, self.read()) - self.start_bytes


def write_features(path: Path, labels: np.ndarray, centres: np.ndarray) -> None:
    """Float16 rows around one of the centres each, written piece by piece."""
    rng = np.random.default_rng(1)
    table = np.memmap(path, np.float16, "w+", shape=(len(labels), centres.shape[1]))
    for start in range(0, len(labels), 8192):
        rows = labels[start : start + 8192]
        table[start : start + 8192] = centres[rows] + 6 * rng.standard_normal(
            (len(rows), centres.shape[1]), np.float32
        )
    table.flush()


def measure_imagenet(report: Report, options: argparse.Namespace) -> None:
    """A bank of ImageNet's size that stays in its file; no rival can search it in so little memory."""
    num_rows, num_queries = (IMAGENET // 50, 256) if options.quick else (IMAGENET, 3000)
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((1000, 2048), np.float32)
    labels, classes = rng.integers(1000, size=num_rows), rng.integers(1000, size=num_queries)
    queries = torch.from_numpy(centres[classes] + 6 * rng.standard_normal((num_queries, 2048), np.float32)).half()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "features.f16"
        write_features(path, labels, centres)
        bank = torch.from_numpy(np.memmap(path, np.float16, "r+", shape=(num_rows, 2048)))
        memory = AnonymousMemory()
        memory.start()
        found = torch.empty(0)

        def search() -> None:
            nonlocal found
            found = WeightedKnn(bank, torch.from_numpy(labels)).predict(queries, k=[1, 10, 20, 100, 200])

        took = seconds(search)
        peak = memory.stop()
    operations = 2.0 * num_rows * num_queries * 2048
    shares = ", ".join(f"{share:.4f}" for share in (found == torch.from_numpy(classes)).double().mean(dim=1).tolist())
    limit = Limit(operations / matmul_rate(), f"{operations / 1e9:,.0f} GFLOP of the product")
    work = f"bank {num_rows:,} x 2048 float16 in a file, {num_queries:,} queries, k 1 to 200"
    found_words = f"accuracy at k 1, 10, 20, 100, 200: {shares}"
    report.add(Row(work, [took], {}, found_words, {}, limit, {"ours": peak}, num_queries, "queries"))
    if peak >= LIMIT_GB * 1e9:
        raise SystemExit(f"{peak / 1e9:.3f} GB of memory are more than the {LIMIT_GB:g} GB allowed")


def own_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark alone."""
    parser.add_argument("--imagenet", action="store_true", help="also a bank of ImageNet's size (5.3 GB of disk)")
    parser.add_argument("--folder", help="where the temporary folder for --imagenet is made")


def main() -> None:
    """Measure."""
    options = arguments(__doc__, own_options)
    faiss.omp_set_num_threads(options.threads)
    report = Report("knn", question="How fast is k-NN classification, and what memory does it take?", options=options)
    for num_classes, spread in ((10, 2.5), (1000, 1.0)):
        measure(report, num_classes, spread, options)
    if options.imagenet:
        measure_imagenet(report, options)
    report.finish()


if __name__ == "__main__":
    main()
