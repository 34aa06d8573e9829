"""The three kinds of model that every method has: features, classification, pretraining."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.utils import ModelOutput

from ssl_zoo.models.configuration_base import SSLConfig
from ssl_zoo.models.modeling_pretrained import SSLPreTrainedModel
from ssl_zoo.nn.backbone import pooled_features


__all__ = ["SSLForImageClassification", "SSLForPreTraining", "SSLModel", "TrainingData"]


class SSLModel(SSLPreTrainedModel):
    """Backbone and pooled features: what users download."""

    # A pretraining checkpoint also holds heads, which this model doesn't have: no warning about them.
    _keys_to_ignore_on_load_unexpected = [r"^(?!timm_model\.)"]  # noqa: RUF012

    def __init__(self, config: SSLConfig) -> None:
        super().__init__(config)
        self.timm_model = self._create_backbone()
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, return_dict: bool | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling | tuple[torch.Tensor, ...]:
        """Compute features.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): Normalised images.
            return_dict (`bool`, *optional*): `False` for a plain tuple.
            kwargs: Ignored; pipelines pass the options of other model types.

        Returns:
            `last_hidden_state` as the timm family shapes it and `pooler_output` of shape `(batch, num_features)`.
        """
        features, embeddings = pooled_features(self.timm_model, pixel_values)
        output = BaseModelOutputWithPooling(last_hidden_state=features, pooler_output=embeddings)
        return output.to_tuple() if return_dict is False else output


class SSLForImageClassification(SSLPreTrainedModel):
    """Backbone and a linear classifier, for a linear probe or for fine-tuning.

    For a linear probe call `freeze_backbone()`: it then stays in evaluation mode and gets no gradient.
    """

    _keys_to_ignore_on_load_unexpected = [r"^(?!timm_model\.|classifier\.)"]  # noqa: RUF012

    def __init__(self, config: SSLConfig) -> None:
        super().__init__(config)
        self.timm_model = self._create_backbone()
        self.classifier = nn.Linear(int(self.timm_model.num_features), config.num_labels)  # type: ignore[arg-type]
        self._probe = False
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load; a checkpoint without a classifier is refused unless `num_labels` or class names ask for a new one.

        Raises:
            ValueError: if the checkpoint has no classifier and neither `num_labels` nor class names were given.
        """
        returns_info = kwargs.pop("output_loading_info", False)
        loaded: Any = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        model, info = loaded
        has_default_labels = model.config.num_labels == 2 and model.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}
        if has_default_labels and any(name.startswith("classifier.") for name in info["missing_keys"]):
            raise ValueError(
                f"'{pretrained_model_name_or_path}' holds a backbone without a classifier; pass `num_labels=` "
                f"(or `id2label=`) to train one on it, or load a repository that was fine-tuned"
            )
        return (model, info) if returns_info else model

    def freeze_backbone(self) -> None:
        """Train only the classifier from now on."""
        self._probe = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Switch mode; a frozen backbone stays in evaluation mode, its batch-norm statistics untouched."""
        super().train(mode)
        if self._probe:
            self.timm_model.requires_grad_(False)
            self.timm_model.eval()
        return self

    def forward(
        self,
        pixel_values: torch.Tensor,
        labels: torch.Tensor | None = None,
        return_dict: bool | None = None,
        **kwargs: Any,
    ) -> ImageClassifierOutput | tuple[torch.Tensor, ...]:
        """Classify.

        Args:
            pixel_values (`torch.Tensor` of shape `(batch, 3, height, width)`): Normalised images.
            labels (`torch.Tensor` of shape `(batch,)`, *optional*): Class ids; the cross-entropy is then returned.
            return_dict (`bool`, *optional*): `False` for a plain tuple.
            kwargs: Ignored; pipelines pass the options of other model types.

        Returns:
            `loss` (or `None`) and `logits` of shape `(batch, num_labels)`.
        """
        _, embeddings = pooled_features(self.timm_model, pixel_values)
        logits = self.classifier(embeddings)
        loss = None if labels is None else F.cross_entropy(logits.float(), labels)
        output = ImageClassifierOutput(loss=loss, logits=logits)
        return output.to_tuple() if return_dict is False else output


class TrainingData(Protocol):
    """The training images that a method can pass over between two steps."""

    num_samples: int

    def one_pass(self, *, seed: int, description: str) -> Iterator[tuple[list[torch.Tensor], torch.Tensor]]:
        """Pass once over this process's share of the images, with the augmentation of training.

        The shares are disjoint and cover all images that aren't corrupt. All processes get the same number of batches:
        a process with fewer images gets its last batch again.

        Args:
            seed (`int`): Seed of the order and of the views.
            description (`str`): What the progress bar says.

        Yields:
            Views on the device, as `SSLForPreTraining.forward` takes them, and sample ids of shape `(batch,)`, -1
            for repeated rows.
        """


class SSLForPreTraining(SSLPreTrainedModel):
    """What the training loop asks of every method.

    A subclass implements `forward`, which reads state and returns an output, and `update_state`, which changes it.
    `timm_model` is the branch that the paper evaluates, so a pretraining checkpoint loads into the method's feature
    extractor as it is.

    The output is a dataclass, a `ModelOutput`, whose fields are tensors or `None`. The loop checks that it has

    - `loss`, of shape `()`, with gradient;
    - `embeddings`, of shape `(batch, num_features)`: the backbone's pooled features of one view;
    - with `diagnostics=True`, at least one more tensor of shape `()`. The loop logs each of them under its name,
      averaged over the processes; `health` judges them.
    """

    @property
    def rebuilt_parts(self) -> tuple[str, ...]:
        """Submodules that a compact publication leaves out; loading fills them with the weights of their twins."""
        return tuple(self._filled_from)

    @classmethod
    def has_clusters(cls, config: SSLConfig) -> bool:
        """Whether the model of a configuration assigns images to clusters.

        Such a model has a method `cluster_probabilities(pixel_values)` that returns probabilities of shape `(batch,
        num_heads, num_clusters)`; `pseudo_labels` is made from it.
        """
        with torch.device("meta"):
            return hasattr(cls(config), "cluster_probabilities")

    @property
    def pseudo_labels(self) -> Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
        """Function from normalised images to the best cluster of the first head and its probability, each `(batch,)`.

        Raises:
            AttributeError: for a model without `cluster_probabilities`.
        """
        probabilities: Any = self.cluster_probabilities
        return lambda pixel_values: probabilities(pixel_values)[:, 0].max(dim=-1)[::-1]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load the full model; in a published repository that is the subfolder that its `config.json` names."""
        config = kwargs.get("config")
        config_class: Any = cls.config_class
        if "subfolder" not in kwargs:
            if not isinstance(config, PreTrainedConfig):
                # The class is known here, so no auto class and no remote code is needed to read the configuration.
                config = config_class.from_pretrained(pretrained_model_name_or_path, **_hub_options(kwargs))
            subfolder = getattr(config, "pretraining_subfolder", None)
            if subfolder:
                kwargs["subfolder"] = subfolder
                kwargs["config"] = config_class.from_pretrained(
                    pretrained_model_name_or_path, subfolder=subfolder, **_hub_options(kwargs)
                )
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def forward(
        self,
        views: list[torch.Tensor],
        *,
        sample_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        progress: float = 0.0,
        epoch: float = 0.0,
        diagnostics: bool = True,
    ) -> ModelOutput:
        """Compute the loss of one micro-batch.

        Args:
            views (list of `torch.Tensor` of shape `(batch, 3, height, width)`): Global views first.
            sample_ids (`torch.Tensor` of shape `(batch,)`, *optional*): Stable global row numbers.
            labels (`torch.Tensor` of shape `(batch,)`, *optional*): Class ids, -1 where there is none; for diagnostics
                alone.
            progress (`float`): Share of the training that is done, in [0, 1].
            epoch (`float`): Passes over the data so far.
            diagnostics (`bool`): Whether to fill the output's diagnostic fields.

        Returns:
            The method's output; its fields are listed at the class.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `forward`")

    def before_step(self, data: TrainingData, *, images_seen: int, epoch: float, progress: float) -> dict[str, float]:
        """Update state that depends on more than a batch, such as labels that are solved on all images.

        Called on all processes before each step of the optimiser, in training mode.

        Args:
            data (`TrainingData`): The training images.
            images_seen (`int`): Images trained on so far.
            epoch (`float`): Passes over the data so far.
            progress (`float`): Share of the training that is done, in [0, 1].

        Returns:
            Numbers to log; none by default.
        """
        return {}

    def before_optimizer_step(self, *, epoch: float) -> None:
        """Change gradients before the optimiser uses them. Nothing by default."""

    def update_state(self, outputs: list[Any], *, progress: float, epoch: float) -> None:
        """Update what gradients don't train. Called once after each step of the optimiser.

        Args:
            outputs (list): What `forward` returned, one entry for each micro-batch of the step.
            progress (`float`): Share of the training that is done, including this step.
            epoch (`float`): Passes over the data so far, including this step.
        """

    def health(self, metrics: dict[str, float]) -> list[str]:
        """Warn of what the logged metrics show to be wrong, with what usually helps. Empty if all is well."""
        return []


def _hub_options(kwargs: dict[str, Any]) -> dict[str, Any]:
    names = ("cache_dir", "force_download", "local_files_only", "token", "revision")
    return {name: kwargs[name] for name in names if name in kwargs}
