"""Thumbnails as data addresses."""

import base64
import io

import numpy as np
from PIL import Image

from ssl_zoo.explore.pictures import data_uri, spaced, strip


class Made:
    """A gallery of one-coloured pictures; `identity` tells galleries apart."""

    def __init__(self, identity: str, colors: list[str]) -> None:
        self.identity = identity
        self.small_images = []
        for color in colors:
            buffer = io.BytesIO()
            Image.new("RGB", (96, 96), color).save(buffer, "JPEG", quality=95)
            self.small_images.append(buffer.getvalue())


def opened(address: str) -> Image.Image:
    head, _, body = address.partition(",")
    assert head.startswith("data:image/")
    return Image.open(io.BytesIO(base64.b64decode(body, validate=True)))


def test_places_of_a_strip():
    """Row by row; places without an image are transparent."""
    gallery = Made("places", ["#ff0000", "#00ff00", "#0000ff", "#ffffff"])
    sheet = opened(strip(gallery, [2, 0, 1], columns=2, rows=2, side=40)).convert("RGBA")
    assert sheet.size == (80, 80)
    pixels = np.asarray(sheet).astype(int)
    for place, (row, column) in {(0, 0, 255): (20, 20), (255, 0, 0): (20, 60), (0, 255, 0): (60, 20)}.items():
        assert np.abs(pixels[row, column] - [*place, 255]).max() < 30
    assert pixels[60, 60, 3] == 0


def test_strips_of_two_galleries_are_kept_apart():
    red, blue = Made("red", ["#ff0000"] * 2), Made("blue", ["#0000ff"] * 2)
    asked = {"columns": 1, "rows": 1, "side": 32}
    first = strip(red, [0], **asked)
    assert strip(red, [0], **asked) is first
    assert strip(blue, [0], **asked) != first
    assert strip(red, [0], columns=1, rows=1, side=48) != first


def test_no_more_images_than_places():
    sheet = opened(strip(Made("full", ["#ff0000"] * 9), range(9), columns=2, rows=1, side=16))
    assert sheet.size == (32, 16)


def test_spaced():
    assert spaced(range(5), 9) == [0, 1, 2, 3, 4]
    assert spaced(range(101), 3) == [0, 50, 100]
    assert spaced([7, 8, 9], 1) == [7]
    assert spaced([], 4) == []


def test_an_address_is_the_file():
    assert base64.b64decode(data_uri(b"\x00\xffpicture").partition(",")[2]) == b"\x00\xffpicture"
