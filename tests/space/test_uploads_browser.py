"""Uploaded images in a real browser: good and bad ones, by every way of uploading; none of them is kept."""

import base64
import io
import re
import struct
import zlib

import pytest
from PIL import Image

from tests.space.conftest import PATIENCE


pytestmark = pytest.mark.browser
SLOW = pytest.mark.slow(seconds=5)  # cases that differ from one beside them in little

HERE = "?model=mira-embedded&data=embedded&tab=query"


def picture(kind: str = "PNG", side: int = 64, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((side, side)).convert("P" if kind == "GIF" else "RGB").save(
        buffer, kind, **options
    )
    return buffer.getvalue()


def large_png(side: int) -> bytes:
    """A PNG that says it has so many pixels on a side, in few bytes: decoded it would need gigabytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(1000 * (1 + 3 * side)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def bring(page, name: str, content: bytes, kind: str = "image/png") -> None:
    page.locator(".query-file").set_input_files({"name": name, "mimeType": kind, "buffer": content})


def wait_for_answer(page) -> None:
    page.locator(".query-status").filter(has_text="Most likely in cluster").wait_for()
    page.locator(".query-views").filter(has_text=re.compile("of 6 views stay in cluster")).wait_for()


@pytest.fixture
def page(visit):
    page = visit(HERE)
    page.locator(".query-examples img").first.wait_for()
    return page


def test_an_example_of_the_gallery(page):
    page.locator(".query-examples button").nth(3).click()
    wait_for_answer(page)
    found = page.locator(".query-found")
    shares = [float(text.rstrip(" %").lstrip("< ")) for text in found.locator(".query-bars data").all_inner_texts()]
    assert len(shares) == 10
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) <= 100.5
    assert found.locator("h3", has_text="Nearest images").count() == 1
    near = [float(text) for text in found.locator(".query-grid").first.locator("figcaption b").all_inner_texts()]
    assert len(near) == 12
    assert near == sorted(near, reverse=True)
    assert page.locator(".query-views figure").count() == 6
    before = page.locator(".query-views img").first.get_attribute("src")
    page.locator("[data-do=again]").click()
    page.wait_for_function("before => document.querySelector('.query-views img').src !== before", arg=before)
    number = found.locator("button[data-cluster]").first.get_attribute("data-cluster")
    found.locator("button[data-cluster]").first.click()
    page.locator("#cluster-detail h2").filter(has_text=f"Cluster {number}").wait_for()


@pytest.mark.parametrize(
    "kind", ["JPEG", "GIF", *(pytest.param(kind, marks=SLOW) for kind in ("PNG", "WEBP", "BMP", "TIFF"))]
)
def test_good_images(page, kind):
    bring(page, f"x.{kind.lower()}", picture(kind), f"image/{kind.lower()}")
    wait_for_answer(page)
    assert page.locator(".query-preview").get_attribute("alt") == "the image that you chose"
    assert page.locator(".query-preview").evaluate("image => image.naturalWidth") >= 32
    page.locator("[data-do=clear]").click()
    assert page.locator(".query-preview").is_hidden()
    assert "appear here" in page.inner_text(".query-found")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("corrupt.jpg", picture("JPEG", 200)[:1500], "This JPEG image is damaged or cut off"),
        ("large.png", large_png(40_000), r"40,000 x 40,000 pixels \(1,600 megapixels\); at most 40 megapixels"),
        (
            "a.svg",
            b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
            "an SVG drawing, not pixels",
        ),
        pytest.param("empty.png", b"", "The file is empty", marks=SLOW),
        pytest.param("page.png", b"<!doctype html><p>404", "a web page, not an image", marks=SLOW),
        pytest.param("x.png", b"no picture at all", "isn't an image of a known kind", marks=SLOW),
        pytest.param("heavy.bmp", b"BM" + bytes(10_000_001), "at most 10 MB are read", marks=SLOW),
    ],
    ids=lambda value: value if isinstance(value, str) and "." in value and " " not in value else "",
)
def test_bad_images_are_refused_in_words(page, name, content, words):
    bring(page, name, content)
    said = page.locator(".query-status.query-error")
    said.wait_for()
    assert re.search(words, said.inner_text()), said.inner_text()
    assert page.locator(".query-preview").is_hidden()
    bring(page, "good.png", picture())  # and the next image works as usual
    page.locator(".query-status").filter(has_text="Most likely in cluster").wait_for()
    assert said.count() == 0


def test_pasted_dropped_and_by_webcam(page):
    text = base64.b64encode(picture()).decode()
    give = """([text, kind]) => {
      const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
      const data = new DataTransfer();
      data.items.add(new File([bytes], "x.png", {type: "image/png"}));
      const at = kind === "paste" ? document.body : document.querySelector(".query-drop");
      at.dispatchEvent(kind === "paste" ? new ClipboardEvent("paste", {clipboardData: data, bubbles: true})
        : new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
    }"""
    for kind in ("paste", "drop"):
        page.evaluate(give, [text, kind])
        wait_for_answer(page)
        page.locator("[data-do=clear]").click()
    page.locator("[data-do=camera]").click()
    page.wait_for_function("document.querySelector('.query-camera video').videoWidth > 0", timeout=PATIENCE)
    page.locator("[data-do=take]").click()
    wait_for_answer(page)
    assert page.locator(".query-camera").is_hidden()


def test_nobody_else_sees_it_and_nothing_stays(visit, space, page):
    other = visit(HERE)
    other.locator(".query-examples img").first.wait_for()
    wanted = other.inner_html(".query-output")
    before = space.files()
    content = picture(side=73)
    bring(page, "mine.png", content)
    wait_for_answer(page)
    page.locator(".query-found h3", has_text="Likeliest").wait_for()
    assert other.inner_html(".query-output") == wanted
    assert other.locator(".query-preview").is_hidden()
    third = visit(page.url.partition("?")[1] + page.url.partition("?")[2])
    third.locator(".query-examples img").first.wait_for()
    assert third.locator(".query-preview").is_hidden(), "the address does not carry the image"
    assert space.files() == before
    assert {reply for reply in page.watched.answers if "/file=" in reply[1] or "/upload" in reply[1]} == set()
    page.reload()
    page.locator(".query-examples img").first.wait_for()
    assert page.locator(".query-preview").is_hidden()
