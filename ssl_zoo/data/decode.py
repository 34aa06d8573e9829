"""From the bytes of an image file to an RGB image, whatever the file's mode."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets.utils.file_utils import is_local_path, xopen
from PIL import Image, ImageOps, UnidentifiedImageError


__all__ = ["CorruptImageError", "Pixels", "decode_image", "read_content"]

Pixels = npt.NDArray[np.uint8]


class CorruptImageError(ValueError):
    """A row that holds no readable image. The stream skips, counts and names such rows."""


def decode_image(value: Any, *, reduction: int = 1) -> Image.Image:
    """Decode one undecoded image value to 8-bit RGB, upright.

    Grey, palette and CMYK images are converted, 16-bit grey is scaled to 8 bits, transparency is composited over
    white, and the EXIF orientation is applied.

    Args:
        value (`dict`, `bytes` or `None`): What `datasets.Image(decode=False)` gives: `{"bytes", "path"}`, of which
            either may be `None`; or the bytes of an image file.
        reduction (`int`): 2, 4 or 8 decodes a JPEG to so many times fewer rows and columns (rounded up), which is
            faster.

    Returns:
        `PIL.Image.Image` of mode `"RGB"`.

    Raises:
        CorruptImageError: The value is no image, or a damaged one. A failing network is *not* reported as this.
    """
    content = read_content(value)
    try:
        with Image.open(io.BytesIO(content)) as image:
            if reduction > 1:
                image.draft(None, (image.width // reduction, image.height // reduction))
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    except CorruptImageError:
        raise
    except UnidentifiedImageError as error:  # its own text holds a memory address
        raise CorruptImageError("not an image file") from error
    except Exception as error:  # PIL's plugins let through whatever their parsers stumble on
        raise CorruptImageError(f"{type(error).__name__}: {error}") from error


def read_content(value: Any) -> bytes:
    """The bytes of the image file, read from its path when the row only names it."""
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if content is None and path:
        if not is_local_path(path):
            with xopen(path, "rb") as file:
                content = file.read()
        else:
            try:
                content = Path(path).read_bytes()
            except OSError as error:
                raise CorruptImageError(f"{type(error).__name__}: {error}") from error
    if not isinstance(content, bytes):
        raise CorruptImageError("no image" if content is None else f"{type(content).__name__} instead of image bytes")
    return content


def _to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL mode to RGB; transparent parts become white."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey; "I" is how older files and PNG readers spell it
        grey = np.asarray(image).astype(np.float64) / 257.0  # 65535 / 255 = 257
        return Image.fromarray(np.clip(np.rint(grey), 0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise CorruptImageError("32-bit float pixels have no agreed range; store the image with 8 or 16 bits")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")
