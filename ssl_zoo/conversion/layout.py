"""Layouts of the authors' checkpoints, and the strict mapping from their tensors to those of our models."""

import sys
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from ssl_zoo.models.configuration_base import SSLConfig
from ssl_zoo.models.registry import pretraining_class_of


__all__ = [
    "BACKBONE",
    "Checkpoint",
    "Conversion",
    "ConversionError",
    "Layout",
    "chosen_branch",
    "is_left_out",
    "model_tensors",
    "same_names",
    "saved_class",
]


BACKBONE = "timm_model."

_LISTED = 8


class ConversionError(ValueError):
    """A checkpoint can't be converted; the message says why and what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """An authors' checkpoint, read and not yet understood.

    Args:
        state: Its tensors by name, without the `module.` that DistributedDataParallel puts before all names.
        extras: What else lies in the file beside the tensors, such as `epoch`, `opt`, `labels`; not the optimiser.
        file: Where it was read from.
        sha256: SHA-256 of the file, in hexadecimal digits.
        bytes: Size of the file.
    """

    state: dict[str, torch.Tensor]
    extras: dict[str, Any]
    file: Path
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Conversion:
    """How a checkpoint becomes one of our models.

    Args:
        config: Configuration of the model, read off names and shapes.
        weights: Name in our `ForPreTraining` model -> name of the checkpoint's tensor that it is, or a tensor made of
            them. Of a backbone alone (`complete=False`) all names begin with `timm_model.`.
        left_out: Name in the checkpoint, or prefix of names with a final dot -> why it isn't carried over. What isn't
            in the file at all, but a reader would look for, can be said here in the same way.
        branch: Which of the layout's branches `timm_model` is.
        complete: Whether the weights are those of the full pretraining model.
        used: Names in the checkpoint that tensors in `weights` are made of.
        notes: What the model card must say about this conversion, in sentences; may be empty.
        label_table: Pseudo-labels of the training images, of shape `(heads, images)`, where the checkpoint has them.
    """

    config: SSLConfig
    weights: dict[str, str | torch.Tensor]
    left_out: dict[str, str]
    branch: str
    complete: bool = True
    used: frozenset[str] = field(default_factory=frozenset)
    notes: str = ""
    label_table: torch.Tensor | None = None


class Layout(Protocol):
    """One form in which authors saved a model.

    `name`, `method` and `branches` are constants of the class. `branches` are the networks that can become
    `timm_model`, the default first.
    """

    name: str
    method: str
    branches: tuple[str, ...]

    def recognises(self, keys: Collection[str]) -> bool:
        """Tell from the names of the tensors whether a checkpoint has this layout."""
        ...

    def convert(self, checkpoint: Checkpoint, *, branch: str | None) -> Conversion:
        """Say how the checkpoint becomes our model.

        Args:
            checkpoint (`Checkpoint`): One that the layout recognises.
            branch (`str`, *optional*): One of `branches`; the first by default.

        Raises:
            ConversionError: for another branch, or shapes that contradict each other.
        """
        ...


def chosen_branch(layout: Layout, branch: str | None) -> str:
    """The branch asked for, or the default.

    Raises:
        ConversionError: if the layout doesn't have it.
    """
    if branch is None:
        return layout.branches[0]
    if branch not in layout.branches:
        has = f"the branches {', '.join(layout.branches)}" if len(layout.branches) > 1 else "one network, no branches"
        raise ConversionError(f"a checkpoint of the layout '{layout.name}' has {has}, got --branch '{branch}'")
    return branch


def same_names(checkpoint: Checkpoint, source: str, target: str) -> dict[str, str | torch.Tensor]:
    """Map a whole module of the checkpoint to one of ours whose parts have the same names.

    Args:
        checkpoint (`Checkpoint`): Where from.
        source (`str`): Prefix in the checkpoint, with its final dot, such as `"encoder_q.fc."`; `""` for all.
        target (`str`): Prefix in our model, such as `"projector."`.
    """
    return {target + name.removeprefix(source): name for name in checkpoint.state if name.startswith(source)}


def model_tensors(conversion: Conversion, checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Convert: fill every tensor of our model, and account for every tensor of the checkpoint.

    Args:
        conversion (`Conversion`): What to do.
        checkpoint (`Checkpoint`): Where the tensors are.

    Returns:
        `dict[str, torch.Tensor]`: by their names in the `ForPreTraining` model, or in the `Model` of a backbone;
        contiguous, and in the model's own number formats.

    Raises:
        ConversionError: listing what is missing, unexpected or of another shape, or naming a tensor with NaN or
            infinity in it.
    """
    expected = _expected_tensors(conversion)
    sources = {name: source for name, source in conversion.weights.items() if isinstance(source, str)}
    given = {name: checkpoint.state[source] for name, source in sources.items() if source in checkpoint.state}
    given |= {name: made for name, made in conversion.weights.items() if isinstance(made, torch.Tensor)}
    missing = [sources.get(name) or _name_in_checkpoint(name, sources) for name in expected if name not in given]
    unknown = [sources.get(name, f"{name} (made)") for name in given if name not in expected]
    accounted = {*sources.values(), *conversion.used}
    ignored = {name for name in checkpoint.state if is_left_out(name, conversion.left_out)}
    unexpected = [name for name in checkpoint.state if name not in accounted | ignored]
    misshaped = [
        f"{sources.get(name, name)} {list(given[name].shape)} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in given and given[name].shape != tensor.shape
    ]
    _refuse_misfits(checkpoint, missing=missing, unexpected=[*unknown, *unexpected], misshaped=misshaped)
    # The checkpoint may be a memory map, and two names one tensor: safetensors wants memory of its own for each.
    tensors = {name: given[name].detach().to(tensor.dtype, copy=True) for name, tensor in expected.items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ConversionError(
                f"'{checkpoint.file}' holds NaN or infinity in {sources.get(name, name)}: the training that wrote it "
                f"had failed, or the file is damaged; take another checkpoint"
            )
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def is_left_out(name: str, left_out: Iterable[str]) -> bool:
    """Whether a name is listed, by itself or by a prefix that ends in a dot."""
    return any(name == entry or (entry.endswith(".") and name.startswith(entry)) for entry in left_out)


def _expected_tensors(conversion: Conversion) -> dict[str, torch.Tensor]:
    """Names, shapes and number formats of what is saved of our model; no memory is used."""
    model_class = saved_class(conversion)
    with torch.device("meta"):
        model: nn.Module = model_class(conversion.config)
    ignored = set(getattr(model_class, "_keys_to_ignore_on_save", None) or ())
    return {name: tensor for name, tensor in model.state_dict().items() if name not in ignored}


def saved_class(conversion: Conversion) -> Any:
    """The class whose tensors are saved: the pretraining model's, or the backbone's that lies beside it."""
    pretraining = pretraining_class_of(conversion.config.model_type)
    if conversion.complete:
        return pretraining
    return getattr(sys.modules[pretraining.__module__], pretraining.__name__.replace("ForPreTraining", "Model"))


def _name_in_checkpoint(name: str, sources: dict[str, str]) -> str:
    """Guess how the checkpoint names a tensor of the model that nothing maps to, from its neighbours there."""
    prefixes = {}
    for in_model, in_checkpoint in sources.items():
        left, right = in_model.split("."), in_checkpoint.split(".")
        while left and right and left[-1] == right[-1]:
            del left[-1], right[-1]
        prefixes[".".join(left)] = ".".join(right)
    parts = name.split(".")
    for length in range(len(parts), -1, -1):
        prefix = ".".join(parts[:length])
        if prefix in prefixes:
            return ".".join([*([prefixes[prefix]] if prefixes[prefix] else []), *parts[length:]])
    return f"what becomes {name}"


def _refuse_misfits(checkpoint: Checkpoint, **misfits: list[str]) -> None:
    """Raise one error that lists all misfits by kind, the first few of each by name."""
    parts = []
    for kind, names in misfits.items():
        if names:
            more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
            parts.append(f"{len(names)} {kind}: {', '.join(names[:_LISTED])}{more}")
    if parts:
        raise ConversionError(
            f"'{checkpoint.file}' doesn't hold the tensors of the network that its names and shapes describe "
            f"({'; '.join(parts)}); nothing was converted"
        )
