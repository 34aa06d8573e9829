"""The views: torchvision's arithmetic, the configured shares, reproducible per seed, fast enough for one thread."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as reference

from ssl_zoo.data import DataError, EvalView, MultiView, RawPixels, ViewsConfig, augment


NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8))
PLAIN: dict[str, Any] = {
    "flip_probability": 0.0,
    "color_jitter_probability": [0.0] * 3,
    "gray_probability": [0.0] * 3,
    "blur_probability": [0.0] * 3,
    "solarize_probability": [0.0] * 3,
}


def same(image: Any, other: Any) -> bool:
    return np.array_equal(np.asarray(image), np.asarray(other))


def config(**changes: Any) -> ViewsConfig:
    return ViewsConfig(**{"global_size": 16, "local_size": 8, **PLAIN, **changes})


class TestArithmetic:
    """Each step equals torchvision's for the same parameters."""

    @pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.03, 0.5])
    def test_hue(self, turns: float) -> None:
        assert same(augment.adjust_hue(NOISE, turns), reference.adjust_hue(NOISE, turns))

    @pytest.mark.parametrize("step", [0, 1, 2, 3])
    def test_each_step_of_the_colour_jitter(self, step: int) -> None:
        strengths = [0.0] * 4
        strengths[step] = 0.4
        rng = random.Random(3)
        rng.sample(range(4), 4)
        factor = rng.uniform(-0.4, 0.4) if step == 3 else rng.uniform(0.6, 1.4)
        names = ("adjust_brightness", "adjust_contrast", "adjust_saturation", "adjust_hue")
        expected = getattr(reference, names[step])(NOISE, factor)
        assert same(augment.color_jitter(NOISE, random.Random(3), strengths=strengths), expected)

    def test_grey_solarise_and_blur(self) -> None:
        assert same(augment.grayscale(NOISE), reference.to_grayscale(NOISE, num_output_channels=3))
        assert same(augment.solarize(NOISE), reference.solarize(NOISE, 128))
        for sigma in (0.5, 2.0):  # PIL approximates the Gaussian
            exact = reference.gaussian_blur(NOISE, [23, 23], [sigma, sigma])
            difference = np.abs(np.asarray(augment.gaussian_blur(NOISE, sigma), float) - np.asarray(exact, float))
            assert difference[12:-12, 12:-12].mean() < 2.0

    def test_affine(self) -> None:
        moved = augment.random_affine(NOISE, random.Random(1), degrees=20, translate=0.2, scale=[0.8, 1.2])
        rng = random.Random(1)
        angle, x, y, zoom = rng.uniform(-20, 20), rng.uniform(-0.2, 0.2), rng.uniform(-0.2, 0.2), rng.uniform(0.8, 1.2)
        bilinear = v2.InterpolationMode.BILINEAR
        expected = reference.affine(NOISE, angle, [round(56 * x), round(40 * y)], zoom, [0.0, 0.0], bilinear)
        assert same(moved, expected)

    def test_boxes_have_the_distribution_of_torchvisions(self) -> None:
        rng, scale, ratio = random.Random(0), [0.14, 1.0], [3 / 4, 4 / 3]
        ours = [augment.random_box((400, 300), rng, scale=scale, aspect_ratio=ratio) for _ in range(4000)]
        torch.manual_seed(0)
        crop, blank = v2.RandomResizedCrop(8, tuple(scale), tuple(ratio)), torch.empty(3, 300, 400)
        theirs = []
        for _ in range(4000):
            params = crop.make_params([blank])
            theirs.append((params["left"], params["top"], params["width"], params["height"]))
        stats = np.array([(left, top, right - left, bottom - top) for left, top, right, bottom in ours])
        for row, other in zip(stats.T, np.array(theirs).T, strict=True):
            assert abs(row.mean() - other.mean()) < 5 * np.hypot(row.std(), other.std()) / np.sqrt(4000)
            assert row.std() == pytest.approx(other.std(), rel=0.08)
        shares = stats[:, 2] * stats[:, 3] / (400 * 300)
        assert 0.13 < shares.min() < 0.2
        assert (stats[:, 0] + stats[:, 2] <= 400).all()
        assert (stats[:, 1] + stats[:, 3] <= 300).all()

    def test_wide_and_tall_boxes_are_equally_likely(self) -> None:
        rng, options = random.Random(0), {"scale": [0.05, 0.1], "aspect_ratio": [0.25, 4.0]}
        boxes = np.array([augment.random_box((400, 400), rng, **options) for _ in range(2000)])
        logarithms = np.log((boxes[:, 2] - boxes[:, 0]) / (boxes[:, 3] - boxes[:, 1]))
        assert abs(logarithms.mean()) < 0.1
        assert 1.3 < np.abs(logarithms).max() < 1.5, "up to log 4"

    @pytest.mark.parametrize("size", [(1000, 1), (1, 1000), (1, 1), (3, 2)])
    def test_odd_images_still_give_a_box_inside(self, size: tuple[int, int]) -> None:
        for seed in range(50):
            box = augment.random_box(size, random.Random(seed), scale=[0.05, 0.14], aspect_ratio=[0.75, 1.33])
            assert 0 <= box[0] < box[2] <= size[0]
            assert 0 <= box[1] < box[3] <= size[1]
        assert MultiView(config(local_crops=1))(Image.new("RGB", size))[0].shape == (3, 16, 16)


class TestMultiView:
    def test_order_shapes_and_normalisation(self) -> None:
        image = Image.new("RGB", (50, 40), (255, 0, 51))
        made = MultiView(config(global_crops=3, local_crops=2, mean=[0.5, 0.5, 0.0], std=[0.5, 0.25, 0.1]))(image)
        assert [tuple(view.shape) for view in made] == [(3, 16, 16)] * 3 + [(3, 8, 8)] * 2
        assert torch.allclose(made[0][:, 0, 0], torch.tensor([1.0, -2.0, 2.0]), atol=1e-5)
        assert made[0].dtype == torch.float32

    def test_the_same_seed_gives_the_same_views(self) -> None:
        transform = MultiView(ViewsConfig(global_size=16, local_crops=2, local_size=8, rotation_degrees=9))
        first, second, other = (transform(NOISE, seed=seed) for seed in ("0/1/2", "0/1/2", "0/1/3"))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
        assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
        assert not torch.equal(first[0], first[1]), "the two global views differ"

    @pytest.mark.parametrize(
        ("changes", "expected"),
        [
            ({"solarize_probability": [0.0, 0.2, 0.0]}, [0.0, 0.2, 0.0]),
            ({"gray_probability": [0.1, 0.5, 0.9]}, [0.1, 0.5, 0.9]),
            ({"color_jitter_probability": [0.8, 0.3, 0.0]}, [0.8, 0.3, 0.0]),
            ({"blur_probability": [1.0, 0.1, 0.5]}, [1.0, 0.1, 0.5]),
            ({"flip_probability": 0.5}, [0.5, 0.5, 0.5]),
        ],
    )
    def test_each_change_has_its_share_in_each_kind_of_view(
        self, changes: dict[str, Any], expected: list[float]
    ) -> None:
        still = {"global_scale": [1.0, 1.0], "local_scale": [1.0, 1.0], "aspect_ratio": [1.0, 1.0]}
        sizes = {"global_size": 8, "local_size": 8, "local_crops": 1, "blur_sigma": [0.5, 2.0]}
        transform, image = MultiView(config(**still, **sizes, **changes)), NOISE.crop((0, 0, 8, 8))
        number, changed = 600, np.zeros(3)
        for seed in range(number):
            views = transform.crop(image, random.Random(seed))
            changed += [not same(view, image) for view in views]
        assert np.abs(changed / number - expected).max() < 0.07
        assert [share in (0.0, 1.0) for share in expected] == [share in (0, number) for share in changed]

    def test_crops_keep_to_their_scale(self) -> None:
        """On a horizontal ramp the spread of a view's values is the share of the width that it covers."""
        ramp = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[None, :, None].repeat(256, 0), 3, axis=2))
        square = {"global_scale": [0.25, 1.0], "local_scale": [0.05, 0.14], "aspect_ratio": [1.0, 1.0]}
        transform = MultiView(config(local_crops=1, interpolation="nearest", **square))
        spreads = []
        for seed in range(200):
            views = transform.crop(ramp, random.Random(seed))
            spreads.append([(int(view.max()) - int(view.min())) / 256 for view in views])
        spread = np.array(spreads)
        assert 0.4 < spread[:, :2].min() < 0.6
        assert 0.9 < spread[:, :2].max() <= 1
        assert 0.15 < spread[:, 2].min() < 0.25
        assert 0.3 < spread[:, 2].max() < 0.38

    def test_affine_happens_before_the_crop(self) -> None:
        shift = config(translate=0.5, global_scale=[1.0, 1.0], aspect_ratio=[1.0, 1.0])
        dark = [
            (MultiView(shift).crop(Image.new("RGB", (32, 32), "white"), random.Random(s))[0] == 0).mean()
            for s in range(40)
        ]
        assert 0.25 < np.mean(dark) < 0.6
        assert min(dark) < 0.2


class TestEvaluation:
    @pytest.mark.parametrize("size", [(56, 40), (40, 56), (200, 31)])
    @pytest.mark.parametrize("crop_pct", [0.875, 1.0])
    def test_it_is_torchvisions_resize_and_centre_crop(self, size: tuple[int, int], crop_pct: float) -> None:
        image = NOISE.resize(size)
        bicubic = v2.InterpolationMode.BICUBIC
        chain = v2.Compose([v2.Resize(int(28 / crop_pct), bicubic), v2.CenterCrop(28), v2.PILToTensor()])
        made = EvalView(28, crop_pct=crop_pct, mean=[0.0] * 3, std=[1.0] * 3)(image)[0]
        assert made.shape == (3, 28, 28)
        assert torch.equal((made * 255).round().to(torch.uint8), chain(image))

    def test_raw_pixels_are_the_image(self) -> None:
        image = NOISE.crop((0, 0, 32, 32))
        made = RawPixels(32)(image)[0]
        assert torch.allclose(made, torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255)

    def test_nothing_is_random(self) -> None:
        assert torch.equal(EvalView(20)(NOISE, seed=0)[0], EvalView(20)(NOISE, seed=1)[0])


class TestConfig:
    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("global_crops", 0),
            ("local_crops", -1),
            ("global_size", 0),
            ("global_scale", [1.0, 0.14]),
            ("global_scale", [0.14]),
            ("local_scale", [0.0, 0.14]),
            ("local_scale", [0.05, 1.4]),
            ("aspect_ratio", [0.0, 1.0]),
            ("interpolation", "cubic"),
            ("rotation_degrees", 200.0),
            ("translate", 1.5),
            ("affine_scale", [0.0, 1.0]),
            ("flip_probability", 1.2),
            ("color_jitter", [0.4, 0.4, 0.2]),
            ("color_jitter", [0.4, 0.4, 0.2, 0.6]),
            ("gray_probability", [0.2]),
            ("blur_probability", [0.5, 0.5, -0.1]),
            ("blur_sigma", [2.0, 0.1]),
            ("mean", [0.5]),
            ("std", [1.0, 0.0, 1.0]),
        ],
    )
    def test_bad_values_are_named(self, key: str, value: object) -> None:
        with pytest.raises(DataError, match=rf"`views\.{key}` must be .*, got ") as raised:
            ViewsConfig(**{key: value})  # type: ignore[arg-type]
        assert repr(value) in str(raised.value)

    def test_every_key_has_a_help_text(self) -> None:
        assert all(field.metadata["help"] for field in ViewsConfig.__dataclass_fields__.values())
