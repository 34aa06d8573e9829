"""Training a classifier on a backbone: fine-tuning on all labels or on few, and linear probes on augmented views."""

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from ssl_zoo.data.batch import CorruptCounter
from ssl_zoo.data.errors import DataError
from ssl_zoo.data.labelled import LabelledSubset, copy_images
from ssl_zoo.data.locate import Located
from ssl_zoo.data.source import DataConfig, ImageSource
from ssl_zoo.data.stream import ViewStream
from ssl_zoo.data.views import EvalView, ImageTransform, MultiView, ViewsConfig
from ssl_zoo.evaluation.protocols.finetune import FinetuneSettings
from ssl_zoo.features.extract import Reading, evaluation_batches
from ssl_zoo.functional.distributed import all_reduce_sum_, broadcast_running_statistics_, rank, world_size
from ssl_zoo.functional.schedules import warmup_cosine


__all__ = ["FinetuneResult", "finetune", "labelled_source"]


@dataclass(frozen=True)
class FinetuneResult:
    """Accuracy of the classifier on the test split.

    Attributes:
        top1: Share of the test images whose class it names.
        top5: Share whose class is among its first five; `None` for five classes or fewer.
        num_train: Labelled images it was trained on.
        num_test: Labelled test images.
        final_loss: Mean training loss of the last tenth of the steps.
    """

    top1: float
    top5: float | None
    num_train: int
    num_test: int
    final_loss: float


class _Classifier(nn.Module):
    """Backbone and linear classifier."""

    def __init__(self, backbone: nn.Module, num_features: int, num_classes: int, settings: FinetuneSettings) -> None:
        super().__init__()
        self.backbone, self._frozen = backbone, settings.frozen
        self._unit = settings.normalize == "unit_batch_norm"
        norm = settings.normalize != "none"
        self.norm = nn.BatchNorm1d(num_features, affine=False) if norm else nn.Identity()
        self.head = nn.Linear(num_features, num_classes)
        nn.init.normal_(self.head.weight, std=0.01)
        nn.init.zeros_(self.head.bias)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        if self._frozen:
            self.backbone.eval()
        return self

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen):
            features = self.backbone(images).float()
        logits: torch.Tensor = self.head(self.norm(F.normalize(features, dim=1) if self._unit else features))
        return logits


def finetune(
    backbone: nn.Module,
    train: ImageSource,
    test: ImageSource,
    view: EvalView,
    settings: FinetuneSettings,
    *,
    num_classes: int,
    reading: Reading,
    description: str = "fine-tuning",
) -> FinetuneResult:
    """Train a classifier on labelled images and measure it on the test split; all processes train together.

    Args:
        backbone (`torch.nn.Module`): Images `(batch, 3, height, width)` to features `(batch, width)`, on the device.
            It is changed: hand in a copy.
        train (`ImageSource`): Labelled images, such as [`labelled_source`]'s; rows without a label are skipped.
        test (`ImageSource`): Labelled images.
        view (`EvalView`): The view of the test images; size, mean and std also of the training crops.
        settings ([`FinetuneSettings`]): How.
        num_classes: Classes of the data.
        reading ([`Reading`]): How images are read; its batch size is that of testing.
        description: What the progress bars begin with.

    Returns:
        [`FinetuneResult`]: the same on every process, and for the same seed and number of processes the same again.

    Raises:
        DataError: If labels are missing.
        ValueError: If the loss becomes infinite or NaN, or the batch can't be split among the processes.
    """
    if settings.batch_size % world_size():
        raise ValueError(f"`batch_size` must be a multiple of {world_size()} processes, got {settings.batch_size}")
    device = torch.device(reading.device)
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        image = view(Image.new("RGB", (64, 64), "gray"))[0][None].to(device)
        backbone.requires_grad_(not settings.frozen).eval()
        with torch.no_grad():
            width = backbone(image).shape[1]
        model = _Classifier(backbone, width, num_classes, settings).to(device)
        final_loss = _train(model, train, _crops(view, settings), settings, reading, description)
    broadcast_running_statistics_(model.eval())  # the processes must test the same network
    correct = torch.zeros(3, dtype=torch.int64, device=device)
    with torch.no_grad():
        for batch in evaluation_batches(test, view, reading, description=f"{description}, {test.split}"):
            labelled = batch.labels >= 0
            best = model(batch.views[0][labelled]).topk(min(5, num_classes), dim=1).indices
            hits = best == batch.labels[labelled][:, None]
            correct += torch.stack([hits[:, 0].sum(), hits.any(dim=1).sum(), labelled.sum()])
    top1, top5, total = all_reduce_sum_(correct).tolist()
    if total == 0:
        raise DataError(f"Split {test.split!r} of {test.path!r} has no labels to test the classifier on")
    return FinetuneResult(top1 / total, top5 / total if num_classes > 5 else None, train.num_rows, total, final_loss)


def _train(
    model: _Classifier,
    train: ImageSource,
    transform: ImageTransform,
    settings: FinetuneSettings,
    reading: Reading,
    description: str,
) -> float:
    device, local = torch.device(reading.device), settings.batch_size // world_size()
    total = max(1, math.ceil(settings.epochs * train.num_rows / settings.batch_size))
    groups = [{"params": [*model.head.parameters()], "lr": 0.0, "peak": settings.head_learning_rate}]
    if not settings.frozen:
        groups.append({"params": [*model.backbone.parameters()], "lr": 0.0, "peak": settings.learning_rate})
    optimizer = torch.optim.SGD(
        groups, lr=0.0, momentum=settings.momentum, nesterov=settings.nesterov, weight_decay=settings.weight_decay
    )
    if world_size() > 1 and device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    wrapped = DistributedDataParallel(model) if world_size() > 1 else model
    model.train()
    corrupt = CorruptCounter(train, max_share=reading.max_corrupt_share)
    losses: list[float] = []
    # A process needs a row for each worker at least.
    workers = max(0, min(reading.num_workers, train.num_rows // world_size()))
    stream = ViewStream(
        train,
        transform,
        batch_size=local,
        seed=settings.seed,
        rank=rank(),
        world_size=world_size(),
        num_workers=workers,
    )
    steps = zip(range(total), stream.loader(), strict=False)
    for step, batch in tqdm(steps, total=total, desc=description, unit="step", disable=rank() != 0):
        corrupt.update(batch)
        placed = transform.to_device(batch, device)
        factor = _factor(step, total, settings, train.num_rows)
        for group in optimizer.param_groups:
            group["lr"] = factor * group["peak"] * settings.batch_size / 256
        loss = F.cross_entropy(wrapped(placed.views[0]), placed.labels, ignore_index=-1)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            raise ValueError(
                f"the loss of the classifier became {losses[-1]} at step {step + 1} of {total}: the backbone "
                "gives no finite features, or `learning_rate` or `head_learning_rate`, its rates, are too high"
            )
    last = losses[-max(1, total // 10) :]
    return float(all_reduce_sum_(torch.tensor([sum(last) / len(last)], device=device)) / world_size())


def _factor(step: int, total: int, settings: FinetuneSettings, num_rows: int) -> float:
    per_epoch = num_rows / settings.batch_size
    if settings.decay_epochs:
        return settings.decay_factor ** sum(step >= epoch * per_epoch for epoch in settings.decay_epochs)
    return warmup_cosine(step, total_steps=total, warmup_steps=min(settings.warmup_epochs * per_epoch, total))


def _crops(view: EvalView, settings: FinetuneSettings) -> MultiView:
    """Random crops and flips, prepared as the test images are."""
    return MultiView(
        ViewsConfig(
            global_crops=1,
            global_size=view.size,
            global_scale=list(settings.crop_scale),
            interpolation=view.interpolation,
            color_jitter_probability=[0.0, 0.0, 0.0],
            gray_probability=[0.0, 0.0, 0.0],
            blur_probability=[0.0, 0.0, 0.0],
            solarize_probability=[0.0, 0.0, 0.0],
            mean=list(view.mean),
            std=list(view.std),
        )
    )


def labelled_source(source: ImageSource, subset: LabelledSubset) -> ImageSource:
    """Copy the labelled rows of a source to the cache of `datasets`, as a source that is read in any order."""
    copied = copy_images(source, subset).rename_column("label", "class")
    config = DataConfig(path=source.path, split=source.split, image_column="image", label_column="class")
    located = Located(copied, source.revision, source.path, None, [], in_tables=True)
    return ImageSource(config, located, shard_lengths=np.ones(len(copied), dtype=np.int64))
