"""What the configuration of every method shares: which backbone, and how its images are prepared."""

from typing import Any

from transformers import PreTrainedConfig


__all__ = ["SSLConfig"]


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

    architecture: str = "resnet50"
    model_args: dict[str, Any] | None = None
    small_image_stem: bool = False
    num_features: int | None = None
    pretrained_cfg: dict[str, Any] | None = None
    pretraining_subfolder: str | None = None
    image_processor_type: str = "TimmWrapperImageProcessor"

    def __post_init__(self, **kwargs: Any) -> None:
        """Replace `None` by empty dictionaries: timm can't read a null `model_args`."""
        self.model_args = dict(self.model_args or {})
        self.pretrained_cfg = dict(self.pretrained_cfg or {})
        super().__post_init__(**kwargs)

    @property
    def learns_from_labels(self) -> bool:
        """Whether `forward` takes `known_labels`: class ids that the method may learn from, -1 where unlabelled."""
        return False

    @property
    def support_size(self) -> tuple[int, int] | None:
        """Classes and images per class of the labelled support, over all processes, that goes with each batch.

        `forward` then takes `support_views` and `support_labels`, this process's part. `None` for no support.
        """
        return None

    @property
    def cluster_assignment(self) -> dict[str, float] | None:
        """`temperature` and `beta` of the `mira_assignment` that puts images into clusters; `None` for a softmax."""
        return None

    def fit_to_data(self, *, num_samples: int, num_classes: int | None, num_labelled: int | None) -> None:
        """Fill in what depends on the training data; called before the pretraining model is built. Nothing by default.

        Args:
            num_samples (`int`): Images in the training split, corrupt ones included.
            num_classes (`int`, *optional*): Classes, if the data has any.
            num_labelled (`int`, *optional*): Images whose class the method may learn from.
        """
