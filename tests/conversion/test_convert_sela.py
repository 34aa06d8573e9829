"""SeLa's checkpoints: what is converted computes what the authors' networks do, and nothing is lost or guessed."""

import functools
import json

import pytest
import timm
import torch
from transformers import AutoModel, AutoModelForPreTraining

import ssl_zoo
from ssl_zoo.conversion.convert import convert_checkpoint
from ssl_zoo.conversion.layout import Checkpoint, ConversionError, model_tensors
from ssl_zoo.conversion.reading import read_checkpoint
from ssl_zoo.conversion.sela import SELA_LAYOUTS
from tests.conversion import sela_layouts as authors
from tests.conversion.author_layouts import TOLERANCE, known_layout, largest_difference


assert ssl_zoo  # registers the methods with transformers
ROWS = 21
LAYOUTS = {layout.name: layout for layout in SELA_LAYOUTS}


def labels_of(heads, *, clusters=authors.CLUSTERS, rows=ROWS):
    """Balanced, and different from head to head."""
    generator = torch.Generator().manual_seed(9)
    return torch.stack([torch.randperm(rows, generator=generator) % clusters for _ in range(heads)])


def pictures(size=64):
    """Two images that differ in more than noise, so that their features differ, too."""
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    images[1, :, : size // 2] += 3.0
    return images


def convert(tmp_path, content, name="auto", **options):
    torch.save(content, tmp_path / "checkpoint.pth")
    return convert_checkpoint(name, tmp_path / "checkpoint.pth", tmp_path / "out", **options)


def training(state, heads, **extras):
    """As `files.save_checkpoint_all` saves it."""
    labels = labels_of(heads) if heads else None
    return {"epoch": 281, "arch": "resnet", "state_dict": state, "optimizer": {"state": {}}, "L": labels} | extras


def assert_computes(made, features, probabilities, images):
    """Both ways of loading give the authors' features, and the full model all heads' probabilities."""
    backbone = AutoModel.from_pretrained(made.folder).eval()
    full = AutoModelForPreTraining.from_pretrained(made.folder / "pretraining").eval()
    with torch.no_grad():
        assert largest_difference(backbone(images).pooler_output, features) < TOLERANCE
        assert largest_difference(full.timm_model(images), features) < TOLERANCE
        assert largest_difference(full.cluster_probabilities(images).flatten(1), probabilities.flatten(1)) < TOLERANCE
        by_timm = timm.create_model(f"local-dir:{made.folder}", pretrained=True, num_classes=0).eval()
        assert largest_difference(by_timm(images), features) < TOLERANCE
    return full


def test_ten_heads_of_a_resnet_50_trained_on_several_gpus(tmp_path):
    names = authors.head_names(10)
    state = authors.resnet_v1_state(names, "resnet50")
    images = pictures()
    features = authors.run_v1(state, images, "resnet50")
    made = convert(tmp_path, training(authors.in_parallel(state), 10))
    full = assert_computes(made, features, authors.run_heads(state, features, names), images)
    assert (made.architecture, made.conversion["layout"]) == ("resnet50", "sela-resnet-v1")
    assert (full.config.num_heads, full.config.num_clusters, full.config.num_samples) == (10, 7, ROWS)
    assert torch.equal(full.label_table.long(), labels_of(10))
    assert int(full.num_solves) == 0
    assert int(full.timm_model.bn1.num_batches_tracked) == 1000
    assert made.conversion["source"]["epoch"] == 281
    assert set(made.conversion["left_out"]) == {"num_solves", "arch", "optimizer"}
    assert full.config.pretrained_cfg["crop_pct"] == 0.875


def model_of(tmp_path, content):
    """The full model in memory, without the files of a repository."""
    torch.save(content, tmp_path / "checkpoint.pth")
    checkpoint = read_checkpoint(tmp_path / "checkpoint.pth")
    (layout,) = [layout for layout in SELA_LAYOUTS if layout.recognises(checkpoint.state.keys())]
    conversion = layout.convert(checkpoint, branch=None)
    model = ssl_zoo.SelaForPreTraining(conversion.config)
    model.load_state_dict(model_tensors(conversion, checkpoint), strict=True)
    return model.eval(), conversion


def test_one_head_in_all_its_spellings_in_a_flat_file_without_labels(tmp_path):
    state = resnet_18()
    expected = authors.run_heads(state, authors.run_v1(state, pictures()), ["top_layer"])
    for spelling in ("top_layer", "top_layer.0", "top_layer0"):
        spelled = {name.replace("top_layer", spelling): tensor for name, tensor in state.items()}
        model, conversion = model_of(tmp_path, spelled)
        assert largest_difference(model.cluster_probabilities(pictures()), expected) < TOLERANCE
        assert (model.label_table.shape, conversion.label_table) == ((1, 0), None)
        assert (model.config.num_heads, model.config.num_samples) == (1, None)


def test_ten_heads_of_the_pre_activation_resnet(tmp_path):
    """A narrow network, which only saves time; the real shapes are tested below."""
    names = authors.head_names(10)
    state = authors.resnet_v2_state(names, width=8)
    features = authors.run_v2(state, pictures())
    made = convert(tmp_path, {f"module.{name}": tensor for name, tensor in state.items()})
    assert (made.architecture, made.conversion["layout"]) == ("preact_resnet50", "sela-resnet-v2")
    full = assert_computes(made, features, authors.run_heads(state, features, names), pictures())
    assert full.config.pretrained_cfg["first_conv"] == "stem.conv"
    assert full.config.model_args == {"width_factor": 0.125}
    assert int(full.timm_model.stages[0].blocks[0].norm1.num_batches_tracked) == 1234
    assert not (made.folder / "labels").exists()


def test_ten_heads_of_alexnet_beside_a_head_over_rotations(tmp_path):
    names = authors.head_names(10)
    state = authors.alexnet_state(names) | authors.heads_state(["top_layer10"], 20, clusters=4)
    images = pictures(224)
    features = authors.run_alexnet(state, images)
    made = convert(tmp_path, state)
    full = assert_computes(made, features, authors.run_heads(state, features, names), images)
    assert (full.config.num_heads, made.conversion["layout"]) == (10, "sela-alexnet")
    assert "rotations" in made.conversion["left_out"]["top_layer10."]


@pytest.mark.parametrize("count", [1, 10])
def test_alexnet_without_a_head_over_rotations(tmp_path, count):
    names = ["top_layer"] if count == 1 else authors.head_names(10)
    state = authors.alexnet_state(names)
    model, conversion = model_of(tmp_path, training(state, count))
    expected = authors.run_heads(state, authors.run_alexnet(state, pictures(224)), names)
    assert largest_difference(model.cluster_probabilities(pictures(224)), expected) < TOLERANCE
    assert torch.equal(model.label_table.long(), labels_of(count))
    assert set(conversion.left_out) == {"num_solves"}


def test_a_head_of_four_clusters_is_no_head_over_rotations_beside_others_of_four(tmp_path):
    full, _ = model_of(tmp_path, authors.alexnet_state(authors.head_names(3), clusters=4))
    assert (full.config.num_heads, full.config.num_clusters) == (3, 4)


def test_one_head_of_alexnet_as_the_cifar_script_trains_it(tmp_path):
    """Its labels have one dimension; its images have CIFAR's mean and standard deviation."""
    labels = torch.arange(50_000) % authors.CLUSTERS
    made = convert(tmp_path, training(authors.alexnet_state(["top_layer"]), 0, L=labels))
    full = AutoModelForPreTraining.from_pretrained(made.folder / "pretraining")
    assert torch.equal(full.label_table.long(), labels.unsqueeze(0))
    assert full.config.pretrained_cfg["mean"] == [0.4914, 0.4822, 0.4465]
    assert "CIFAR" in made.conversion["notes"]
    assert json.loads((made.folder / "labels/labels.json").read_text())["data"]["path"] == "cifar-in-batches"


def test_torchvisions_names_with_the_labels_of_ten_heads(tmp_path):
    state = authors.torchvision_state()
    images = pictures()
    features = authors.run_resnet({k: v for k, v in state.items() if not k.startswith("fc.")}, images, "resnet18", "")
    made = convert(tmp_path, {"state_dict": state, "labels": labels_of(10)})
    full = assert_computes(made, features, authors.run_heads(state, features, ["fc"]), images)
    assert (made.conversion["layout"], made.architecture) == ("sela-torchvision", "resnet18")
    assert torch.equal(full.label_table.long(), labels_of(10)[:1])
    assert "labels" not in made.conversion["left_out"]
    assert "only the first head" in made.conversion["left_out"]["heads 1 to 9"]
    assert json.loads((made.folder / "labels/labels.json").read_text())["clusters_per_head"] == [7] * 10
    other, conversion = model_of(tmp_path, {"state_dict": state, "L": labels_of(10)})  # as the release's README has it
    assert torch.equal(other.label_table, full.label_table)
    assert torch.equal(conversion.label_table.long(), labels_of(10))


@pytest.mark.parametrize(
    ("layout", "make"),
    [
        ("sela_resnetv1_10x3000", lambda: authors.resnet_v1_state(authors.head_names(10), "resnet50")),
        ("sela_resnetv2_10x3000", lambda: authors.resnet_v2_state(authors.head_names(10))),
        (
            "sela_alexnet_10x3000",
            lambda: authors.alexnet_state(authors.head_names(10), *((96, 256, 384, 384, 256), 4096)),
        ),
        ("sela_torchvision_resnet50_fc3000", lambda: authors.torchvision_state("resnet50")),
    ],
)
def test_the_checkpoints_here_have_the_authors_names_and_shapes(layout, make):
    authors.assert_known(make(), layout)


@pytest.mark.parametrize(
    ("known", "layout", "architecture", "heads"),
    [
        ("sela_resnetv1_10x3000", "sela-resnet-v1", "resnet50", 10),
        ("sela_resnetv1_1x3000", "sela-resnet-v1", "resnet50", 1),
        ("sela_resnetv2_10x3000", "sela-resnet-v2", "preact_resnet50", 10),
        ("sela_alexnet_10x3000", "sela-alexnet", "alexnet_bn", 10),
        ("sela_alexnet_1x3000", "sela-alexnet", "alexnet_bn", 1),
        ("sela_torchvision_resnet50_fc3000", "sela-torchvision", "resnet50", 1),
    ],
)
def test_the_authors_full_shapes_are_taken(tmp_path, known, layout, architecture, heads):
    # On the meta device shapes cost neither memory nor time.
    state = {name: torch.empty(shape, device="meta") for name, shape in known_layout(known).items()}
    extras = {"labels": labels_of(10, clusters=3000)} if layout == "sela-torchvision" else {}
    checkpoint = Checkpoint(state=state, extras=extras, file=tmp_path / "listed.pth", sha256="0", bytes=1)
    assert [name for name, one in LAYOUTS.items() if one.recognises(state.keys())] == [layout]
    conversion = LAYOUTS[layout].convert(checkpoint, branch=None)
    assert conversion.config.architecture == architecture
    assert not conversion.config.model_args
    assert (conversion.config.num_heads, conversion.config.num_clusters) == (heads, 3000)
    with torch.device("meta"):
        wanted = ssl_zoo.SelaForPreTraining(conversion.config).state_dict()
    filled = {
        name: state[source] if isinstance(source, str) else source for name, source in conversion.weights.items()
    }
    assert {name: tensor.shape for name, tensor in filled.items()} == {
        name: tensor.shape for name, tensor in wanted.items()
    }
    taken = {source for source in conversion.weights.values() if isinstance(source, str)} | conversion.used
    assert taken - {"labels", "L"} == set(state)


def without(state, *names):
    return {name: tensor for name, tensor in state.items() if name not in names}


@functools.cache
def resnet_18():
    return authors.resnet_v1_state(["top_layer"])


def small(heads=3):
    return authors.alexnet_state(authors.head_names(heads))


@functools.cache
def small_v2():
    return authors.resnet_v2_state(["top_layer"], 8)


V2 = "features.4.5"
DAMAGES = {
    "lost head": (lambda: without(small(), "top_layer1.weight", "top_layer1.bias"), r"2 missing: top_layer1\.weight"),
    "lost bias": (lambda: without(small(), "top_layer2.bias"), r"1 missing: top_layer2\.bias"),
    "lost last head": (lambda: training(small(2), 3), "labels .* are of 3 heads, but the file has 2"),
    "lost norm": (lambda: without(resnet_18(), "features.5.0.bn2.bias"), r"1 missing: \S*5\.0\.bn2\.bias"),
    "extra tensor": (lambda: resnet_18() | {"features.9.bias": torch.zeros(3)}, r"1 unexpected: features\.9\.bias"),
    "wrong shape": (
        lambda: resnet_18() | {"features.6.0.conv2.weight": torch.zeros(256, 256, 1, 1)},
        r"1 misshaped: features\.6\.0\.conv2\.weight \[256, 256, 1, 1\] instead of",
    ),
    "unequal heads": (
        lambda: small(2) | authors.heads_state(["top_layer2"], 20, clusters=9),
        r"heads of different or wrong shapes.*\[9, 20\]",
    ),
    "narrow heads": (
        lambda: authors.alexnet_state([]) | authors.heads_state(["top_layer"], 19),
        r"misshaped: heads\.weight \[7, 19\] instead of \[7, 20\]",
    ),
    "two spellings": (lambda: small() | authors.heads_state(["top_layer"], 20), "has one head twice"),
    "wrapped twice": (lambda: small() | authors.in_parallel(small()), "has tensors twice"),
    "lost block": (
        lambda: {name: tensor for name, tensor in small_v2().items() if not name.startswith(V2)},
        r"18 missing: features\.4\.5\.bn1\.weight",
    ),
    "lost norm of a block": (
        lambda: {name: tensor for name, tensor in small_v2().items() if not name.startswith(f"{V2}.bn1")},
        r"5 missing: features\.4\.5\.bn1\.weight",
    ),
    "last norm": (lambda: small_v2() | {"features.6.weight": torch.ones(256)}, r"1 unexpected: features\.6\.weight"),
    "lost convolution": (lambda: without(small(), "features.8.weight"), r"1 missing: features\.8\.weight"),
    "classifier of others": (authors.torchvision_state, "no `labels` beside it"),
    "labels beyond": (lambda: training(small(), 3, L=labels_of(3) + 1), r"from 1 to 7, but .* clusters 0 to 6"),
    "labels below": (lambda: training(small(), 3, L=labels_of(3) - 1), r"from -1 to 5, but .* clusters 0 to 6"),
    "labels of numbers": (lambda: training(small(), 3, L=labels_of(3).float()), r"whole numbers .*got torch\.float32"),
    "labels as list": (lambda: training(small(), 3, L=labels_of(3).tolist()), "whole numbers .*got list"),
    "no labels": (lambda: training(small(), 3, L=torch.zeros(3, 0, dtype=torch.long)), "are of no image"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_nothing_is_made(tmp_path, damage):
    make, message = DAMAGES[damage]
    with pytest.raises(ConversionError, match=f"(?s){message}"):
        convert(tmp_path, make(), "sela")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.pth"]


def test_another_layouts_name_and_another_branch_are_refused(tmp_path):
    with pytest.raises(ConversionError, match="sela-alexnet"):
        convert(tmp_path, small_v2(), "sela-alexnet")
    with pytest.raises(ConversionError, match=r"--branch must be left out .* for 'sela', got 'teacher'"):
        convert(tmp_path, small_v2(), "sela", branch="teacher")
    with pytest.raises(ConversionError, match="layout 'sela-resnet-v2'"):
        convert(tmp_path, small_v2(), "mira")
    assert not (tmp_path / "out").exists()
