import shutil

import pytest
import timm
import torch
from PIL import Image
from transformers import (
    BitImageProcessor,
    ResNetConfig,
    ResNetModel,
    TimmWrapperConfig,
    TimmWrapperModel,
    ViTConfig,
    ViTImageProcessor,
    ViTModel,
)

from ssl_zoo.data.views import RawPixels
from ssl_zoo.evaluation.subject import Subject
from ssl_zoo.hub.export import export_repo
from ssl_zoo.loading.models import (
    Backbone,
    ModelLoadError,
    create_untrained,
    find_file,
    load_backbone,
    load_pretraining_model,
)
from ssl_zoo.loading.view import model_view, view_size
from ssl_zoo.training.build import build_model
from ssl_zoo.training.recipe import load_recipe
from tests.evaluation.tiny_run import write_run
from tests.tolerances import SAME_NETWORK


def encoder(model):
    """Its features, without gradients."""
    return torch.no_grad()(Backbone(model).eval())


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
    features = [encoder(load_backbone(str(folder)))(images) for folder in (repo, run)]
    torch.testing.assert_close(*features, **SAME_NETWORK)
    torch.testing.assert_close(load_pretraining_model(str(repo)).pseudo_labels(images), expected)
    assert find_file(str(repo), "recipe.yaml") == repo / "recipe.yaml"
    assert find_file(str(repo), "metrics.jsonl") == repo / "metrics.jsonl"


IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_a_timm_model_gives_timms_features_and_view(tmp_path):
    args = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]}
    preparation = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 0.8}
    config = TimmWrapperConfig(architecture="resnet18", model_args=args, pretrained_cfg=preparation)
    saved = TimmWrapperModel(config)
    saved.save_pretrained(tmp_path / "timm")
    model = load_backbone(str(tmp_path / "timm"))
    bare = timm.create_model("resnet18", num_classes=0, **args).eval()
    bare.load_state_dict(saved.timm_model.state_dict())
    torch.testing.assert_close(encoder(model)(IMAGES), bare(IMAGES), **SAME_NETWORK)
    view = model_view(model, str(tmp_path / "timm"))
    assert (view.size, view.mean, view.identity.split("/")[1]) == (32, (0.5, 0.5, 0.5), "40")
    assert load_pretraining_model(str(tmp_path / "timm")) is None


def test_an_untrained_timm_model_has_timms_first_weights(tmp_path):
    args = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16]}
    model = TimmWrapperModel(TimmWrapperConfig(architecture="resnet18", model_args=args)).eval()
    untrained = create_untrained(model, seed=3)
    # transformers' own redrawing has a standard deviation of 0.02, and sets the last norm of each block to 1.
    assert float(untrained.timm_model.conv1.weight.std()) == pytest.approx((2 / (64 * 49)) ** 0.5, rel=0.02)
    assert float(untrained.timm_model.layer1[0].bn2.weight.abs().max()) == 0.0


@pytest.mark.parametrize("with_pooler", [True, False])
def test_a_transformers_model_gives_its_pooled_output_or_its_class_token(tmp_path, with_pooler):
    """Of a checkpoint without the pooling layer transformers makes up a random one: it must not be evaluated."""
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=16,
    )
    saved = ViTModel(config, add_pooling_layer=with_pooler).eval()
    saved.save_pretrained(tmp_path / "vit")
    ViTImageProcessor(size={"height": 32, "width": 32}, resample=2).save_pretrained(tmp_path / "vit")
    model = load_backbone(str(tmp_path / "vit"))
    with torch.no_grad():
        output = saved(IMAGES)
    expected = output.pooler_output if with_pooler else output.last_hidden_state[:, 0]
    torch.testing.assert_close(encoder(model)(IMAGES), expected)
    view = model_view(model, str(tmp_path / "vit"))
    assert (view.size, view.mean, view.interpolation) == (32, (0.5, 0.5, 0.5), "bilinear")


def test_a_convolutional_model_and_a_centre_crop(tmp_path):
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    saved = ResNetModel(config).eval()
    saved.save_pretrained(tmp_path / "resnet")
    BitImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32}).save_pretrained(
        tmp_path / "resnet"
    )
    features = encoder(load_backbone(str(tmp_path / "resnet")))(IMAGES)
    assert features.shape == (2, 16)
    with torch.no_grad():
        torch.testing.assert_close(features, saved(IMAGES).last_hidden_state.mean(dim=(2, 3)))
    view = model_view(load_backbone(str(tmp_path / "resnet")), str(tmp_path / "resnet"))
    assert (view.size, view.identity.split("/")[1]) == (32, "40")


def test_a_name_of_timm_is_looked_for_on_the_hub_under_its_tag():
    with pytest.raises(ModelLoadError, match=r"'timm/resnet18.a1_in1k' can't be loaded from the Hub"):
        load_backbone("resnet18.a1_in1k")
    with pytest.raises(ModelLoadError, match=r"'timm/resnet18\.\w+' can't be loaded from the Hub"):
        load_backbone("resnet18")
    with pytest.raises(ModelLoadError, match=r"no pretrained weights 'resnet18.never' .*: .*a1_in1k"):
        load_backbone("resnet18.never")


def test_equal_weights_with_another_pooling_are_another_model(tmp_path):
    """Features are stored under this name: one of them must not be given the other's."""
    subjects = []
    for pool in ("avg", "max"):
        args = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 16], "global_pool": pool}
        torch.manual_seed(0)
        model = TimmWrapperModel(TimmWrapperConfig(architecture="resnet18", model_args=args)).eval()
        subjects.append(Subject("trained", RawPixels(32), Backbone(model), backbone=Backbone(model)))
    weights = [subject.backbone.state_dict() for subject in subjects]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())
    images = torch.randn(2, 3, 96, 96)
    assert not torch.equal(*(encoder(subject.backbone.model)(images) for subject in subjects))
    assert subjects[0].identity != subjects[1].identity
    subjects[0].backbone.model.save_pretrained(tmp_path / "elsewhere")
    again = Backbone(load_backbone(str(tmp_path / "elsewhere")))
    subjects[0].backbone.model.config.ssl_zoo_random_pooler = False
    assert again.configuration == subjects[0].backbone.configuration
