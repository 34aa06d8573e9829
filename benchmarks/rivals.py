"""Train lightly's SwAV or BYOL on the data, views, backbone and steps of one of our recipes, for docs/results.md.

pip install lightly
python benchmarks/rivals.py swav recipes/mira/cifar10_small_cpu.yaml OUTPUT_DIR [dotted.key=value ...]
python recipes/evaluate.py OUTPUT_DIR/model --data ... --output OUTPUT_DIR

Heads, losses and the moving average are lightly's own modules, put together as its documentation does; images, views,
backbone, batch, optimiser and schedule are the recipe's, so that only the method differs. lightly's own benchmark
trains SwAV with Adam (1e-3, weight decay 1e-6): `--adam` does that. The backbone is saved in timm's layout.
"""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from lightly.loss import NegativeCosineSimilarity, SwaVLoss
from lightly.models.modules import (
    BYOLPredictionHead,
    BYOLProjectionHead,
    SwaVProjectionHead,
    SwaVPrototypes,
)
from lightly.models.utils import deactivate_requires_grad, update_momentum
from lightly.utils.scheduler import cosine_schedule
from torch import nn
from tqdm import tqdm
from transformers import TimmWrapperConfig, TimmWrapperModel

from ssl_zoo.data.source import open_source
from ssl_zoo.data.stream import ViewStream
from ssl_zoo.data.views import MultiView
from ssl_zoo.nn.backbone import create_backbone, pooled_features
from ssl_zoo.training.optim import create_optimizer, learning_rate, set_learning_rate
from ssl_zoo.training.plan import derive_plan
from ssl_zoo.training.recipe import Recipe, load_recipe


HIDDEN, PROJECTION = 512, 64  # as in our small recipes


class LightlySwav(nn.Module):
    """SwAV of lightly: two views, assignments by Sinkhorn-Knopp within the batch."""

    def __init__(self, backbone: nn.Module, num_prototypes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = SwaVProjectionHead(backbone.num_features, HIDDEN, PROJECTION)
        self.prototypes = SwaVPrototypes(PROJECTION, num_prototypes)
        self.criterion = SwaVLoss()

    def forward(self, views: list[torch.Tensor], progress: float) -> torch.Tensor:
        """Loss of one batch."""
        self.prototypes.normalize()
        embeddings = pooled_features(self.backbone, torch.cat(views))[1]
        scores = self.prototypes(F.normalize(self.projector(embeddings), dim=1))
        return self.criterion(list(scores.chunk(len(views))), [])


class LightlyByol(nn.Module):
    """BYOL of lightly: predicts what a moving average of the network makes of the other view."""

    def __init__(self, backbone: nn.Module, momentum: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.projector = BYOLProjectionHead(backbone.num_features, HIDDEN, PROJECTION)
        self.predictor = BYOLPredictionHead(PROJECTION, HIDDEN, PROJECTION)
        self.target_backbone, self.target_projector = copy.deepcopy(backbone), copy.deepcopy(self.projector)
        deactivate_requires_grad(self.target_backbone)
        deactivate_requires_grad(self.target_projector)
        self.criterion, self.momentum = NegativeCosineSimilarity(), momentum

    def forward(self, views: list[torch.Tensor], progress: float) -> torch.Tensor:
        """Loss of one batch, after the moving average has followed."""
        momentum = cosine_schedule(round(1e4 * progress), 10001, self.momentum, 1.0)
        update_momentum(self.backbone, self.target_backbone, m=momentum)
        update_momentum(self.projector, self.target_projector, m=momentum)
        predictions = [self.predictor(self.projector(pooled_features(self.backbone, view)[1])) for view in views]
        with torch.no_grad():
            targets = [self.target_projector(pooled_features(self.target_backbone, view)[1]) for view in views]
        return 0.5 * (self.criterion(predictions[0], targets[1]) + self.criterion(predictions[1], targets[0]))


RIVALS: dict[str, Callable[[nn.Module, Recipe], nn.Module]] = {
    "swav": lambda backbone, recipe: LightlySwav(backbone, recipe.model.get("num_prototypes", 512)),
    "byol": lambda backbone, recipe: LightlyByol(backbone, recipe.model["momentum"]),
}


def save_backbone(backbone: nn.Module, recipe: Recipe, folder: Path) -> None:
    """Save in timm's layout, which `TimmWrapperModel` and `recipes/evaluate.py` read."""
    size, views = recipe.views.global_size, recipe.views
    preparation = {"input_size": [3, size, size], "mean": list(views.mean), "std": list(views.std), "num_classes": 0}
    preparation |= {"interpolation": views.interpolation, "crop_pct": recipe.evaluation.crop_pct}
    config = TimmWrapperConfig(
        architecture=recipe.model["architecture"],
        model_args=recipe.model["model_args"],
        pretrained_cfg=preparation,
        num_features=backbone.num_features,
        do_pooling=True,
    )
    model = TimmWrapperModel(config)
    model.timm_model.load_state_dict(backbone.state_dict())
    model.save_pretrained(folder)


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rival", choices=sorted(RIVALS))
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    parser.add_argument("output", type=Path, metavar="OUTPUT_DIR")
    parser.add_argument("overrides", nargs="*", metavar="dotted.key=value")
    parser.add_argument("--adam", action="store_true", help="Adam as in lightly's benchmark of SwAV")
    arguments = parser.parse_intermixed_args()
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    source = open_source(recipe.data)
    plan = derive_plan(recipe, num_rows=source.num_rows, num_processes=1)
    torch.manual_seed(recipe.train.seed)
    backbone = create_backbone(recipe.model["architecture"], model_args=recipe.model["model_args"])
    model = RIVALS[arguments.rival](backbone, recipe).train()
    if arguments.adam:
        optimizer: torch.optim.Optimizer = torch.optim.Adam(model.parameters(), weight_decay=1e-6)
    else:
        optimizer = create_optimizer(model, recipe.optim)
    transform = MultiView(recipe.views)
    stream = ViewStream(
        source,
        transform,
        batch_size=recipe.train.global_batch_size,
        seed=recipe.train.seed,
        shuffle_buffer=recipe.data.shuffle_buffer,
        num_workers=recipe.data.num_workers,
    )
    arguments.output.mkdir(parents=True, exist_ok=True)
    with (arguments.output / "metrics.jsonl").open("w", encoding="utf-8") as log:
        steps = tqdm(range(plan.total_steps), desc=f"lightly's {arguments.rival}", unit="step")
        for step, batch in zip(steps, stream.loader(), strict=False):
            set_learning_rate(optimizer, learning_rate(recipe.optim, plan, step))
            optimizer.zero_grad()
            loss = model(transform.to_device(batch, "cpu").views, step / plan.total_steps).sum()
            loss.backward()
            optimizer.step()
            if step % recipe.train.log_every_steps == 0 or step == plan.total_steps - 1:
                seen = (step + 1) * recipe.train.global_batch_size
                log.write(json.dumps({"step": step + 1, "images_seen": seen, "loss": loss.item()}) + "\n")
                log.flush()
                steps.set_postfix(loss=f"{loss.item():.3f}")
    save_backbone(backbone, recipe, arguments.output / "model")
    recipe.save(arguments.output / "recipe.yaml")


if __name__ == "__main__":
    main()
