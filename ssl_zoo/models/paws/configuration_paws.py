"""Configuration of PAWS."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ssl_zoo.models.configuration_base import SSLConfig


__all__ = ["PawsConfig"]


@strict
class PawsConfig(SSLConfig):
    """PAWS: predicting view assignments with support samples (https://huggingface.co/papers/2104.13963).

    The defaults are the authors' for ResNet-50 on ImageNet with 10 % of the labels. The size of the support is that of
    all processes together; each takes its part. (In the authors' code it is set per GPU, 15 classes on each of 64.)

    Args:
        projector_hidden_features (`list[int]`): widths of the projector's hidden layers, `[2048, 2048]` when left out.
        projection_features (`int`): width of the projections.
        predictor_hidden_features (`list[int]`): widths of the predictor's hidden layers, `[512]` when left out; `[]`
            for no predictor, as on CIFAR-10.
        num_support_classes (`int`): classes in the labelled support that goes with each batch, over all processes.
        num_support_images (`int`): labelled images of each of these classes.
        temperature (`float`): divides the cosine similarities to the support (tau).
        sharpening_temperature (`float`): targets are raised to the power of 1 / this, and normalised (T).
        label_smoothing (`float`): share of a support label that is spread over all classes of the support.
        entropy_weight (`float`): weight of the entropy of the mean prediction, which is maximised (me-max); 0 is off.
    """

    model_type = "paws"

    projector_hidden_features: list[int] | None = None
    projection_features: int = 2048
    predictor_hidden_features: list[int] | None = None
    num_support_classes: int = 960
    num_support_images: int = 7
    temperature: float | int = 0.1
    sharpening_temperature: float | int = 0.25
    label_smoothing: float | int = 0.1
    entropy_weight: float | int = 1.0

    _default_lists: ClassVar = {"projector_hidden_features": (2048, 2048), "predictor_hidden_features": (512,)}
    _ranges: ClassVar = {
        "> 0": ("temperature", "sharpening_temperature", "projection_features", "num_support_images"),
        "at least 2": ("num_support_classes",),
        ">= 0": ("entropy_weight",),
        "in [0, 1)": ("label_smoothing",),
    }

    @property
    def learns_from_labels(self) -> bool:
        """PAWS compares images with labelled ones."""
        return True

    @property
    def support_size(self) -> tuple[int, int]:
        """Classes and images of each in the labelled support, over all processes."""
        return self.num_support_classes, self.num_support_images
