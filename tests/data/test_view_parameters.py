"""The parameters of a view have torchvision's distributions and are drawn in an order that never changes."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import ks_2samp
from torchvision.transforms import v2

from ssl_zoo.data import MultiView, ViewsConfig
from ssl_zoo.data.view_parameters import GLOBAL_1, GLOBAL_2, HUE, LOCAL, ViewParameters, draw_box, draw_view


SAMPLES = 4000
SIZE = (400, 300)
CONFIG = ViewsConfig()


def drawn(config: ViewsConfig = CONFIG, *, kind: int = GLOBAL_1, number: int = SAMPLES) -> list[ViewParameters]:
    rng = random.Random(0)
    return [draw_view(config, SIZE, rng, kind) for _ in range(number)]


def alike(ours: Any, theirs: Any) -> None:
    """By the Kolmogorov-Smirnov test; both were drawn with fixed seeds, so the answer never changes."""
    assert ks_2samp(ours, theirs).pvalue > 0.01


def by_torchvision(transform: Any) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    image = torch.empty(3, SIZE[1], SIZE[0])
    return [transform.make_params([image]) for _ in range(SAMPLES)]


@pytest.mark.parametrize(("kind", "scale"), [(GLOBAL_1, (0.14, 1.0)), (LOCAL, (0.05, 0.14))])
def test_boxes(kind: int, scale: tuple[float, float]) -> None:
    boxes = np.array([view.box for view in drawn(kind=kind)])
    theirs = by_torchvision(v2.RandomResizedCrop(8, scale, (3 / 4, 4 / 3)))
    ours = {
        "left": boxes[:, 0],
        "top": boxes[:, 1],
        "width": boxes[:, 2] - boxes[:, 0],
        "height": boxes[:, 3] - boxes[:, 1],
    }
    for name, values in ours.items():
        alike(values, [params[name] for params in theirs])
    alike(ours["width"] / ours["height"], [params["width"] / params["height"] for params in theirs])


def test_changes_of_colour() -> None:
    jitters = [view.jitter for view in drawn(ViewsConfig(color_jitter_probability=[1.0] * 3))]
    theirs = by_torchvision(v2.ColorJitter(0.4, 0.4, 0.2, 0.1))
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    for step, name in enumerate(names):
        alike([dict(jitter)[step] for jitter in jitters], [params[name] for params in theirs])
        places = [[step for step, _ in jitter].index(step) for jitter in jitters]
        alike(places, [params["fn_idx"].tolist().index(step) for params in theirs])


def test_a_change_of_no_strength_is_left_out() -> None:
    config = ViewsConfig(color_jitter=[0.4, 0.0, 0.2, 0.0], color_jitter_probability=[1.0] * 3)
    assert {tuple(sorted(step for step, _ in view.jitter)) for view in drawn(config, number=50)} == {(0, 2)}


def test_a_strength_above_one_gives_no_negative_factor() -> None:
    config = ViewsConfig(color_jitter=[1.5, 0.0, 0.0, 0.5], color_jitter_probability=[1.0] * 3)
    factors = [dict(view.jitter) for view in drawn(config, number=500)]
    assert 0 <= min(factor[0] for factor in factors) < 0.05
    assert 2.4 < max(factor[0] for factor in factors) <= 2.5
    assert max(abs(factor[HUE]) for factor in factors) <= 0.5


def test_blur() -> None:
    sigmas = [view.blur_sigma for view in drawn()]
    alike(sigmas, [params["sigma"][0] for params in by_torchvision(v2.GaussianBlur(23, (0.1, 2.0)))])


@pytest.mark.parametrize("kind", [GLOBAL_1, GLOBAL_2, LOCAL])
def test_shares(kind: int) -> None:
    config = ViewsConfig(solarize_probability=[0.0, 0.2, 0.4])
    views = drawn(config, kind=kind)
    shares = {
        0.5: [view.flip for view in views],
        config.color_jitter_probability[kind]: [bool(view.jitter) for view in views],
        config.gray_probability[kind]: [view.gray for view in views],
        config.blur_probability[kind]: [view.blur_sigma is not None for view in views],
        config.solarize_probability[kind]: ["solarize" in view.switches for view in views],
    }
    for expected, happened in shares.items():
        assert np.mean(happened) == pytest.approx(expected, abs=4 * (expected * (1 - expected) / SAMPLES) ** 0.5)


def test_affine() -> None:
    assert drawn(number=1)[0].affine is None
    config = ViewsConfig(rotation_degrees=20.0, translate=0.1, affine_scale=[0.8, 1.2])
    affines = [view.affine for view in drawn(config) if view.affine is not None]
    theirs = by_torchvision(v2.RandomAffine(20, (0.1, 0.1), (0.8, 1.2)))
    alike([affine.angle for affine in affines], [params["angle"] for params in theirs])
    alike([affine.zoom for affine in affines], [params["scale"] for params in theirs])
    for axis in (0, 1):
        alike([affine.shift[axis] for affine in affines], [params["translate"][axis] for params in theirs])


def test_wide_and_tall_boxes_are_equally_likely() -> None:
    rng, options = random.Random(0), {"scale": [0.05, 0.1], "aspect_ratio": [0.25, 4.0]}
    boxes = np.array([draw_box((400, 400), rng, **options) for _ in range(2000)])
    logarithms = np.log((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))
    assert abs(logarithms.mean()) < 0.1
    assert 1.3 < np.abs(logarithms).max() < 1.5, "up to log 4"


@pytest.mark.parametrize("size", [(1000, 1), (1, 1000), (1, 1), (3, 2)])
@pytest.mark.parametrize("backend", ["fast", "reference"])
def test_odd_images_still_give_a_box_inside(size: tuple[int, int], backend: str) -> None:
    for seed in range(50):
        box = draw_box(size, random.Random(seed), scale=[0.05, 0.14], aspect_ratio=[0.75, 1.33])
        assert 0 <= box[0] < box[2] <= size[0]
        assert 0 <= box[1] < box[3] <= size[1]
    transform = MultiView(ViewsConfig(global_size=16, local_size=8, local_crops=1, backend=backend))
    assert [view.shape[1] for view in transform(Image.new("RGB", size), seed=0)] == [16, 16, 8]


def test_the_order_of_drawing_is_that_of_all_runs_so_far() -> None:
    """A run that resumes from an old checkpoint sees the views that it would have seen."""
    config = ViewsConfig(rotation_degrees=10.0, solarize_probability=[0.5] * 3)
    rng = random.Random("0/3/17")
    views = [draw_view(config, (500, 375), rng, kind) for kind in (GLOBAL_1, GLOBAL_2, LOCAL)]
    assert [view.box for view in views] == [(130, 33, 481, 306), (192, 0, 497, 305), (174, 154, 305, 269)]
    assert rng.random() == pytest.approx(0.11333528076613497, abs=1e-12)
