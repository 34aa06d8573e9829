"""The formulas behind docs/scaling.md: collectives, exponents, operations of crops; and the page is up to date."""

import itertools
import math
import sys
from pathlib import Path

import pytest
import timm
import torch
from torch import nn


ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import gpu_facts  # noqa: E402
import recipe_costs  # noqa: E402
import scaling_page  # noqa: E402
from scaling import slope  # noqa: E402


@pytest.mark.parametrize("processes", [2, 3, 8])
def test_a_ring_sends_what_a_ring_sends(processes):
    """A simulated ring: each process passes one block per round to the next one, first sums, then finished blocks."""
    blocks = [[process * 10 + block for block in range(processes)] for process in range(processes)]
    expected = [sum(column) for column in zip(*blocks, strict=True)]
    sent = [0] * processes
    for finished in (False, True):
        for turn in range(processes - 1):
            moves = []
            for process in range(processes):
                block = (process + finished - turn) % processes
                moves.append(((process + 1) % processes, block, blocks[process][block]))
                sent[process] += 1
            for process, block, value in moves:
                blocks[process][block] = value if finished else blocks[process][block] + value
    assert blocks == [expected] * processes
    factor = gpu_facts.ring_bytes_factor("all_reduce", processes)
    assert factor == pytest.approx(sent[0] / processes)
    assert gpu_facts.ring_bytes_factor("all_gather", processes) == pytest.approx(factor / 2)


def test_large_messages_cost_bandwidth_and_small_ones_latency():
    large, machine = 1e12, gpu_facts.A100
    within = gpu_facts.collective_seconds("all_reduce", large, 8, machine)
    assert within == pytest.approx(2 * 7 / 8 * large / 300e9, rel=1e-3)
    between = gpu_facts.collective_seconds("all_reduce", large, 64, machine)
    assert between == pytest.approx(2 * 63 / 64 * large / 200e9, rel=1e-3)
    gathered = gpu_facts.collective_seconds("all_gather", large / 64, 64, machine)
    assert gathered == pytest.approx(63 / 64 * large / 200e9, rel=1e-3)
    tiny = [gpu_facts.collective_seconds("all_reduce", 4, 8 * 2**power, machine) for power in range(8)]
    assert tiny[0] == pytest.approx(3.6e-6 + 14 * 0.47e-6, rel=1e-3)  # ring, low latency
    # A tree over nodes: every doubling adds two network hops, so time grows with the logarithm.
    steps = [later - earlier for earlier, later in itertools.pairwise(tiny[3:])]
    assert steps == [pytest.approx(2 * 5.0e-6, rel=1e-3)] * len(steps)
    assert gpu_facts.collective_seconds("all_reduce", 1e9, 1, machine) == 0.0


def test_one_unknown_kind_is_refused():
    with pytest.raises(ValueError, match="got 'scatter'"):
        gpu_facts.ring_bytes_factor("scatter", 8)


def test_the_exponent_is_that_of_the_larger_half():
    sizes = [2**power for power in range(1, 9)]
    assert slope(sizes, [3.0 * size**1.5 for size in sizes]) == pytest.approx(1.5)
    assert slope(sizes, [float(max(size, 16)) for size in sizes]) == pytest.approx(1.0)


def test_operations_of_a_convolution_are_counted_twice_for_multiply_and_add():
    layer = nn.Conv2d(3, 5, 3, padding=1, bias=False)
    assert recipe_costs.forward_flops(layer, 8) == 2 * 8 * 8 * 5 * 3 * 3 * 3


def test_crops_cost_what_their_area_says():
    """ResNet-50 at 224 px is known: 4.09 GMAC; 96 = 3 x 32 fits the strides, so its cost goes by the area."""
    backbone = timm.create_model("resnet50", num_classes=0)
    large, small = (recipe_costs.forward_flops(backbone, pixels) for pixels in (224, 96))
    assert large / 2e9 == pytest.approx(4.087, rel=1e-3)
    assert small / large == pytest.approx((96 / 224) ** 2, rel=1e-3)
    # Backward: gradients of weights and inputs, but not of the image.
    first = 2 * 112 * 112 * 64 * 3 * 49
    assert recipe_costs.supervised_flops(backbone) == pytest.approx(3 * large - first, rel=1e-6)


@pytest.mark.parametrize(
    ("name", "forwards"),
    [("byol/imagenet1k_resnet50_1000ep", 2 * (3 + 1)), ("msf/imagenet1k_resnet50_200ep_bank256k", 3 + 1)],
)
def test_a_step_has_the_passes_of_its_method(name, forwards):
    """With a backward pass a view counts threefold, in a target network once."""
    path = ROOT / "recipes" / f"{name}.yaml"
    forward = recipe_costs.forward_flops(timm.create_model("resnet50", num_classes=0), 64)
    # Heads add two per cent or three, the image's gradient, which nobody takes, is as little.
    assert recipe_costs.step_flops(path, sizes=(64, 64)) == pytest.approx(forwards * forward, rel=0.1)


def test_collectives_are_recorded_with_their_bytes(tmp_path):
    from ssl_zoo.functional.distributed import all_gather_rows, all_reduce_sum_

    with recipe_costs.one_process_group(str(tmp_path)), recipe_costs.recorded_collectives() as calls:
        all_reduce_sum_(torch.zeros(3, 5))
        all_gather_rows(torch.zeros(7, 2, dtype=torch.float16))
    assert [(call.kind, call.num_bytes) for call in calls] == [
        ("all_reduce", 60),
        ("all_gather", 8),
        ("all_gather", 28),
    ]


def test_gradients_and_batch_norm_send_what_their_parameters_say():
    model = nn.Sequential(nn.Linear(2**12, 2**11, bias=False), nn.BatchNorm1d(2**11))
    buckets = list(recipe_costs._of_gradients(model))
    assert sum(call.num_bytes for call in buckets) == 4 * (2**23 + 2**12)
    assert len(buckets) == math.ceil(4 * (2**23 + 2**12) / (25 * 2**20))
    norms = list(recipe_costs._of_batch_norm([(64, True), (64, False)]))
    assert [(call.kind, call.num_bytes) for call in norms] == [
        ("all_gather", 4 * 129),
        ("all_reduce", 4 * 128),
        ("all_gather", 4 * 129),
    ]


def made_numbers():
    """One of each, with numbers that are easy to find again."""
    machine = {"cores": 2, "processor": "processor"}
    points = [{"size": size, "seconds": [size * 1e-3], "peak_bytes": size * 2**20} for size in (7, 14, 28)]
    curve = {"name": "c", "title": "Work", "variable": "N", "fixed": "K 3", "time": 1, "memory": 1, "why": "because"}
    curve |= {"points": points, "time_exponent": 1.23, "memory_exponent": 0.98}
    seconds = {"method": [1e-3] * 8, "batch norm": [2e-3] * 8, "gradient": [3e-3] * 8}
    recipe = {"recipe": "m/r", "micro_batch": 32, "processes": 8, "volumes": {"method, all_gather": [4, 1234000]}}
    recipe["seconds"] = {each.name: seconds for each in gpu_facts.MACHINES}
    processes = [{"job": "Job", "seconds": {"1 x 1": [2.5], "1 x 2": [1.5], "2 x 1": [1.25]}}]
    scaling = {"curves": [curve], "processes": processes, "gpu_counts": [8, 16, 32, 64, 128, 256, 512, 1024]}
    scaling |= {"recipes": [recipe], "machine": machine, "threads": 2, "date": "today"}
    hours = {"total": 10.0, "search": 0.5, "images_per_second": 8 * 32 / 0.054, "step_milliseconds": 54.0}
    row = {"recipe": "m/r", "epochs": 200.0, "flops_per_image": 3e10, "ratio": 1.25, "passes_share": 0.0}
    row["hours"] = {each.name: hours for each in gpu_facts.MACHINES}
    checks = [{"what": "minutes of an epoch", "stated": 6.0, "ours": 2.0}]
    return scaling, {"recipes": [row], "supervised_flops": 2.4e10, "checks": checks}


def test_the_numbers_stand_on_the_page_and_models_are_called_so(tmp_path):
    scaling, estimate = made_numbers()
    page = scaling_page.page(scaling, estimate)
    assert "| Work; K 3 | N | 7 ... 28 | 7 ms ... 28 ms | 1.23 (1) | 28 MiB | 0.98 (1) | because |" in page
    assert "| Job | 2.5 s | 1.5 s | 1.25 s |" in page
    assert "| `m/r` | 32 | 4 all-gathers, 1.23 MB | none | none |" in page
    assert "| | **share** | 10% | 10% | 10% |" in page  # 6 ms beside 54 ms
    assert "| `m/r` | 200 | 30.0 | 1.25 | 4,741 | 0.5 h |  | 10.0 to 30 | 10.0 to 30 |" in page
    assert "## MODEL" in page
    assert "## ESTIMATE" in page
    scaling_page.draw(scaling, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {"scaling.png", "scaling-gpus.png"}


def test_the_page_is_what_the_numbers_give():
    found = scaling_page.read()
    if found is None:
        pytest.skip("benchmarks/results has no numbers of scaling.py and gpu_estimate.py yet")
    expected = scaling_page.page(*found)
    assert scaling_page.PAGE.read_text(encoding="utf-8") == expected, "run: python benchmarks/scaling_page.py"
