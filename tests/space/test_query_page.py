"""The page for a visitor's image, by the requests that browsers and gradio_client send."""

import base64
import io
import json
import sys
import tempfile
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image


gr = pytest.importorskip("gradio")
gradio_client = pytest.importorskip("gradio_client")

from ssl_zoo.explore.workbench import NotReady, Request  # noqa: E402
from tests.explore.made_explained import explain, make_gallery  # noqa: E402
from tests.explore.test_query import Model, picture  # noqa: E402


SPACE = Path(__file__).parents[2] / "space"
OPEN = {"model": "made", "data": "made"}


def png(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A server with this page alone, of a made-up model whose class names are hostile."""
    folder, model = tmp_path_factory.mktemp("page"), Model()
    features, scores = model.look(torch.stack([model.view(picture(number))[0] for number in range(30)]))
    gallery = make_gallery(
        folder / "gallery", [number % 2 for number in range(30)], ["<script>alert(1)</script>", "b"]
    )
    explained = explain(folder / "model", gallery, scores.numpy(), features.numpy())

    def get(request: Request):
        if request != Request.from_query(OPEN):
            raise NotReady(f"'{request.model}' is not open: press Open.")
        return explained

    before, patch = set(sys.modules), pytest.MonkeyPatch()
    patch.syspath_prepend(str(SPACE))
    uploads = folder / "uploads"
    uploads.mkdir()
    patch.setenv("GRADIO_TEMP_DIR", str(uploads))
    patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    patch.setattr(tempfile, "tempdir", str(uploads))
    import registry
    import shell
    import view

    with gr.Blocks() as demo:
        bench = SimpleNamespace(get=get, open=lambda request: iter([get(request)]), explorer=lambda request: model)
        found = registry.find_pages()
        app = shell.App(
            bench, gr.State(view.Visitor({})), gr.Tabs(), gr.Textbox(), found, registry.all_settings(found)
        )
        found["query"].build(app)
        app.connect()
    _, address, _ = demo.launch(prevent_thread_lock=True, quiet=True, share=False, ssr_mode=False, max_file_size=1)
    (widget,) = [block for block in demo.blocks.values() if getattr(block, "elem_id", None) == "query"]
    yield SimpleNamespace(address=address, widget=widget, uploads=uploads)
    demo.close()
    patch.undo()
    for name in set(sys.modules) - before:
        if Path(str(getattr(sys.modules[name], "__file__", ""))).is_relative_to(SPACE):
            del sys.modules[name]


def post(page, path: str, body: bytes, kind: str) -> tuple[int, bytes]:
    request = urllib.request.Request(f"{page.address}gradio_api/{path}", body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=200) as reply:
            return reply.status, reply.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def ask(page, question: object) -> dict:
    data = {"data": question, "component_id": page.widget._id, "session_hash": "a", "fn_name": "try_image"}
    status, reply = post(page, "component_server", json.dumps(data).encode(), "application/json")
    assert status == 200
    return json.loads(reply)


def test_an_image_is_looked_at_and_nothing_stays(page):
    answer = ask(page, {"image": png(picture(5)), "part": "look", "request": OPEN, "view": {}})
    assert set(answer) == {"html", "picture", "alt", "words"}
    assert answer["words"].startswith("Most likely in cluster ")
    assert answer["html"].count("<figure>") == 12
    assert answer["html"].count("<img") == answer["html"].count(" alt=")
    assert "<script" not in answer["html"]
    assert "&lt;script&gt;" in answer["html"]
    views = ask(page, {"image": png(picture(5)), "part": "views", "seed": 1, "request": OPEN, "view": {}})
    assert views["html"].count("<figure>") == 6
    assert "of 6 views stay in cluster" in views["html"]
    assert [path for path in page.uploads.rglob("*") if path.is_file()] == []


def test_an_image_of_the_gallery(page):
    answer = ask(page, {"example": 4, "part": "look", "request": OPEN, "view": {"head": "1", "temperature": "0.5"}})
    assert answer["alt"].startswith("image 4 of the gallery, <script>")  # set as an attribute, not as HTML


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"image": png(picture(1))}, "Nothing is open"),
        ({"image": png(picture(1)), "request": {"model": "other"}}, "'other' is not open"),
        ({"image": png(picture(1)), "request": OPEN, "view": {"head": "9"}}, "no head 9"),
        ({"image": png(picture(1)), "request": OPEN, "view": {"head": "x"}}, "must be numbers"),
        ({"image": png(picture(1)), "request": OPEN, "view": {"temperature": "nan"}}, "temperature"),
        ({"image": png(picture(1))[:120], "request": OPEN}, "base64|damaged"),
        ({"image": "data:image/png;base64,", "request": OPEN}, "empty"),
        ({"image": "<svg>", "request": OPEN}, "base64"),
        ({"image": "A" * 14_000_000, "request": OPEN}, "at most 10 MB"),
        ({"image": {"path": "/etc/passwd"}, "request": OPEN}, "no image"),
        ({"example": -1, "request": OPEN}, "no image"),
        ({"example": 30, "request": OPEN}, "no image"),
        ({"example": "../x", "request": OPEN}, "no image"),
        ({"request": OPEN}, "no image"),
        ([], "Something went wrong"),
    ],
)
def test_what_is_wrong_is_said(page, question, words):
    answer = ask(page, question)
    assert set(answer) == {"error"}
    assert any(word in answer["error"] for word in words.split("|"))


def test_files_are_not_taken(page):
    """No page needs Gradio's own upload, which would leave files behind."""
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nxxxx\r\n--b--\r\n'
    status, _ = post(page, "upload", body, "multipart/form-data; boundary=b")
    assert status == 413
    assert [path for path in page.uploads.rglob("*") if path.is_file()] == []


def test_the_client(page):
    client = gradio_client.Client(page.address, verbose=False)
    found = client.predict(png(picture(7)), OPEN, {"head": "1"}, 3, 0, api_name="/try_image")
    assert set(found) == {"clusters", "entropy", "neighbours", "views"}
    assert found["neighbours"][0]["image"] == 7
    assert found["neighbours"][0]["similarity"] == pytest.approx(1, abs=1e-5)
    assert len(found["views"]) == 3
    assert sum(each["probability"] for each in found["clusters"]) == pytest.approx(1, abs=1e-4)
    with pytest.raises(gradio_client.exceptions.AppError, match="isn't an image of a known kind"):
        client.predict(base64.b64encode(b"text").decode(), OPEN, api_name="/try_image")
    with pytest.raises(gradio_client.exceptions.AppError, match="from 1 to 12"):
        client.predict(png(picture(7)), OPEN, None, 999, api_name="/try_image")
    assert [path for path in page.uploads.rglob("*") if path.is_file()] == []
