"""What one training step of a recipe computes and sends: counted while the real model takes the step, on this CPU."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode

from ssl_zoo.models.modeling_base import SSLForPreTraining
from ssl_zoo.training.build import build_model
from ssl_zoo.training.recipe import Recipe, load_recipe


ROOT = Path(__file__).resolve().parents[1]
NUM_IMAGES = 1_281_167  # in the training split of ImageNet-1k
_NUM_SAMPLES = 8192
_BUCKET_BYTES = 25 * 2**20  # of DistributedDataParallel


@dataclass(frozen=True)
class Collective:
    """One call.

    Attributes:
        kind: `"all_reduce"`, `"all_gather"` or `"broadcast"`.
        num_bytes: Of the tensor that this process gives.
        part: `"method"`, `"gradient"` or `"batch norm"`.
    """

    kind: str
    num_bytes: int
    part: str


def recipe_paths() -> list[Path]:
    """The recipes for ImageNet-1k."""
    return sorted((ROOT / "recipes").glob("*/imagenet1k_*.yaml"))


def recipe_name(path: Path) -> str:
    """Short name, such as `msf/imagenet1k_resnet50_200ep`."""
    return f"{path.parent.name}/{path.stem}"


@contextlib.contextmanager
def recorded_collectives() -> Iterator[list[Collective]]:
    """Record each collective that `ssl_zoo.functional.distributed` calls, and carry it out."""
    calls: list[Collective] = []
    names = ("all_reduce", "all_gather", "all_gather_into_tensor", "broadcast")
    originals = {name: getattr(dist, name) for name in names}

    def wrap(name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            tensor = arguments[1] if name.startswith("all_gather") else arguments[0]
            kind = "all_gather" if name.startswith("all_gather") else name
            calls.append(Collective(kind, tensor.numel() * tensor.element_size(), "method"))
            return originals[name](*arguments, **options)

        return call

    for name in names:
        setattr(dist, name, wrap(name))
    try:
        yield calls
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


@contextlib.contextmanager
def one_process_group(folder: str) -> Iterator[None]:
    """A process group of this process alone, so that all collectives are really called."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


def build(recipe: Recipe) -> SSLForPreTraining:
    """The recipe's model for fewer images than ImageNet has, which makes tables smaller and leaves a step as it is."""
    return build_model(recipe, num_samples=_NUM_SAMPLES, num_classes=1000, num_labelled=_NUM_SAMPLES // 4).train()


def step_inputs(
    recipe: Recipe, model: SSLForPreTraining, *, batch: int, sizes: tuple[int, int], support: int
) -> dict[str, Any]:
    """Random inputs of a step.

    Args:
        recipe: Its views say how many.
        model: Says whether it wants labels and a support.
        batch: Images.
        sizes: Pixels of global and of local views.
        support: Labelled images that go with them.
    """
    views = recipe.views
    pixels = [sizes[0]] * views.global_crops + [sizes[1]] * views.local_crops
    ids = torch.arange(batch)
    inputs: dict[str, Any] = {"views": [torch.randn(batch, 3, size, size) for size in pixels], "sample_ids": ids}
    inputs["labels"] = ids % 1000
    if model.config.learns_from_labels:
        inputs["known_labels"] = ids % 1000
    if model.config.support_size:
        inputs["support_views"] = torch.randn(support, 3, sizes[0], sizes[0])
        inputs["support_labels"] = torch.arange(support) // 7
    return inputs


def processes_of(recipe: Recipe) -> int:
    """Number of processes that the recipe was written for; 8 if it doesn't say how many images each takes."""
    micro = recipe.train.micro_batch_size
    return recipe.train.global_batch_size // micro if micro else 8


def _small_sizes(recipe: Recipe) -> tuple[int, int]:
    """Pixels with which a step sends the same bytes in less time; AlexNet takes no others than its own."""
    return (224, 96) if "alexnet" in recipe.model["architecture"] else (40, 32)


def count_collectives(path: Path, *, micro_batch: int | None = None) -> dict[str, Any]:
    """What one step sends; call it within [`one_process_group`].

    The bytes don't depend on the size of the images, so small ones are used.

    Args:
        path: Of the recipe.
        micro_batch: Images per process; the recipe's by default.
    """
    recipe = load_recipe(path)
    model, processes = build(recipe), processes_of(recipe)
    batch = micro_batch or recipe.train.global_batch_size // processes
    classes, per_class = model.config.support_size or (0, 0)
    inputs = step_inputs(
        recipe, model, batch=batch, sizes=_small_sizes(recipe), support=max(classes * per_class // processes, 2)
    )
    norms: list[tuple[int, bool]] = []

    def note(module: Any, inputs: Any) -> None:
        if module.training:
            norms.append((module.num_features, torch.is_grad_enabled()))

    hooks = [module.register_forward_pre_hook(note) for module in model.modules() if isinstance(module, _BatchNorm)]
    with recorded_collectives() as calls:
        output = model(**inputs, progress=0.5, epoch=1.0, diagnostics=False)
        output.loss.backward()
        model.update_state([output], progress=0.5, epoch=0.0)
    for hook in hooks:
        hook.remove()
    # An untrained network's assignment is solved in few iterations: count as many as the recipe allows, one sum each
    # after the first value's and the columns' maximum.
    if "num_iters" in recipe.model:
        calls += [calls[-1]] * (recipe.model["num_iters"] + 2 - len(calls))
    return {
        "recipe": recipe_name(path),
        "micro_batch": batch,
        "processes": processes,
        "collectives": [asdict(call) for call in [*calls, *_of_batch_norm(norms), *_of_gradients(model)]],
    }


def _of_batch_norm(norms: list[tuple[int, bool]]) -> Iterator[Collective]:
    """What SyncBatchNorm sends on GPUs (it has no CPU form): mean, spread and count, and two sums for the gradient."""
    for width, with_gradient in norms:
        yield Collective("all_gather", 4 * (2 * width + 1), "batch norm")
        if with_gradient:
            yield Collective("all_reduce", 4 * 2 * width, "batch norm")


def _of_gradients(model: nn.Module) -> Iterator[Collective]:
    """What DistributedDataParallel sends, in its buckets."""
    total = sum(4 * parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    buckets = math.ceil(total / _BUCKET_BYTES)
    for number in range(buckets):
        size = total // buckets if number else total - (buckets - 1) * (total // buckets)
        yield Collective("all_reduce", size, "gradient")


def step_flops(path: Path, *, sizes: tuple[int, int] | None = None) -> float:
    """Floating-point operations per image of one step, two for a multiplication with an addition.

    Counted by torch while the model takes a step of two images at the recipe's resolution: all networks, all views,
    forward and backward. A support that goes with the images is counted in its proportion. The search in a bank,
    which is empty here, isn't counted.

    Args:
        path: Of the recipe.
        sizes: Pixels of global and of local views; the recipe's by default.
    """
    recipe = load_recipe(path)
    model, batch = build(recipe), 2
    sizes = sizes or (recipe.views.global_size, recipe.views.local_size)
    support = 2 if model.config.support_size else 0
    inputs = step_inputs(recipe, model, batch=batch, sizes=sizes, support=support)
    flops = _count(model, inputs) / batch
    if model.config.support_size:
        classes, per_class = model.config.support_size
        more = _count(model, step_inputs(recipe, model, batch=batch, sizes=sizes, support=2 * support))
        per_support = (more - flops * batch) / support
        flops += per_support * (classes * per_class / recipe.train.global_batch_size - support / batch)
    return flops


def _count(model: SSLForPreTraining, inputs: dict[str, Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        model(**inputs, progress=0.5, epoch=1.0, diagnostics=False).loss.backward()
    model.zero_grad()
    return int(counter.get_total_flops())


def forward_flops(backbone: nn.Module, pixels: int) -> int:
    """Operations of a backbone's forward pass for one square image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        backbone.to("meta").eval()(torch.empty(1, 3, pixels, pixels, device="meta"))
    return int(counter.get_total_flops())


def supervised_flops(backbone: nn.Module, pixels: int = 224) -> int:
    """Operations of a supervised step (forward and backward) for one image."""
    with FlopCounterMode(display=False) as counter:
        backbone.to("meta").train()(torch.empty(2, 3, pixels, pixels, device="meta")).sum().backward()
    return int(counter.get_total_flops()) // 2
