"""Uploaded images: what is read, what is refused with a message; nothing is written, and no memory is exhausted."""

import base64
import io
import os
import random
import struct
import tempfile
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ssl_zoo.explore.uploads import MAX_BYTES, UploadError, decode_base64, read_upload
from ssl_zoo.explore.workbench import ExploreError


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")

KINDS = ["JPEG", "PNG", "WebP", "GIF", "BMP", "TIFF"]


def picture(width: int = 40, height: int = 30, mode: str = "RGB") -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of_zeros(width: int, height: int) -> bytes:
    """A whole PNG file of one bit per pixel, made without its pixels."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def huge(kind: str) -> bytes:
    """A file whose header says 30,000 x 20,000 pixels; the rest is that of a small one."""
    wide, high = 30_000, 20_000
    data = bytearray(saved(picture(), kind, **({"lossless": True} if kind == "WebP" else {})))
    if kind == "JPEG":
        place = data.index(b"\xff\xc0") + 5
        data[place : place + 4] = struct.pack(">HH", high, wide)
    elif kind == "PNG":
        header = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
        return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))
    elif kind == "WebP":
        canvas = b"\0" * 4 + (wide - 1).to_bytes(3, "little") + (high - 1).to_bytes(3, "little")
        body = b"WEBP" + b"VP8X" + struct.pack("<I", 10) + canvas + bytes(data[12:])
        return b"RIFF" + struct.pack("<I", len(body)) + body
    elif kind == "GIF":
        data[6:10] = struct.pack("<HH", wide, high)
    elif kind == "BMP":
        data[18:26] = struct.pack("<ii", wide, high)
    else:
        (directory,) = struct.unpack("<I", data[4:8])
        for place in range(directory + 2, directory + 2 + 12 * data[directory], 12):
            tag = struct.unpack("<H", data[place : place + 2])[0]
            if tag in (256, 257):
                data[place + 2 : place + 12] = struct.pack("<HII", 4, 1, wide if tag == 256 else high)
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read(kind, tmp_path):
    image = picture()
    data = saved(image, kind)
    with Image.open(io.BytesIO(data)) as other:
        expected = np.asarray(other.convert("RGB"))
    found = read_upload(data)
    assert found.mode == "RGB"
    assert np.array_equal(np.asarray(found), expected)
    (tmp_path / "upload").write_bytes(data)
    assert np.array_equal(np.asarray(read_upload(tmp_path / "upload")), expected)


@pytest.mark.parametrize("size", [(40, 30), (1, 1), (17, 300), (255, 14)])
@pytest.mark.parametrize("options", [{"quality": 70}, {"lossless": True}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\0"}])
def test_sizes_of_webp_are_read_off_every_kind_of_header(size, options):
    data = saved(picture(*size), "WebP", **options)
    assert read_upload(data).size == size


def test_orientation_transparency_and_metadata():
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by 90 degrees
    exif[0x010F] = "maker of cameras"
    found = read_upload(saved(picture(40, 30), "JPEG", exif=exif))
    assert found.size == (30, 40)
    assert found.info == {}
    assert b"maker" not in saved(found, "JPEG")
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert read_upload(saved(clear)).getpixel((0, 0)) == (255, 255, 255)
    frames = [Image.new("P", (5, 5), number) for number in range(3)]
    for frame in frames:
        frame.putpalette([10, 20, 30, 200, 100, 50, 1, 2, 3])
    animation = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert read_upload(animation).getpixel((2, 2)) == (10, 20, 30)


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_pixels_are_refused_by_the_header(kind):
    with pytest.raises(UploadError, match=r"30,000 x 20,000 pixels \(600 megapixels\)"):
        read_upload(huge(kind))


def peak_memory() -> int:
    """Most memory this process has held since it was last asked, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    peak = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
    Path("/proc/self/clear_refs").write_text("5")
    return peak


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the peak so far can't be forgotten")
@pytest.mark.usefixtures("one_core")
def test_a_bomb_takes_no_memory():
    """40,000 x 40,000 pixels in 200 kB: decoded, they would be 1.6 GB and more."""
    bomb = png_of_zeros(40_000, 40_000)
    assert len(bomb) < 300_000
    peak_memory()
    before = peak_memory()
    with pytest.raises(UploadError, match=r"40,000 x 40,000 pixels .* at most 40 megapixels"):
        read_upload(bomb)
    assert peak_memory() - before < 5_000_000


def test_the_limit_of_the_process_is_left_alone():
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # PIL warns from its own limit on
        with pytest.raises(UploadError, match="100 megapixels"):
            read_upload(png_of_zeros(10_000, 10_000))
    assert read_upload(png_of_zeros(5_000, 8_000)).size == (1_250, 2_000)
    assert limit == Image.MAX_IMAGE_PIXELS
    with pytest.raises(UploadError, match="40 megapixels"):
        read_upload(png_of_zeros(5_001, 8_000))


def test_too_long_files_are_not_read(tmp_path):
    with pytest.raises(UploadError, match=r"The file has 10\.5 MB; at most 10 MB"):
        read_upload(b"\xff\xd8\xff" + bytes(10_500_000))
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.truncate(2**40)  # reading it could fail or hang
    with pytest.raises(UploadError, match="at most 10 MB"):
        read_upload(sparse)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_cut_off_files_are_refused_in_words(kind, share):
    data = saved(picture(200, 150), kind)
    with pytest.raises(UploadError, match=f"{kind} image.*(damaged|cut off)|isn't an image of a known kind"):
        read_upload(data[: max(3, int(share * len(data)))])


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_damaged_only_words_come_out(kind):
    chance = random.Random(0)
    data = saved(picture(), kind)
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(chance.randint(1, 20)):
            damaged[chance.randrange(len(data))] = chance.randrange(256)
        words = None
        try:
            assert read_upload(bytes(damaged)).mode == "RGB"
        except UploadError as error:
            words = str(error)
        assert words is None or not (words.endswith(".") or "0x" in words)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "The file is empty"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "SVG drawing"),
        (b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- by hand -->\n<svg/>", "SVG drawing"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC image, which isn't read here: save it as JPEG or PNG"),
        (b"\0\0\0\x18ftypavif\0\0\0\0mif1avif", "AVIF image"),
        (b"<!DOCTYPE html><html></html>", "web page"),
        (b"%PDF-1.7", "PDF document"),
        (b"just text", "isn't an image of a known kind"),
        (b"P6 2 2 255 ............", "isn't an image of a known kind"),  # a kind that PIL would read
        (b"%!PS-Adobe-3.0 EPSF-3.0", "isn't an image of a known kind"),  # a kind for which PIL starts a program
    ],
)
def test_other_files_are_called_by_their_name(data, words):
    with pytest.raises(UploadError, match=words) as caught:
        read_upload(data)
    assert isinstance(caught.value, ExploreError)


def test_strips_and_endless_scans_are_refused():
    with pytest.raises(UploadError, match="a strip more than 20 times"):
        read_upload(saved(picture(3, 100)))
    assert read_upload(saved(picture(5, 100))).size == (5, 100)
    data = saved(picture(64, 64), "JPEG", progressive=True)
    assert read_upload(data).size == (64, 64)
    first, last = data.index(b"\xff\xda"), data.rindex(b"\xff\xd9")
    with pytest.raises(UploadError, match="more than 200 passes"):
        read_upload(data[:last] + data[first:last] * 40 + data[last:])


def test_large_pictures_are_averaged_in_whole_steps():
    blocks = np.random.default_rng(0).integers(0, 256, (103, 206, 3), dtype=np.uint8)

    def enlarged(factor: int) -> np.ndarray:
        return np.repeat(np.repeat(blocks, factor, axis=0), factor, axis=1)

    found = read_upload(saved(Image.fromarray(enlarged(20))))
    assert np.array_equal(np.asarray(found), enlarged(10))
    assert read_upload(saved(Image.new("RGB", (4_000, 2_040)))).size == (4_000, 2_040)


def test_base64():
    data = saved(picture())
    text = base64.b64encode(data).decode()
    assert decode_base64(text) == decode_base64(f"data:image/png;base64,{text}") == data
    for wrong in ("not base64!", "data:image/png;base64,@@@@", "YWJ"):
        with pytest.raises(UploadError, match="must be given as base64"):
            decode_base64(wrong)
    assert decode_base64("") == decode_base64("data:image/png;base64,") == b""
    with pytest.raises(UploadError, match="at most 10 MB"):
        decode_base64("A" * (MAX_BYTES * 4 // 3 + 8))
    assert len(decode_base64(base64.b64encode(bytes(MAX_BYTES)).decode())) == MAX_BYTES


def test_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for kind in KINDS:
        read_upload(saved(picture(), kind))
        with pytest.raises(UploadError):
            read_upload(saved(picture(), kind)[:40])
    assert list(tmp_path.rglob("*")) == []
