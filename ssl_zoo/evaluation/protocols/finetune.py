"""Fine-tuning of the whole network and a new classifier on all labels, on all processes."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from ssl_zoo.evaluation.results import Result
from ssl_zoo.protocol import Metric, Protocol
from ssl_zoo.settings.declare import plain, require, require_choices, setting


if TYPE_CHECKING:
    from ssl_zoo.evaluation.evaluation import Evaluation


__all__ = ["PROTOCOL", "FinetuneSettings", "finetune_results", "measure"]


@dataclass(frozen=True)
class FinetuneSettings:
    """How a classifier is trained on a backbone: SGD with momentum, cosine to zero, crops and flips.

    The defaults are SwAV's for 10 % of ImageNet (https://huggingface.co/papers/2006.09882) but for the cosine.
    """

    share: float = setting(1.0, "share of each class whose label is used")
    labelled_seed: int = setting(0, "seed of the draw of labelled images")
    labelled_ids: str | None = setting(None, "file of labelled row numbers or image names, instead of a draw")
    epochs: float = setting(20.0, "passes over the labelled images")
    batch_size: int = setting(256, "images per step, over all processes")
    learning_rate: float = setting(0.02, "learning rate of the backbone, per 256 images")
    head_learning_rate: float = setting(0.2, "learning rate of the classifier, per 256 images")
    momentum: float = setting(0.9, "momentum of SGD")
    nesterov: bool = setting(True, "Nesterov momentum")
    weight_decay: float = setting(0.0, "weight decay")
    warmup_epochs: float = setting(0.0, "epochs of linear warm-up")
    decay_epochs: tuple[float, ...] = setting((), "multiply the rate at these epochs instead of the cosine")
    decay_factor: float = setting(0.1, "what the rate is multiplied by at decay_epochs")
    crop_scale: tuple[float, float] = setting((0.08, 1.0), "share of the image that a training crop covers")
    frozen: bool = setting(False, "train the classifier alone, the backbone in evaluation mode")
    normalize: Literal["none", "batch_norm", "unit_batch_norm"] = setting(
        "none", "what is done to the features before the classifier"
    )
    seed: int = setting(0, "seed of the classifier's first weights, the order and the views")

    def __post_init__(self) -> None:
        """Refuse values that no training can use."""
        require_choices(self)
        require(0 < self.share <= 1, "share", "above 0 and up to 1", self.share)
        for name in ("epochs", "batch_size", "decay_factor"):
            require(getattr(self, name) > 0, name, "> 0", getattr(self, name))
        for name in ("learning_rate", "head_learning_rate", "weight_decay", "warmup_epochs"):
            require(getattr(self, name) >= 0, name, ">= 0", getattr(self, name))


def measure(evaluation: "Evaluation", settings: FinetuneSettings) -> list[Result]:
    """Top-1 and top-5 of the fine-tuned network."""
    return finetune_results(evaluation, settings, {"name": "finetune"}, prefix="finetune")


def finetune_results(
    evaluation: "Evaluation", settings: FinetuneSettings, protocol: dict[str, str], *, prefix: str
) -> list[Result]:
    """Train a classifier on the backbone of the subject and test it.

    Args:
        evaluation ([`Evaluation`]): Names subject and data.
        settings ([`FinetuneSettings`]): How.
        protocol: What the results are told apart by, besides the settings.
        prefix: The metrics are `{prefix}_top1` and `{prefix}_top5`.
    """
    from ssl_zoo.data.labelled import choose_labelled
    from ssl_zoo.evaluation.classifier import finetune, labelled_source

    train = evaluation.train
    for source in (train, evaluation.test):
        evaluation.require_labels(source)
    if settings.share < 1 or settings.labelled_ids is not None:
        wanted = replace(
            evaluation.data,
            split=train.split,
            labelled_share=settings.share,
            labelled_seed=settings.labelled_seed,
            labelled_ids=settings.labelled_ids,
        )
        train = labelled_source(train, choose_labelled(train, wanted))
    result = finetune(
        evaluation.subject.copy_of_backbone(),
        train,
        evaluation.test,
        evaluation.subject.view,
        settings,
        num_classes=evaluation.num_classes,
        reading=evaluation.reading,
        description=f"Training on {train.num_rows:,} labels",
    )
    details = {"num_labels": result.num_train, "final_loss": round(result.final_loss, 5)}
    values = {f"{prefix}_top1": result.top1, f"{prefix}_top5": result.top5}
    return [
        evaluation.result(name, value, {**protocol, **plain(settings)}, num_answers=result.num_test, details=details)
        for name, value in values.items()
        if value is not None
    ]


PROTOCOL = Protocol(
    settings=FinetuneSettings(),
    metrics=(
        Metric("finetune_top1", "fine-tuned top-1", unit="%", hub_type="accuracy", parameters=("share",)),
        Metric("finetune_top5", "fine-tuned top-5", unit="%", parameters=("share",)),
    ),
    measure=measure,
    subjects=("trained", "random_init"),
)
