"""Every mode of image becomes upright RGB with the right colours; everything else is a corrupt row."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_sets import encoded

from ssl_zoo.data import CorruptImageError, decode_image


RED, WHITE = (255, 0, 0), (255, 255, 255)


def pixel(content: bytes, at: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    image = decode_image({"bytes": content, "path": None})
    assert image.mode == "RGB"
    value = image.getpixel(at)
    assert isinstance(value, tuple)
    return tuple(int(channel) for channel in value)


@pytest.mark.parametrize(
    ("mode", "color", "kind", "expected"),
    [
        ("RGB", (10, 20, 30), "PNG", (10, 20, 30)),
        ("L", 100, "PNG", (100, 100, 100)),
        ("1", 1, "PNG", WHITE),
        ("LA", (100, 255), "PNG", (100, 100, 100)),
        ("LA", (100, 0), "PNG", WHITE),
        ("RGBA", (255, 0, 0, 255), "PNG", RED),
        ("RGBA", (255, 0, 0, 0), "PNG", WHITE),
        ("RGBA", (0, 0, 0, 51), "PNG", (204, 204, 204)),
        ("CMYK", (0, 255, 255, 0), "TIFF", RED),
        ("CMYK", (0, 0, 0, 255), "TIFF", (0, 0, 0)),
        ("I;16", 65535, "PNG", WHITE),
        ("I;16", 25700, "PNG", (100, 100, 100)),
        ("I;16", 257, "TIFF", (1, 1, 1)),
        ("I", 25700, "TIFF", (100, 100, 100)),
    ],
)
def test_modes(mode: str, color: object, kind: str, expected: tuple[int, ...]) -> None:
    assert pixel(encoded(Image.new(mode, (4, 4), color), kind)) == expected  # type: ignore[arg-type]


def test_cmyk_jpeg() -> None:
    red, green, blue = pixel(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert red > 240
    assert max(green, blue) < 15


def test_palette_with_and_without_transparency() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    assert [pixel(encoded(image), (x, 0)) for x in (0, 1)] == [RED, (0, 0, 255)]
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=1)
    assert [pixel(buffer.getvalue(), (x, 0)) for x in (0, 1)] == [RED, WHITE]


@pytest.mark.parametrize(("mode", "color"), [("RGB", (0, 0, 0)), ("L", 0)])
def test_one_transparent_colour(mode: str, color: object) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (2, 2), color).save(buffer, "PNG", transparency=color)  # type: ignore[arg-type]
    assert pixel(buffer.getvalue()) == WHITE


def test_all_16_bit_values_keep_their_order_and_range() -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    grey = np.asarray(decode_image(encoded(Image.fromarray(values))))[..., 0].ravel().astype(int)
    assert (grey[0], grey[-1]) == (0, 255)
    assert np.abs(grey - np.arange(256)).max() <= 1


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (16, 8))
    image.paste(RED, (0, 0, 8, 8))  # the left half
    exif = Image.Exif()
    exif[0x0112] = 6  # to be rotated clockwise by 90 degrees
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    upright = decode_image(buffer.getvalue())
    assert upright.size == (8, 16)
    assert upright.getpixel((4, 2)) == RED
    assert upright.getpixel((4, 14)) == (0, 0, 0)


def test_a_path_is_read(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    Image.new("RGB", (2, 2), RED).save(file)
    assert decode_image({"bytes": None, "path": str(file)}).getpixel((0, 0)) == RED


JPEG = encoded(Image.effect_noise((64, 64), 50), "JPEG")


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, "no image"),
        ({"bytes": None, "path": None}, "no image"),
        ({"bytes": None, "path": "/does/not/exist.png"}, "FileNotFoundError"),
        ({"bytes": b"", "path": None}, "not an image file"),
        ({"bytes": b"\x89PNG\r\n\x1a\n garbage", "path": None}, ""),
        ({"bytes": JPEG[: len(JPEG) // 2], "path": None}, "truncated"),
        ({"bytes": encoded(Image.new("F", (4, 4)), "TIFF"), "path": None}, "32-bit float"),
        ("a text", "str instead of image bytes"),
        (7, "int instead of image bytes"),
    ],
)
def test_corrupt_values(value: object, reason: str) -> None:
    with pytest.raises(CorruptImageError, match=reason):
        decode_image(value)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL also warns of broken tags
def test_damaged_files_never_raise_anything_else() -> None:
    rng = np.random.default_rng(0)
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP"):
        content = encoded(Image.effect_noise((32, 32), 50), kind)
        for _ in range(40):
            damaged = bytearray(content)
            for place in rng.integers(0, len(content), 8):
                damaged[place] = rng.integers(0, 256)
            try:
                image = decode_image(bytes(damaged))
            except CorruptImageError:
                continue
            assert image.mode == "RGB"
