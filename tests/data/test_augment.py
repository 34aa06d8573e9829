"""The backends: `reference` is torchvision, and each operation of `fast` is within 2/255 of it on photographs."""

import io
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from photographs import photographs
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from ssl_zoo.data import MultiView, ViewsConfig, augment_fast, augment_reference, decode_fast
from ssl_zoo.data.decode import decode_image
from ssl_zoo.data.decode_fast import decode_pixels
from ssl_zoo.data.embedded import embedded_dataset_dir
from ssl_zoo.data.view_parameters import GLOBAL_1, GLOBAL_2, LOCAL, Affine, ViewParameters, draw_view
from ssl_zoo.data.views_config import INTERPOLATIONS


TOLERANCE = 2.0  # mean absolute difference, in units of 1/255
ADJUST = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)
FACTORS = [(step, factor) for step in range(3) for factor in (0.2, 0.6, 0.93, 1.07, 1.4, 1.8)]
TURNS = [(3, turns) for turns in (-0.5, -0.1, -0.02, 0.0, 0.02, 0.1, 0.5)]


@pytest.fixture(scope="module", params=["photographs", "embedded"])
def files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Encoded images."""
    if request.param == "photographs":
        return photographs()
    folder = embedded_dataset_dir(num_train=8, num_test=8, cache_dir=tmp_path_factory.mktemp("cache"))
    tables = [pq.read_table(file) for file in sorted((folder / "data").glob("train*.parquet"))]
    return [cell["bytes"] for table in tables for cell in table["image"].to_pylist()]


@pytest.fixture(scope="module")
def crops(files: list[bytes]) -> list[np.ndarray]:
    """Global crops, made by torchvision."""
    made = []
    for number, content in enumerate(files):
        image = decode_image(content)
        view = draw_view(ViewsConfig(), image.size, random.Random(number), GLOBAL_1)
        left, top, right, bottom = view.box
        bicubic = v2.InterpolationMode.BICUBIC
        made.append(np.array(tv.resized_crop(image, top, left, bottom - top, right - left, [160, 160], bicubic)))
    return made


def difference(ours: Any, theirs: Any) -> float:
    return float(np.abs(np.asarray(ours, dtype=float) - np.asarray(theirs, dtype=float)).mean())


def close(crops: list[np.ndarray], ours: Callable[[Any], Any], theirs: Callable[[Any], Any], *, most: float) -> None:
    assert max(difference(ours(crop), theirs(Image.fromarray(crop))) for crop in crops) <= most


def plain(size: int = 160, **changes: Any) -> ViewParameters:
    return ViewParameters(changes.pop("affine", None), (0, 0, size, size), size, **changes)


class TestOperations:
    @pytest.mark.parametrize(("step", "factor"), FACTORS + TURNS)
    def test_each_step_of_the_colour_jitter(self, crops: list[np.ndarray], step: int, factor: float) -> None:
        close(
            crops,
            lambda crop: augment_fast.change_colors(crop, [(step, factor)], gray=False),
            lambda image: ADJUST[step](image, factor),
            most=TOLERANCE if step == 3 else 1.0,
        )

    @pytest.mark.parametrize("seed", range(12))
    def test_steps_in_a_row_and_grey(self, crops: list[np.ndarray], seed: int) -> None:
        """Steps that are computed together: each is allowed its difference, also with clipping in between."""
        rng = random.Random(seed)
        jitter = [(step, rng.uniform(0.5, 1.5)) for step in rng.sample(range(3), 3)]

        def theirs(image: Image.Image) -> Any:
            for step, factor in jitter:
                image = ADJUST[step](image, factor)
            return tv.to_grayscale(image, num_output_channels=3) if seed % 2 else image

        close(
            crops, lambda crop: augment_fast.change_colors(crop, jitter, gray=bool(seed % 2)), theirs, most=TOLERANCE
        )

    def test_grey(self, crops: list[np.ndarray]) -> None:
        grey = lambda image: tv.to_grayscale(image, num_output_channels=3)  # noqa: E731
        close(crops, lambda crop: augment_fast.change_colors(crop, [], gray=True), grey, most=0.1)

    @pytest.mark.parametrize("sigma", [0.1, 0.27, 0.29, 0.5, 0.8, 1.0, 1.5, 2.0, 3.0])
    def test_blur(self, crops: list[np.ndarray], sigma: float) -> None:
        """Both torchvision's Gaussian and PIL's boxes, which the papers' code uses as one."""
        ours = lambda crop: augment_fast.gaussian_blur(crop, sigma)  # noqa: E731
        close(crops, ours, lambda image: tv.gaussian_blur(image, [23, 23], [sigma, sigma]), most=0.6)
        close(crops, ours, lambda image: augment_reference.make_views(image, [plain(blur_sigma=sigma)],
              interpolation="bicubic")[0], most=3.0)  # fmt: skip

    def test_flip_and_solarise(self, crops: list[np.ndarray]) -> None:
        close(crops, lambda crop: augment_fast.change_view(crop, plain(flip=True)), tv.horizontal_flip, most=0.0)
        close(
            crops,
            lambda crop: augment_fast.change_view(crop, plain(switches=("solarize",))),
            lambda image: tv.solarize(image, 128),
            most=0.0,
        )

    def test_nothing_changes_its_argument(self, crops: list[np.ndarray]) -> None:
        crop = crops[0].copy()
        jitter = ((3, 0.1), (0, 1.4), (1, 0.7), (2, 1.2))
        augment_fast.change_view(crop, plain(flip=False, jitter=jitter, blur_sigma=1.0, switches=("solarize",)))
        augment_fast.change_view(crop, plain(flip=False, jitter=jitter[:1]))
        assert np.array_equal(crop, crops[0])

    @pytest.mark.parametrize("interpolation", INTERPOLATIONS)
    @pytest.mark.parametrize("box", [(0, 0, 48, 48), (3, 5, 45, 30), (10, 4, 20, 40), (7, 7, 39, 39), (1, 1, 3, 3)])
    def test_resized_crops(self, files: list[bytes], interpolation: str, box: tuple[int, int, int, int]) -> None:
        for content in files[:4]:
            image = decode_image(content)
            left, top, right, bottom = box
            mode = v2.InterpolationMode(interpolation)
            theirs = tv.resized_crop(image, top, left, bottom - top, right - left, [32, 32], mode)
            ours = augment_fast.cut_view(np.array(image), ViewParameters(None, box, 32), interpolation=interpolation)
            assert np.abs(ours.astype(int) - np.asarray(theirs)).max() <= 2
            assert difference(ours, theirs) < 0.1
            assert ours.flags.c_contiguous

    def test_affine(self, files: list[bytes]) -> None:
        image = decode_image(files[0])
        affine, size = Affine(-12.0, (3, -5), 1.2), min(image.size)
        view = ViewParameters(affine, (0, 0, size, size), size)
        moved = tv.affine(image, -12.0, [3, -5], 1.2, [0.0, 0.0], v2.InterpolationMode.BILINEAR)
        ours = augment_fast.cut_view(np.array(image), view, interpolation="bicubic")
        assert np.array_equal(ours, np.asarray(moved.crop((0, 0, size, size))))


@pytest.mark.parametrize("kind", [GLOBAL_1, GLOBAL_2, LOCAL])
def test_whole_views(files: list[bytes], kind: int) -> None:
    """Up to eight operations in a row, each with its own rounding."""
    differences = []
    for number, content in enumerate(files):
        image = decode_image(content)
        view = draw_view(ViewsConfig(), image.size, random.Random(number), kind)
        ours, theirs = (
            backend.make_views(image, [view], interpolation="bicubic")[0]
            for backend in (augment_fast, augment_reference)
        )
        differences.append(difference(ours, theirs))
    assert np.mean(differences) < TOLERANCE
    assert max(differences) < 2 * TOLERANCE


def test_the_reference_is_torchvision(files: list[bytes]) -> None:
    """Bit by bit: the same parameters in torchvision's functions, written out a second time."""
    config = ViewsConfig(
        backend="reference", local_crops=2, solarize_probability=[0.5] * 3, blur_probability=[0.0] * 3
    )
    for number, content in enumerate(files):
        image, rng = decode_image(content), random.Random(number)
        made = MultiView(config).read(content, random.Random(number)).crops
        for crop, kind in zip(made, (GLOBAL_1, GLOBAL_2, LOCAL, LOCAL), strict=True):
            view = draw_view(config, image.size, rng, kind)
            left, top, right, bottom = view.box
            size, mode = [view.size] * 2, v2.InterpolationMode.BICUBIC
            expected: Any = tv.resized_crop(image, top, left, bottom - top, right - left, size, mode)
            expected = tv.horizontal_flip(expected) if view.flip else expected
            for step, factor in view.jitter:
                expected = ADJUST[step](expected, factor)
            expected = tv.to_grayscale(expected, num_output_channels=3) if view.gray else expected
            expected = tv.solarize(expected, 128) if view.switches else expected
            assert np.array_equal(crop, np.asarray(expected))


class TestDecoding:
    def test_pixels_are_those_of_pil(self, files: list[bytes]) -> None:
        for content in files:
            assert np.array_equal(decode_pixels(content), np.asarray(decode_image(content)))

    @pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
    @pytest.mark.parametrize("orientation", [None, 1, 3, 6, 8])
    def test_jpegs_of_all_kinds(self, mode: str, orientation: int | None) -> None:
        content = jpeg(smooth(24, 18).convert(mode), orientation)
        pixels = decode_pixels(content)
        assert np.array_equal(pixels, np.asarray(decode_image(content)))
        assert pixels.shape == ((24, 18, 3) if orientation in (6, 8) else (18, 24, 3))
        assert pixels.flags.c_contiguous

    @pytest.mark.parametrize(
        ("side", "orientation", "reductions"),
        [(1600, None, {8}), (901, None, {4, 8}), (421, 1, {2, 4}), (421, 6, {1})],  # rotated ones are decoded whole
    )
    def test_large_photographs_are_decoded_smaller(
        self, side: int, orientation: int | None, reductions: set[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(augment_fast, "_LARGE_FILE", 0)
        asked = []

        def decode(value: bytes, *, reduction: int = 1) -> Image.Image:
            asked.append(reduction)
            return decode_image(value, reduction=reduction)

        monkeypatch.setattr(augment_fast, "decode_image", decode)
        monkeypatch.setattr(decode_fast, "decode_image", decode)
        content = jpeg(smooth(side, side * 3 // 4), orientation)
        nothing: dict[str, Any] = {
            f"{name}_probability": [0.0] * 3 for name in ("color_jitter", "gray", "blur", "solarize")
        }
        config = ViewsConfig(global_size=64, global_scale=[0.5, 1.0], **nothing)
        for seed in range(6):
            expected = MultiView(ViewsConfig(**{**vars(config), "backend": "reference"}))
            ours = MultiView(config).read(content, random.Random(seed)).crops
            theirs = expected.read(content, random.Random(seed)).crops
            assert max(map(difference, ours, theirs)) < TOLERANCE
        assert set(asked) == reductions

    def test_an_image_is_not_reduced_below_its_views(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(augment_fast, "_LARGE_FILE", 0)
        monkeypatch.setattr(augment_fast, "decode_image", lambda *_, **__: pytest.fail("reduced"))
        content = jpeg(smooth(100, 90), None)
        MultiView(ViewsConfig(global_size=64)).read(content, random.Random(0))
        affine = ViewsConfig(global_size=8, rotation_degrees=5.0)
        MultiView(affine).read(content, random.Random(0))


def smooth(width: int, height: int) -> Image.Image:
    """Colours and shapes without noise, as a large photograph has them from pixel to pixel."""
    noise = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(image: Image.Image, orientation: int | None) -> bytes:
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=90, exif=exif)
    return buffer.getvalue()
