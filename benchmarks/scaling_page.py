"""Make docs/scaling.md and its pictures from benchmarks/results/{scaling,gpu_estimate}.json.

python benchmarks/scaling_page.py

`benchmarks/render.py` does it, too.
"""

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gpu_facts import LATENCY_SOURCE, MACHINES, VOLUME_SOURCE
from recipe_costs import NUM_IMAGES


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "scaling.md"
IMAGES = ROOT / "docs" / "images"

_INTRODUCTION = """\
# How cost grows

Made by `python benchmarks/scaling_page.py` from the results of `python benchmarks/scaling.py` and `python
benchmarks/gpu_estimate.py` in [benchmarks/results](../benchmarks/results). The first two parts were
**measured** on {cores} cores of an {processor} ({threads} threads, {date}). The third is a **model** and the fourth an
**estimate**: this project has no GPU.
"""


def read() -> tuple[dict[str, Any], dict[str, Any]] | None:
    """Numbers of both benchmarks; `None` if one hasn't been run."""
    files = [RESULTS / name for name in ("scaling.json", "gpu_estimate.json")]
    if not all(file.exists() for file in files):
        return None
    scaling, estimate = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    return scaling, estimate


def page(scaling: dict[str, Any], estimate: dict[str, Any]) -> str:
    """The whole page."""
    facts = {**scaling["machine"], "threads": scaling["threads"], "date": scaling["date"]}
    lines = [_INTRODUCTION.format(**facts)]
    for part in (_curves(scaling), _processes(scaling), _model(scaling, estimate), _estimate(estimate)):
        lines.extend(part)
        lines.append("")
    return "\n".join(lines).rstrip("\n") + "\n"


def _curves(scaling: dict[str, Any]) -> Iterator[str]:
    yield "## Measured: each part on its own"
    yield ""
    yield (
        "The exponent is the slope of log time against log size over the larger half of the sizes; in brackets what "
        "the algorithm's operations say. Medians; each size in a process of its own. Memory is the peak beyond the "
        "inputs."
    )
    yield ""
    yield "![time and memory against size, logarithmic](images/scaling.png)"
    yield ""
    yield "| work | grows | from ... to | time | its exponent | memory at the largest | its exponent | why |"
    yield "|---|---|---|---|---|---|---|---|"
    for curve in scaling["curves"]:
        first, last = curve["points"][0], curve["points"][-1]
        times = " ... ".join(_time(statistics.median(point["seconds"])) for point in (first, last))
        said = "" if curve["memory"] is None else f" ({curve['memory']:g})"
        yield (
            f"| {curve['title']}; {curve['fixed']} | {curve['variable']} | {first['size']:,} ... {last['size']:,} | "
            f"{times} | {curve['time_exponent']:.2f} ({curve['time']:g}) | {last['peak_bytes'] / 2**20:,.0f} MiB | "
            f"{curve['memory_exponent']:.2f}{said} | {curve['why']} |"
        )


def _processes(scaling: dict[str, Any]) -> Iterator[str]:
    yield "## Measured: one and two processes"
    yield ""
    yield "Joined by gloo on this machine, the same work over all processes: seconds, medians."
    yield ""
    yield "| work | 1 process, 1 thread | 1 process, 2 threads | 2 processes, 1 thread each |"
    yield "|---|---|---|---|"
    for entry in scaling["processes"]:
        cells = [_time(statistics.median(entry["seconds"][name])) for name in ("1 x 1", "1 x 2", "2 x 1")]
        yield f"| {entry['job']} | {' | '.join(cells)} |"


def _model(scaling: dict[str, Any], estimate: dict[str, Any]) -> Iterator[str]:
    yield "## MODEL: what is sent, and what that costs on 8 to 1,024 GPUs"
    yield ""
    yield (
        "What is sent was **counted**: every collective of one step, while the real model at its recipe's sizes took "
        "the step in a process group. DistributedDataParallel's gradients follow from the parameters, "
        "SyncBatchNorm's messages from the passes through its layers (it has no CPU form). Calls and bytes are "
        "those of one process and one step without diagnostics; of an all-gather the process's own part."
    )
    yield ""
    yield "| recipe | images per process | method's own | gradients | batch norm |"
    yield "|---|---|---|---|---|"
    for entry in scaling["recipes"]:
        cells = [_volume(entry["volumes"], part) for part in ("method", "gradient", "batch norm")]
        yield f"| `{entry['recipe']}` | {entry['micro_batch']} | {' | '.join(cells)} |"
    yield ""
    yield (
        f"The seconds are a **model**, not a measurement: start + hops x latency + bytes sent / bandwidth, for the "
        f"fastest of NCCL's rings and trees. A ring all-reduce of S bytes over p processes sends 2 (p - 1) / p S, an "
        f"all-gather (p - 1) / p of all parts ([NCCL's account]({VOLUME_SOURCE})). Latencies are those by which [NCCL "
        f"itself]({LATENCY_SOURCE}) chooses (version 2.10). The images per process stay as above, so the batch grows "
        f"with the GPUs. No overlap is assumed, although gradients travel during the backward pass: the true cost of "
        f"those is lower. *Share* is the communication's part of a step whose arithmetic runs at the rate of the last "
        f"section."
    )
    yield ""
    for machine in MACHINES:
        yield f"- {machine.name}: {machine.sources['links']}"
    yield ""
    yield "![modelled milliseconds of communication per step against GPUs](images/scaling-gpus.png)"
    yield ""
    counts = scaling["gpu_counts"]
    shown = [0, counts.index(64), len(counts) - 1]
    heads = [f"{counts[number]:,} GPUs" for number in shown]
    ratios = {row["recipe"]: row["hours"] for row in estimate["recipes"]}
    for machine in MACHINES:
        yield f"| recipe, {machine.name} a node | part | {' | '.join(heads)} |"
        yield "|---|---|" + "---|" * len(heads)
        for entry in scaling["recipes"]:
            parts = entry["seconds"][machine.name]
            for number, (part, seconds) in enumerate(parts.items()):
                name = f"`{entry['recipe']}`" if number == 0 else ""
                yield f"| {name} | {part} | {' | '.join(f'{seconds[n] * 1e3:.2f} ms' for n in shown)} |"
            if entry["recipe"] in ratios:
                rate = ratios[entry["recipe"]][machine.name]["images_per_second"] / 8
                step = entry["micro_batch"] / rate
                totals = [sum(seconds[n] for seconds in parts.values()) for n in shown]
                yield f"| | **share** | {' | '.join(f'{total / (total + step):.0%}' for total in totals)} |"
        yield ""
    yield (
        "What follows from it: the assignment's own messages are small against gradients and batch norm; what grows "
        "is latency, above all SyncBatchNorm's, two messages a layer and pass, whose all-gathers NCCL runs as rings. "
        "Beyond some 64 GPUs batch norm should span a node and not the run."
    )


def _estimate(estimate: dict[str, Any]) -> Iterator[str]:
    yield "## ESTIMATE: hours for each recipe for ImageNet"
    yield ""
    yield (
        "No recipe was run on a GPU. A step's operations were counted by torch while the real model took one on this "
        "CPU: every network (also the teacher's or target's forward pass), every view at its size (96 px are "
        f"{(96 / 224) ** 2:.2f} of 224 px), heads and support, forward and backward. Divided by a supervised "
        f"ResNet-50's {estimate['supervised_flops'] / 1e9:.1f} GFLOP they give images/s from NVIDIA's published rate:"
    )
    yield ""
    for machine in MACHINES:
        yield f"- {machine.name}: {machine.resnet50_images:,.0f} images/s: {machine.sources['training rate']}"
    yield (
        "- the search in a bank: float32 products at the peak, or reading the bank once: "
        + "; ".join(machine.sources["arithmetic and memory"] for machine in MACHINES)
    )
    yield ""
    factor = max(row["stated"] / row["ours"] for row in estimate["checks"] if row["what"].startswith("minutes"))
    yield (
        f"Epochs of {NUM_IMAGES:,} images. SeLa's passes for new labels count as forward passes; its solves (minutes "
        f"on a GPU), CMSF-KM's clustering on the host and the evaluation during training don't count. The lower "
        f"figure is this arithmetic, which assumes NVIDIA's tuned pipeline, 256 images a GPU and data that arrives in "
        f"time; the upper one is {factor:.1f} times as much, as far as SwAV's authors' code was from the same "
        f"arithmetic (below). **AlexNet's rows go by operations alone**, though AlexNet is bound by memory and data: "
        f"take them for a lower bound. The same holds for global batches of 64 or 256, 8 or 32 images a GPU."
    )
    yield ""
    heads = " | ".join(f"{machine.name}, hours" for machine in MACHINES)
    yield (
        f"| recipe | epochs | GFLOP an image | supervised steps | images/s to feed, {MACHINES[0].name} | search | "
        f"passes for labels | {heads} |"
    )
    yield "|---|---|---|---|---|---|---|" + "---|" * len(MACHINES)
    for row in estimate["recipes"]:
        hours = [row["hours"][machine.name]["total"] for machine in MACHINES]
        first = row["hours"][MACHINES[0].name]
        search = f"{first['search']:.1f} h" if first["search"] else ""
        passes = f"{row['passes_share']:.0%}" if row["passes_share"] else ""
        cells = " | ".join(f"{value:.1f} to {value * factor:.0f}" for value in hours)
        yield (
            f"| `{row['recipe']}` | {row['epochs']:g} | {row['flops_per_image'] / 1e9:.1f} | {row['ratio']:.2f} | "
            f"{first['images_per_second']:,.0f} | {search} | {passes} | {cells} |"
        )
    yield ""
    yield "Against what papers state:"
    yield ""
    yield "| what | stated | by this arithmetic | stated / arithmetic |"
    yield "|---|---|---|---|"
    for row in estimate["checks"]:
        yield f"| {row['what']} | {row['stated']:.3g} | {row['ours']:.3g} | {row['stated'] / row['ours']:.2f} |"
    yield ""
    yield (
        "So the operations are right to a few per cent. The time isn't: published self-supervised runs were several "
        "times slower than NVIDIA's supervised one, mostly for their data pipelines and float32 parts. MSF's authors "
        "reached about the same share of their GPUs' peak as the published rate is of the A100's."
    )


def _volume(volumes: dict[str, list[int]], part: str) -> str:
    names = {"all_reduce": "all-reduces", "all_gather": "all-gathers", "broadcast": "broadcasts"}
    found = [
        f"{volumes[f'{part}, {kind}'][0]} {name}, {_bytes(volumes[f'{part}, {kind}'][1])}"
        for kind, name in names.items()
        if f"{part}, {kind}" in volumes
    ]
    return "; ".join(found) or "none"


def _bytes(number: float) -> str:
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.3g} {unit}"
        number /= 1000
    return f"{number:.3g} GB"


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def draw(scaling: dict[str, Any], folder: Path = IMAGES) -> None:
    """Draw both pictures."""
    import matplotlib as mpl  # only here is it needed

    mpl.use("agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"font.size": 8, "axes.grid": True, "grid.alpha": 0.3}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
        for number, curve in enumerate(scaling["curves"]):
            sizes = [point["size"] for point in curve["points"]]
            style = {"marker": "os^Dv"[number % 5], "markersize": 3, "linewidth": 1}
            label = f"{curve['name'].replace('_', ', ')}: {curve['time_exponent']:.2f}"
            left.loglog(
                sizes, [statistics.median(point["seconds"]) for point in curve["points"]], label=label, **style
            )
            right.loglog(sizes, [max(point["peak_bytes"], 2**20) / 2**20 for point in curve["points"]], **style)
        left.set(xlabel="size", ylabel="seconds", title="time (exponent)")
        right.set(xlabel="size", ylabel="MiB beyond the inputs", title="memory")
        figure.legend(loc="outside right center", frameon=False)
        figure.savefig(folder / "scaling.png", dpi=110, metadata={"Software": None})
        plt.close(figure)
        figure, axes = plt.subplots(1, len(MACHINES), figsize=(9, 3.4), layout="constrained", sharey=True)
        for axis, machine in zip(axes, MACHINES, strict=True):
            for number, entry in enumerate(scaling["recipes"]):
                parts = entry["seconds"][machine.name].values()
                totals = [1e3 * sum(at) for at in zip(*parts, strict=True)]
                style = {"marker": "os^Dv"[number % 5], "markersize": 3, "linewidth": 1}
                label = entry["recipe"].replace("imagenet1k_", "") if machine is MACHINES[0] else None
                axis.loglog(scaling["gpu_counts"], totals, base=2, label=label, **style)
            axis.set_yscale("log", base=10)
            axis.set(xlabel="GPUs", title=f"MODEL, nodes of {machine.name}")
        axes[0].set_ylabel("ms of communication per step")
        figure.legend(loc="outside right center", frameon=False)
        figure.savefig(folder / "scaling-gpus.png", dpi=110, metadata={"Software": None})
        plt.close(figure)


def main() -> None:
    """Write page and pictures."""
    found = read()
    if found is None:
        raise SystemExit("run `python benchmarks/scaling.py` and `python benchmarks/gpu_estimate.py` first")
    PAGE.write_text(page(*found), encoding="utf-8")
    draw(found[0])
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
