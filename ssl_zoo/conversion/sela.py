"""SeLa's checkpoints: four networks, one or more heads, and often the labels of all training images.

Facts from `models/`, `files.py`, `cifar.py`, `change_state_dict.py` and `retrain_with_rotnet.py` of the authors'
release, https://github.com/yukimasano/self-label. Checkpoints of a training hold the labels as `L`, files by
torchvision's names as `labels`; a flat file of tensors has none.
"""

from collections.abc import Collection, Mapping
from typing import Any

import torch

from ssl_zoo.conversion.layout import BACKBONE, Checkpoint, Conversion, ConversionError, chosen_branch
from ssl_zoo.conversion.resnet import IMAGENET, is_resnet, resnet_settings
from ssl_zoo.conversion.sela_heads import LABEL_NAMES, Heads, has_heads, plain_name, read_heads, read_labels
from ssl_zoo.models.registry import config_class_of


__all__ = [
    "SELA_LAYOUTS",
    "SelaAlexNetLayout",
    "SelaLayout",
    "SelaResNetV1Layout",
    "SelaResNetV2Layout",
    "SelaTorchvisionLayout",
]


_CIFAR_ROWS = 50_000
_CIFAR = {"mean": [0.4914, 0.4822, 0.4465], "std": [0.2023, 0.1994, 0.2010]}  # of both CIFARs, as the authors have it
_V1 = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
_NORM = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
_V2_DEPTHS = (3, 4, 6, 3)
_V2_STEM = 64
_ALEXNET_CONVOLUTIONS = (0, 4, 8, 11, 14)
_ALEXNET_BIG = ((96, 256, 384, 384, 256), 4096)
_NO_SOLVES = (
    "the file doesn't say how often labels were solved for, so the count starts at 0: training that goes on solves "
    "for labels of its own images at its first step"
)

Network = tuple[dict[str, Any], dict[str, str]]


class SelaLayout:
    """What the four share: heads, labels and configuration; each says what its network is and how it is named."""

    name: str
    method = "sela"
    branches: tuple[str, ...] = ("backbone",)
    first_conv = "conv1"
    classifier = "fc"
    first_head_alone = False
    marks: frozenset[str] = frozenset()  # plain names that only this network has, beside heads

    def recognises(self, keys: Collection[str]) -> bool:
        """The marks of the network, and heads; see `Layout.recognises`."""
        plain = {plain_name(key) for key in keys}
        return self.marks <= plain and has_heads(plain)

    def read_network(self, names: Mapping[str, str], state: Mapping[str, torch.Tensor]) -> Network:
        """Tell which network it is.

        Args:
            names (mapping of `str` to `str`): Plain name of each tensor outside the heads -> its name in `state`.
            state (mapping of `str` to `torch.Tensor`): The checkpoint's tensors.

        Returns:
            Fields of the configuration, and timm's name of each tensor -> its plain name. The strict passage refuses
            what is missing, also if it is named here, and what isn't named or has no place in the network.
        """
        raise NotImplementedError

    def read_heads(self, names: Mapping[str, str], checkpoint: Checkpoint) -> Heads:
        """Find the heads, see `ssl_zoo.conversion.sela_heads.read_heads`."""
        return read_heads(names, checkpoint)

    def convert(self, checkpoint: Checkpoint, *, branch: str | None) -> Conversion:
        """Make the full model with the labels that it was trained on, if the file has them; see `Layout.convert`."""
        branch = chosen_branch(self, branch)
        state = checkpoint.state
        names = {plain_name(name): name for name in state}
        if len(names) != len(state):
            raise ConversionError(f"'{checkpoint.file}' has tensors twice, with and without `module.` in their names")
        heads = self.read_heads(names, checkpoint)
        backbone = {plain: name for plain, name in names.items() if not heads.has(name)}
        settings, renamed = self.read_network(backbone, state)
        labels = read_labels(
            checkpoint, num_heads=heads.num_heads, num_clusters=heads.num_clusters, of_more=self.first_head_alone
        )
        own_labels = torch.zeros(heads.num_heads, 0) if labels is None else labels[: heads.num_heads]
        preparation, notes = _preparation(labels, first_conv=self.first_conv, classifier=self.classifier)
        config: Any = config_class_of("sela")(
            **settings,
            pretrained_cfg=preparation,
            num_clusters=heads.num_clusters,
            num_heads=heads.num_heads,
            num_samples=own_labels.shape[1] or None,
        )
        weights: dict[str, str | torch.Tensor] = {
            **{BACKBONE + name: names.get(plain, plain) for name, plain in renamed.items()},
            "heads.weight": heads.weight,
            "heads.bias": heads.bias,
            "label_table": own_labels,
            "num_solves": torch.zeros(()),
        }
        left_out = {**heads.left_out, "num_solves": _NO_SOLVES}
        if labels is not None and len(labels) > heads.num_heads:
            only = "the file has only the first head's tensors; the labels of all heads are in labels/"
            left_out[f"heads 1 to {len(labels) - 1}"] = only
        return Conversion(
            config=config,
            weights=weights,
            left_out=left_out,
            branch=branch,
            used=heads.used | LABEL_NAMES,
            notes=notes,
            label_table=labels,
        )


class SelaResNetV1Layout(SelaLayout):
    """Post-activation ResNet as `features.N`: torchvision's network in its order, the stride in the 3x3."""

    name = "sela-resnet-v1"
    # A norm behind the first convolution, and blocks from the fourth on.
    marks = frozenset(("features.1.running_mean", "features.4.0.conv1.weight"))

    def read_network(self, names: Mapping[str, str], state: Mapping[str, torch.Tensor]) -> Network:
        """See `SelaLayout.read_network`."""
        renamed = {}
        for plain in names:
            _, _, inside = plain.partition("features.")
            number, _, rest = inside.partition(".")
            renamed[f"{_V1[number]}.{rest}" if number in _V1 else plain] = plain
        by_torchvision = {name: state[names[plain]] for name, plain in renamed.items()}
        return resnet_settings(by_torchvision, ""), renamed


class SelaTorchvisionLayout(SelaLayout):
    """torchvision's ResNet with the first head as `fc`, and the labels of all heads beside it."""

    name = "sela-torchvision"
    first_head_alone = True

    def recognises(self, keys: Collection[str]) -> bool:
        """A ResNet with a classifier, and nothing else; `convert` asks for the labels, which tell it from others."""
        known = all(key.startswith(("conv1.", "bn1.", "layer", "fc.")) for key in keys)
        return known and is_resnet(keys) and {"fc.weight", "fc.bias"} <= set(keys)

    def read_heads(self, names: Mapping[str, str], checkpoint: Checkpoint) -> Heads:
        """The classifier is the first head.

        Raises:
            ConversionError: if there are no labels: any classifier looks like this.
        """
        if not LABEL_NAMES & set(checkpoint.extras):
            raise ConversionError(
                f"'{checkpoint.file}' has a ResNet with a classifier, but no `labels` beside it: SeLa's released "
                f"files have them, and without them it may be any classifier"
            )
        weight, bias = checkpoint.state["fc.weight"], checkpoint.state["fc.bias"]
        return Heads(weight=weight, bias=bias, num_heads=1, used=frozenset(("fc.weight", "fc.bias")), left_out={})

    def read_network(self, names: Mapping[str, str], state: Mapping[str, torch.Tensor]) -> Network:
        """See `SelaLayout.read_network`."""
        return resnet_settings(state, ""), {plain: plain for plain in names}


class SelaResNetV2Layout(SelaLayout):
    """Pre-activation ResNet-50 as `features.N`, without a norm behind the last stage."""

    name = "sela-resnet-v2"
    first_conv = "stem.conv"
    classifier = "head.fc"
    marks = frozenset(("features.0.weight", "features.2.0.bn1.weight"))  # blocks from the second on begin with a norm

    def read_network(self, names: Mapping[str, str], state: Mapping[str, torch.Tensor]) -> Network:
        """See `SelaLayout.read_network`. The authors have this depth only, so what is missing has a name."""
        renamed = {"stem.conv.weight": "features.0.weight"}
        for stage, depth in enumerate(_V2_DEPTHS):
            for number in range(depth):
                block, released = f"stages.{stage}.blocks.{number}.", f"features.{stage + 2}.{number}."
                for layer in "123":
                    renamed[f"{block}conv{layer}.weight"] = f"{released}conv{layer}.weight"
                    renamed |= {f"{block}norm{layer}.{part}": f"{released}bn{layer}.{part}" for part in _NORM}
                if number == 0:
                    renamed[f"{block}downsample.conv.weight"] = f"{released}shortcut.0.weight"
        width = state[names["features.0.weight"]].shape[0] / _V2_STEM
        arguments = {} if width == 1 else {"width_factor": int(width) if width.is_integer() else width}
        return {"architecture": "preact_resnet50", "model_args": arguments}, renamed


class SelaAlexNetLayout(SelaLayout):
    """AlexNet with batch norm; timm's `alexnet_bn`, which this package registers, has the same names."""

    name = "sela-alexnet"
    first_conv = "features.0"
    classifier = "head"
    # Five convolutions with norms, and linear layers.
    marks = frozenset(("features.0.weight", "features.15.running_mean", "classifier.1.weight"))

    def read_network(self, names: Mapping[str, str], state: Mapping[str, torch.Tensor]) -> Network:
        """See `SelaLayout.read_network`."""
        wanted = [f"features.{number}.weight" for number in _ALEXNET_CONVOLUTIONS] + ["classifier.1.weight"]
        if missing := [plain for plain in wanted if plain not in names]:
            raise ConversionError(f"{len(missing)} missing: {', '.join(missing)}; nothing was converted")
        *channels, hidden = (state[names[plain]].shape[0] for plain in wanted)
        is_big = (tuple(channels), hidden) == _ALEXNET_BIG
        arguments = {} if is_big else {"channels": channels, "hidden_features": hidden}
        return {"architecture": "alexnet_bn", "model_args": arguments}, {plain: plain for plain in names}


def _preparation(labels: torch.Tensor | None, *, first_conv: str, classifier: str) -> tuple[dict[str, Any], str]:
    """How the authors prepare images: CIFAR's differ in mean and standard deviation only; and what is to be said."""
    preparation = {**IMAGENET, "first_conv": first_conv, "classifier": classifier}
    if labels is None or labels.shape[1] != _CIFAR_ROWS:
        return preparation, ""
    notes = "The file doesn't name its data set. It has labels of 50,000 images, so they are prepared as CIFAR's."
    return {**preparation, **_CIFAR}, notes


SELA_LAYOUTS = (SelaResNetV1Layout(), SelaResNetV2Layout(), SelaAlexNetLayout(), SelaTorchvisionLayout())
