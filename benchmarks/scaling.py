"""How do time and memory grow with images, clusters, batch, bank and processes?

python benchmarks/scaling.py [--quick]

1. Each part of a method on its own, measured on this machine at sizes a factor of two apart, each size in a process of
   its own; the exponent is the slope of log time (or log memory) against log size over the larger half of the sizes.
2. One and two processes joined by gloo, on the same global batch.
3. What one training step of each method's recipe for ImageNet sends, counted call by call while the real model takes
   the step, and from that a MODEL of what it costs on 8 to 1,024 GPUs (see gpu_facts.py).

benchmarks/scaling_page.py makes docs/scaling.md from the numbers.
"""

import functools
import math
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from gpu_facts import MACHINES, collective_seconds
from pairing import arguments, peak_memory, save, seconds
from recipe_costs import ROOT, build, count_collectives, one_process_group, step_inputs

from ssl_zoo.evaluation.frozen.knn import WeightedKnn
from ssl_zoo.functional.assignment import mira_assignment
from ssl_zoo.functional.moments import Moments
from ssl_zoo.functional.neighbors import nearest_neighbors
from ssl_zoo.functional.sinkhorn import sinkhorn_solve
from ssl_zoo.models.corinfomax.loss_corinfomax import running_log_determinants
from ssl_zoo.training.recipe import load_recipe


GPU_COUNTS = (8, 16, 32, 64, 128, 256, 512, 1024)
RECIPES = (
    "byol/imagenet1k_resnet50_1000ep",
    "mira/imagenet1k_resnet50_400ep_multicrop",
    "sela/imagenet1k_resnet50_280ep_10x3k",
    "corinfomax/imagenet1k_resnet50_100ep",
    "msf/imagenet1k_resnet50_200ep",
    "cmsf/imagenet1k_resnet50_200ep_self",
    "cmsf/imagenet1k_resnet50_200ep_semi10",
    "paws/imagenet1k_resnet50_100ep_10percent",
    "supervised/imagenet1k_alexnet_labels",
)


@dataclass(frozen=True)
class Curve:
    """Something measured at growing sizes.

    Attributes:
        title: What is done.
        variable: What grows.
        fixed: What doesn't.
        sizes: From small to large; the first four are what `--quick` measures.
        make: From a size to the work, which may return `{"per": number of iterations}`.
        time, memory: Exponents that follow from the algorithm's operations and arrays; `None` for no claim.
        why: Where they come from.
    """

    title: str
    variable: str
    fixed: str
    sizes: tuple[int, ...]
    make: Callable[[int], Callable[[], dict[str, Any] | None]]
    time: float
    memory: float | None
    why: str


def _units(rows: int, columns: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(rows, columns), dim=1)


def _assign(batch: int, num_prototypes: int) -> Callable[[], None]:
    scores = _units(batch, 64) @ _units(num_prototypes, 64).T

    def work() -> None:
        mira_assignment(scores, temperature=0.225, beta=2 / 3, num_iters=30)

    return work


def _solve(rows: int, num_clusters: int) -> Callable[[], dict[str, Any]]:
    scores = torch.log_softmax(2.0 * torch.randn(rows, num_clusters), dim=1)

    def work() -> dict[str, Any]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it didn't converge: a fixed number of iterations is timed
            solution = sinkhorn_solve(scores, strength=25.0, tolerance=1e-9, max_iters=20)
        return {"per": solution.num_iters}

    return work


def _search(bank: int, batch: int, *, constrained: bool = False) -> Callable[[], None]:
    queries, candidates = _units(batch, 512), _units(bank, 512)
    labels = {}
    if constrained:
        labels = {"query_labels": torch.randint(1000, (batch,)), "candidate_labels": torch.randint(1000, (bank,))}

    def work() -> None:
        nearest_neighbors(queries, candidates, k=10, **labels)

    return work


def _corinfomax(width: int) -> Callable[[], None]:
    rows = torch.nn.functional.normalize(torch.randn(2, 512, width, dtype=torch.float64), dim=-1)
    past = Moments(torch.zeros(2, width).double(), torch.eye(width).double().repeat(2, 1, 1) / width)

    def work() -> None:
        own = rows.clone().requires_grad_()
        log_dets, *_ = running_log_determinants(
            own, past, forgetting_factor_mean=0.1, forgetting_factor_covariance=0.1, offset=1e-8
        )
        (-log_dets.sum() / width).backward()

    return work


def _knn(rows: int) -> Callable[[], None]:
    bank, labels, queries = _units(rows, 512), torch.randint(1000, (rows,)), _units(1024, 512)

    def work() -> None:
        WeightedKnn(bank, labels).predict(queries, k=200)

    return work


CURVES = {
    "mira_batch": Curve(
        title="MIRA's assignment, 30 iterations",
        variable="batch B",
        fixed="K 3,000",
        sizes=(128, 256, 512, 1024, 2048, 4096),
        make=lambda size: _assign(size, 3000),
        time=1,
        memory=1,
        why="two products of a B x K kernel with a vector in each iteration",
    ),
    "mira_prototypes": Curve(
        title="MIRA's assignment, 30 iterations",
        variable="prototypes K",
        fixed="B 1,024",
        sizes=(250, 500, 1000, 2000, 4000, 8000),
        make=lambda size: _assign(1024, size),
        time=1,
        memory=1,
        why="the same",
    ),
    "sela_images": Curve(
        title="SeLa's solve, one iteration",
        variable="images N",
        fixed="K 256",
        sizes=(8192, 16384, 32768, 65536, 131072),
        make=lambda size: _solve(size, 256),
        time=1,
        memory=1,
        why="one pass over N x K in each; the kernel is kept up to `max_kernel_bytes`",
    ),
    "sela_clusters": Curve(
        title="SeLa's solve, one iteration",
        variable="clusters K",
        fixed="N 16,384",
        sizes=(128, 256, 512, 1024, 2048),
        make=lambda size: _solve(16384, size),
        time=1,
        memory=1,
        why="the same",
    ),
    "msf_bank": Curve(
        title="MSF's search, k 10, width 512",
        variable="bank",
        fixed="B 256",
        sizes=(8192, 16384, 32768, 65536, 131072, 262144),
        make=lambda size: _search(size, 256),
        time=1,
        memory=0,
        why="B x bank x width products and a running list of the best; the bank is read in chunks",
    ),
    "msf_batch": Curve(
        title="MSF's search, k 10, width 512",
        variable="batch B",
        fixed="bank 65,536",
        sizes=(64, 128, 256, 512, 1024),
        make=lambda size: _search(65536, size),
        time=1,
        memory=1,
        why="the same; the similarities of a chunk are B x chunk",
    ),
    "cmsf_bank": Curve(
        title="CMSF's search among 1,000 classes, k 10, width 512",
        variable="bank",
        fixed="B 256",
        sizes=(8192, 16384, 32768, 65536, 131072, 262144),
        make=lambda size: _search(size, 256, constrained=True),
        time=1,
        memory=None,
        why="at most MSF's products; entries of other classes are masked or left out",
    ),
    "corinfomax_width": Curve(
        title="CorInfoMax's covariances and log-determinants with gradient, float64",
        variable="width D",
        fixed="B 512",
        sizes=(64, 128, 256, 512, 1024),
        make=_corinfomax,
        time=3,
        memory=2,
        why="Cholesky's decomposition takes D^3 / 3, the covariance B x D^2: between 2 and 3 until D exceeds B",
    ),
    "knn_bank": Curve(
        title="k-NN, k 200, width 512, 1,000 classes",
        variable="bank",
        fixed="1,024 queries",
        sizes=(16384, 32768, 65536, 131072, 262144),
        make=_knn,
        time=1,
        memory=0,
        why="queries x bank x width products; besides the bank only chunks are kept",
    ),
}


def slope(sizes: list[int], values: list[float]) -> float:
    """Exponent of a power law: least squares of the logarithms of the larger half of the points, at least three."""
    count = max(3, math.ceil(len(sizes) / 2))
    points = [(math.log(size), math.log(value)) for size, value in zip(sizes, values, strict=True)][-count:]
    mean_x, mean_y = (statistics.fmean(column) for column in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def measure_point(name: str, size: int, warm_up: int, repeats: int, threads: int) -> dict[str, Any]:
    """One size, in a process of its own: seconds of each repeat and memory at the peak."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    CURVES[name].make(warm_up)()
    work = CURVES[name].make(size)
    peak = peak_memory(work)
    per = (work() or {}).get("per", 1)
    return {"size": size, "seconds": [seconds(work) / per for _ in range(repeats)], "peak_bytes": peak}


def measure_curves(*, quick: bool, repeats: int, threads: int) -> list[dict[str, Any]]:
    """All curves."""
    found = []
    for name, curve in CURVES.items():
        sizes = list(curve.sizes[:4] if quick else curve.sizes)
        points = [in_own_process(measure_point, name, size, sizes[0], repeats, threads) for size in sizes]
        medians = [statistics.median(point["seconds"]) for point in points]
        peaks = [max(point["peak_bytes"], 2**20) for point in points]  # less than a page or two can't be measured
        fields = ("title", "variable", "fixed", "time", "memory", "why")
        entry = {"name": name, **{field: getattr(curve, field) for field in fields}, "points": points}
        entry |= {"time_exponent": slope(sizes, medians), "memory_exponent": slope(sizes, peaks)}
        found.append(entry)
        print(
            f"{curve.title} against {curve.variable} ({curve.fixed}): time ^{entry['time_exponent']:.2f} "
            f"(said {curve.time:g}), {medians[0] * 1e3:.3g} to {medians[-1] * 1e3:.3g} ms",
            flush=True,
        )
    return found


def in_own_process(function: Callable[..., Any], *values: Any) -> Any:
    """Call `function(*values)` in a new process, forked from one that has the modules but has computed nothing."""
    with _context().Pool(1) as pool:
        return pool.apply(function, values)


@functools.cache
def _context() -> Any:
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scaling", "timm"])
    return context


def join(rank: int, world: int, threads: int, store: str, job: str, quick: bool) -> list[float]:
    """One of the processes that do a job together; seconds of each repeat."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    work = JOBS[job](rank, world, quick)
    work()
    times = []
    for _ in range(3 if quick else 7):
        dist.barrier()
        times.append(seconds(work))
    dist.destroy_process_group()
    return times


def _assign_together(rank: int, world: int, quick: bool) -> Callable[[], Any]:
    scores = (_units(4096, 64) @ _units(3000, 64).T).tensor_split(world)[rank].contiguous()
    return lambda: mira_assignment(scores, temperature=0.225, beta=2 / 3, num_iters=30)


def _step_together(rank: int, world: int, quick: bool) -> Callable[[], Any]:
    path = ROOT / "recipes" / "mira" / "cifar10_small_cpu.yaml"
    recipe = load_recipe(path)
    model, batch = build(recipe), 16 if quick else 64
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    views = recipe.views
    inputs = step_inputs(recipe, model, batch=batch // world, sizes=(views.global_size, views.local_size), support=0)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01, momentum=0.9)

    def work() -> None:
        output = wrapped(**inputs, diagnostics=False)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_state([output], progress=0.5, epoch=1.0)

    return work


JOBS = {
    "MIRA's assignment, B 4,096 over all processes, K 3,000, 30 iterations": _assign_together,
    "MIRA's training step, cifar10_small_cpu, 64 images over all processes": _step_together,
}


def measure_processes(*, quick: bool) -> list[dict[str, Any]]:
    """Each job by one process with one and two threads, and by two with one."""
    found = []
    for job in JOBS:
        entry: dict[str, Any] = {"job": job, "seconds": {}}
        for world, threads in ((1, 1), (1, 2), (2, 1)):
            with tempfile.TemporaryDirectory() as folder, _context().Pool(world) as pool:
                calls = [
                    pool.apply_async(join, (rank, world, threads, str(Path(folder) / "store"), job, quick))
                    for rank in range(world)
                ]
                times = [call.get(timeout=600) for call in calls]
            entry["seconds"][f"{world} x {threads}"] = [max(together) for together in zip(*times, strict=True)]
        found.append(entry)
        middle = {name: round(statistics.median(times), 3) for name, times in entry["seconds"].items()}
        print(f"{job}: {middle} s (processes x threads)", flush=True)
    return found


def count_volumes(*, quick: bool) -> list[dict[str, Any]]:
    """Each method's collectives, in a process of its own, and the model's seconds for them on more and more GPUs."""
    found = []
    for name in RECIPES[4:6] if quick else RECIPES:
        entry = in_own_process(volumes_of, name, 4 if quick else None)
        entry["seconds"] = {
            machine.name: {
                part: [
                    sum(
                        collective_seconds(call["kind"], call["num_bytes"], gpus, machine)
                        for call in entry["collectives"]
                        if call["part"] == part
                    )
                    for gpus in GPU_COUNTS
                ]
                for part in ("method", "batch norm", "gradient")
            }
            for machine in MACHINES
        }
        volumes: dict[str, list[int]] = {}
        for call in entry.pop("collectives"):
            total = volumes.setdefault(f"{call['part']}, {call['kind']}", [0, 0])
            total[0] += 1
            total[1] += call["num_bytes"]
        entry["volumes"] = volumes
        found.append(entry)
        print(f"{name}: {entry['volumes']}", flush=True)
    return found


def volumes_of(name: str, micro_batch: int | None) -> dict[str, Any]:
    """Count one recipe's collectives."""
    with tempfile.TemporaryDirectory() as folder, one_process_group(folder):
        return count_collectives(ROOT / "recipes" / f"{name}.yaml", micro_batch=micro_batch)


def main() -> None:
    """Measure, count, and write the JSON."""
    options = arguments(__doc__)
    start = time.perf_counter()
    content = {
        "curves": measure_curves(
            quick=options.quick, repeats=options.repeats or (1 if options.quick else 5), threads=options.threads
        ),
        "processes": measure_processes(quick=options.quick),
        "gpu_counts": GPU_COUNTS,
        "recipes": count_volumes(quick=options.quick),
    }
    print(f"{time.perf_counter() - start:.0f} s")
    save("scaling", content, options)


if __name__ == "__main__":
    main()
