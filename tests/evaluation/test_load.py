import shutil

import pytest
import torch
from PIL import Image

from ssl_zoo.evaluation.load import (
    ModelLoadError,
    create_untrained,
    encoder,
    find_file,
    load_backbone,
    load_pretraining_model,
    model_view,
    view_size,
)
from ssl_zoo.hub.export import export_repo
from ssl_zoo.training.build import build_model
from ssl_zoo.training.recipe import load_recipe
from tests.evaluation.tiny_run import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "first", folder / "no-data")


def test_run_and_model_folder_give_the_same_backbone(run):
    images = torch.randn(2, 3, 8, 8)
    features = encoder(load_backbone(str(run)))(images)
    assert features.shape == (2, 16)
    assert torch.equal(encoder(load_backbone(str(run / "model")))(images), features)


def test_the_full_model_is_the_backbone_and_more(run):
    full, backbone = load_pretraining_model(str(run)), load_backbone(str(run))
    assert not full.training
    assert not backbone.training
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(full.state_dict()[name], tensor)
    labels, confidence = full.pseudo_labels(torch.randn(4, 3, 8, 8))
    assert labels.shape == confidence.shape == (4,)


def test_a_backbone_alone_has_no_pseudo_labels(run, tmp_path):
    load_backbone(str(run)).save_pretrained(tmp_path / "backbone")
    assert load_pretraining_model(str(tmp_path / "backbone")) is None


def test_untrained_weights_are_those_the_run_started_from(run):
    backbone = load_backbone(str(run))
    state = torch.random.get_rng_state()
    untrained = create_untrained(backbone, seed=5)
    assert torch.equal(torch.random.get_rng_state(), state)
    first = build_model(load_recipe(run / "recipe.yaml")).timm_model.state_dict()
    assert untrained.timm_model.state_dict().keys() == first.keys()
    assert all(torch.equal(tensor, first[name]) for name, tensor in untrained.timm_model.state_dict().items())
    assert not torch.equal(next(untrained.parameters()), next(backbone.parameters()))


def test_images_are_prepared_as_the_configuration_says(run):
    backbone = load_backbone(str(run))
    assert view_size(backbone) == 8
    (pixels,) = model_view(backbone)(Image.new("RGB", (20, 16), (255, 0, 0)))
    assert pixels.shape == (3, 8, 8)
    red = (1 - backbone.config.pretrained_cfg["mean"][0]) / backbone.config.pretrained_cfg["std"][0]
    assert pixels[0].max() == pytest.approx(red, abs=1e-5)
    backbone.config.pretrained_cfg = {"input_size": [3, 8, 8]}
    with pytest.raises(ModelLoadError, match="`pretrained_cfg` lacks mean, std"):
        model_view(backbone)


def test_files_beside_the_model(run, tmp_path):
    assert find_file(str(run), "recipe.yaml") == run / "recipe.yaml"
    assert find_file(str(run / "model"), "recipe.yaml") == run / "recipe.yaml"
    assert find_file(str(run), "nothing.yaml") is None


def test_what_cannot_be_loaded_is_said_in_words(run, tmp_path):
    with pytest.raises(ModelLoadError, match=r"no folder 'runs/a/b', .* form org/name"):
        load_backbone("runs/a/b")
    with pytest.raises(ModelLoadError, match="holds no model: expected a run's folder"):
        load_backbone(str(tmp_path))
    with pytest.raises(ModelLoadError, match="can't be loaded from the Hub: the Hub can't be reached"):
        load_backbone("org/never-downloaded")
    with pytest.raises(ModelLoadError, match="the Hub can't be reached"):
        find_file("org/never-downloaded", "recipe.yaml")
    unfinished = tmp_path / "unfinished"
    for step in (100, 200):
        (unfinished / "checkpoints" / f"step-{step:08d}").mkdir(parents=True)
        (unfinished / "checkpoints" / f"step-{step:08d}" / "config.json").write_text("{}")
    with pytest.raises(ModelLoadError, match=r"has not ended.*step-00000200"):
        load_backbone(str(unfinished))
    torn = tmp_path / "torn"
    shutil.copytree(run / "model", torn)
    (torn / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ModelLoadError, match="can't be read"):
        load_backbone(str(torn))


def test_a_published_repository_loads_like_the_run(run, tmp_path):
    repo = tmp_path / "repo"
    export_repo(run, repo)
    images = torch.randn(2, 3, 8, 8)
    expected = load_pretraining_model(str(run)).pseudo_labels(images)
    assert torch.equal(encoder(load_backbone(str(repo)))(images), encoder(load_backbone(str(run)))(images))
    torch.testing.assert_close(load_pretraining_model(str(repo)).pseudo_labels(images), expected)
    assert find_file(str(repo), "recipe.yaml") == repo / "recipe.yaml"
    assert find_file(str(repo), "metrics.jsonl") == repo / "metrics.jsonl"
