"""How long would each recipe for ImageNet take on eight A100 or eight H100? An ESTIMATE: no GPU was used.

python benchmarks/gpu_estimate.py [--quick]

The operations of a step are counted by torch while the real model takes one on this CPU (all networks, views and
heads, forward and backward), and divided by those of a supervised ResNet-50's step, for which NVIDIA has published
images/s. Searching a bank and SeLa's passes over the data are added. The estimate is then compared with what papers
state. benchmarks/scaling_page.py makes the table in docs/scaling.md from it.
"""

from pathlib import Path
from typing import Any

import timm
from gpu_facts import MACHINES, V100_RATE, Machine
from pairing import arguments, save
from recipe_costs import NUM_IMAGES, forward_flops, recipe_name, recipe_paths, step_flops, supervised_flops

from ssl_zoo.training.recipe import Recipe, load_recipe


SWAV_EPOCH_SECONDS = {"64 V100": 3 * 60 + 40, "4 V100": 52 * 60 + 10}
"""Of SwAV with 2 x 224 + 6 x 96 px, as its authors' README has them (https://github.com/facebookresearch/swav)."""
MSF_HOURS, MSF_GPUS, RTX6000_FLOPS = 140, 4, 16.3e12
"""200 epochs on four Quadro RTX 6000, and their peak in float32."""
CMSF_TABLE_3 = {"cmsf/imagenet1k_resnet50_200ep_semi10": 40e17, "paws/imagenet1k_resnet50_300ep_10percent": 214e17}
"""Operations of a whole training, a multiplication with an addition counted as one (https://huggingface.co/papers/2112.04607)."""


def search_seconds(recipe: Recipe, machine: Machine) -> float:
    """Seconds that a step spends in the bank, on each of eight GPUs: float32 products, or reading the bank once.

    CMSF searches twice: for the nearest of all and for those within the constraint.
    """
    bank = recipe.model.get("bank_size")
    if bank is None:
        return 0.0
    width, queries = recipe.model["projection_features"], recipe.train.global_batch_size / 8
    products = 2 * queries * bank * width / machine.float32_flops
    once = max(products, 4 * bank * width / machine.memory_bytes)
    return once * (2 if recipe.method == "cmsf" else 1)


def estimate(path: Path, flops: float, supervised: float) -> dict[str, Any]:
    """Hours of one recipe on each machine.

    Args:
        path: Of the recipe.
        flops: Operations per image of its step.
        supervised: Operations per image of a supervised ResNet-50's.
    """
    recipe = load_recipe(path)
    steps = recipe.train.epochs * NUM_IMAGES / recipe.train.global_batch_size
    passes = recipe.model.get("num_solves", 0)
    # A pass over the data for new labels is a forward pass alone, a third of a step's operations.
    images = recipe.train.epochs * NUM_IMAGES + passes * NUM_IMAGES / 3
    found: dict[str, Any] = {"recipe": recipe_name(path), "epochs": recipe.train.epochs, "hours": {}}
    found |= {"flops_per_image": flops, "ratio": flops / supervised, "global_batch": recipe.train.global_batch_size}
    found["passes_share"] = 1 - recipe.train.epochs * NUM_IMAGES / images
    for machine in MACHINES:
        rate = machine.resnet50_images * supervised / flops
        search = steps * search_seconds(recipe, machine)
        found["hours"][machine.name] = {
            "total": (images / rate + search) / 3600,
            "search": search / 3600,
            "images_per_second": rate,
            "step_milliseconds": recipe.train.global_batch_size / rate * 1e3 + search_seconds(recipe, machine) * 1e3,
        }
    return found


def compare_with_papers(flops: dict[str, float], supervised: float) -> list[dict[str, Any]]:
    """The same arithmetic for what papers state; a paper whose recipe wasn't counted has no row."""
    rows = []
    for name, stated in CMSF_TABLE_3.items():
        if name in flops:
            recipe = load_recipe(next(path for path in recipe_paths() if recipe_name(path) == name))
            counted = flops[name] / 2 * recipe.train.epochs * NUM_IMAGES
            rows.append({"what": f"operations of {name}, 10^17", "stated": stated / 1e17, "ours": counted / 1e17})
    backbone = timm.create_model("resnet50", num_classes=0)
    swav = 3 * (2 * forward_flops(backbone, 224) + 6 * forward_flops(backbone, 96))
    for machine, stated in SWAV_EPOCH_SECONDS.items():
        ours = NUM_IMAGES * swav / supervised / (V100_RATE * int(machine.split()[0]))
        rows.append({"what": f"minutes of an epoch of SwAV on {machine}", "stated": stated / 60, "ours": ours / 60})
    msf = "msf/imagenet1k_resnet50_200ep"
    if msf in flops:
        reached = flops[msf] * 200 * NUM_IMAGES / (MSF_HOURS * 3600 * MSF_GPUS) / RTX6000_FLOPS
        rate = MACHINES[0].resnet50_images / 8 * supervised / 312e12
        rows.append(
            {
                "what": "share of the peak: MSF, 140 h on 4 RTX 6000 (float32); the A100's rate used here (16 bit)",
                "stated": reached,
                "ours": rate,
            }
        )
    return rows


def main() -> None:
    """Count, estimate, and write the JSON."""
    options = arguments(__doc__)
    supervised = float(supervised_flops(timm.create_model("resnet50")))
    flops: dict[str, float] = {}
    counted: dict[str, float] = {}  # recipes that differ in epochs or data alone share a step
    paths = recipe_paths()[::8] if options.quick else recipe_paths()
    rows = []
    for path in paths:
        recipe = load_recipe(path)
        key = f"{recipe.method} {recipe.model} {recipe.views} {recipe.train.global_batch_size}"
        if key not in counted:
            counted[key] = step_flops(path)
        flops[recipe_name(path)] = counted[key]
        rows.append(estimate(path, counted[key], supervised))
        hours = {name: f"{values['total']:.1f} h" for name, values in rows[-1]["hours"].items()}
        print(f"{recipe_name(path)}: {counted[key] / 1e9:.1f} GFLOP an image, {hours}", flush=True)
    checks = compare_with_papers(flops, supervised)
    for row in checks:
        print(f"{row['what']}: stated {row['stated']:.3g}, by this arithmetic {row['ours']:.3g}")
    content = {
        "recipes": rows,
        "supervised_flops": supervised,
        "checks": checks,
    }
    save("gpu_estimate", content, options)


if __name__ == "__main__":
    main()
