"""The sections of a recipe that belong to training and evaluation: plain data, checked for sense when built."""

from dataclasses import dataclass
from typing import Literal

from ssl_zoo.settings.declare import require, setting
from ssl_zoo.settings.hints import SettingsError


__all__ = ["EvaluationConfig", "OptimConfig", "RecipeError", "TrainConfig"]


class RecipeError(SettingsError):
    """A recipe can't be used; the message names the key, what was expected and the nearest valid choice."""


@dataclass
class OptimConfig:
    """Optimiser and learning rate: linear warm-up, then cosine or steps."""

    name: Literal["sgd", "lars"] = setting("lars", "optimiser")
    learning_rate: float = setting(0.3, "peak learning rate, before scaling by the batch")
    learning_rate_per: int | None = setting(
        256, "scale the peak by train.global_batch_size / this many images; null = no scaling"
    )
    warmup_epochs: float = setting(10.0, "epochs of linear warm-up")
    warmup_learning_rate: float = setting(
        0.0, "learning rate at the first step of the warm-up; never scaled by the batch"
    )
    schedule: Literal["cosine", "step"] = setting("cosine", "how the learning rate falls after the warm-up")
    final_learning_rate: float = setting(0.0, "cosine only: learning rate at the end; never scaled by the batch")
    decay_epochs: list[float] = setting([], "step only: epochs at which the learning rate is multiplied")
    decay_factor: float = setting(0.1, "step only: what the learning rate is multiplied by at each of decay_epochs")
    momentum: float = setting(0.9, "momentum of the optimiser")
    nesterov: bool = setting(False, "Nesterov momentum")
    weight_decay: float = setting(1e-6, "weight decay")
    decay_norms_and_biases: bool = setting(
        False, "weight decay on all tensors; false = on those of more than one dimension only"
    )
    trust_coefficient: float = setting(
        1e-3, "LARS only: eta of the trust ratio, on tensors of more than one dimension"
    )
    clip_grad_norm: float | None = setting(None, "clip the norm of the whole gradient to this; null = don't", off=True)

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        require(self.trust_coefficient > 0, "trust_coefficient", "> 0", self.trust_coefficient)
        for name in ("learning_rate", "warmup_epochs", "warmup_learning_rate", "final_learning_rate", "weight_decay"):
            require(getattr(self, name) >= 0, name, ">= 0", getattr(self, name))
        for name in ("learning_rate_per", "clip_grad_norm"):
            value = getattr(self, name)
            require(value is None or value > 0, name, "> 0 or null", value)
        require(0 <= self.momentum < 1, "momentum", "in [0, 1)", self.momentum)
        require(0 < self.decay_factor <= 1, "decay_factor", "in (0, 1]", self.decay_factor)
        steps, increasing = self.decay_epochs, sorted(set(self.decay_epochs))
        require(steps == increasing and min(steps, default=1) > 0, "decay_epochs", "increasing and > 0", steps)
        if (self.schedule == "step") != bool(steps):
            raise ValueError(f"`decay_epochs` goes with `schedule: step`, got {steps} and schedule {self.schedule!r}")

    def peak_learning_rate(self, global_batch_size: int) -> float:
        """Learning rate at the end of the warm-up for this batch."""
        if self.learning_rate_per is None:
            return self.learning_rate
        return self.learning_rate * global_batch_size / self.learning_rate_per


@dataclass
class TrainConfig:
    """Length of the run, batch, checkpoints and logging."""

    epochs: float = setting(100.0, "passes over the training split; the schedules span exactly these")
    global_batch_size: int = setting(256, "images per optimiser step, over all processes and accumulation steps")
    micro_batch_size: int | None = setting(
        None, "images per process and forward pass (batch norm and assignment see these); null = no accumulation"
    )
    seed: int = setting(0, "seed of the initial weights, the order of the images and their views")
    output_dir: str | None = setting(None, "where the run is written; null = runs/<method>-<name of the recipe file>")
    resume: str = setting("auto", "auto = continue from the newest checkpoint, never = refuse, or a checkpoint's path")
    checkpoint_every_steps: int = setting(
        1000, "optimiser steps between checkpoints; SIGTERM and SIGINT write one too"
    )
    keep_checkpoints: int = setting(2, "newest checkpoints that stay on disk")
    log_every_steps: int = setting(10, "optimiser steps between logged lines")
    knn_every_epochs: float | None = setting(
        None, "epochs between k-NN evaluations during training; null = none", off=True
    )
    num_processes: int | None = setting(
        None, "refuse to start unless exactly this many processes run; null = any number that divides the batch"
    )
    compile: bool = setting(False, "torch.compile the model; slow to start, and slower on most CPUs")
    channels_last: bool | None = setting(
        None, "channels-last memory format; null = yes, but on a CPU not in wide layers of few pixels"
    )
    trackers: list[str] = setting(
        ["tensorboard"], "where Accelerate logs: tensorboard, wandb, ...; [] = metrics.jsonl only"
    )
    max_steps: int | None = setting(
        None, "stop after this many optimiser steps; the schedules still span train.epochs", off=True
    )
    trace: bool = setting(
        False, "write the sample ids and the loss of every step, to compare runs bit for bit", off=True
    )

    def __post_init__(self) -> None:
        """Refuse values that no run can use."""
        for name in ("epochs", "global_batch_size", "checkpoint_every_steps", "keep_checkpoints", "log_every_steps"):
            require(getattr(self, name) > 0, name, "> 0", getattr(self, name))
        for name in ("micro_batch_size", "knn_every_epochs", "num_processes", "max_steps"):
            value = getattr(self, name)
            require(value is None or value > 0, name, "> 0 or null", value)
        require(self.seed >= 0, "seed", ">= 0", self.seed)
        require(self.output_dir != "", "output_dir", "a folder or null", self.output_dir)
        require(self.resume != "", "resume", "auto, never or the path of a checkpoint", self.resume)
        require(
            self.micro_batch_size is None or self.global_batch_size % self.micro_batch_size == 0,
            "micro_batch_size",
            f"a divisor of global_batch_size = {self.global_batch_size}",
            self.micro_batch_size,
        )


@dataclass
class EvaluationConfig:
    """Weighted k-nearest-neighbour evaluation (cosine similarity, weights exp(similarity / temperature))."""

    train_split: str = setting("train", "labelled split that the neighbours come from")
    test_split: str = setting("test", "split whose accuracy is reported; never trained on")
    k: int = setting(20, "number of neighbours")
    temperature: float = setting(0.07, "temperature of the neighbours' weights")
    max_bank_rows: int | None = setting(None, "use the first this many rows of the train split; null = all")
    batch_size: int = setting(256, "images per forward pass")
    image_size: int | None = setting(None, "side of an evaluated image in pixels; null = views.global_size")
    crop_pct: float = setting(
        0.875, "share of the resized image that the centre crop keeps; 1.0 = no crop, for small images"
    )

    def __post_init__(self) -> None:
        """Refuse values that no evaluation can use."""
        for name in ("k", "temperature", "batch_size", "crop_pct"):
            require(getattr(self, name) > 0, name, "> 0", getattr(self, name))
        value = self.image_size
        require(value is None or value > 0, "image_size", "> 0 or null", value)
        value = self.max_bank_rows
        require(value is None or value >= self.k, "max_bank_rows", f"at least k = {self.k}, or null", value)
        for name in ("train_split", "test_split"):
            require(getattr(self, name) != "", name, "the name of a split", getattr(self, name))
