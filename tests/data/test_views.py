"""The views: the configured shares, reproducible per seed, and their way to the device, for every backend."""

import builtins
import io
import random
import sys
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from ssl_zoo.data import Batch, DataError, EvalView, MultiView, RawPixels, ViewsConfig


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


@pytest.fixture(params=["fast", "reference"])
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def encoded(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


class TestMultiView:
    def test_order_shapes_and_normalisation(self, backend: str) -> None:
        image = Image.new("RGB", (50, 40), (255, 0, 51))
        numbers = {"mean": [0.5, 0.5, 0.0], "std": [0.5, 0.25, 0.1]}
        made = MultiView(config(global_crops=3, local_crops=2, backend=backend, **numbers))(image)
        assert [tuple(view.shape) for view in made] == [(3, 16, 16)] * 3 + [(3, 8, 8)] * 2
        assert torch.allclose(made[0][:, 0, 0], torch.tensor([1.0, -2.0, 2.0]), atol=1e-5)
        assert made[0].dtype == torch.float32

    def test_the_same_seed_gives_the_same_views(self, backend: str) -> None:
        small = {"global_size": 16, "local_crops": 2, "local_size": 8, "rotation_degrees": 9.0}
        transform = MultiView(ViewsConfig(backend=backend, **small))
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
        self, changes: dict[str, Any], expected: list[float], backend: str
    ) -> None:
        still = {"global_scale": [1.0, 1.0], "local_scale": [1.0, 1.0], "aspect_ratio": [1.0, 1.0]}
        sizes = {"global_size": 8, "local_size": 8, "local_crops": 1, "blur_sigma": [0.5, 2.0]}
        transform, image = MultiView(config(backend=backend, **still, **sizes, **changes)), NOISE.crop((0, 0, 8, 8))
        number, changed = 400, np.zeros(3)
        for seed in range(number):
            views = transform.crop(image, random.Random(seed))
            changed += [not same(view, image) for view in views]
        assert np.abs(changed / number - expected).max() < 0.08
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


class TestBatches:
    """From samples to what a model takes."""

    def batch(self, transform: MultiView, *, number: int = 5) -> Batch:
        samples = [transform.read(encoded(NOISE), random.Random(seed)) for seed in range(number)]
        views, parameters = transform.stack(samples)
        ids = torch.arange(number)
        return Batch(views, ids, ids, stream=0, position=0, skipped=[], parameters=parameters)

    def test_reading_is_decoding_and_cropping(self, backend: str) -> None:
        transform = MultiView(ViewsConfig(global_size=16, local_crops=2, local_size=8, backend=backend))
        crops, parameters = transform.read({"bytes": encoded(NOISE), "path": None}, random.Random(3))
        assert parameters == []
        assert all(map(same, crops, transform.crop(NOISE, random.Random(3))))

    def test_they_are_8_bits_until_they_are_on_the_device(self, backend: str) -> None:
        transform = MultiView(config(local_crops=1, backend=backend))
        batch = self.batch(transform)
        assert [view.dtype for view in batch.views] == [torch.uint8] * 3
        assert all(view.is_contiguous(memory_format=torch.channels_last) for view in batch.views)
        placed = transform.to_device(batch, "cpu")
        assert [view.dtype for view in placed.views] == [torch.float32] * 3
        assert [tuple(view.shape) for view in placed.views] == [(5, 3, 16, 16)] * 2 + [(5, 3, 8, 8)]

    @pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
    @pytest.mark.parametrize("part", [1, 1000, 2**18])
    def test_normalisation(
        self, memory_format: torch.memory_format, part: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("ssl_zoo.data.views._CACHED_VALUES", part)
        mean, std = [0.4, 0.5, 0.3], [0.2, 0.3, 0.1]
        transform = MultiView(config(global_size=13, local_crops=1, mean=mean, std=std))
        batch = self.batch(transform)
        batch.support = (batch.views[0][:2], torch.tensor([1, 0]))
        placed = transform.to_device(batch, "cpu", memory_format=memory_format)
        pairs = [*zip(batch.views, placed.views, strict=True)]
        assert placed.support is not None
        pairs.append((batch.support[0], placed.support[0]))
        for pixels, made in pairs:
            expected = (pixels.double() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
            assert torch.allclose(made.double(), expected, atol=1e-5)
            assert made.is_contiguous(memory_format=memory_format)

    def test_no_rows_are_a_batch_too(self) -> None:
        empty = torch.zeros(0, 3, 8, 8, dtype=torch.uint8)
        assert EvalView(8).normalise(empty).shape == (0, 3, 8, 8)

    def test_the_device_gets_crops_and_what_is_to_be_done_to_them(self) -> None:
        settings = {"global_size": 16, "local_crops": 1, "local_size": 8}
        fast, device = (MultiView(ViewsConfig(backend=name, **settings)) for name in ("fast", "device"))
        ours, theirs = (self.batch(transform, number=12) for transform in (device, fast))
        assert [tuple(each.shape) for each in ours.parameters] == [(12, 23)] * 3
        assert theirs.parameters == []
        placed = device.to_device(ours, "cpu")
        assert placed.parameters == []
        for made, expected in zip(placed.views, fast.to_device(theirs, "cpu").views, strict=True):
            assert (made - expected).abs().mean() < 0.05
        assert all(map(same, device.crop(NOISE, random.Random(0)), fast.crop(NOISE, random.Random(0))))

    def test_a_backend_that_is_not_installed_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("cv2", "ssl_zoo.data.augment_fast"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delattr("ssl_zoo.data.augment_fast", raising=False)
        monkeypatch.setattr(builtins, "__import__", without_opencv)
        with pytest.raises(DataError, match=r"needs cv2, which is not installed.*views\.backend=reference"):
            MultiView(ViewsConfig())
        MultiView(ViewsConfig(backend="reference"))
        EvalView(8)


_IMPORT = builtins.__import__


def without_opencv(name: str, *args: Any, **kwargs: Any) -> Any:
    """An import system that has no OpenCV."""
    if name == "cv2":
        raise ModuleNotFoundError("No module named 'cv2'", name="cv2")
    return _IMPORT(name, *args, **kwargs)


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
            ("backend", "quick"),
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
