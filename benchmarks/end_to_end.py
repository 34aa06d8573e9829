"""Does a run by `recipes/train.py` go as fast as its training step alone, and two processes as fast as one?

Ours is `accelerate launch recipes/train.py recipes/mira/cifar10_small_cpu.yaml` on CIFAR-10 as JPEG files: reading,
decoding, augmentation in a worker, training, logging. Images per second are those that the run itself logs, from its
second line on (the first includes the start-up), with one process of all threads and with one process per thread.

The rival, and the limit, is the training step alone: `ssl_zoo.training.loop.train_step` with the same recipe, repeated
on one batch in memory, in a process of its own that has all cores to itself. In a run, decoding and augmentation need
the same cores: the note says how much of their time.

The logs of the runs show that all do the same work: they have the same images seen and similar losses.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import torch
from pairing import SHARED_DATA, Mismatch, Report, Row, arguments
from training_step import Elsewhere


ROOT = Path(__file__).resolve().parents[1]
RECIPE = ROOT / "recipes" / "mira" / "cifar10_small_cpu.yaml"
SKIPPED = 2  # logged lines: step 1, and the one that includes the start-up of the workers
STEP_ALONE = "training step alone"


def main() -> None:
    """Launch the runs and the step alone in turns."""
    options = arguments(__doc__, _add_options)
    if not options.data.exists():
        sys.exit(f"no images at '{options.data}': pass --data with a folder of CIFAR-10 in parquet or image files")
    report = Report("end_to_end", question=(__doc__ or "").partition("\n")[0], options=options)
    log_every, lines = (3, 4) if options.quick else (10, 9)
    steps = log_every * lines
    changes = [f"data.path={options.data}", "train.trackers=[]", "train.knn_every_epochs=null"]
    changes += [f"train.log_every_steps={log_every}", f"train.max_steps={steps}"]
    # One process with all threads, and one process per thread, both by the launcher's own settings.
    launches = {options.threads: ("cpu_2_processes.yaml", 1)} if options.threads > 1 else {}
    launches = {1: ("cpu.yaml", options.threads), **launches}
    alone: list[float] = []
    runs: dict[int, list[list[dict[str, float]]]] = {number: [] for number in launches}
    shares: list[float] = []
    for _ in range(options.repeats or (1 if options.quick else 2)):
        with Elsewhere(options.threads) as elsewhere, tempfile.TemporaryDirectory() as folder:
            seconds, share = elsewhere.call(time_step, changes, folder, 3 if options.quick else 20)
            alone.append(seconds)
            shares.append(share)
        for number, (config, threads) in launches.items():
            runs[number].append(launch(config, number, threads, changes))
    found = _same_work(runs, steps)
    batch = _batch_size(runs)
    timed = {number: [_step_seconds(lines) for lines in of_number] for number, of_number in runs.items()}
    one, *more = launches
    report.add(
        Row(
            f"one process, {options.threads} threads, {steps} steps of {batch}",
            timed[one],
            {STEP_ALONE: alone},
            found,
            {STEP_ALONE: 0.95},
            count=batch,
            unit="images",
        )
    )
    for number in more:
        report.add(
            Row(
                f"{number} processes, 1 thread each, {steps} steps of {batch}",
                timed[number],
                {STEP_ALONE: alone, "one process": timed[one]},
                found,
                {"one process": 1.0},
                count=batch,
                unit="images",
            )
        )
    share = statistics.median(shares)
    report.note(
        f"Making the views of a batch takes {share:.0%} of the processor time of its training step. With all cores "
        f"busy with training, no run can reach more than {1 / (1 + share):.2f} of the step alone. "
        "Where a worker takes half a core from one of two threads, the other waits for it. Tried and no "
        "faster: workers of lower priority (by 10 and by 19), two workers instead of one."
    )
    report.finish()


def _add_options(parser: argparse.ArgumentParser) -> None:
    default = SHARED_DATA / "cifar10-jpeg"
    parser.add_argument("--data", type=Path, default=default, help="folder of CIFAR-10 (default: %(default)s)")


def launch(config: str, processes: int, threads: int, changes: Sequence[str]) -> list[dict[str, float]]:
    """Train by the command line; returns the lines that the run logged."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "accelerate.commands.launch"]
        command += ["--config_file", str(ROOT / "recipes" / "accelerate" / config), "--num_processes", str(processes)]
        command += ["recipes/train.py", str(RECIPE), *changes, f"train.output_dir={folder}/run"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TQDM_DISABLE": "1"}
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            sys.exit(f"the run failed: {done.stderr[-2000:]}")
        lines = (Path(folder) / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def time_step(changes: Sequence[str], folder: str, repeats: int) -> tuple[float, float]:
    """Seconds of one training step on a batch in memory, and the views' processor time as a share of the step's."""
    from ssl_zoo.training.loop import train_step
    from ssl_zoo.training.recipe import load_recipe
    from ssl_zoo.training.session import open_session

    session = open_session(load_recipe(RECIPE, [*changes, "data.num_workers=0", f"train.output_dir={folder}"]))
    session.model.train()
    batches = iter(session.loader)
    (data,) = islice(batches, 1)  # reads a whole block of rows, too
    start = time.process_time()
    few = len(list(islice(batches, 3)))
    making = (time.process_time() - start) / few
    for _ in range(3):
        train_step(session, [data], diagnostics=False)
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        train_step(session, [data], diagnostics=False)
        times.append(time.perf_counter() - start)
    torch.set_num_threads(1)  # threads that wait for each other would count as busy
    start = time.process_time()
    for _ in range(3):
        train_step(session, [data], diagnostics=False)
    return statistics.median(times), making / ((time.process_time() - start) / 3)


def _losses(lines: Sequence[dict[str, float]]) -> list[dict[str, float]]:
    return [line for line in lines if "loss" in line]


def _batch_size(runs: dict[int, list[list[dict[str, float]]]]) -> int:
    first = _losses(next(iter(runs.values()))[0])[0]
    return int(first["images_seen"] / first["step"])


def _step_seconds(lines: Sequence[dict[str, float]]) -> float:
    steady = _losses(lines)[SKIPPED:]
    batch = steady[0]["images_seen"] / steady[0]["step"]
    return statistics.median(batch / line["images_per_second"] for line in steady)


def _same_work(runs: dict[int, list[list[dict[str, float]]]], steps: int) -> str:
    """Check that all runs saw the same number of images and ended at similar losses."""
    last = [_losses(lines)[-1] for of_number in runs.values() for lines in of_number]
    seen, losses = {line["images_seen"] for line in last}, [line["loss"] for line in last]
    if len(seen) != 1 or {line["step"] for line in last} != {steps}:
        raise Mismatch(f"the runs saw {sorted(seen)} images by their last lines, all should have done {steps} steps")
    if not max(losses) - min(losses) < 0.1 * max(losses):
        raise Mismatch(f"the last losses are {losses}: they should lie within a tenth of each other")
    return f"{seen.pop():,} images each, last losses {min(losses):.3f} to {max(losses):.3f}"


if __name__ == "__main__":
    main()
