"""Images of visitors: checked before they are decoded, held in memory only, never written to disk."""

import base64
import binascii
import io
from collections.abc import Callable
from pathlib import Path

from PIL import BmpImagePlugin, GifImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from ssl_zoo.data.decode import CorruptImageError, decode_image
from ssl_zoo.explore.workbench import ExploreError


__all__ = ["MAX_BYTES", "MAX_PIXELS", "UploadError", "decode_base64", "read_upload"]

MAX_BYTES = 10_000_000
MAX_PIXELS = 40_000_000

# The plugin's class is called directly: `Image.open` has a limit of its own, for the whole process, and its message
# doesn't give the size of the image.
_HEADERS: dict[str, Callable[[io.BytesIO], Image.Image]] = {
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "BMP": BmpImagePlugin.BmpImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
}
_SIGNATURES = {
    b"\xff\xd8\xff": "JPEG",
    b"\x89PNG\r\n\x1a\n": "PNG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"BM": "BMP",
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
}
_ACCEPTED = "JPEG, PNG, WebP, GIF, BMP and TIFF images are read"
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"}  # of files with `ftyp`; all other image brands are of the HEIC family
_PHOTO_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", *_BRANDS)
# A progressive JPEG has about ten scans, each of which takes as long as a decoding; a hostile one has thousands.
_MAX_SCANS = 200
# Models see 224 pixels or a little more: larger images are averaged down by whole factors, to no less than this.
_SHORT_SIDE = 1024
# A view is cut after the short side is resized: a strip one pixel high would become gigabytes.
_MAX_SHAPE = 20


class UploadError(ExploreError):
    """A visitor's file isn't an image that can be read; the message says why."""


def read_upload(data: bytes | Path) -> Image.Image:
    """Read an image of a visitor from its file or path; returns it in RGB, without any metadata.

    Nothing is decoded before the size of the file and the number of pixels in its header are checked. Of an animation
    the first frame is read; orientation, transparency and depth are handled as in training. Large images are averaged
    down by whole factors, to a short side of at least 1,024 pixels.

    Raises:
        UploadError: The file is too large, of another kind, damaged, or has too many pixels.
    """
    if isinstance(data, Path):
        _check_bytes(data.stat().st_size)
        data = data.read_bytes()
    _check_bytes(len(data))
    kind = _kind(data)
    width, height = _size(kind, data)
    if width * height > MAX_PIXELS:
        raise UploadError(
            f"This {kind} image has {width:,} x {height:,} pixels ({width * height / 1e6:,.0f} megapixels); "
            f"at most {MAX_PIXELS / 1e6:.0f} megapixels are read: make it smaller and try again"
        )
    if max(width, height) > _MAX_SHAPE * min(width, height):
        raise UploadError(
            f"This image is {width:,} x {height:,} pixels, a strip more than {_MAX_SHAPE} times as long as wide: "
            "cut it and try again"
        )
    if kind == "JPEG" and data.count(b"\xff\xda") > _MAX_SCANS:
        raise UploadError(f"This JPEG image comes in more than {_MAX_SCANS} passes, as no camera or program writes it")
    try:
        image = decode_image(data)
    except CorruptImageError as error:
        raise UploadError(f"This {kind} image is damaged or cut off and can't be decoded") from error
    steps = min(image.size) // _SHORT_SIDE
    if steps > 1:
        image = image.reduce(steps)
    image.info.clear()  # place and time of a photograph, for example
    return image


def decode_base64(text: str) -> bytes:
    """The bytes of a data URL (`data:image/png;base64,...`) or of plain base64; a text that is too long isn't decoded.

    Raises:
        UploadError: The text is too long, or isn't base64.
    """
    content = text.partition(",")[2] if text[:5].lower() == "data:" else text
    _check_bytes(max(len(content) * 3 // 4 - 2, 1))
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UploadError("The image must be given as base64 text, such as `data:image/png;base64,...`") from error


def _check_bytes(size: int) -> None:
    if size > MAX_BYTES:
        raise UploadError(f"The file has {size / 1e6:,.1f} MB; at most {MAX_BYTES / 1e6:.0f} MB are read")
    if size <= 0:
        raise UploadError("The file is empty")


def _kind(data: bytes) -> str:
    """Format of the image by its first bytes, whatever its name is."""
    for signature, kind in _SIGNATURES.items():
        if data.startswith(signature):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp" and data[8:12] in _PHOTO_BRANDS:
        kind = _BRANDS.get(data[8:12], "HEIC")
        raise UploadError(f"This is a {kind} image, which isn't read here: save it as JPEG or PNG. {_ACCEPTED}")
    start = data[:4096].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith(b"<") and b"<svg" in start:
        raise UploadError(f"This is an SVG drawing, not pixels: save it as PNG. {_ACCEPTED}")
    if start.startswith((b"<!doctype html", b"<html")):
        raise UploadError(f"This is a web page, not an image: save the picture itself. {_ACCEPTED}")
    if start.startswith(b"%pdf"):
        raise UploadError(f"This is a PDF document, not an image. {_ACCEPTED}")
    raise UploadError(f"This file isn't an image of a known kind. {_ACCEPTED}")


def _size(kind: str, data: bytes) -> tuple[int, int]:
    """Width and height from the header."""
    try:
        if kind == "WebP":  # PIL's class allocates the whole image before its size is known
            return _webp_size(data)
        return _HEADERS[kind](io.BytesIO(data)).size
    except Image.DecompressionBombError as error:  # a frame of a GIF may be larger than its header says
        raise UploadError(f"This {kind} image has too many pixels: make it smaller and try again") from error
    except Exception as error:  # PIL's parsers raise errors of many kinds
        raise UploadError(f"This file begins like a {kind} image, but is damaged or cut off") from error


def _webp_size(data: bytes) -> tuple[int, int]:
    """Width and height of a WebP file (https://developers.google.com/speed/webp/docs/riff_container)."""
    if len(data) < 30:
        raise ValueError("shorter than a header")
    chunk = data[12:16]
    if chunk == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if chunk == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    if chunk == b"VP8 ":
        return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF
    raise ValueError(f"unknown chunk {chunk!r}")
