"""Does the backend that makes the views (torchvision, our fast one, or the device) change a training run?

    python benchmarks/view_backends.py [--quick] [--seeds N] [--epochs N] [--data FOLDER]

The rival is the backend `reference`, which is torchvision itself. For every seed, the small CIFAR-10 recipe of MIRA
(4 epochs by default, then k-NN) is trained once per backend, in turns, in processes of their own, as recipes/train.py
does it. Runs of one seed have the same start, the same images in the same order and the same parameters of every view,
and differ only in the code that computes the pixels. Equality: the mean over seeds of the difference in k-NN accuracy,
with its interval by Student's t; the benchmark stops if an interval doesn't contain 0.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pairing import SHARED_DATA, Mismatch, Report, Row, arguments
from scipy.stats import t


RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "mira" / "cifar10_small_cpu.yaml"
REFERENCE = "reference"
BACKENDS = (REFERENCE, "fast", "device")
CONFIDENCE = 0.95  # that all intervals together hold the true differences


@dataclass(frozen=True)
class Run:
    """What one training run gave.

    Attributes:
        accuracy: k-NN at the end, a share.
        seconds: Of the whole process.
        images_per_second: Median over the logged steps.
    """

    accuracy: float
    seconds: float
    images_per_second: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark alone."""
    parser.add_argument("--seeds", type=int, default=3, help="runs of each backend (default: %(default)s)")
    parser.add_argument("--epochs", type=float, default=4.0, help="length of each run (default: %(default)s)")
    parser.add_argument("--data", type=Path, help="a copy of CIFAR-10 (default: ../shared/data/cifar10-jpeg)")


def run(backend: str, seed: int, *, data: Path, threads: int, epochs: float, quick: bool) -> Run:
    """Train in a process of its own, and read what was logged."""
    changes = [f"data.path={data}", f"views.backend={backend}", f"train.seed={seed}", "train.trackers=[]"]
    changes += [f"train.epochs={epochs}", f"train.knn_every_epochs={epochs}"]  # k-NN once, at the end
    if quick:
        changes += ["optim.warmup_epochs=0.0"]
        changes += ["train.log_every_steps=2", "evaluation.max_bank_rows=1000"]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["ssl_zoo.training.loop", "datasets", "scipy.stats", "transformers"])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        process = context.Process(
            target=_train, args=([*changes, f"train.output_dir={folder / 'run'}"], folder, threads)
        )
        process.start()
        process.join()
        log = (folder / "log").read_text(encoding="utf-8", errors="replace")
        if process.exitcode:
            sys.exit(f"training with {' '.join(changes)} failed:\n{log[-3000:]}")
        lines = [json.loads(line) for line in (folder / "run" / "metrics.jsonl").read_text("utf-8").splitlines()]
        elapsed = float((folder / "seconds").read_text("utf-8"))
    accuracies = [line["knn_top1"] for line in lines if "knn_top1" in line]
    # The first logged rate holds the start of the workers.
    rates = [line["images_per_second"] for line in lines if "images_per_second" in line]
    return Run(accuracies[-1], elapsed, statistics.median(rates[1:] or rates))


def _train(changes: list[str], folder: Path, threads: int) -> None:
    """What `recipes/train.py RECIPE [changes]` does, without the seconds of its imports: the server has them."""
    from ssl_zoo.training.loop import train
    from ssl_zoo.training.recipe import load_recipe

    with (folder / "log").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.environ["ACCELERATE_USE_CPU"] = "true"
    torch.set_num_threads(threads)
    start = time.perf_counter()
    train(load_recipe(RECIPE, changes))
    (folder / "seconds").write_text(str(time.perf_counter() - start), "utf-8")


def interval(differences: Sequence[float], *, comparisons: int) -> tuple[float, float]:
    """Mean and half-width of its interval, by Student's t; `comparisons` of them together have `CONFIDENCE`."""
    number = len(differences)
    if number < 2:
        return differences[0], float("inf")
    quantile = t.ppf(1 - (1 - CONFIDENCE) / (2 * comparisons), number - 1)
    return statistics.mean(differences), float(quantile) * statistics.stdev(differences) / number**0.5


def compare(runs: dict[str, list[Run]]) -> dict[str, str]:
    """Each backend's difference from torchvision in words.

    Raises:
        Mismatch: If an interval doesn't hold 0.
    """
    words = {}
    others = [backend for backend in BACKENDS if backend != REFERENCE]
    for backend in others:
        pairs = zip(runs[backend], runs[REFERENCE], strict=True)
        middle, half = interval(
            [100 * (own.accuracy - theirs.accuracy) for own, theirs in pairs], comparisons=len(others)
        )
        if abs(middle) > half:
            raise Mismatch(f"{backend} changes the k-NN accuracy by {middle:+.2f} ± {half:.2f} points")
        words[backend] = f"{middle:+.2f}" + (f" ± {half:.2f}" if half < float("inf") else " (one seed)")
    return words


def table(runs: dict[str, list[Run]], differences: dict[str, str]) -> str:
    """Accuracies and rates per backend."""
    lines = ["| backend | k-NN top-1, % | of each seed | minus reference | images/s |", "|---|---|---|---|---|"]
    for backend, own in runs.items():
        values = [100 * one.accuracy for one in own]
        spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
        rate = statistics.median(one.images_per_second for one in own)
        each = ", ".join(f"{value:.2f}" for value in values)
        difference = differences.get(backend, "")
        lines.append(f"| `{backend}` | {statistics.mean(values):.2f}{spread} | {each} | {difference} | {rate:,.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Train with every backend and seed, compare, report."""
    options = arguments(__doc__, add_arguments)
    data = options.data or SHARED_DATA / "cifar10-jpeg"
    if not data.exists():
        sys.exit(
            f"there is no {data}: pass a copy of CIFAR-10 (images and labels that `data.path` can read) by --data"
        )
    seeds, epochs = (1, 0.04) if options.quick else (options.seeds, options.epochs)
    question = "Does the backend that makes the views change a training run?"
    report = Report("view_backends", question=question, options=options)
    runs: dict[str, list[Run]] = {backend: [] for backend in BACKENDS}
    for seed in range(seeds):
        for backend in BACKENDS[:: 1 if seed % 2 == 0 else -1]:
            done = run(backend, seed, data=data, threads=options.threads, epochs=epochs, quick=options.quick)
            print(f"{backend}, seed {seed}: k-NN {100 * done.accuracy:.2f} % in {done.seconds:.0f} s", flush=True)
            runs[backend].append(done)
    differences = compare(runs)
    seconds = {backend: [one.seconds for one in runs[backend]] for backend in BACKENDS}
    own = seconds.pop("fast")
    check = "; ".join(f"k-NN of {backend}: {words} points" for backend, words in differences.items())
    report.add(Row(f"whole run of {epochs:g} epochs, k-NN included", own, seconds, check))
    report.note(table(runs, differences))
    report.note(
        f"k-NN top-1 on the test images after MIRA's small recipe in {epochs:g} epochs: mean ± standard deviation "
        f"over {seeds} seeds, and the mean difference from the reference of the same seed; both intervals together "
        f"hold the true differences in {100 * CONFIDENCE:g} % of cases. `reference` is torchvision on PIL images. "
        "`device` computes flip, colour, blur and solarisation in batches on the device that trains: here the CPU, "
        "for which it isn't meant."
    )
    report.finish()


if __name__ == "__main__":
    main()
