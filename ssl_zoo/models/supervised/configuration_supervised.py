"""Configuration of plain supervised training."""

from typing import ClassVar

from huggingface_hub.dataclasses import strict

from ssl_zoo.models.configuration_base import SSLConfig


__all__ = ["SupervisedConfig"]


@strict
class SupervisedConfig(SSLConfig):
    """Supervised: cross-entropy on given labels, as in SeLa's label transfer (https://huggingface.co/papers/1911.05371).

    With the labels of the data it is the baseline for methods without labels. With `data.label_table` it learns the
    labels that another model assigned, which is SeLa's label transfer.

    Args:
        num_supervised_classes (`int`): classes that the labels name; filled in from the training data or its table of
            labels when left out.
        label_smoothing (`float`): share of a label that is spread over all classes.
    """

    model_type = "supervised"

    num_supervised_classes: int | None = None
    label_smoothing: float | int = 0.0

    _ranges: ClassVar = {
        "at least 1": ("num_supervised_classes",),
        "in [0, 1)": ("label_smoothing",),
    }

    @property
    def learns_from_labels(self) -> bool:
        """Always."""
        return True

    def fit_to_data(self, *, num_samples: int, num_classes: int | None, num_labelled: int | None) -> None:
        """Take the number of classes from the data.

        Raises:
            ValueError: if there are no labels, or more classes than the configuration says.
        """
        if not (num_classes and num_labelled):
            raise ValueError(
                f"supervised training learns from labels, but the data has {num_classes or 'no'} classes and "
                f"{num_labelled or 'no'} labelled images: check `data.label_column`, `data.label_table` and "
                f"`data.labelled_*`"
            )
        if self.num_supervised_classes is None:  # `num_classes` in a published config.json is timm's
            self.num_supervised_classes = num_classes
        if self.num_supervised_classes < num_classes:
            raise ValueError(
                f"`num_supervised_classes` is {self.num_supervised_classes}, but the labels name {num_classes} "
                f"classes; leave it null"
            )
