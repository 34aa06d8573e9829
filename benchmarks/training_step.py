"""How many images a second does a whole training step take, for each method of ours?

Ours is `ssl_zoo.training.loop.train_step` as `recipes/train.py` calls it, on views that are in memory: transfer,
forward passes, loss, backward pass, optimiser, moving average, bank. Diagnostics are off, as on about nine of ten
steps. It is compared with

- the backbone alone, which is the limit: the forward and backward passes over the same views, and the forward passes
  of the averaged network where the method has one; no heads, no loss, no optimiser, nothing else. Same process, same
  weights, same layout in memory.
- BYOL and SwAV of the `lightly` package, from its own heads, losses and moving average, with the loop of its examples,
  in a process of its own. Its BYOL starts from our weights and has our sizes: the number of parameters and the losses
  of the first three steps (so gradients, optimiser and moving average, too) must be equal. MIRA and SwAV differ by
  design in what the network predicts: parameters and the scores of all views must be equal. SwAV needs no
  averaged network, MIRA does; so there is a SwAV with a momentum network from lightly's parts, too, for equal work.
"""

import copy
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pairing import Mismatch, Report, arguments
from torch import nn


SIZE = 64  # pixels
VIT = {"architecture": "vit_tiny_patch16_224", "model_args": {"img_size": SIZE}}
BACKBONES: dict[str, dict[str, Any]] = {"ResNet-18": {"architecture": "resnet18"}, "ViT-Ti/16": VIT}
OPTIMISER = {"learning_rate": 0.03, "momentum": 0.9, "weight_decay": 1e-4}
MOMENTUM = 0.99
STEPS_COMPARED = 3


@dataclass(frozen=True)
class Work:
    """A method, its sizes, and what its backbone has to do.

    Args:
        method: Of the recipe.
        model: Sizes, where they aren't the configuration's defaults.
        trained: Numbers of the views that go through the trained backbone, one list for each pass.
        averaged: The same of the averaged network, which has no backward pass.
    """

    method: str
    model: dict[str, Any]
    trained: list[list[int]]
    averaged: list[list[int]] = field(default_factory=list)


_MSF = {"projector_hidden_features": [1024], "projection_features": 128, "predictor_hidden_features": [1024]}
_SWAV = {"projector_hidden_features": [2048], "projection_features": 128, "num_prototypes": 3000}
_PAWS = {"projector_hidden_features": [512, 512], "projection_features": 512, "predictor_hidden_features": []}
WORKS = [
    Work("mira", {**_SWAV, "freeze_prototypes_epochs": 0}, [[0, 1]], [[0, 1]]),
    Work("byol", {}, [[0], [1]], [[0], [1]]),  # batch norm sees one view at a time
    Work("sela", {"num_clusters": 1000, "num_heads": 10}, [[0]]),
    Work("corinfomax", {"projector_hidden_features": [2048, 2048], "projection_features": 64}, [[0, 1]]),
    Work("msf", {**_MSF, "bank_size": 16384}, [[1]], [[0]]),
    Work("cmsf", {**_MSF, "bank_size": 16384}, [[1]], [[0]]),
    Work("paws", {**_PAWS, "num_support_classes": 4, "num_support_images": 8}, [[-1, 0, 1]]),  # -1 is the support
]


class Elsewhere(ProcessPoolExecutor):
    """One other process, which keeps what is built in it: allocator and settings of one rival aren't the other's."""

    def __init__(self, threads: int) -> None:
        super().__init__(1, multiprocessing.get_context("spawn"), _start, (threads,))

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function there and wait for what it returns."""
        return self.submit(function, *arguments).result()


def main() -> None:
    """Measure all methods with both backbones."""
    options = arguments(__doc__)
    report = Report("training_step", question=(__doc__ or "").partition("\n")[0], options=options)
    batch = 8 if options.quick else 128
    with (
        tempfile.TemporaryDirectory() as folder,
        Elsewhere(options.threads) as here,
        Elsewhere(options.threads) as there,
    ):
        for name, backbone in list(BACKBONES.items())[-1 if options.quick else 0 :]:
            for work in WORKS:
                _measure(report, f"{work.method}, {name}, batch {batch}", work, backbone, batch, folder, here, there)
    report.note(
        f"Images of {SIZE} pixels; ViT-Ti/16 is timm's vit_tiny_patch16_224 at this size, with 16 patches. SGD with "
        "momentum and weight decay everywhere. Of the backbone, a step of MIRA is 8 units (two views forward and "
        "backward, which is 3 each, and two forward through the averaged network), one of SwAV is 6: at the limit, it "
        "takes 0.75 of MIRA's time."
    )
    report.note(
        "With the ViT nearly all of a step is spent in timm's own layers, which are lightly's as well: "
        "where ours is at the limit, no step can be much faster. With ResNet-18 ours gains by laying "
        "weights and maps out channels last, and everywhere by having malloc keep what a step frees (a "
        "tenth of the ViT's time)."
    )
    report.finish()


def _measure(
    report: Report,
    title: str,
    work: Work,
    backbone: dict[str, Any],
    batch: int,
    folder: str,
    here: Elsewhere,
    there: Elsewhere,
) -> None:
    start = Path(folder) / f"{title}.pt"
    own = here.call(build_ours, work, backbone, batch, start)
    rivals: dict[str, Callable[[], Any]] = {"backbone alone": lambda: here.call(backbone_step, work)}
    found = "same weights and views"
    if work.method == "byol":
        found = compare_byol(own, there.call(build_byol, backbone, start), here, there)
        rivals["lightly BYOL"] = lambda: there.call(step)
    if work.method == "mira":
        found = compare_scores(own, there.call(build_swav, backbone, start))
        rivals["lightly SwAV"] = lambda: there.call(step)
        rivals["lightly SwAV + momentum network"] = lambda: there.call(step, "with momentum network")
    report.pair(
        title,
        ours=lambda: here.call(step),
        rivals=rivals,
        check=lambda ours, theirs: found,
        aims={name: 0.9 if name == "backbone alone" else 1.2 for name in rivals},
        repeats=3,
        count=batch,
        unit="images",
    )


def compare_byol(own: dict[str, Any], rival: dict[str, Any], here: Elsewhere, there: Elsewhere) -> str:
    """Check that ours and lightly's BYOL have as many parameters, and the same losses in the first steps."""
    if own["parameters"] != rival["parameters"]:
        raise Mismatch(f"ours has {own['parameters']:,} trained parameters, lightly's {rival['parameters']:,}")
    difference = 0.0
    for _ in range(STEPS_COMPARED):
        ours, theirs = here.call(step), there.call(step)
        difference = max(difference, abs(ours - theirs))
    if not difference < 1e-3:
        raise Mismatch(f"the losses of the first {STEPS_COMPARED} steps differ by up to {difference:.3g}")
    return f"{own['parameters']:,} parameters each, losses of {STEPS_COMPARED} steps within {difference:.1e}"


def compare_scores(own: dict[str, Any], rival: dict[str, Any]) -> str:
    """Check that ours and lightly's SwAV have as many parameters and give all views the same scores."""
    if own["parameters"] + rival["biases"] != rival["parameters"]:
        raise Mismatch(f"ours has {own['parameters']:,} trained parameters, lightly's {rival['parameters']:,}")
    difference = float((own["scores"] - rival["scores"]).abs().max())
    if not difference < 1e-4:
        raise Mismatch(f"the scores of the same views differ by up to {difference:.3g}")
    return f"{own['parameters']:,} parameters each (but for lightly's biases), scores within {difference:.1e}"


def _start(threads: int) -> None:
    torch.set_num_threads(threads)
    os.environ["TQDM_DISABLE"] = "1"  # a session opens a progress bar


# What follows runs in the other processes; `built` is what the last call of a `build_...` left there.

built: dict[str, Any] = {}


def step(*options: str) -> float:
    """One training step of what was built; returns its loss."""
    return float(built["step"](*options))


def build_ours(work: Work, backbone: dict[str, Any], batch: int, start: Path) -> dict[str, Any]:
    """Set a run up as `recipes/train.py` does, and save weights and views for the rivals."""
    from ssl_zoo.training.loop import train_step
    from ssl_zoo.training.recipe import recipe_from_dict
    from ssl_zoo.training.session import open_session

    average = {"momentum": MOMENTUM, "momentum_end": MOMENTUM} if work.averaged else {}
    views = 1 if work.trained == [[0]] and not work.averaged else 2
    optimiser = {**OPTIMISER, "name": "sgd", "learning_rate_per": None, "warmup_epochs": 0.0}
    run = {"epochs": 1e6, "global_batch_size": batch, "trackers": [], "output_dir": str(start.with_suffix(""))}
    recipe = {
        "method": work.method,
        "model": {**backbone, **work.model, **average},
        "data": {"path": "embedded", "num_workers": 0},
        "views": {"global_crops": views, "global_size": SIZE},
        "optim": optimiser,
        "train": run,
    }
    session = open_session(recipe_from_dict(recipe))
    session.model.train()
    data = next(iter(session.loader))
    given = session.to_device(data)
    core = session.core
    images = [view.contiguous() for view in given["views"]]
    torch.save({"weights": core.state_dict(), "views": images}, start)
    built.clear()
    built["step"] = lambda: train_step(session, [data], diagnostics=False)[-1].loss.detach()
    built["views"] = [*given["views"], *([given["support_views"]] if "support_views" in given else [])]
    built["trained"] = core.student_backbone if work.method == "mira" else core.timm_model
    built["averaged"] = core.timm_model if work.method == "mira" else getattr(core, "target_backbone", None)
    facts = {"parameters": _count(core)}
    if work.method == "mira":
        facts["scores"] = _in_evaluation(core, lambda: torch.cat(core._student_scores(given["views"])))
    return facts


def backbone_step(work: Work) -> float:
    """The limit: what the backbone of our step has to do, and nothing else."""
    views, trained, averaged = built["views"], built["trained"], built["averaged"]
    with torch.no_grad():
        for group in work.averaged:
            averaged(torch.cat([views[number] for number in group]))
    embeddings = torch.cat([trained(torch.cat([views[number] for number in group])) for group in work.trained])
    embeddings.backward(torch.full_like(embeddings, 1e-3))
    trained.zero_grad()
    return 0.0


def build_byol(backbone: dict[str, Any], start: Path) -> dict[str, Any]:
    """BYOL of lightly's heads, loss and moving average, with the loop of its example, from our weights."""
    from lightly.loss import NegativeCosineSimilarity
    from lightly.models.modules.heads import ProjectionHead
    from lightly.models.utils import deactivate_requires_grad, update_momentum

    saved, model = _load(backbone, start)

    def head(name: str, width: int) -> ProjectionHead:
        # BYOLProjectionHead and BYOLPredictionHead with the biases where the authors of BYOL have them.
        blocks = [(width, 4096, nn.BatchNorm1d(4096), nn.ReLU(), True), (4096, 256, None, None, False)]
        return _fill(ProjectionHead(blocks), saved["weights"], name)

    projection_head, prediction_head = head("projector.", model.num_features), head("predictor.", 256)
    backbone_momentum, projection_head_momentum = copy.deepcopy(model), copy.deepcopy(projection_head)
    for averaged in (backbone_momentum, projection_head_momentum):
        deactivate_requires_grad(averaged)
    trained = nn.ModuleList([model, projection_head, prediction_head])
    optimizer, criterion, views = _optimizer(trained), NegativeCosineSimilarity(), saved["views"]

    def byol_step() -> torch.Tensor:
        update_momentum(model, backbone_momentum, m=MOMENTUM)
        update_momentum(projection_head, projection_head_momentum, m=MOMENTUM)
        predictions, targets = [], []
        for view in views:
            predictions.append(prediction_head(projection_head(model(view).flatten(start_dim=1))))
            targets.append(projection_head_momentum(backbone_momentum(view).flatten(start_dim=1)).detach())
        loss = 0.5 * (criterion(predictions[0], targets[1]) + criterion(predictions[1], targets[0]))
        loss = 4.0 + 4.0 * loss  # in the paper's scale, 2 - 2 cos summed over both directions, which ours has
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    built.clear()
    built["step"] = byol_step
    return {"parameters": _count(trained)}


def build_swav(backbone: dict[str, Any], start: Path) -> dict[str, Any]:
    """SwAV of lightly's heads and loss, with the loop of its example, from our weights."""
    from lightly.loss import SwaVLoss
    from lightly.loss.swav_loss import sinkhorn
    from lightly.models.modules.heads import SwaVProjectionHead, SwaVPrototypes
    from lightly.models.utils import deactivate_requires_grad, update_momentum

    saved, model = _load(backbone, start, "student_backbone.")
    hidden, width, count = _SWAV["projector_hidden_features"][0], _SWAV["projection_features"], _SWAV["num_prototypes"]
    projection_head = _fill(
        SwaVProjectionHead(model.num_features, hidden, width), saved["weights"], "student_projector."
    )
    prototypes = SwaVPrototypes(width, count)
    prototypes.heads[0].weight.data.copy_(saved["weights"]["prototypes.weight"])
    prototypes.heads[0].bias.data.zero_()
    prototypes.normalize()
    backbone_momentum, projection_head_momentum = copy.deepcopy(model), copy.deepcopy(projection_head)
    for averaged in (backbone_momentum, projection_head_momentum):
        deactivate_requires_grad(averaged)
    trained = nn.ModuleList([model, projection_head, prototypes])
    optimizer, criterion, views = _optimizer(trained), SwaVLoss(), saved["views"]

    def scores(view: torch.Tensor, network: nn.Module, head: nn.Module) -> torch.Tensor:
        return prototypes(F.normalize(head(network(view).flatten(start_dim=1)), dim=1, p=2))

    def swav_step(*options: str) -> torch.Tensor:
        prototypes.normalize()
        if options:  # codes by an averaged network, as MIRA's targets
            update_momentum(model, backbone_momentum, m=MOMENTUM)
            update_momentum(projection_head, projection_head_momentum, m=MOMENTUM)
            with torch.no_grad():
                codes = [sinkhorn(scores(view, backbone_momentum, projection_head_momentum)) for view in views]
            predicted = [scores(view, model, projection_head) for view in views]
            loss = 0.5 * (criterion.subloss(predicted[0], codes[1]) + criterion.subloss(predicted[1], codes[0]))
        else:
            loss = criterion([scores(view, model, projection_head) for view in views], [])
        loss.sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach().sum()

    built.clear()
    built["step"] = swav_step
    all_scores = _in_evaluation(trained, lambda: torch.cat([scores(view, model, projection_head) for view in views]))
    return {"parameters": _count(trained), "biases": count, "scores": all_scores}


def _load(backbone: dict[str, Any], start: Path, prefix: str = "timm_model.") -> tuple[dict[str, Any], nn.Module]:
    import timm

    saved = torch.load(start)
    model = timm.create_model(backbone["architecture"], num_classes=0, **backbone.get("model_args", {}))
    return saved, _fill(model, saved["weights"], prefix)


def _fill(module: nn.Module, weights: dict[str, torch.Tensor], prefix: str) -> Any:
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    for name, tensor in module.state_dict().items():
        tensor.copy_(own[name.removeprefix("layers.")])  # lightly's heads keep their layers under this name
    return module


def _optimizer(module: nn.Module) -> torch.optim.Optimizer:
    matrices, vectors = (
        [parameter for parameter in module.parameters() if (parameter.ndim > 1) == wide] for wide in (True, False)
    )
    groups = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    learning_rate, momentum, weight_decay = OPTIMISER.values()
    return torch.optim.SGD(groups, lr=learning_rate, momentum=momentum, weight_decay=weight_decay)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)


def _in_evaluation(module: nn.Module, compute: Callable[[], torch.Tensor]) -> torch.Tensor:
    module.eval()
    with torch.no_grad():
        result = compute()
    module.train()
    return result


if __name__ == "__main__":
    main()
