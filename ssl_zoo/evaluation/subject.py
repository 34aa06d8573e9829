"""What is measured: a trained backbone, the same architecture untrained, or plain pixels."""

import copy
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Literal

import torch
from PIL import Image
from torch import nn

from ssl_zoo.data.views import EvalView, RawPixels
from ssl_zoo.features.extract import Encoder
from ssl_zoo.labels.assign import Assigner
from ssl_zoo.loading.fingerprint import fingerprint
from ssl_zoo.loading.models import Backbone, create_untrained, load_backbone, load_pretraining_model
from ssl_zoo.loading.view import model_view


__all__ = ["Subject", "load_subjects"]

_LARGEST_RAW_SIDE = 64  # of larger images, raw pixels are compared at this size


@dataclass(frozen=True)
class Subject:
    """What is measured.

    Attributes:
        name: The trained model, the same architecture untrained, or plain pixels.
        view (`EvalView`): The view of an image that it sees.
        encode (`Encoder`): Images to features.
        seed: Seed that it was trained or initialised with; `None` where nothing is random.
        images_seen: Images it was trained on, repeats included; `None` if unknown.
        backbone ([`Backbone`]): What `encode` calls and fine-tuning trains; `None` for pixels.
        assign (`Assigner`): The method's own pseudo-labels; `None` where it has none.
        num_clusters: Clusters that `assign` knows, empty ones too.
        method: `model_type` of the configuration; `None` for pixels.
        title: Of the picture of its clusters.
    """

    name: Literal["trained", "random_init", "raw_pixels"]
    view: EvalView
    encode: Encoder
    seed: int | None = None
    images_seen: int | None = None
    backbone: Backbone | None = None
    assign: Assigner | None = None
    num_clusters: int | None = None
    method: str | None = None
    title: str = "What was found without labels"

    @cached_property
    def identity(self) -> str:
        """A text that changes when its features do, given the view."""
        if self.backbone is None:
            return "raw_pixels"
        return fingerprint(self.backbone, configuration=self.backbone.configuration)

    def copy_of_backbone(self) -> nn.Module:
        """A backbone that fine-tuning may change.

        Raises:
            ValueError: For plain pixels.
        """
        if self.backbone is None:
            raise ValueError("raw pixels can't be fine-tuned: leave out --baselines, or this protocol")
        return copy.deepcopy(self.backbone)


def load_subjects(
    name: str,
    *,
    revision: str | None,
    device: torch.device,
    seed: int | None,
    images_seen: int | None,
    baselines: bool,
    display_name: str | None = None,
) -> list[Subject]:
    """Load a model, and make its baselines.

    Args:
        name: As for [`load_backbone`].
        revision: Commit, branch or tag on the Hub.
        device: Where it goes.
        seed: Of its training.
        images_seen: That it was trained on.
        baselines: Whether to put raw pixels and the untrained backbone before it.
        display_name: What the method is called in the picture's title.

    Returns:
        `list[Subject]`: the trained model last.

    Raises:
        ModelLoadError: If it can't be loaded.
    """
    model = load_backbone(name, revision=revision)
    view, method = model_view(model, name, revision=revision), str(model.config.model_type)
    subjects = []
    if baselines:
        pixels = RawPixels(min(view.size, _LARGEST_RAW_SIDE))
        untrained = Backbone(create_untrained(model, seed=seed or 0)).to(device).eval()
        subjects = [
            Subject("raw_pixels", pixels, partial(torch.flatten, start_dim=1)),
            Subject("random_init", view, untrained, seed or 0, 0, untrained, method=method),
        ]
    pretraining: Any = load_pretraining_model(name, revision=revision)
    backbone = Backbone(model).to(device).eval()
    trained = Subject("trained", view, backbone, seed, images_seen, backbone, method=method)
    if pretraining is not None and hasattr(pretraining, "cluster_probabilities"):
        pretraining.to(device)
        with torch.no_grad():
            grey = view(Image.new("RGB", (64, 64), "gray"))[0][None].to(device)
            num_clusters = pretraining.cluster_probabilities(grey).shape[-1]
        learned = "from labels" if pretraining.config.learns_from_labels else "without labels"
        trained = replace(
            trained,
            assign=pretraining.pseudo_labels,
            num_clusters=num_clusters,
            title=f"What {display_name or method} found {learned}",
        )
    return [*subjects, trained]
