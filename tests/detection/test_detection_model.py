import dataclasses

import pytest
import timm
import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

from ssl_zoo.detection.backbone import load_detection_backbone
from ssl_zoo.detection.config import PRESETS, DetectionConfig
from ssl_zoo.detection.loop import create_optimizer
from ssl_zoo.detection.model import build_detector
from ssl_zoo.loading.models import ModelLoadError, load_backbone
from ssl_zoo.nn.backbone import create_backbone
from tests.data.tiny_sets import write_parquet
from tests.evaluation.tiny_run import write_run


SMALL = {"layers": [1, 1, 1, 1], "channels": [8, 12, 16, 24]}
PIXELS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.25)}
IMAGE = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


def config(architecture="c4", **more):
    anchors = (16, 32) if architecture == "c4" else (8, 16, 32, 48, 64)
    return DetectionConfig(
        architecture=architecture, min_sizes=(64,), max_size=128, anchor_sizes=anchors, rois_per_image=16, **more
    )


def resnet(seed=0):
    torch.manual_seed(seed)
    net = create_backbone("resnet18", model_args=SMALL)
    with torch.no_grad():  # blocks with an effect (timm starts their last norm at 0), statistics that aren't neutral
        for parameter in net.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        for name, buffer in net.named_buffers():
            if name.endswith("running_var"):
                buffer.mul_(1 + torch.rand_like(buffer))
            elif name.endswith("running_mean"):
                buffer.add_(0.1 * torch.randn_like(buffer))
    return net


def build(architecture="c4", net=None, **more):
    return build_detector(net or resnet(), config(architecture, **more), num_classes=3, **PIXELS).eval()


def layers_of(net, images):
    """What timm computes at the end of each layer."""
    found, hooks = {}, []
    for name in ("layer1", "layer2", "layer3", "layer4"):
        hooks.append(getattr(net, name).register_forward_hook(lambda *a, name=name: found.update({name: a[2]})))
    net.eval().forward_features(images)
    for hook in hooks:
        hook.remove()
    assert all(features.std() > 0.05 for features in found.values())
    return found


@pytest.mark.parametrize("norm", ["sync", "frozen"])
@torch.no_grad()
def test_c4_has_the_backbones_features(norm):
    expected = layers_of(resnet(), IMAGE)
    detector = build(norm=norm)
    torch.testing.assert_close(detector.backbone(IMAGE), expected["layer3"])
    torch.testing.assert_close(detector.roi_heads.box_head.layer4(expected["layer3"]), expected["layer4"])
    assert detector.backbone(IMAGE).shape == (2, 16, 4, 6)  # stride 16
    crops = torch.rand(5, 16, 14, 14)
    assert detector.roi_heads.box_head(crops).shape == (5, 24)
    assert isinstance(detector.roi_heads.box_head.norm, nn.BatchNorm2d) == (norm == "sync")
    assert detector.rpn.anchor_generator.num_anchors_per_location() == [6]


@torch.no_grad()
def test_fpn_has_the_backbones_features():
    expected = layers_of(resnet(), IMAGE)
    detector = build("fpn")
    for (_, found), name in zip(detector.backbone.body(IMAGE).items(), sorted(expected), strict=True):
        torch.testing.assert_close(found, expected[name])
    shapes = {name: tuple(level.shape) for name, level in detector.backbone(IMAGE).items()}
    assert shapes == {
        "0": (2, 256, 16, 24),
        "1": (2, 256, 8, 12),
        "2": (2, 256, 4, 6),
        "3": (2, 256, 2, 3),
        "pool": (2, 256, 1, 2),
    }


@pytest.mark.parametrize("architecture", ["c4", "fpn"])
def test_every_parameter_is_trained_and_images_may_hold_nothing(architecture):
    detector = build(architecture).train()
    targets = [
        {"boxes": torch.tensor([[5.0, 5.0, 40.0, 30.0]]), "labels": torch.tensor([2])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    losses = detector(list(IMAGE), targets)
    sum(losses.values()).backward()
    assert set(losses) == {"loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg"}
    untouched = [name for name, parameter in detector.named_parameters() if parameter.grad is None]
    assert untouched == []
    losses = detector(list(IMAGE[1:]), targets[1:])  # none at all: DistributedDataParallel waits for all gradients
    detector.zero_grad()
    sum(losses.values()).backward()
    assert [name for name, parameter in detector.named_parameters() if parameter.grad is None] == []
    assert all(torch.isfinite(loss) for loss in losses.values())


@torch.no_grad()
def test_frozen_norms_compute_what_the_trained_ones_did():
    detector = build(norm="frozen").train()
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d | FrozenBatchNorm2d)]
    assert all(isinstance(module, FrozenBatchNorm2d) for module in norms)
    torch.testing.assert_close(detector.backbone(IMAGE), layers_of(resnet(), IMAGE)["layer3"])


def test_the_seed_draws_the_new_layers_and_nothing_else():
    nets = [resnet() for _ in range(3)]
    state = torch.random.get_rng_state()
    first, again, other = (build(net=net, seed=seed) for net, seed in zip(nets, (1, 1, 2), strict=True))
    assert torch.equal(torch.random.get_rng_state(), state)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.rpn.head.cls_logits.weight, other.rpn.head.cls_logits.weight)


def test_pixels_are_prepared_as_the_backbone_wants():
    detector = build()
    prepared, _ = detector.transform([IMAGE[0]])
    mean, std = (torch.tensor(PIXELS[name])[:, None, None] for name in ("mean", "std"))
    torch.testing.assert_close(prepared.tensors[0], (IMAGE[0] - mean) / std)


def test_norms_get_no_weight_decay():
    detector = build()
    decayed, kept = create_optimizer(detector, config()).param_groups
    assert (decayed["weight_decay"], kept["weight_decay"]) == (1e-4, 0.0)
    norms = sum(2 for module in detector.modules() if isinstance(module, nn.BatchNorm2d))
    assert len(kept["params"]) == norms
    assert len(decayed["params"]) == len(list(detector.parameters())) - norms


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("backbones")
    return write_run(folder / "first", write_parquet(folder / "pets", (5,)))


@torch.no_grad()
def test_a_runs_backbone_is_that_of_the_run(run):
    expected = load_backbone(str(run))
    backbone = load_detection_backbone(str(run))
    assert backbone.trained
    features = backbone.resnet.eval().forward_features(IMAGE)
    torch.testing.assert_close(features, expected(pixel_values=IMAGE).last_hidden_state)
    assert backbone.mean == tuple(expected.config.pretrained_cfg["mean"])
    fresh = load_detection_backbone(str(run), random_init=True, seed=3)
    assert not fresh.trained
    assert not torch.equal(fresh.resnet.conv1.weight, backbone.resnet.conv1.weight)


def test_names_of_timm_without_weights():
    first, again = (load_detection_backbone("resnet18.tv_in1k", random_init=True, seed=2) for _ in range(2))
    assert torch.equal(first.resnet.conv1.weight, again.resnet.conv1.weight)
    assert first.mean == tuple(timm.get_pretrained_cfg("resnet18").mean)
    assert not first.trained


@pytest.mark.parametrize(
    ("name", "message"),
    [("vit_tiny_patch16_224", "is a VisionTransformer.*ResNets"), ("no-such", "There is no folder")],
)
def test_other_backbones_are_refused(name, message):
    with pytest.raises(ModelLoadError, match=message):
        load_detection_backbone(name, random_init=True)


def test_schedule_warms_up_and_steps_down():
    voc = PRESETS["voc"]
    assert [voc.learning_rate_at(step) for step in (0, 50, 100, 17_999, 18_000, 22_000)] == pytest.approx(
        [2e-5, 0.02 * 0.5005, 0.02, 0.02, 0.002, 0.0002]
    )
    assert dataclasses.replace(voc, warmup_steps=0).learning_rate_at(0) == 0.02


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architecture": "c5"}, "`architecture` must be one of c4, fpn, got 'c5'"),
        ({"norm": "batch"}, "one of sync, frozen"),
        ({"steps": 0}, "`steps` must be at least 1, got 0"),
        ({"learning_rate": 0.0}, "must be > 0"),
        ({"min_sizes": ()}, "`min_sizes` must be at least one size"),
        ({"decay_steps": (5, 3)}, "`decay_steps` must be increasing"),
        ({"architecture": "fpn", "anchor_sizes": (32,)}, "must be five"),
    ],
)
def test_settings_are_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(PRESETS["voc"], **changes)
