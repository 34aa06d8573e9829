"""The heads of a SeLa checkpoint, and the labels of the training images that they were trained on."""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch

from ssl_zoo.conversion.layout import Checkpoint, ConversionError, is_left_out


__all__ = ["LABEL_NAMES", "Heads", "has_heads", "plain_name", "read_heads", "read_labels"]

LABEL_NAMES = frozenset(("labels", "L"))
"""What the table of labels is called beside the tensors."""

# One head is `top_layer.` or, in later code, `top_layer.0.`; several are `top_layer0.`, `top_layer1.` and so on.
_HEAD = re.compile(r"top_layer(\d*)\.(?:0\.)?(weight|bias)")
_ROTATIONS = 4
_ROTATION_HEAD = "a head over four rotations of the image, an objective added to SeLa's, which this model lacks"
_LISTED = 8


@dataclass(frozen=True)
class Heads:
    """Linear heads over clusters, one below the other.

    Args:
        weight: Of shape `(num_heads * num_clusters, features)`, the first head first.
        bias: Of shape `(num_heads * num_clusters,)`.
        num_heads: Their number.
        used: Names in the checkpoint that they are made of.
        left_out: Name of another head, with a final dot -> why it isn't carried over.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    num_heads: int
    used: frozenset[str]
    left_out: dict[str, str]

    @property
    def num_clusters(self) -> int:
        """Clusters of each head."""
        return self.bias.shape[0] // self.num_heads

    def has(self, name: str) -> bool:
        """Whether a name in the checkpoint is of a head, also of one that is left out."""
        return name in self.used or is_left_out(name, self.left_out)


def plain_name(name: str) -> str:
    """Name of a tensor without the `module.` that the authors' several GPUs put behind `features.`."""
    return name.replace("features.module.", "features.", 1)


def has_heads(names: Collection[str]) -> bool:
    """Whether there is a head of SeLa among these names."""
    return any(_HEAD.fullmatch(name) for name in names)


def read_heads(names: Mapping[str, str], checkpoint: Checkpoint) -> Heads:
    """Join the heads over clusters, and set a head over rotations aside.

    Args:
        names (mapping of `str` to `str`): Plain name of each tensor -> its name in the checkpoint.
        checkpoint (`Checkpoint`): Where the tensors are.

    Raises:
        ConversionError: if a tensor of a head is missing or twice there, or heads differ in their clusters.
    """
    names_by_place: dict[tuple[int, str], str] = {}
    for plain, name in names.items():
        if match := _HEAD.fullmatch(plain):
            place = (int(match[1] or 0), match[2])
            if place in names_by_place:
                raise ConversionError(f"'{checkpoint.file}' has one head twice, as {names_by_place[place]} and {name}")
            names_by_place[place] = name
    count = max(number for number, _ in names_by_place) + 1
    places = [(number, part) for number in range(count) for part in ("weight", "bias")]
    if missing := [f"top_layer{number}.{part}" for number, part in places if (number, part) not in names_by_place]:
        more = f", and {len(missing) - _LISTED} more" if len(missing) > _LISTED else ""
        raise ConversionError(
            f"'{checkpoint.file}' has {count} heads ({len(missing)} missing: {', '.join(missing[:_LISTED])}{more}); "
            f"nothing was converted"
        )
    tensors = [checkpoint.state[names_by_place[place]] for place in places]
    weights, biases = tensors[::2], tensors[1::2]
    left_out = {}
    if count > 1 and len(biases[-1]) == _ROTATIONS != len(biases[0]):
        weights, biases, count = weights[:-1], biases[:-1], count - 1
        left_out[names_by_place[count, "weight"].removesuffix("weight")] = _ROTATION_HEAD
    fitting = weights[0].ndim == 2 and all(weight.shape == weights[0].shape for weight in weights)
    if not fitting or any(bias.shape != weights[0].shape[:1] for bias in biases):
        pairs = zip(weights[:_LISTED], biases[:_LISTED], strict=True)
        listed = ", ".join(f"{list(weight.shape)} and {list(bias.shape)}" for weight, bias in pairs)
        raise ConversionError(
            f"'{checkpoint.file}' has heads of different or wrong shapes, expected a weight [clusters, features] and "
            f"a bias [clusters], the same for all: {listed}{', ...' if count > _LISTED else ''}"
        )
    used = frozenset(names_by_place[place] for place in places[: 2 * count])
    return Heads(torch.cat(weights), torch.cat(biases), count, used, left_out)


def read_labels(checkpoint: Checkpoint, *, num_heads: int, num_clusters: int, of_more: bool) -> torch.Tensor | None:
    """Labels of all training images.

    Args:
        checkpoint (`Checkpoint`): Has them as `L` or `labels`, or not at all.
        num_heads (`int`): Heads in the file.
        num_clusters (`int`): Clusters of each.
        of_more (`bool`): Whether the labels may be of more heads, those in the file being the first of them.

    Returns:
        `torch.Tensor` of shape `(label heads, images)`, int32, or `None` where the file has none.

    Raises:
        ConversionError: for labels of another form, of other heads, or of clusters that don't exist.
    """
    labels = checkpoint.extras.get("labels", checkpoint.extras.get("L"))
    if labels is None:
        return None
    where = f"the labels of '{checkpoint.file}'"
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.ndim not in (1, 2):
        kind = f"{labels.dtype} of {list(labels.shape)}" if isinstance(labels, torch.Tensor) else type(labels).__name__
        raise ConversionError(f"{where} must be a tensor of whole numbers of shape [heads, images], got {kind}")
    labels = labels if labels.ndim == 2 else labels.unsqueeze(0)  # their CIFAR code, with one head
    if len(labels) < num_heads or (len(labels) > num_heads and not of_more):
        raise ConversionError(
            f"{where} are of {len(labels)} heads, but the file has {num_heads}: tensors of a head are missing, or the "
            f"labels are of another network"
        )
    if labels.shape[1] == 0:
        raise ConversionError(f"{where} are of no image: the file is no whole checkpoint of SeLa")
    smallest, largest = int(labels.min()), int(labels.max())
    if smallest < 0 or largest >= num_clusters:
        raise ConversionError(
            f"{where} go from {smallest} to {largest}, but the heads have the clusters 0 to {num_clusters - 1}: the "
            f"labels are of another network"
        )
    return labels.to(torch.int32)
