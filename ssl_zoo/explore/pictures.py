"""Small pictures as a page shows them: several in one file, or one as an address that holds it."""

import base64
import io
import threading
from collections import OrderedDict
from collections.abc import Sequence

from PIL import Image

from ssl_zoo.explore.gallery import THUMBNAIL, Gallery


__all__ = ["data_uri", "spaced", "strip"]

_QUALITY = 78
_MOST_KEPT = 1000  # about 10 kB each

_kept: OrderedDict[tuple[str, tuple[int, ...], int, int, int], str] = OrderedDict()
_kept_lock = threading.Lock()


def data_uri(file: bytes, kind: str = "jpeg") -> str:
    """An address that is the picture itself, for the `src` of an image."""
    return f"data:image/{kind};base64,{base64.b64encode(file).decode()}"


def spaced(numbers: Sequence[int], count: int) -> list[int]:
    """At most `count` of some numbers, evenly spaced from the first to the last."""
    if len(numbers) <= count:
        return [int(number) for number in numbers]
    step = (len(numbers) - 1) / (count - 1) if count > 1 else 0.0
    return [int(numbers[round(step * position)]) for position in range(count)]


def strip(gallery: Gallery, numbers: Sequence[int], *, columns: int, rows: int, side: int = THUMBNAIL) -> str:
    """Small pictures of some images in rows, as one address. The last ones stay in memory.

    Args:
        gallery ([`Gallery`]): Where the images are.
        numbers (`Sequence[int]`): Which, at most `columns * rows`.
        columns (`int`): Images in a row.
        rows (`int`): Rows of images; places without one are transparent.
        side (`int`): Of a small picture, in pixels.
    """
    key = gallery.identity, tuple(numbers[: columns * rows]), columns, rows, side
    with _kept_lock:
        known = _kept.get(key)
    if known is not None:
        return known
    sheet = Image.new("RGBA", (columns * side, rows * side))
    for place, number in enumerate(key[1]):
        with Image.open(io.BytesIO(gallery.small_images[number])) as small:
            small.draft("RGB", (side, side))
            sheet.paste(small.resize((side, side)), (place % columns * side, place // columns * side))
    buffer = io.BytesIO()
    sheet.save(buffer, "WEBP", quality=_QUALITY, method=2)  # 3 ms, and a third smaller than JPEG
    found = data_uri(buffer.getvalue(), "webp")
    with _kept_lock:
        _kept[key] = found
        while len(_kept) > _MOST_KEPT:
            _kept.popitem(last=False)
    return found
