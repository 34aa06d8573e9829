"""The pictures of the pages in README.md and docs/: each can be taken, is small, and not blank.

SSL_ZOO_SCREENSHOTS=docs/images python -m pytest tests/space/test_screenshots.py    # takes those that are committed
"""

import io
import os
from pathlib import Path

import pytest
from PIL import Image


pytestmark = [pytest.mark.browser, pytest.mark.slow]

MOST_BYTES = 200_000
MIRA = "?model=mira-embedded&data=embedded"
SHOTS = {
    "clusters": (f"{MIRA}&cluster=7", "#cluster-detail .images img", {}),
    "map": (f"{MIRA}&tab=map", ".map-legend li", {}),
    "query": (f"{MIRA}&tab=query", ".query-examples img", {}),
    "compare": (f"{MIRA}&tab=compare&other=sela-cifar10", "table.moved", {}),
    "health": (f"{MIRA}&tab=health", ".findings li", {}),
    "dark": (f"{MIRA}&tab=map", ".map-legend li", {"dark": True}),
    "phone": (MIRA, "button.card", {"phone": True}),
}


@pytest.mark.parametrize("name", SHOTS)
def test_a_screenshot(visit, tmp_path, name):
    query, landmark, options = SHOTS[name]
    page = visit(query, **options)
    if name != "phone":
        page.set_viewport_size({"width": 1200, "height": 760})
    page.locator(landmark).first.wait_for()
    if name == "map":
        page.locator("[data-color=classes]").click()
        page.locator("[data-do=pictures]").click()
    if name == "query":
        page.locator(".query-examples button").nth(2).click()
        page.locator(".query-views figure").first.wait_for()
    page.mouse.move(0, 0)
    page.wait_for_timeout(800)
    page.evaluate("scrollTo(0, 0)")
    shot = Image.open(io.BytesIO(page.screenshot(animations="disabled"))).convert("RGB")
    assert shot.size == ((390, 844) if name == "phone" else (1200, 760))
    assert len(shot.resize((64, 64)).getcolors(4096) or range(4096)) > 60, "more than an empty page"
    folder = Path(os.environ.get("SSL_ZOO_SCREENSHOTS") or tmp_path)
    file = folder / f"space-{name}.png"
    for colors in (256, 192, 128, 96, 64):  # of few colours those of the page are kept, not only those of the images
        shot.quantize(colors, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE).save(file, optimize=True)
        if file.stat().st_size < MOST_BYTES:
            break
    assert file.stat().st_size < MOST_BYTES
