"""Networks of the BYOL line: an online network predicts the target, its moving average, on another view."""

import copy
from typing import Any, ClassVar

import torch

from ssl_zoo.functional.schedules import cosine
from ssl_zoo.models.modeling_base import SSLForPreTraining
from ssl_zoo.nn.backbone import pooled_features
from ssl_zoo.nn.ema import update_ema_
from ssl_zoo.nn.heads import Projector


__all__ = ["OnlineTargetForPreTraining"]


class OnlineTargetForPreTraining(SSLForPreTraining):
    """Online backbone, projector and predictor; target backbone and projector are moving averages of the online ones.

    `timm_model` is the online backbone, the branch that BYOL, MSF and CMSF evaluate. The configuration has the fields
    `projector_hidden_features`, `projection_features`, `predictor_hidden_features`, `momentum` and `momentum_end`.
    """

    _frozen: ClassVar[tuple[str, ...]] = ("target_backbone", "target_projector")
    _filled_from: ClassVar[dict[str, str]] = {"target_backbone": "timm_model", "target_projector": "projector"}
    _keys_to_ignore_on_load_missing = [r"^target_"]  # noqa: RUF012  # transformers declares it so

    def _create_networks(self, *, hidden_bias: bool, out_bias: bool) -> None:
        """Build all five networks; the target starts as a copy of the online network."""
        config: Any = self.config
        self.timm_model = self._create_backbone()
        bias = {"hidden_bias": hidden_bias, "out_bias": out_bias}
        width = config.projection_features
        self.projector = Projector(int(config.num_features), config.projector_hidden_features, width, **bias)
        self.predictor = Projector(width, config.predictor_hidden_features, width, **bias)
        self.target_backbone = copy.deepcopy(self.timm_model)
        self.target_projector = copy.deepcopy(self.projector)

    def _online(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Embeddings `(batch, num_features)` and predictions `(batch, projection_features)`, not normalised."""
        _, embeddings = pooled_features(self.timm_model, images)
        return embeddings, self.predictor(self.projector(embeddings))

    @torch.no_grad()
    def _target(self, images: torch.Tensor) -> torch.Tensor:
        """Projections `(batch, projection_features)` of the target network, not normalised, without gradient."""
        projections: torch.Tensor = self.target_projector(pooled_features(self.target_backbone, images)[1])
        return projections

    def update_state(self, outputs: list[Any], *, progress: float, epoch: float) -> None:
        """Move the target towards the online network."""
        config: Any = self.config
        momentum = cosine(config.momentum, config.momentum_end, progress)
        update_ema_(self.target_backbone, self.timm_model, momentum)
        update_ema_(self.target_projector, self.projector, momentum)
