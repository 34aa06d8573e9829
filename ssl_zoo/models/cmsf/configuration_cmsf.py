"""Configuration of CMSF."""

from typing import ClassVar, Literal

from huggingface_hub.dataclasses import strict

from ssl_zoo.models.configuration_base import SSLConfig


__all__ = ["CmsfConfig"]


@strict
class CmsfConfig(SSLConfig):
    """CMSF: constrained mean shift (https://huggingface.co/papers/2112.04607).

    The defaults are the released scripts' for ResNet-50 on ImageNet without labels. With labels (`semi`, `full`) the
    scripts set `num_neighbors` to 10.

    Args:
        supervision (`str`): `self` learns without labels, `semi` from a few (`data.labelled_*`), `full` from all.
        constraint (`str`): with `self`, which entries of the bank may become neighbours: those nearest at the
            `previous_visit` to the image, or those in its cluster of an earlier `kmeans` (CMSF-KM).
        projector_hidden_features (`list[int]`): widths of the projector's hidden layers, `[4096]` when left out (twice
            the backbone's width).
        projection_features (`int`): width of the projections that are compared (a quarter of the backbone's width).
        predictor_hidden_features (`list[int]`): widths of the predictor's hidden layers, `[4096]` when left out.
        bank_size (`int`): how many target projections are remembered, over all processes.
        num_neighbors (`int`): neighbours that a prediction is pulled to, the image itself among them (k).
        num_candidates (`int`): size of the set that the previous visit leaves to choose from (k').
        num_clusters (`int`): clusters of k-means.
        cluster_every_epochs (`float`): epochs between two runs of k-means.
        classifier_hidden_features (`list[int]`): widths of the hidden layers of the classifier that gives
            pseudo-labels, `[1024]` when left out (twice `projection_features`).
        confidence_threshold (`float`): a pseudo-label less probable than this is none.
        classifier_every_epochs (`float`): epochs between two trainings of the classifier; the released code's rule is
            0.5 for batches below 1024, else 1.
        classifier_epochs (`int`): passes over the labelled embeddings in each of them.
        classifier_batch_size (`int`): their batch.
        classifier_learning_rate (`float`): their learning rate, of SGD.
        classifier_momentum (`float`): their momentum.
        classifier_weight_decay (`float`): their weight decay, on all tensors.
        momentum (`float`): share of the target that stays at each step at the start of training.
        momentum_end (`float`): the same at the end; cosine in between.
        num_samples (`int`): images in the training data; filled in from it.
        num_supervised_classes (`int`): classes in the training data; filled in from it.
        num_labelled (`int`): images with a label to learn from; filled in from the training data.
    """

    model_type = "cmsf"

    supervision: Literal["self", "semi", "full"] = "self"
    constraint: Literal["previous_visit", "kmeans"] = "previous_visit"
    projector_hidden_features: list[int] | None = None
    projection_features: int = 512
    predictor_hidden_features: list[int] | None = None
    bank_size: int = 128000
    num_neighbors: int = 5
    num_candidates: int = 5
    num_clusters: int = 50000
    cluster_every_epochs: float | int = 1.0
    classifier_hidden_features: list[int] | None = None
    confidence_threshold: float | int = 0.85
    classifier_every_epochs: float | int = 0.5
    classifier_epochs: int = 10
    classifier_batch_size: int = 256
    classifier_learning_rate: float | int = 0.01
    classifier_momentum: float | int = 0.9
    classifier_weight_decay: float | int = 1e-4
    momentum: float | int = 0.99
    momentum_end: float | int = 0.99
    num_samples: int | None = None
    num_supervised_classes: int | None = None
    num_labelled: int | None = None

    _default_lists: ClassVar = {
        "projector_hidden_features": (4096,),
        "predictor_hidden_features": (4096,),
        "classifier_hidden_features": (1024,),
    }
    _ranges: ClassVar = {
        "at least 1": (
            *("projection_features", "bank_size", "num_neighbors", "num_candidates", "num_clusters"),
            *("classifier_epochs", "classifier_batch_size"),
        ),
        "> 0": ("cluster_every_epochs", "classifier_every_epochs", "classifier_learning_rate"),
        ">= 0": ("classifier_weight_decay",),
        "in [0, 1]": ("momentum", "momentum_end", "confidence_threshold", "classifier_momentum"),
    }

    def validate_ranges(self) -> None:
        """Check also that the bank holds as many entries as are searched for; see `SSLConfig`."""
        super().validate_ranges()
        for name in ("num_neighbors", "num_candidates"):
            if getattr(self, name) > self.bank_size:
                raise ValueError(f"`{name}` must be at most `bank_size` = {self.bank_size}, got {getattr(self, name)}")

    @property
    def learns_from_labels(self) -> bool:
        """Whether `forward` takes `known_labels`: unless `supervision` is `self`."""
        return self.supervision != "self"

    def fit_to_data(self, *, num_samples: int, num_classes: int | None, num_labelled: int | None) -> None:
        """Take the sizes of the tables from the data; see `SSLConfig.fit_to_data`.

        Raises:
            ValueError: if labels are to be learned from and there are none.
        """
        if self.learns_from_labels and not (num_classes and num_labelled):
            raise ValueError(
                f"`supervision` is '{self.supervision}', which learns from labels, but the data has "
                f"{num_classes or 'no'} classes and {num_labelled or 'no'} labelled images: check "
                f"`data.label_column` and `data.labelled_*`, or set `supervision` to 'self'"
            )
        self.num_samples = num_samples if self.num_samples is None else self.num_samples
        if self.num_supervised_classes is None:  # `num_classes` in a published config.json is timm's
            self.num_supervised_classes = num_classes
        self.num_labelled = num_labelled if self.num_labelled is None else self.num_labelled
