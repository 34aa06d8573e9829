"""What all models share: a timm backbone, in weight files that timm, transformers and this package read alike."""

from itertools import chain
from typing import Any, ClassVar, Self

import timm
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from ssl_zoo.models.configuration_base import SSLConfig
from ssl_zoo.nn.backbone import create_backbone
from ssl_zoo.nn.recomputation import recompute_activations, refuse_options


__all__ = ["SSLPreTrainedModel"]


class SSLPreTrainedModel(PreTrainedModel):
    """Base of all models: timm's initialisation from scratch, exact weights and buffers after loading."""

    config: SSLConfig
    base_model_prefix = "timm_model"
    main_input_name = "pixel_values"
    input_modalities = ["image"]  # noqa: RUF012  # transformers declares it so
    supports_gradient_checkpointing = True  # timm raises an error for an architecture without it

    _frozen: ClassVar[tuple[str, ...]] = ()
    """Submodules that never get gradients. `train()` freezes them, since loading drops `requires_grad=False`."""

    _filled_from: ClassVar[dict[str, str]] = {}
    """Submodule -> its twin: where a checkpoint lacks the first, it gets the weights of the twin."""

    def _create_backbone(self) -> nn.Module:
        """Build the backbone; write its width and timm's preprocessing into the configuration."""
        config = self.config
        backbone = create_backbone(
            config.architecture, model_args=config.model_args, small_image_stem=config.small_image_stem
        )
        config.num_features = int(backbone.num_features)  # type: ignore[arg-type]
        if not config.pretrained_cfg:
            registered = timm.get_pretrained_cfg(config.architecture, allow_unregistered=False)
            timm_cfg = registered.to_dict() if registered else {}
            keep = ("input_size", "mean", "std", "interpolation", "crop_pct", "crop_mode", "first_conv", "classifier")
            config.pretrained_cfg = {key: timm_cfg[key] for key in keep if key in timm_cfg}
        return backbone

    def init_weights(self) -> None:
        """Keep the initialisation of timm and torch; transformers' own would overwrite the weights of every layer."""
        self.tie_weights(recompute_mapping=False)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers does, but only safetensors: opening a pickle can run code.

        Raises:
            ValueError: for `use_safetensors=False`.
            OSError: if there are no weights in safetensors.
        """
        if kwargs.get("use_safetensors") is False:
            raise ValueError("`use_safetensors=False` would open a pickle, which can run code; leave it out")
        kwargs["use_safetensors"] = True
        try:
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        except OSError as error:
            if "use_safetensors=True" not in str(error):
                raise
            raise OSError(
                f"'{pretrained_model_name_or_path}' has no model.safetensors. Pickled weights (.bin, .pt) can run "
                f"code and are not opened: ask the owner for safetensors"
            ) from error

    @torch.no_grad()
    def initialize_weights(self) -> None:
        """Initialise the tensors that a checkpoint lacks: loading leaves them as uninitialised memory."""
        tensors = _named_tensors(self)
        missing = {name for name, tensor in tensors.items() if not getattr(tensor, "_is_hf_initialized", False)}
        if not missing:
            return
        with torch.device("cpu"):
            fresh = _named_tensors(type(self)(self.config))
        for name in missing:
            owner, _, rest = name.partition(".")
            twin = f"{self._filled_from[owner]}.{rest}" if owner in self._filled_from else name
            tensor, in_checkpoint = tensors[name], twin not in missing
            if in_checkpoint or isinstance(tensor, nn.Parameter):
                tensor.copy_(tensors[twin] if in_checkpoint else fresh[name])
            else:  # replaced, not copied into: an empty bank takes no memory until something is written to it
                module, _, buffer = name.rpartition(".")
                setattr(self.get_submodule(module), buffer, fresh[name].to(tensor.device, tensor.dtype))

    def _set_gradient_checkpointing(
        self, enable: bool = True, gradient_checkpointing_func: Any = checkpoint, every_n_layers: int = 1
    ) -> None:
        """Let timm recompute the blocks of all trained backbones; transformers' public methods call this."""
        refuse_options(gradient_checkpointing_func, every_n_layers)
        for name, module in self.named_children():
            if hasattr(module, "set_grad_checkpointing") and name not in self._frozen:
                recompute_activations(module, enable=enable)
        self.gradient_checkpointing = enable  # read by `is_activation_checkpointing`

    def train(self, mode: bool = True) -> Self:
        """Switch to training mode; frozen submodules lose their gradients here, also after loading."""
        super().train(mode)
        for name in self._frozen:
            getattr(self, name).requires_grad_(False)
        return self


def _named_tensors(module: nn.Module) -> dict[str, torch.Tensor]:
    return dict(chain(module.named_parameters(), module.named_buffers()))
