"""Every way of loading, for every method: numbers are compared, and docs/loading.md is the table of the outcomes.

`python -m tests.hub.test_loading_matrix` writes the page again.
"""

import json
import pickle
import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save, save_file

from ssl_zoo.hub.export import export_repo
from ssl_zoo.models.registry import display_name
from ssl_zoo.training.recipe import Recipe, recipe_from_dict
from ssl_zoo.zoo.entries import load_index
from tests import forked
from tests.hub.conftest import ROOT, WITHOUT_SSL_ZOO, LocalHub
from tests.hub.loading_checks import ALEXNET, SEMI, STEM, WITH, WITHOUT, Case
from tests.hub.server import serve
from tests.models import test_all_methods as tiny
from tests.training.tiny_recipes import FIXTURES, METHODS, fixture_name, method_of


pytestmark = pytest.mark.hub

Matrix = dict[tuple[str, str], str]
"""Way and name of the model -> `yes` or `no: <reason>`."""

PAGE = ROOT / "docs" / "loading.md"
REMAKE = "run: python -m tests.hub.test_loading_matrix"
WAYS = [*WITH, *WITHOUT]
COMPILED, INDUCTOR, ONNX = "`torch.compile`, one graph", "`torch.compile`, inductor", "ONNX, dynamic batch"
NOT_TRIED = "-"

INTRODUCTION = """# Ways to load a published model

A repository that `recipes/publish.py` made loads in all these ways. A column is a model: a tiny residual network of
each method of the zoo, and two backbones that timm doesn't have. They are trained for a few steps, exported, and put
on a local server that speaks the Hub's protocol; then a new process loads them. `yes`: the loaded model computes
the same numbers as the published one. `no`: it ends with an error, and the note says why. `-`: not tried.

This page is made by its test: `python -m tests.hub.test_loading_matrix`.
"""
EXPLANATION = """## What is compared

Weights are equal bit for bit. Features, where nothing else is said, are equal up to rounding (1e-5), because kernels
depend on where weights lie in memory: `last_hidden_state` and `pooler_output` of four images.

- `AutoModelForPreTraining`: every published tensor, the features, pseudo-labels and their probabilities. Banks and
  tables aren't published; they begin empty, and an empty bank takes no memory before the first row is written to it.
- `AutoModelForImageClassification`: logits are those of its classifier on the features. Without `num_labels` it
  raises an error instead of returning a random classifier.
- `AutoImageProcessor`: an image becomes what training made of it. The pipelines give that image's features, and the
  probabilities of a classifier that `save_pretrained` wrote.
- `revision=`: a branch whose weights differ, of both the root and the pretraining model.
- `dtype=`: features within 1 % (float16) and 5 % (bfloat16), running statistics likewise, integers equal, banks empty.
  Images may stay in float32. The loss of a training step lies within 2 % and 10 %.
- `torch.compile`: without graph breaks (`fullgraph=True`), to 1e-4, by the backend `aot_eager`, and by inductor where
  a row says so.
- ONNX: `torch.onnx.export(model.timm_model, ..., dynamo=True)` with a free batch size; onnxruntime's outputs for
  batches of 1, 3 and 4 agree to 1e-4.
- Gradient checkpointing: `model.gradient_checkpointing_enable()` for features and for pretraining. Loss, gradients and
  running statistics are those without it, bit for bit, and less is kept for the backward pass. timm recomputes all
  blocks alike, so it takes no options.
- Safetensors only: a pickle that would run code lies beside the weights and is not read; where there is nothing
  else, loading is refused, also with `use_safetensors=False`.
- `features_only=True`: the maps of all stages.

## In code

```python
import ssl_zoo
import torch
from transformers import AutoModel, AutoModelForPreTraining

model = AutoModel.from_pretrained("org/mira-small", revision="main", dtype=torch.bfloat16, device_map="auto")
full = AutoModelForPreTraining.from_pretrained("org/mira-small")
full.gradient_checkpointing_enable()
```

```python
import timm

maps = timm.create_model("hf-hub:org/mira-small", pretrained=True, features_only=True)
```

```python
import torch
from transformers import AutoModel

model = AutoModel.from_pretrained("org/mira-small", trust_remote_code=True)
fast = torch.compile(model, fullgraph=True)
images = torch.randn(2, 3, 224, 224)
batch = torch.export.Dim("batch")
program = torch.onnx.export(model.timm_model, (images,), dynamo=True, dynamic_shapes=({0: batch},))
program.save("backbone.onnx")
```
"""


class Boom:
    """A pickle of it makes a folder when it is opened."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        import os

        return os.mkdir, (str(self.folder),)


def zoo_methods() -> set[str]:
    """The methods that the zoo has models of."""
    return {entry.method for entry in load_index().values()}


def recipes() -> Iterator[tuple[str, Recipe]]:
    """Name of the model -> recipe: a tiny one of each method of the zoo, and two backbones that timm doesn't have."""
    for path in FIXTURES:
        method = method_of(path)
        if method in zoo_methods():
            variant = fixture_name(path).removeprefix(method).replace("-", " ")
            yield display_name(method) + variant, tiny._recipe(path)
    stem = tiny._recipe(METHODS / "mira.yaml").to_dict()
    stem["model"]["small_image_stem"] = True
    yield STEM, recipe_from_dict(stem)
    alexnet = tiny._recipe(METHODS / "sela.yaml").to_dict()
    alexnet["model"] |= {"architecture": ALEXNET}
    alexnet["model"]["model_args"] = {"channels": [8, 12, 16, 16, 12], "hidden_features": 20}
    alexnet["views"]["global_size"] = 64
    yield ALEXNET, recipe_from_dict(alexnet)


def publish(hub: LocalHub, name: str, recipe: Recipe, folder: Path) -> Case:
    """Train a model for a few steps, note what it computes, and put it on the Hub."""
    model, data = tiny._train(recipe)
    run, out = folder / "run", folder / "repo"
    run.mkdir(parents=True)
    recipe.save(run / "recipe.yaml")
    model.save_pretrained(run / "model")
    export_repo(run, out, repo_id="org/tiny")
    size = recipe.views.global_size
    photo = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    Image.fromarray(photo).save(folder / "photo.png")
    images = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(1))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (recipe.views.mean, recipe.views.std))
    images[0] = (torch.from_numpy(photo).permute(2, 0, 1) / 255 - mean) / std
    backbone = model.eval().timm_model
    left_out = set(model._keys_to_ignore_on_save or [])
    state = {name: tensor.contiguous() for name, tensor in model.state_dict().items() if name not in left_out}
    save_file(state, folder / "state.safetensors")
    (folder / "config.json").write_text((run / "model" / "config.json").read_text())
    step = dict(data.batch(5, model))
    views = {f"views.{number}": view for number, view in enumerate(step.pop("views"))}
    save_file({name: tensor.contiguous() for name, tensor in {**step, **views}.items()}, folder / "step.safetensors")

    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with torch.no_grad():
        expected = {"images": images, **_stages(backbone, images)}
        expected["last_hidden_state"] = backbone.forward_features(images)
        expected["pooler_output"] = backbone(images)
        if hasattr(model, "pseudo_labels"):
            expected["pseudo_labels"], expected["confidence"] = model.pseudo_labels(images)
        expected["logits"] = _save_classifier(type(model), out, folder / "classifier", expected["pooler_output"][0])
        first, weight = next(iter(backbone.named_parameters()))
        weight[:1] *= -3.0
        expected["other"] = backbone(images)
    save_file({name: tensor.contiguous() for name, tensor in expected.items()}, folder / "expected.safetensors")

    repo = f"org/{folder.name}"
    opens = pickle.dumps(Boom(folder / "opened"))
    pickles = {"pytorch_model.bin": opens, "pretraining/pytorch_model.bin": opens}
    changed = {}
    for path, prefix in (("model.safetensors", ""), ("pretraining/model.safetensors", "timm_model.")):
        changed[path] = save({**load(files[path]), prefix + first: weight.detach()}, metadata={"format": "pt"})
    made = hub.server.add_repo(repo, {**files, **pickles})
    made.branches["other"] = made.branches["main"]
    made.put(changed, branch="other")
    without = {path: data for path, data in files.items() if not path.endswith(".safetensors")}
    hub.server.add_repo(f"{repo}-pickle", {**without, **pickles})
    return Case(name, repo, folder)


def _stages(backbone: Any, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """The maps that timm lists as a backbone's features, caught as they pass by."""
    found: dict[str, torch.Tensor] = {}
    hooks = []
    for number, stage in enumerate(backbone.feature_info):
        stage = stage if isinstance(stage, dict) else stage.__dict__
        module = backbone.get_submodule(stage["module"])
        keep = lambda _, __, output, number=number: found.setdefault(f"stage_{number}", output.clone())  # noqa: E731
        hooks.append(module.register_forward_hook(keep))
    backbone(images)
    for hook in hooks:
        hook.remove()
    return found


def _save_classifier(pretraining_class: Any, repo: Path, folder: Path, features: torch.Tensor) -> torch.Tensor:
    """Save a classifier as fine-tuning does; return its logits for an image with these features."""
    from transformers import AutoModelForImageClassification

    names = {number: f"class {number}" for number in range(3)}
    classifier = AutoModelForImageClassification.from_pretrained(repo, num_labels=3, id2label=names)
    classifier.save_pretrained(folder)
    return classifier.classifier(features)


@cache
def columns() -> list[str]:
    """Names of the models, in the page's order."""
    return [name for name, _ in recipes()]


def put_on_hub(hub: LocalHub) -> None:
    """Publish every model; the checks find what they compute in the home folder of the Hub."""
    cases = [publish(hub, name, recipe, hub.home / f"m{number}") for number, (name, recipe) in enumerate(recipes())]
    entries = [{"name": case.name, "repo": case.repo, "folder": case.folder.name} for case in cases]
    (hub.home / "cases.json").write_text(json.dumps(entries))


def measure(hub: LocalHub, plan: dict[str, list[str]]) -> Matrix:
    """Run the checks of a plan, way -> names of models, in two processes: with `ssl_zoo`, and where there is none."""
    found: Matrix = {}
    for group, checks in (("with", WITH), ("without", WITHOUT)):
        part = {way: names for way, names in plan.items() if way in checks and names}
        if not part:
            continue
        code = (
            f"import sys, pathlib\nsys.path.insert(0, {str(ROOT)!r})\nfrom tests.hub.loading_checks import main\n"
            f"main(pathlib.Path({str(hub.home)!r}), {group!r}, {part!r})"
        )
        # Else transformers asks a service on the Hub to convert the pickle.
        options = {"DISABLE_SAFETENSORS_CONVERSION": "1", "TRANSFORMERS_VERBOSITY": "error"}
        code = "import warnings\nwarnings.simplefilter('ignore')\n" + code
        code = (WITHOUT_SSL_ZOO if group == "without" else "") + code
        done = forked.run("-c", code, env={**hub.environment, **options}, cwd=hub.home, timeout=800)
        if done.returncode != 0:
            raise AssertionError(f"{done.stdout}\n{done.stderr[-6000:]}")
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('["')]
        found |= {(way, name): outcome for way, name, outcome in lines}
    assert found.keys() == {(way, name) for way, names in plan.items() for name in names}
    return found


def fast_plan() -> dict[str, list[str]]:
    """What the fast tier tries: cheap ways with all models, slow ones with one or a few different models."""
    few, two = ["MIRA", SEMI, STEM, ALEXNET], ["MIRA", SEMI]
    plan = dict.fromkeys(WAYS, few)
    for way in ("`AutoModel`", "`AutoModelForPreTraining`", "gradient checkpointing", "safetensors only"):
        plan[way] = columns()
    for way in WAYS:
        if "timm" in way.lower():
            plan[way] = columns()
        elif "dtype" in way or "float16:" in way or "device_map" in way or "pipeline" in way or "trust" in way:
            plan[way] = two
    return {**plan, COMPILED: ["MIRA"], ONNX: ["MIRA"], INDUCTOR: []}


def slow_plans() -> list[dict[str, list[str]]]:
    """What the fast tier leaves out, in parts that take minutes each."""
    fast = fast_plan()
    rest = {way: [name for name in columns() if name not in fast[way]] for way in WAYS}
    rest[INDUCTOR] = ["MIRA", STEM, ALEXNET]  # 15 s for each backbone, and the methods' are the same network
    graphs = {way: rest.pop(way) for way in (COMPILED, INDUCTOR)}
    return [rest | {ONNX: []}, graphs, {ONNX: rest[ONNX]}]


def render_page(matrix: Matrix) -> str:
    """Write docs/loading.md."""
    reasons: list[str] = []
    lines = [f"| | {' | '.join(columns())} |", "|---|" + "---|" * len(columns())]
    for way in WAYS:
        cells = []
        for name in columns():
            outcome, _, reason = matrix.get((way, name), NOT_TRIED).partition(": ")
            if reason and reason not in reasons:
                reasons.append(reason)
            cells.append(f"{outcome} ({reasons.index(reason) + 1})" if reason else outcome)
        lines.append(f"| {way} | {' | '.join(cells)} |")
    notes = [f"{number}. {reason[0].upper()}{reason[1:]}." for number, reason in enumerate(reasons, start=1)]
    return f"{INTRODUCTION}\n" + "\n".join(lines) + "\n\n" + "\n".join(notes) + f"\n\n{EXPLANATION}"


def read_page(text: str) -> Matrix:
    """The outcomes that a page shows; what wasn't tried is left out."""
    notes = dict(re.findall(r"^(\d+)\. (.+)\.$", text, re.MULTILINE))
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if re.match(r"\| \S.* \| (yes|no|-)", line)]
    found: Matrix = {}
    for way, *cells in rows:
        for name, cell in zip(columns(), cells, strict=True):
            outcome, _, number = cell.partition(" (")
            if outcome != NOT_TRIED:
                reason = notes.get(number.rstrip(")"), "")
                found[way, name] = f"{outcome}: {reason[0].lower()}{reason[1:]}" if number else outcome
    return found


@pytest.fixture(scope="module")
def filled_hub(shared_hub: LocalHub) -> LocalHub:
    put_on_hub(shared_hub)
    return shared_hub


def test_the_page_is_complete_and_as_it_is_written() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert render_page(read_page(text)) == text, REMAKE
    tried = [fast_plan(), *slow_plans()]
    expected = {(way, name) for plan in tried for way, names in plan.items() for name in names}
    assert read_page(text).keys() == expected, REMAKE


def test_every_method_of_the_zoo_has_a_column() -> None:
    shown = {name.split()[0] for name in columns()}
    assert {display_name(method) for method in zoo_methods()} <= shown


def test_loading_is_as_the_page_says(filled_hub: LocalHub) -> None:
    found = measure(filled_hub, fast_plan())
    shown = read_page(PAGE.read_text(encoding="utf-8"))
    assert found == {cell: shown.get(cell) for cell in found}, REMAKE


@pytest.mark.slow(seconds=150)
@pytest.mark.timeout(900)
@pytest.mark.parametrize("part", range(3))
def test_the_rest_of_the_page(filled_hub: LocalHub, part: int) -> None:
    found = measure(filled_hub, slow_plans()[part])
    shown = read_page(PAGE.read_text(encoding="utf-8"))
    assert found == {cell: shown.get(cell) for cell in found}, REMAKE


def main() -> None:
    """Measure everything and write the page."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as home, serve() as server:
        hub = LocalHub(server, Path(home), Path(home) / "hf")
        put_on_hub(hub)
        found: Matrix = {}
        for plan in (fast_plan(), *slow_plans()):
            found |= measure(hub, plan)
    beside = PAGE.with_suffix(".tmp")
    beside.write_text(render_page(found), encoding="utf-8")
    beside.replace(PAGE)


if __name__ == "__main__":
    main()
