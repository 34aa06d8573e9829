"""Builds the model for a recipe and its data, and chooses the labelled images that it may use."""

from dataclasses import replace

import torch
from accelerate import Accelerator

from ssl_zoo.data.labelled import LabelledSubset, SupportSampler, choose_labelled
from ssl_zoo.data.source import ImageSource
from ssl_zoo.data.views import MultiView
from ssl_zoo.models.modeling_base import SSLForPreTraining
from ssl_zoo.models.registry import pretraining_class_of
from ssl_zoo.training.config import RecipeError
from ssl_zoo.training.recipe import Recipe


__all__ = ["build_model", "create_support", "fit_model"]


def fit_model(recipe: Recipe, source: ImageSource) -> tuple[SSLForPreTraining, LabelledSubset | None]:
    """Build the model with the state that the data needs, and choose the images whose label it may learn from."""
    learns = recipe.model_config().learns_from_labels
    if recipe.data.label_table is not None and not learns:
        raise RecipeError(
            f"`data.label_table` is '{recipe.data.label_table}', but {recipe.method} as configured learns from no "
            "labels; remove it, or train `method: supervised` on it"
        )
    labelled = choose_labelled(source, recipe.data) if learns else None
    num_classes = labelled.num_classes if labelled else len(source.class_names or []) or None
    num_labelled = len(labelled.ids) if labelled else None
    model = build_model(recipe, num_samples=source.num_rows, num_classes=num_classes, num_labelled=num_labelled)
    return model, labelled


def create_support(
    recipe: Recipe,
    core: SSLForPreTraining,
    source: ImageSource,
    labelled: LabelledSubset | None,
    accelerator: Accelerator,
) -> SupportSampler | None:
    """Make the sampler of labelled supports, if the method compares images with any.

    Raises:
        DataError: if there are too few labelled images or classes for it.
    """
    if core.config.support_size is None or labelled is None:
        return None
    num_classes, images_per_class = core.config.support_size
    # One global view, complete: only the views of a batch itself are changed on the device.
    backend = "fast" if recipe.views.backend == "device" else recipe.views.backend
    return SupportSampler(
        source,
        labelled,
        MultiView(replace(recipe.views, global_crops=1, local_crops=0, backend=backend)),
        num_classes=num_classes,
        images_per_class=images_per_class,
        seed=recipe.train.seed,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
    )


def build_model(
    recipe: Recipe, *, num_samples: int = 0, num_classes: int | None = None, num_labelled: int | None = None
) -> SSLForPreTraining:
    """Build the method's pretraining model from the recipe's seed, on the CPU, exactly as timm initialises it.

    Args:
        recipe (`Recipe`): Complete.
        num_samples (`int`): Images in the training split; 0 builds a model that can't be trained on.
        num_classes (`int`, *optional*): Classes, if the data has any.
        num_labelled (`int`, *optional*): Images whose class may be learned from.

    Raises:
        RecipeError: for an unknown architecture, or arguments that it doesn't take.
    """
    torch.manual_seed(recipe.train.seed)
    try:
        config = recipe.model_config()
        if num_samples:
            config.fit_to_data(num_samples=num_samples, num_classes=num_classes, num_labelled=num_labelled)
        model: SSLForPreTraining = pretraining_class_of(recipe.method)(config)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"the recipe's `model` can't be built: {error}") from error
    views = recipe.views
    size = recipe.evaluation.image_size or views.global_size
    model.config.pretrained_cfg = {
        **(model.config.pretrained_cfg or {}),
        "input_size": [3, size, size],
        "mean": list(views.mean),
        "std": list(views.std),
        "interpolation": views.interpolation,
        "crop_pct": recipe.evaluation.crop_pct,
        "num_classes": 0,
    }
    return model
