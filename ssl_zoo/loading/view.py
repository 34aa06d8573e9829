"""The image preparation of a model, from its configuration or its image processor."""

from typing import Any

from transformers import AutoImageProcessor, PreTrainedModel

from ssl_zoo.data.views import EvalView
from ssl_zoo.loading.models import ModelLoadError, load_auto


__all__ = ["model_view", "view_size"]


def model_view(model: PreTrainedModel, name: str | None = None, *, revision: str | None = None) -> EvalView:
    """The view that prepares images as the model expects them.

    Args:
        model (`PreTrainedModel`): Of ours or timm's, whose configuration says, or of transformers'.
        name: Where it came from; a transformers model's image processor is read from there.
        revision: Commit, branch or tag on the Hub.

    Raises:
        ModelLoadError: If neither states it.
    """
    if name is not None and not getattr(model.config, "pretrained_cfg", None):
        return _processor_view(name, revision)
    config = _preparation(model)
    return EvalView(
        view_size(model),
        mean=config["mean"],
        std=config["std"],
        crop_pct=float(config.get("crop_pct") or 0.875),
        interpolation=str(config.get("interpolation") or "bicubic"),
    )


def _processor_view(name: str, revision: str | None) -> EvalView:
    """The view that a transformers image processor describes; its resize to a fixed size becomes a centre crop."""
    processor = load_auto(AutoImageProcessor, name, revision)

    def side(value: Any, *keys: str) -> int | None:
        """The first side that a size names: a number, a dictionary, or transformers' class of sizes."""
        if value is None or isinstance(value, int):
            return value
        sides = [value.get(key) if isinstance(value, dict) else getattr(value, key, None) for key in keys]
        return next((int(pixels) for pixels in sides if pixels), None)

    resized = side(getattr(processor, "size", None), "shortest_edge", "height")
    cropped = getattr(processor, "do_center_crop", None)
    size = side(getattr(processor, "crop_size", None), "height", "shortest_edge") if cropped else resized
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    if not (size and resized and mean and std):
        raise ModelLoadError(
            f"The image processor of '{name}' ({type(processor).__name__}) doesn't say how images are prepared: "
            "`size`, `image_mean` and `image_std` are needed"
        )
    names: dict[Any, str] = {0: "nearest", 1: "lanczos", 2: "bilinear"}
    resampling = names.get(getattr(processor, "resample", None), "bicubic")
    return EvalView(size, mean=mean, std=std, crop_pct=size / max(resized, size), interpolation=resampling)


def view_size(model: PreTrainedModel) -> int:
    """Side in pixels of the images that the model's own configuration wants."""
    return int(_preparation(model)["input_size"][-1])


def _preparation(model: PreTrainedModel) -> dict[str, Any]:
    config: dict[str, Any] = getattr(model.config, "pretrained_cfg", None) or {}
    missing = [key for key in ("input_size", "mean", "std") if not config.get(key)]
    if missing:
        raise ModelLoadError(
            f"The model's config.json doesn't say how images are prepared: `pretrained_cfg` lacks {', '.join(missing)}"
        )
    return config
