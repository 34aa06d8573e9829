"""The part of the configuration that all methods share: the backbone and the preprocessing of its images."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

from transformers import PreTrainedConfig

from ssl_zoo.nearest import did_you_mean


__all__ = ["SSLConfig"]

logger = logging.getLogger(__name__)

# Accepted although they aren't fields: arguments of transformers, and what `config.json` holds for timm.
_NOT_FIELDS = (
    *("num_labels", "torch_dtype", "name_or_path", "auto_map", "attn_implementation", "experts_implementation"),
    *("num_classes", "global_pool", "label_names", "label_descriptions", "converted_from_sha256"),
)

_RANGES: dict[str, Callable[[float], bool]] = {
    "> 0": lambda value: value > 0,
    ">= 0": lambda value: value >= 0,
    "at least 1": lambda value: value >= 1,
    "at least 2": lambda value: value >= 2,
    "in [0, 1]": lambda value: 0 <= value <= 1,
    "in [0, 1)": lambda value: 0 <= value < 1,
}


class SSLConfig(PreTrainedConfig):
    """Backbone part of every configuration.

    The names are timm's, because the same `config.json` is read by `timm.create_model("hf-hub:...")`.

    Args:
        architecture (`str`): timm architecture of the backbone, without a pretrained tag.
        model_args (`dict`): keyword arguments for the timm architecture, JSON values only.
        small_image_stem (`bool`): 3x3 stem without max-pool, for ResNets on small images.
        num_features (`int`): width of the pooled features; filled in when a model is built.
        pretrained_cfg (`dict`): how images are prepared (`input_size`, `mean`, `std`, `interpolation`, `crop_pct`);
            timm's values for the architecture when empty.
        pretraining_subfolder (`str`): folder of a published repository that holds the full pretraining model.
    """

    _default_lists: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    """Field -> its default, for fields that are lists: they are declared as `None`."""

    _ranges: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """Range, one of the keys of `_RANGES` such as `"> 0"` -> the fields that must lie in it or be `None`."""

    architecture: str = "resnet50"
    model_args: dict[str, Any] | None = None
    small_image_stem: bool = False
    num_features: int | None = None
    pretrained_cfg: dict[str, Any] | None = None
    pretraining_subfolder: str | None = None
    image_processor_type: str = "TimmWrapperImageProcessor"

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in lists and dictionaries that are `None`: timm can't read a null `model_args`.

        Raises:
            TypeError: for an argument that isn't a field. In a `config.json` such a key only causes a warning.
        """
        is_loaded = kwargs.pop("_is_loaded", False)
        unknown = [name for name in kwargs if not (name in _NOT_FIELDS or name[0] == "_" or hasattr(type(self), name))]
        if unknown and is_loaded:
            logger.warning(f"{type(self).__name__}: {self._what_is_unknown(unknown)}. It has no effect")
        elif unknown:
            raise TypeError(f"{type(self).__name__}: {self._what_is_unknown(unknown)}")
        for name, default in self._default_lists.items():
            if getattr(self, name) is None:
                setattr(self, name, list(default))
        self.model_args = dict(self.model_args or {})
        self.pretrained_cfg = dict(self.pretrained_cfg or {})
        super().__post_init__(**kwargs)

    def validate_ranges(self) -> None:
        """Check the fields against `_ranges`; called when a configuration is built.

        Raises:
            ValueError: naming the field, its value and what was expected.
        """
        for expected, names in self._ranges.items():
            for name in names:
                value = getattr(self, name)
                if value is not None and not _RANGES[expected](value):
                    raise ValueError(f"`{name}` must be {expected}, got {value}")

    def _what_is_unknown(self, names: list[str]) -> str:
        shared = {field.name for field in dataclasses.fields(PreTrainedConfig)}
        fields = [field.name for field in dataclasses.fields(self) if field.name not in shared]
        hint = did_you_mean(names[0], [*fields, *_NOT_FIELDS]) or f"; the fields are {', '.join(fields)}"
        return f"there is no field `{'`, `'.join(names)}`{hint}"

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Self:
        """Build from the content of a `config.json`, perhaps of another version; see `PreTrainedConfig`."""
        config: Self = super().from_dict({**config_dict, "_is_loaded": True}, **kwargs)
        return config

    @property
    def learns_from_labels(self) -> bool:
        """Whether `forward` takes `known_labels`: class ids that the method may learn from, -1 where unlabelled."""
        return False

    @property
    def support_size(self) -> tuple[int, int] | None:
        """Classes, and images per class, of the labelled support of each batch, over all processes.

        `forward` then takes this process's part as `support_views` and `support_labels`. `None` for no support.
        """
        return None

    @property
    def cluster_assignment(self) -> dict[str, float] | None:
        """`temperature` and `beta` of the `mira_assignment` that puts images into clusters; `None` for a softmax."""
        return None

    def fit_to_data(self, *, num_samples: int, num_classes: int | None, num_labelled: int | None) -> None:
        """Set the fields that depend on the training data; called before the pretraining model is built.

        Args:
            num_samples (`int`): Images in the training split, corrupt ones included.
            num_classes (`int`, *optional*): Classes, if the data has any.
            num_labelled (`int`, *optional*): Images whose class the method may learn from.
        """
