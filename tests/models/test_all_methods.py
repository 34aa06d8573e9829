"""Properties that the models of every method must have, on the tiny fixtures of `tests/methods`."""

import json
import math
from pathlib import Path

import pytest
import timm
import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, AutoModelForPreTraining

from ssl_zoo.hub.export import export_repo
from ssl_zoo.training.build import build_model
from tests import forked
from tests.training.tiny_recipes import FIXTURES, fixture_name, tiny


ROOT = Path(__file__).resolve().parents[2]
NUM_SAMPLES = 48


def _recipe(path):
    return tiny(path, images=ROOT, steps=4)


def _build(recipe):
    return build_model(recipe, num_samples=NUM_SAMPLES, num_classes=3, num_labelled=24).train()


class Data:
    """Random images, the same in every pass."""

    num_samples = NUM_SAMPLES

    def __init__(self, recipe):
        views = recipe.views
        sizes = [views.global_size] * views.global_crops + [views.local_size] * views.local_crops
        generator = torch.Generator().manual_seed(0)
        self.views = [torch.randn(NUM_SAMPLES, 3, size, size, generator=generator) for size in sizes]

    def one_pass(self, *, seed, description):
        for ids in torch.arange(NUM_SAMPLES).split(16):
            yield [view[ids] for view in self.views], ids

    def batch(self, step, model):
        ids = torch.arange(16 * step, 16 * (step + 1)) % NUM_SAMPLES
        labels = ids % 3
        inputs = {"views": [view[ids] for view in self.views], "sample_ids": ids, "labels": labels}
        if model.config.learns_from_labels:
            inputs["known_labels"] = torch.where(ids % 2 == 0, labels, -1)
        if model.config.support_size:
            inputs |= {"support_views": self.views[0][:6], "support_labels": torch.tensor([0, 0, 0, 1, 1, 1])}
        return inputs


def _train(recipe, steps=4):
    """A model after a few steps, so that its banks, tables and statistics aren't empty."""
    model, data = _build(recipe), Data(recipe)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    for step in range(steps):
        now = {"epoch": step / 3, "progress": step / steps}
        model.before_step(data, images_seen=16 * step, **now)
        output = model(**data.batch(step, model), **now)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        model.update_state([output], progress=(step + 1) / steps, epoch=(step + 1) / 3)
    return model, data


@pytest.fixture(scope="module", params=FIXTURES, ids=fixture_name)
def trained(request):
    recipe = _recipe(request.param)
    return recipe, *_train(recipe)


def test_a_new_backbone_is_timms(trained):
    recipe, *_ = trained
    model = _build(recipe)
    torch.manual_seed(0)
    reference = timm.create_model(model.config.architecture, num_classes=0, **model.config.model_args)
    for name, tensor in reference.state_dict().items():
        ours = model.timm_model.state_dict()[name]
        assert ours.shape == tensor.shape
        if tensor.is_floating_point() and tensor.numel() > 64 and tensor.std() > 0:
            # Drawn from the same distribution, not the same numbers: transformers' own would have a std of 0.02.
            assert ours.std() == pytest.approx(tensor.std(), rel=0.5), name


def test_forward_changes_nothing_but_batch_norm_statistics(trained):
    _, model, data = trained
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    model(**data.batch(5, model), epoch=2.0, progress=0.9)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert all(name.endswith(("running_mean", "running_var", "num_batches_tracked")) for name in changed), changed


def test_what_is_logged_are_finite_scalars(trained):
    _, model, data = trained
    with_them = model(**data.batch(5, model), epoch=2.0, progress=0.9)
    scalars = {name: value.item() for name, value in with_them.items() if value.ndim == 0}
    assert len(scalars) >= 3
    assert all(math.isfinite(value) for value in scalars.values()), scalars
    assert isinstance(model.health({**scalars, "epoch": 2.0, "effective_rank": 9.0}), list)
    without = model(**data.batch(5, model), epoch=2.0, progress=0.9, diagnostics=False)
    assert [name for name, value in without.items() if value.ndim == 0] == ["loss"]


def test_gradients_reach_what_is_trained_and_nothing_else(trained):
    _, model, data = trained
    model.zero_grad()
    model(**data.batch(5, model), epoch=2.0, progress=0.9).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), name
    model.zero_grad()


def test_nothing_is_lost_on_the_way_through_a_checkpoint(trained, tmp_path):
    """`state_dict` is what checkpoints hold: banks, tables, counts and running statistics with the weights."""
    recipe, model, _ = trained
    other = _build(recipe)
    other.load_state_dict(model.state_dict())
    state = {name: tensor for name, tensor in chain_buffers(model).items()}
    for name, tensor in chain_buffers(other).items():
        assert torch.equal(tensor, state[name]), name
    assert chain_buffers(model).keys() <= model.state_dict().keys()  # no buffer that isn't persistent


def chain_buffers(model):
    return dict(model.named_buffers())


def test_a_saved_model_loads_as_every_class(trained, tmp_path):
    recipe, model, _ = trained
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
    full = AutoModelForPreTraining.from_pretrained(tmp_path)
    assert type(full) is type(model)
    left_out = set(model._keys_to_ignore_on_save or [])
    for name, tensor in model.state_dict().items():
        if name not in left_out:
            assert torch.equal(full.state_dict()[name], tensor), name
    assert all(bool(tensor.isfinite().all()) for tensor in full.state_dict().values())
    model.eval()
    images = torch.randn(2, *model_input(recipe))
    expected = model.timm_model(images)
    torch.testing.assert_close(AutoModel.from_pretrained(tmp_path)(images).pooler_output, expected)
    classifier = AutoModelForImageClassification.from_pretrained(tmp_path, num_labels=5)
    assert classifier(images).logits.shape == (2, 5)
    model.train()


def model_input(recipe):
    return 3, recipe.views.global_size, recipe.views.global_size


REMOTE = """
import json, sys
sys.modules["ssl_zoo"] = None  # as where it isn't installed
import torch
from transformers import AutoModel, AutoModelForPreTraining
for name, size in json.loads(sys.argv[1]).items():
    images = torch.ones(2, 3, size, size)
    backbone = AutoModel.from_pretrained(name, trust_remote_code=True).eval()
    full = AutoModelForPreTraining.from_pretrained(name, trust_remote_code=True).eval()
    with torch.no_grad():
        embeddings = backbone(images).pooler_output
        torch.testing.assert_close(full.timm_model(images), embeddings, rtol=1e-5, atol=1e-5)
        if hasattr(full, "pseudo_labels"):
            labels, confidence = full.pseudo_labels(images)
            assert labels.shape == confidence.shape == (2,)
    print(json.dumps([name, embeddings.sum().item()]))
"""


def test_published_repositories_load_without_ssl_zoo(tmp_path):
    """All methods, in one new process that can't import the package."""
    expected, sizes = {}, {}
    for path in FIXTURES:
        recipe = _recipe(path)
        model, _ = _train(recipe)
        run, out = tmp_path / f"run-{fixture_name(path)}", tmp_path / f"repo-{fixture_name(path)}"
        run.mkdir()
        recipe.save(run / "recipe.yaml")
        model.save_pretrained(run / "model")
        export_repo(run, out, repo_id="org/tiny")
        card = (out / "README.md").read_text(encoding="utf-8")
        assert ("trained without labels" in card) != model.config.learns_from_labels
        assert ("model.pseudo_labels" in card) == hasattr(model, "pseudo_labels")
        sizes[str(out)] = recipe.views.global_size
        images = torch.ones(2, *model_input(recipe))
        with torch.no_grad():
            expected[str(out)] = model.eval().timm_model(images).sum().item()
    done = forked.run("-c", REMOTE, json.dumps(sizes), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    found = dict(json.loads(line) for line in done.stdout.splitlines() if line.startswith("["))
    assert found == pytest.approx(expected, rel=1e-4)
