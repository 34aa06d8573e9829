"""Random checkpoints in SeLa's layouts, and what they must compute, by descriptions of the authors' networks."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from tests.conversion.author_layouts import State, known_layout, resnet, run_resnet


CLUSTERS = 7
_TO_FEATURES = {"conv1": "0", "bn1": "1", "layer1": "4", "layer2": "5", "layer3": "6", "layer4": "7"}
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")


def heads_state(names: list[str], features: int, clusters: int = CLUSTERS) -> State:
    """Linear heads, each under its name."""
    generator = torch.Generator().manual_seed(77)
    state: State = {}
    for name in names:
        state[f"{name}.weight"] = torch.randn(clusters, features, generator=generator) / features**0.5
        state[f"{name}.bias"] = torch.randn(clusters, generator=generator)
    return state


def head_names(count: int) -> list[str]:
    return [f"top_layer{number}" for number in range(count)]


def resnet_v1_state(heads: list[str], name: str = "resnet18") -> State:
    """torchvision's ResNet as a chain `features.N`: convolution, norm, ReLU, max-pool, the stages."""
    network = {key: value for key, value in resnet(name).state_dict().items() if not key.startswith("fc.")}
    state: State = {}
    for key, value in network.items():
        first, _, rest = key.partition(".")
        state[f"features.{_TO_FEATURES[first]}.{rest}"] = value
    return state | heads_state(heads, 512 if name in ("resnet18", "resnet34") else 2048)


def torchvision_state(name: str = "resnet18") -> State:
    """torchvision's own names, the first head as `fc`."""
    network = {key: value for key, value in resnet(name).state_dict().items() if not key.startswith("fc.")}
    return network | heads_state(["fc"], 512 if name in ("resnet18", "resnet34") else 2048)


def resnet_v2_state(heads: list[str], width: int = 64) -> State:
    """Stem without a norm, then blocks that begin with theirs; a shortcut where the width changes; no last norm."""
    state: State = {"features.0.weight": torch.empty(width, 3, 7, 7)}
    inside = width
    for stage, depth in enumerate((3, 4, 6, 3)):
        middle = width * 2**stage
        for number in range(depth):
            block = f"features.{stage + 2}.{number}"
            for index, (channels, shape) in enumerate(
                [
                    (inside, (middle, inside, 1, 1)),
                    (middle, (middle, middle, 3, 3)),
                    (middle, (4 * middle, middle, 1, 1)),
                ],
                start=1,
            ):
                for part in _NORM:
                    state[f"{block}.bn{index}.{part}"] = torch.empty(channels if part != _NORM[-1] else ())
                state[f"{block}.conv{index}.weight"] = torch.empty(shape)
            if number == 0:
                state[f"{block}.shortcut.0.weight"] = torch.empty(4 * middle, inside, 1, 1)
            inside = 4 * middle
    return drawn(state) | heads_state(heads, inside)


def alexnet_state(
    heads: list[str], channels: tuple[int, ...] = (8, 12, 16, 16, 12), hidden: int = 20, clusters: int = CLUSTERS
) -> State:
    """Five convolutions with bias and norm, two linear layers."""
    state: State = {}
    inside = 3
    for number, width, kernel in zip((0, 4, 8, 11, 14), channels, (11, 5, 3, 3, 3), strict=True):
        state[f"features.{number}.weight"] = torch.empty(width, inside, kernel, kernel)
        state[f"features.{number}.bias"] = torch.empty(width)
        for part in _NORM:
            state[f"features.{number + 1}.{part}"] = torch.empty(width if part != _NORM[-1] else ())
        inside = width
    for number, width in (("1", inside * 36), ("4", hidden)):
        state[f"classifier.{number}.weight"] = torch.empty(hidden, width)
        state[f"classifier.{number}.bias"] = torch.empty(hidden)
    return drawn(state) | heads_state(heads, hidden, clusters)


def drawn(state: State) -> State:
    """Fill all tensors with random values; no scale, shift or statistic of a norm is neutral."""
    generator = torch.Generator().manual_seed(1)
    for name, tensor in state.items():
        if name.endswith("num_batches_tracked"):
            state[name] = torch.tensor(1234)
        elif name.endswith("running_var") or (tensor.ndim == 1 and name.endswith("weight")):
            tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))
        elif tensor.ndim == 1:
            tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
        else:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5)
    return state


def in_parallel(state: State) -> State:
    """As several GPUs of the authors save it: only `features` is wrapped."""
    return {name.replace("features.", "features.module."): tensor for name, tensor in state.items()}


def run_v1(state: Mapping[str, torch.Tensor], images: torch.Tensor, name: str = "resnet18") -> torch.Tensor:
    """Pooled features by torchvision's network."""
    from_features = {f"features.{number}.": f"{ours}." for ours, number in _TO_FEATURES.items()}
    renamed = {}
    for key, value in state.items():
        for prefix, ours in from_features.items():
            if key.startswith(prefix):
                renamed[ours + key.removeprefix(prefix)] = value
    return run_resnet(renamed, images, name, "")


def run_v2(state: Mapping[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """Pooled features of the pre-activation network, `F` alone."""

    def active(x: torch.Tensor, name: str) -> torch.Tensor:
        weight, bias, mean, var = (state[f"{name}.{part}"] for part in _NORM[:4])
        return F.relu(F.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5))

    x = F.max_pool2d(F.conv2d(images, state["features.0.weight"], stride=2, padding=3), 3, stride=2, padding=1)
    for stage, depth in enumerate((3, 4, 6, 3)):
        for number in range(depth):
            block = f"features.{stage + 2}.{number}"
            stride = 2 if number == 0 and stage > 0 else 1
            before = active(x, f"{block}.bn1")
            shortcut = F.conv2d(before, state[f"{block}.shortcut.0.weight"], stride=stride) if number == 0 else x
            y = F.conv2d(before, state[f"{block}.conv1.weight"])
            y = F.conv2d(active(y, f"{block}.bn2"), state[f"{block}.conv2.weight"], stride=stride, padding=1)
            x = F.conv2d(active(y, f"{block}.bn3"), state[f"{block}.conv3.weight"]) + shortcut
    return x.mean(dim=(2, 3))


def run_alexnet(state: Mapping[str, torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    """The second linear layer's activations for images of 224 pixels, `F` alone."""
    x = images
    for number, stride, padding, pooled in ((0, 4, 2, 1), (4, 1, 2, 1), (8, 1, 1, 0), (11, 1, 1, 0), (14, 1, 1, 1)):
        x = F.conv2d(x, state[f"features.{number}.weight"], state[f"features.{number}.bias"], stride, padding)
        weight, bias, mean, var = (state[f"features.{number + 1}.{part}"] for part in _NORM[:4])
        x = F.relu(F.batch_norm(x, mean, var, weight, bias, training=False, eps=1e-5))
        x = F.max_pool2d(x, 3, stride=2) if pooled else x
    x = F.relu(F.linear(x.flatten(1), state["classifier.1.weight"], state["classifier.1.bias"]))
    return F.relu(F.linear(x, state["classifier.4.weight"], state["classifier.4.bias"]))


def run_heads(state: Mapping[str, torch.Tensor], features: torch.Tensor, names: list[str]) -> torch.Tensor:
    """Each head's probabilities, `(images, heads, clusters)`."""
    logits = [F.linear(features, state[f"{name}.weight"], state[f"{name}.bias"]) for name in names]
    return torch.stack([F.softmax(values, dim=-1) for values in logits], dim=1)


def assert_known(state: Mapping[str, torch.Tensor], layout: str) -> None:
    """Names, their order and all shapes but the number of clusters are those read off the authors' code."""
    known = known_layout(layout)
    assert list(state) == list(known)
    for name, tensor in state.items():
        is_head = name.startswith(("top_layer", "fc."))
        assert tuple(tensor.shape)[is_head:] == known[name][is_head:], name
