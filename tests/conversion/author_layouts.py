"""Random checkpoints in the layouts of the authors' files, and what they must compute, written without our package.

The networks are torchvision's; the heads follow the description of the layouts in words. All batch
norm statistics are random, so that a mistaken, swapped or forgotten one changes the output.
"""

import functools
import itertools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from ssl_zoo.conversion.layout import Checkpoint


TOLERANCE = 1e-5
State = dict[str, torch.Tensor]
_LAYOUTS: dict[str, list[tuple[str, list[int] | str]]] = json.loads(
    Path(__file__).with_name("layouts.json").read_text(encoding="utf-8")
)


def randomised(module: nn.Module, seed: int) -> nn.Module:
    """Draw every parameter and statistic, at a scale at which signals neither vanish nor explode."""
    if next(module.parameters()).is_meta:
        return module.eval()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith("num_batches_tracked"):
            tensor.fill_(1000 + seed)
        elif name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.ndim < 2:
            is_scale = name.endswith("weight")
            tensor.copy_(0.2 * torch.randn(tensor.shape, generator=generator) + (0.7 if is_scale else 0.0))
        else:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5)
    return module.eval()


def drawn(*shape: int, seed: int) -> torch.Tensor:
    """Normal numbers; shapes without numbers under `torch.device("meta")`."""
    if torch.get_default_device().type == "meta":
        return torch.empty(shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def resnet(name: str, *, small_stem: bool = False, fc: nn.Module | None = None, seed: int = 0) -> nn.Module:
    """torchvision's ResNet; `small_stem` is that of CorInfoMax's authors for CIFAR."""
    network = getattr(torchvision.models, name)(weights=None)
    if small_stem:
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        network.maxpool = nn.Identity()
    network.fc = fc if fc is not None else nn.Identity()
    return randomised(network, seed)


def head(widths: list[int], *, norm: bool = True, hidden_bias: bool, out_bias: bool, seed: int) -> nn.Sequential:
    """Linear (BatchNorm) ReLU ... Linear."""
    layers: list[nn.Module] = []
    for inside, outside in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(inside, outside, bias=hidden_bias), *([nn.BatchNorm1d(outside)] if norm else [])]
        layers += [nn.ReLU()]
    layers.append(nn.Linear(widths[-2], widths[-1], bias=out_bias))
    return randomised(nn.Sequential(*layers), seed)  # type: ignore[return-value]


def run_resnet(state: Mapping[str, torch.Tensor], images: torch.Tensor, name: str, prefix: str) -> torch.Tensor:
    """Pooled features of torchvision's ResNet with the weights under a prefix put in by hand."""
    network = getattr(torchvision.models, name)(weights=None)
    network.fc = nn.Identity()
    own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    own = {key: value for key, value in own.items() if not key.startswith("fc.")}
    if own["conv1.weight"].shape[-1] == 3:
        network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        network.maxpool = nn.Identity()
    network.load_state_dict(own, strict=True)
    network.eval()
    with torch.no_grad():
        return network(images)


def run_head(state: Mapping[str, torch.Tensor], inputs: torch.Tensor, prefix: str) -> torch.Tensor:
    """Linear layers and batch norm by `F.linear` and `F.batch_norm`, ReLU before each linear layer but the first."""
    numbers = sorted({int(key.removeprefix(prefix).split(".")[0]) for key in state if key.startswith(prefix)})
    linear = [number for number in numbers if state[f"{prefix}{number}.weight"].ndim == 2]
    for number in numbers:
        weight, bias = state[f"{prefix}{number}.weight"], state.get(f"{prefix}{number}.bias")
        if number not in linear:
            mean, var = (state[f"{prefix}{number}.running_{what}"] for what in ("mean", "var"))
            inputs = F.batch_norm(inputs, mean, var, weight, bias, training=False, eps=1e-5)
            continue
        inputs = F.linear(inputs if number == linear[0] else F.relu(inputs), weight, bias)
    return inputs


def _drawn_once(make: Callable[..., State]) -> Callable[..., State]:
    """Cache states that several tests use: drawing 30 million numbers takes longer than converting them."""
    remembered: dict[str, State] = {}

    @functools.wraps(make)
    def state(*arguments: object, **options: object) -> State:
        key = f"{torch.get_default_device()} {arguments} {options}"
        if key not in remembered:
            remembered[key] = make(*arguments, **options)
        return dict(remembered[key])

    return state


def prefixed(prefix: str, module: nn.Module) -> State:
    return {f"{prefix}{name}": tensor.clone() for name, tensor in module.state_dict().items()}


def known_layout(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a checkpoint that the authors' code writes, in its order."""
    with torch.device("meta"):
        resnet50 = torchvision.models.resnet50().state_dict()
    shapes: dict[str, tuple[int, ...]] = {}
    for key, shape in _LAYOUTS[name]:
        if shape == "resnet50":
            shapes |= {f"{key}{part}": tuple(t.shape) for part, t in resnet50.items() if not part.startswith("fc.")}
        else:
            shapes[key] = tuple(map(int, shape))
    return shapes


def assert_layout_is_known(state: Mapping[str, torch.Tensor], model: str) -> None:
    """Names and their order are those that were read off the authors' code."""
    shapes = known_layout(model)
    assert list(shapes) == list(state)
    different = {name for name in state if tuple(state[name].shape) != shapes[name]}
    # Banks and tables are made small: a real one of CMSF is 5 GB.
    small = ("queue", "labels", "pool", "pool_qindex", "index_queue", "gt_labels", "sup_queue", "sup_labels")
    assert different <= set(small)


@_drawn_once
def mira_state(name: str = "resnet18", widths: tuple[int, ...] = (64, 64, 32), prototypes: int = 20) -> State:
    """MIRA's: model.* and ema_model.*, `module.` before all names."""
    state: State = {}
    rows = drawn(prototypes, widths[-1], seed=5)
    for seed, branch in enumerate(("model", "ema_model")):
        encoder = resnet(name, seed=10 * seed)
        features = 512 if name in ("resnet18", "resnet34") else 2048
        projector = head([features, *widths], hidden_bias=False, out_bias=True, seed=10 * seed + 1)
        state |= prefixed(f"module.{branch}.encoder.", encoder) | prefixed(f"module.{branch}.projector.", projector)
        state[f"module.{branch}.head.weight_g"] = torch.ones(prototypes, 1)
        state[f"module.{branch}.head.weight_v"] = rows.clone()
    return state


@_drawn_once
def corinfomax_state(
    name: str = "resnet18", widths: tuple[int, ...] = (48, 48, 16), *, norm: bool, small_stem: bool
) -> State:
    """CorInfoMax's: backbone.* and projector.*."""
    features = 512 if name in ("resnet18", "resnet34") else 2048
    projector = head([features, *widths], norm=norm, hidden_bias=True, out_bias=False, seed=1)
    return prefixed("backbone.", resnet(name, small_stem=small_stem)) | prefixed("projector.", projector)


@_drawn_once
def mean_shift_state(variant: str, name: str = "resnet18", *, bank: int = 64, images: int = 30) -> State:
    """MSF's and CMSF's, in the order in which their modules register."""
    features = 512 if name in ("resnet18", "resnet34") else 2048
    width, hidden = features // 4, 2 * features
    state: State = {"queue": F.normalize(drawn(bank, width, seed=3), dim=1)}
    if variant == "cmsf-self":
        state["pool"] = drawn(2, images, width, seed=4)
        state["pool_qindex"] = torch.zeros(images, dtype=torch.int64)
    state["labels"] = torch.full((bank,), -1)
    if variant == "cmsf-self":
        state["index_queue"] = torch.full((bank,), -1)
    state["queue_ptr"] = torch.zeros(1, dtype=torch.int64)
    if variant == "cmsf-semi":
        state["gt_labels"] = torch.full((bank,), -1)
        state["sup_queue"] = drawn(bank, width, seed=5)
        state["sup_labels"] = torch.full((bank,), -1)
        state["sup_queue_ptr"] = torch.zeros(1, dtype=torch.int64)
        state["sup_queue_oflow"] = torch.zeros(1, dtype=torch.int64)
    for seed, encoder in enumerate(("encoder_q", "encoder_t")):
        fc = head([features, hidden, width], hidden_bias=True, out_bias=True, seed=20 + seed)
        state |= prefixed(f"{encoder}.module.", resnet(name, fc=fc, seed=30 + seed))
    predictor = head([width, hidden, width], hidden_bias=True, out_bias=True, seed=40)
    state |= prefixed("predict_q.module.", predictor)
    if variant == "cmsf-semi":
        classes = 1000 if name == "resnet50" else 7
        classifier = head([width, 2 * width, classes], hidden_bias=True, out_bias=True, seed=41)
        state |= prefixed("mlp_head.module.", classifier)
    return state


def photos(size: int = 64, count: int = 3) -> torch.Tensor:
    """Images that differ in contrast and colour; a random network gives all noise images nearly the same features."""
    contrast = torch.tensor([0.3, 1.0, 3.0]).view(3, 1, 1, 1)[:count]
    return contrast * drawn(count, 3, size, size, seed=99) + drawn(count, 3, 1, 1, seed=98)


def in_memory(state: State, **extras: object) -> Checkpoint:
    """A checkpoint as `read_checkpoint` gives it, without a file."""
    names = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return Checkpoint(state=names, extras=dict(extras), file=Path("some.pth"), sha256="0" * 64, bytes=0)


def saved(state: State, file: Path, *, key: str = "state_dict", **beside: object) -> Path:
    """Write a checkpoint as the authors' scripts do; `key=""` for a flat one."""
    torch.save({key: state, **beside} if key else state, file)
    return file


def largest_difference(ours: torch.Tensor, expected: torch.Tensor) -> float:
    assert ours.shape == expected.shape
    # The outputs must differ from image to image, or the comparison would prove little.
    assert float(expected.std(dim=0).mean()) > 1e-3
    return float((ours - expected).abs().max())


def unprefixed(state: State, prefix: str = "module.") -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}
