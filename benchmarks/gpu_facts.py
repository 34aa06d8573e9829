"""What others have published about A100 and H100 machines, and a model of what collectives cost on them.

Nothing here was measured by this project: it has no GPU. Every number has its source beside it.
"""

import math
from dataclasses import dataclass


GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Machine:
    """A node of eight GPUs; a run may use many of them.

    Attributes:
        name: As on the page.
        resnet50_images: Images/s of all eight training a supervised ResNet-50 at 224 px in mixed precision.
        node_bytes: Bytes/s that one GPU sends to others of its node, one direction.
        network_bytes: Bytes/s that a node sends to others: its eight network cards together, one direction.
        float32_flops: Peak float32 operations/s of one GPU, without its tensor cores.
        memory_bytes: Bytes/s of one GPU's memory.
        sources: Where these numbers were published.
    """

    name: str
    resnet50_images: float
    node_bytes: float
    network_bytes: float
    float32_flops: float
    memory_bytes: float
    sources: dict[str, str]


_EXAMPLES = (
    "https://github.com/NVIDIA/DeepLearningExamples/blob/master/PyTorch/Classification/ConvNets/resnet50v1.5/README.md"
)
NVLINK = "https://www.nvidia.com/en-us/data-center/nvlink/"

A100 = Machine(
    name="8 x A100",
    resnet50_images=16621,
    node_bytes=300e9,
    network_bytes=8 * 25e9,
    float32_flops=19.5e12,
    memory_bytes=2.039e12,
    sources={
        "training rate": f"[DGX A100, mixed precision, 16,621 images/s with 8 GPUs]({_EXAMPLES})",
        "links": "NVLink 600 GB/s per GPU, both directions together, and 8 x 200 Gb/s InfiniBand per node: [DGX A100]"
        "(https://developer.nvidia.com/blog/defining-ai-innovation-with-dgx-a100)",
        "arithmetic and memory": "19.5 TFLOP/s float32, 2,039 GB/s: [A100 data sheet](https://www.nvidia.com/content/"
        "dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-us-nvidia-1758950-r4-web.pdf)",
    },
)
# No published rate of a PyTorch ResNet-50 on H100s was found; MLPerf has both GPUs in one maker's machines.
H100_TO_A100 = 14.4 / 7.8
H100 = Machine(
    name="8 x H100",
    resnet50_images=A100.resnet50_images * H100_TO_A100,
    node_bytes=450e9,
    network_bytes=8 * 50e9,
    float32_flops=67e12,
    memory_bytes=3.35e12,
    sources={
        "training rate": "the A100's times 14.4 / 7.8: minutes to train a ResNet-50 on 16 A100 and 16 H100 in MLPerf "
        "Training 3.0, both Dell: [comparison](https://silvertonconsulting.com/2023/07/12/mlperf-results-show-h100-v-"
        "a100-and-v-habana-gaudi2-gpus/)",
        "links": "NVLink 900 GB/s per GPU, both directions together, and 8 x 400 Gb/s InfiniBand per node: [DGX H100]"
        "(https://docs.nvidia.com/dgx/dgxh100-user-guide/introduction-to-dgxh100.html)",
        "arithmetic and memory": "67 TFLOP/s float32, 3.35 TB/s: [H100](https://www.nvidia.com/en-us/data-center/h100/)",
    },
)
MACHINES = (A100, H100)

V100_RATE = 8322 / 8  # images/s of one V100, the same page of NVIDIA's

# Seconds, from the table that NCCL chooses its algorithm by (https://github.com/NVIDIA/nccl/blob/v2.10.3-1/src/graph/
# tuning.cc): a start, and a hop over NVLink and over the network; "low latency" sends flags with the data, and reaches
# a quarter of the bandwidth.
_START = {"ring low latency": 3.6e-6, "ring": 8.4e-6, "tree low latency": 4.4e-6, "tree": 0.0}
_NODE_HOP = {"ring low latency": 0.47e-6, "ring": 3.4e-6, "tree low latency": 0.52e-6, "tree": 28e-6}
_NETWORK_HOP = {"ring low latency": 2.7e-6, "ring": 9.6e-6, "tree low latency": 5.0e-6, "tree": 50e-6}
_SHARE_OF_BANDWIDTH = {"ring low latency": 1 / 4, "ring": 1.0, "tree low latency": 0.9 / 3.8, "tree": 0.9}
LATENCY_SOURCE = "https://github.com/NVIDIA/nccl/blob/master/src/graph/tuning.cc"
VOLUME_SOURCE = "https://github.com/NVIDIA/nccl-tests/blob/master/doc/PERFORMANCE.md"


def ring_bytes_factor(kind: str, processes: int) -> float:
    """Bytes that each process sends in a ring, over the bytes of the tensor (all-gather: of all processes together).

    Args:
        kind: `"all_reduce"`, `"all_gather"` or `"broadcast"`.
        processes: How many take part, >= 1.
    """
    if kind == "all_reduce":
        return 2 * (processes - 1) / processes
    if kind == "all_gather":
        return (processes - 1) / processes
    if kind == "broadcast":
        return 1.0 if processes > 1 else 0.0
    raise ValueError(f"`kind` must be all_reduce, all_gather or broadcast, got '{kind}'")


def collective_seconds(kind: str, num_bytes: float, processes: int, machine: Machine) -> float:
    """MODEL of one collective: start + hops x latency + bytes sent / bandwidth, by the fastest of NCCL's algorithms.

    Rings use NVLink within a node; over several nodes the slower of NVLink and of a node's network cards together
    bounds them. Only an all-reduce has the choice of a tree.

    Args:
        kind: See [`ring_bytes_factor`].
        num_bytes: Of the tensor; of an all-gather, of one process's part.
        processes: GPUs, a multiple of 8 or fewer than 8.
        machine: The GPUs and their links.
    """
    if processes == 1:
        return 0.0
    per_node = min(processes, GPUS_PER_NODE)
    nodes = math.ceil(processes / GPUS_PER_NODE)
    bandwidth = machine.node_bytes if nodes == 1 else min(machine.node_bytes, machine.network_bytes)
    total = num_bytes * processes if kind == "all_gather" else num_bytes
    rounds = 2 if kind == "all_reduce" else 1
    times = []
    for name in _START:
        if name.startswith("tree"):
            if kind != "all_reduce":
                continue
            node_hops, network_hops = 2 * (per_node - 1), 2 * math.floor(math.log2(nodes))
            sent = 2.0 * total
        else:
            network_hops = rounds * (nodes - 1)
            node_hops = rounds * (processes - 1) - network_hops
            sent = ring_bytes_factor(kind, processes) * total
        latency = _START[name] + node_hops * _NODE_HOP[name] + network_hops * _NETWORK_HOP[name]
        times.append(latency + sent / (bandwidth * _SHARE_OF_BANDWIDTH[name]))
    return min(times)
