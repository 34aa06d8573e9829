"""Augmentation of whole batches on the device: torchvision's result for each sample's own parameters."""

import io
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from photographs import photographs
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensorMode
from torchvision.transforms.v2 import functional as reference

from ssl_zoo.data import ViewsConfig
from ssl_zoo.data.augment_device import DeviceAugment, device_augments, pack_parameters
from ssl_zoo.data.view_parameters import (
    BRIGHTNESS,
    CONTRAST,
    GLOBAL_2,
    HUE,
    LOCAL,
    SATURATION,
    ViewParameters,
    draw_view,
)


SIZE = 48
TOLERANCE = 2.0  # mean absolute difference, in units of 1/255
PLAIN: dict[str, Any] = {"mean": [0.0] * 3, "std": [1.0] * 3}
EVERYTHING = ViewsConfig(
    solarize_probability=[0.3] * 3, gray_probability=[0.3] * 3, blur_probability=[0.5] * 3, **PLAIN
)
_JITTER = {
    BRIGHTNESS: reference.adjust_brightness,
    CONTRAST: reference.adjust_contrast,
    SATURATION: reference.adjust_saturation,
    HUE: reference.adjust_hue,
}


def parameters(**changes: Any) -> ViewParameters:
    return ViewParameters(None, (0, 0, SIZE, SIZE), SIZE, **changes)


def by_torchvision(image: Image.Image, view: ViewParameters) -> Image.Image:
    """One sample at a time, in the order of the reference code."""
    if view.flip:
        image = reference.horizontal_flip(image)
    for step, factor in view.jitter:
        image = _JITTER[step](image, factor)
    if view.gray:
        image = reference.to_grayscale(image, num_output_channels=3)
    if view.blur_sigma is not None:
        image = reference.gaussian_blur(image, [23, 23], [view.blur_sigma] * 2)
    return reference.solarize(image, 128) if view.switches else image


def batch_of(images: Sequence[Image.Image]) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def differences(
    images: Sequence[Image.Image], views: Sequence[ViewParameters], *, config: ViewsConfig = EVERYTHING, kind: int = 0
) -> torch.Tensor:
    """Mean difference between the batch and torchvision, in units of 1/255."""
    made = 255 * DeviceAugment(config, kind)(batch_of(images), pack_parameters(views))
    return made - batch_of([by_torchvision(image, view) for image, view in zip(images, views, strict=True)])


@pytest.fixture(scope="module", params=["noise", "smooth", "photographs"])
def images(request: pytest.FixtureRequest) -> list[Image.Image]:
    if request.param == "noise":
        pixels = np.random.default_rng(0).integers(0, 256, (6, SIZE, SIZE, 3), dtype=np.uint8)
        return [Image.fromarray(one) for one in pixels]
    if request.param == "smooth":
        pixels = np.random.default_rng(1).integers(0, 256, (6, 5, 5, 3), dtype=np.uint8)
        return [Image.fromarray(one).resize((SIZE, SIZE), Image.Resampling.BICUBIC) for one in pixels]
    opened = [Image.open(io.BytesIO(content)).convert("RGB") for content in photographs()]
    return [image.resize((SIZE, SIZE), Image.Resampling.BICUBIC) for image in opened]


class TestEachStep:
    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"flip": True},
            {"gray": True},
            {"switches": ("solarize",)},
            *(
                {"jitter": ((step, f),)}
                for step in (BRIGHTNESS, CONTRAST, SATURATION)
                for f in (0.0, 0.6, 0.83, 1.0, 1.9)
            ),
        ],
        ids=str,
    )
    def test_exactly_torchvisions(self, images: list[Image.Image], changes: dict[str, Any]) -> None:
        found = differences(images, [parameters(**changes)] * len(images))
        assert found.abs().max() < 1e-3

    @pytest.mark.parametrize("turns", [-0.5, -0.1, 0.0, 0.03, 0.1, 0.5])
    def test_hue(self, images: list[Image.Image], turns: float) -> None:
        """PIL counts hues in 256 steps from unrounded quotients: a rare one lies on the other side of an edge."""
        found = differences(images, [parameters(jitter=((HUE, turns),))] * len(images)).abs()
        assert found.mean() < 0.02
        assert found.max() < 6.5

    @pytest.mark.parametrize("sigma", [0.1, 0.3, 0.7, 1.3, 2.0])
    def test_blur(self, images: list[Image.Image], sigma: float) -> None:
        found = differences(images, [parameters(blur_sigma=sigma)] * len(images)).abs()
        assert found.mean() < 0.1
        assert found.max() < 1.5

    def test_blur_of_an_image_smaller_than_the_gaussian(self) -> None:
        image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8))
        made = DeviceAugment(EVERYTHING, 0)(batch_of([image]), pack_parameters([parameters(blur_sigma=0.5)]))
        expected = batch_of([reference.gaussian_blur(image, [5, 5], [0.5, 0.5])])
        assert (255 * made - expected).abs().mean() < TOLERANCE


class TestOrder:
    @pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
    def test_all_orders_with_clamping_in_between(self, images: list[Image.Image], order: tuple[int, ...]) -> None:
        factors = {BRIGHTNESS: 1.8, CONTRAST: 1.9, SATURATION: 2.0, HUE: 0.3}
        views = [parameters(jitter=tuple((step, factors[step]) for step in order[:length])) for length in range(5)]
        found = differences([images[0]] * 5, views).abs().mean(dim=(1, 2, 3))
        assert found.max() < 0.1

    def test_the_order_matters_to_this_test(self, images: list[Image.Image]) -> None:
        one = parameters(jitter=((BRIGHTNESS, 1.8), (SATURATION, 2.0), (HUE, 0.3)))
        other = parameters(jitter=((HUE, 0.3), (SATURATION, 2.0), (BRIGHTNESS, 1.8)))
        made = DeviceAugment(EVERYTHING, 0)(batch_of([images[0]] * 2), pack_parameters([one, other]))
        assert 255 * (made[0] - made[1]).abs().mean() > 1.0


class TestMixedBatches:
    @pytest.mark.parametrize("kind", [0, GLOBAL_2, LOCAL])
    @pytest.mark.parametrize(
        "config", [EVERYTHING, ViewsConfig(**PLAIN), ViewsConfig(color_jitter=[0.4, 0, 0.2, 0], **PLAIN)]
    )
    def test_drawn_parameters_give_torchvisions_views(
        self, images: list[Image.Image], config: ViewsConfig, kind: int
    ) -> None:
        views = [draw_view(config, (SIZE, SIZE), random.Random(seed), kind) for seed in range(48)]
        found = differences((images * 8)[:48], views, config=config, kind=kind).abs().mean(dim=(1, 2, 3))
        assert found.max() < TOLERANCE
        assert found.mean() < 0.2

    def test_a_sample_does_not_depend_on_the_others(self, images: list[Image.Image]) -> None:
        views = [draw_view(EVERYTHING, (SIZE, SIZE), random.Random(seed), LOCAL) for seed in range(12)]
        augment, pixels, packed = DeviceAugment(EVERYTHING, LOCAL), batch_of((images * 2)[:12]), pack_parameters(views)
        together = augment(pixels, packed)
        alone = torch.cat([augment(pixels[i : i + 1], packed[i : i + 1]) for i in range(12)])
        # Kernels are chosen by the size of a batch: a value on the edge may be rounded to the next of the 256.
        difference = 255 * (together - alone).abs()
        assert difference.max() < 1.01
        assert (difference > 1e-3).float().mean() < 1e-4

    def test_the_crops_are_left_as_they_are(self, images: list[Image.Image]) -> None:
        pixels = batch_of(images)
        before = pixels.clone()
        DeviceAugment(EVERYTHING, 0)(pixels, pack_parameters([parameters()] * len(images)))
        assert torch.equal(pixels, before)


class TestOutput:
    def test_normalised_float32_in_channels_last(self) -> None:
        pixels = batch_of([Image.new("RGB", (SIZE, SIZE), (255, 0, 51))] * 2)
        config = ViewsConfig(mean=[0.5, 0.5, 0.0], std=[0.5, 0.25, 0.1])
        made = DeviceAugment(config, 0)(pixels, pack_parameters([parameters()] * 2))
        assert made.dtype == torch.float32
        assert made.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(made[0, :, 0, 0], torch.tensor([1.0, -2.0, 2.0]), atol=1e-5)

    def test_one_module_per_view(self) -> None:
        assert len(list(device_augments(ViewsConfig(global_crops=3, local_crops=2)))) == 5

    def test_autocast_changes_nothing(self, images: list[Image.Image]) -> None:
        args = batch_of(images), pack_parameters([parameters(blur_sigma=1.1, jitter=((CONTRAST, 1.3),))] * len(images))
        augment = DeviceAugment(EVERYTHING, 0)
        with torch.autocast("cpu", torch.bfloat16):
            made = augment(*args)
        assert torch.equal(made, augment(*args))


class TestDevices:
    def test_the_host_never_waits_for_a_value(self) -> None:
        """Fake tensors have no values: reading one raises."""
        with FakeTensorMode():
            pixels = torch.empty(2, 3, 8, 8, dtype=torch.uint8)
            assert DeviceAugment(EVERYTHING, 0)(
                pixels, torch.empty(2, pack_parameters([parameters()]).shape[1])
            ).shape == (2, 3, 8, 8)

    def test_it_compiles_in_one_piece(self, images: list[Image.Image]) -> None:
        views = [draw_view(EVERYTHING, (SIZE, SIZE), random.Random(seed), 0) for seed in range(len(images))]
        augment = DeviceAugment(EVERYTHING, 0)
        compiled: Callable[..., torch.Tensor] = torch.compile(augment, backend="aot_eager", fullgraph=True)
        args = batch_of(images), pack_parameters(views)
        assert (255 * (compiled(*args) - augment(*args))).abs().max() < 1e-3

    @pytest.mark.gpu
    def test_a_gpu_gives_what_the_cpu_gives(self, images: list[Image.Image]) -> None:
        views = [draw_view(EVERYTHING, (SIZE, SIZE), random.Random(seed), 0) for seed in range(len(images))]
        args, augment = (batch_of(images), pack_parameters(views)), DeviceAugment(EVERYTHING, 0)
        expected = augment(*args)
        torch.cuda.set_sync_debug_mode("error")
        try:
            made = augment.cuda()(
                args[0].pin_memory().cuda(non_blocking=True), args[1].pin_memory().cuda(non_blocking=True)
            )
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert (255 * (made.cpu() - expected)).abs().mean() < 0.1
