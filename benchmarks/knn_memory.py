"""Memory and time of k-NN on a bank of ImageNet's size: 1.28 M x 2048 features, half precision, memory-mapped.

    python benchmarks/knn_memory.py           # writes 5.3 GB to a temporary folder, and deletes it
    python benchmarks/knn_memory.py --quick   # a tenth of the rows

Prints what the process holds of its own (anonymous memory, without the mapped file) at its peak beyond the start, and
fails if that is 2 GB or more.
"""

import argparse
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import torch

from ssl_zoo.evaluation.frozen.knn import WeightedKnn


LIMIT_GB = 2.0


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

    def stop(self) -> float:
        """End; returns the peak beyond the start, in GB (10^9 bytes)."""
        self._done.set()
        self.join()
        return (max(self.peak, self.read()) - self.start_bytes) / 1e9


def write_features(path: Path, labels: np.ndarray, width: int, centres: np.ndarray) -> None:
    """Float16 rows around one of the centres each, written piece by piece."""
    rng = np.random.default_rng(1)
    table = np.memmap(path, np.float16, "w+", shape=(len(labels), width))
    for start in range(0, len(labels), 8192):
        rows = labels[start : start + 8192]
        table[start : start + 8192] = centres[rows] + rng.standard_normal((len(rows), width), np.float32) * 6
    table.flush()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a tenth of the rows")
    parser.add_argument("--queries", type=int, default=3000)
    parser.add_argument("--folder", help="where the temporary folder is made")
    arguments = parser.parse_args()
    num_rows, width, num_classes = 1_281_167 // (10 if arguments.quick else 1), 2048, 1000
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((num_classes, width), np.float32)
    labels, classes = rng.integers(num_classes, size=num_rows), rng.integers(num_classes, size=arguments.queries)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        path = Path(folder) / "features.f16"
        write_features(path, labels, width, centres)
        queries = centres[classes] + rng.standard_normal((len(classes), width), np.float32) * 6
        bank = torch.from_numpy(np.memmap(path, np.float16, "r+", shape=(num_rows, width)))
        print(f"{num_rows:,} x {width} float16 ({path.stat().st_size / 1e9:.2f} GB), {len(queries):,} queries")
        memory = AnonymousMemory()
        memory.start()
        start = time.perf_counter()
        classifier = WeightedKnn(bank, torch.from_numpy(labels))
        measured = time.perf_counter()
        found = classifier.predict(torch.from_numpy(queries).half(), k=[1, 10, 20, 100, 200])
        end = time.perf_counter()
        peak = memory.stop()
    shares = (found == torch.from_numpy(classes)).double().mean(dim=1).tolist()
    print(f"accuracy at k = 1, 10, 20, 100, 200: {', '.join(f'{share:.4f}' for share in shares)}")
    print(
        f"peak anonymous memory beyond the mapped file: {peak:.3f} GB; lengths of the rows {measured - start:.1f} s, "
        f"search {end - measured:.1f} s on {torch.get_num_threads()} thread(s)"
    )
    if peak >= LIMIT_GB:
        raise SystemExit(f"{peak:.3f} GB is more than the {LIMIT_GB:g} GB allowed")


if __name__ == "__main__":
    main()
