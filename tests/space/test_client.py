"""Programs get two functions of the Space by gradio_client, and nothing else of the server."""

import base64
import io
import json
import threading
import urllib.error
import urllib.request

import pytest
from PIL import Image

from tests.space.conftest import ROOT


gradio_client = pytest.importorskip("gradio_client", reason="gradio is not installed: pip install 'ssl_zoo[space]'")

MIRA = {"model": "mira-embedded", "data": "embedded", "images": "300"}


@pytest.fixture(scope="module")
def client(space):
    return gradio_client.Client(space.address, verbose=False, analytics_enabled=False)


def png(side: int = 64) -> str:
    buffer = io.BytesIO()
    Image.radial_gradient("L").resize((side, side)).convert("RGB").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def test_only_these_functions_are_public(client):
    assert set(client.view_api(return_format="dict")["named_endpoints"]) == {"/clusters", "/try_image"}
    assert client.view_api(return_format="dict")["unnamed_endpoints"] == {}


def test_clusters(client):
    listed = client.predict(MIRA, api_name="/clusters")
    sizes = [cluster["size"] for cluster in listed]
    assert sum(sizes) == 300
    assert sizes == sorted(sizes, reverse=True)
    assert sorted(cluster["number"] for cluster in listed) == list(range(len(listed)))
    assert all(cluster["is_dead"] == (cluster["size"] == 0) for cluster in listed)
    flat = client.predict(MIRA, {"temperature": "5", "sort": "confidence"}, api_name="/clusters")
    sure = [cluster["confidence"] for cluster in flat if not cluster["is_dead"]]
    assert sure == sorted(sure, reverse=True)
    assert max(sure) < max(cluster["confidence"] for cluster in listed if not cluster["is_dead"])
    named = client.predict(MIRA, {"find": "seven"}, api_name="/clusters")
    assert 0 < len(named) < len(listed)


def test_the_assignment_fills_all_clusters(client):
    listed = client.predict(MIRA, {"mode": "assignment"}, api_name="/clusters")
    softmax = client.predict(MIRA, api_name="/clusters")
    assert sum(cluster["size"] for cluster in listed) == 300
    assert [cluster["size"] for cluster in listed] != [cluster["size"] for cluster in softmax]


def test_an_image(client, space):
    before = space.files()
    found = client.predict(png(), MIRA, views=3, seed=1, api_name="/try_image")
    shares = [cluster["probability"] for cluster in found["clusters"]]
    assert shares == sorted(shares, reverse=True)
    assert 0 < sum(shares) <= 1 + 1e-5
    near = [each["similarity"] for each in found["neighbours"]]
    assert near == sorted(near, reverse=True)
    assert -1 <= near[-1] <= near[0] <= 1 + 1e-5
    assert len(found["views"]) == 3
    assert client.predict(png(), MIRA, views=3, seed=1, api_name="/try_image") == found
    assert client.predict(png(), MIRA, views=3, seed=2, api_name="/try_image")["views"] != found["views"]
    assert set(space.files()) == set(before), "nothing of an image stays"


@pytest.mark.parametrize(
    ("image", "request_", "words"),
    [
        (png(), {}, "Nothing is open"),
        (
            png(),
            {"model": "no/such-model"},
            "'no/such-model' can't be loaded from the Hub: there is no such repository",
        ),
        (png(), {"model": "../../etc"}, "leads out of the folders"),
        (png(), {"model": "/etc/passwd"}, "There is no model '/etc/passwd'"),
        (png(), {"model": "file:///etc"}, "is an address"),
        (png(), {**MIRA, "data": "/etc"}, "There is no data set '/etc'"),
        (png(), {**MIRA, "images": "-1"}, "whole number"),
        (png()[:200], MIRA, "damaged|base64"),
        ("", MIRA, "empty"),
        ("/etc/passwd", MIRA, "base64|known kind"),
        (base64.b64encode(b"<svg xmlns='x'/>").decode(), MIRA, "an SVG drawing"),
    ],
)
def test_what_is_wrong_is_said(client, space, image, request_, words):
    with pytest.raises(gradio_client.exceptions.AppError, match=words) as caught:
        client.predict(image, request_, api_name="/try_image")
    assert str(space.cache) not in str(caught.value)
    assert "root:" not in str(caught.value)


def test_many_at_once_each_get_their_own(client):
    """Answers of different images don't get mixed up."""
    images = [png(side) for side in (24, 40, 56, 72)]
    alone = [client.predict(image, MIRA, api_name="/try_image") for image in images]
    assert alone[0] != alone[1]
    together: dict[int, dict] = {}

    def ask(number: int) -> None:
        together[number] = client.predict(images[number % 4], MIRA, api_name="/try_image")

    workers = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [together[number] for number in range(8)] == alone + alone


@pytest.mark.parametrize(
    "path",
    [
        *("/etc/passwd", "app.py", "../pyproject.toml", str(ROOT / "space/app.py"), str(ROOT / "pyproject.toml")),
        str(ROOT / "space/models/mira-embedded/config.json"),
    ],
)
def test_files_of_the_server_cannot_be_fetched(space, path):
    for route in ("gradio_api/file=", "file=", "gradio_api/file/"):
        status, body = space.get(route + path)
        assert status in (403, 404), (route, status, body[:100])


def test_what_the_server_keeps_cannot_be_fetched(space):
    for file in list(space.files())[:5]:
        assert space.get(f"gradio_api/file={file}")[0] in (403, 404)


def test_files_cannot_be_left_on_the_server(space):
    """No page needs Gradio's own upload, whose files would stay and could be fetched."""
    before = set(space.files())
    body = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\nxxxx\r\n--b--\r\n'
    request = urllib.request.Request(
        space.address + "gradio_api/upload", body, {"Content-Type": "multipart/form-data; boundary=b"}
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=200)
    assert refused.value.code in (403, 413)
    assert set(space.files()) == before


def test_functions_of_the_pages_take_nonsense(space):
    """The functions that browsers may call answer every input with a message."""
    config = json.loads(space.get("config")[1])
    widgets = [one for one in config["components"] if one["props"].get("server_fns")]
    names = sorted(name for one in widgets for name in one["props"]["server_fns"])
    assert names == ["map_images", "map_open", "try_image"]
    for one in widgets:
        for name in one["props"]["server_fns"]:
            for data in ({}, {"request": {"model": "/etc"}}, {"request": MIRA, "numbers": [-1, 10**9, "x", None]}):
                question = {"data": data, "component_id": one["id"], "session_hash": "a", "fn_name": name}
                request = urllib.request.Request(
                    space.address + "gradio_api/component_server",
                    json.dumps(question).encode(),
                    {"Content-Type": "application/json"},
                )
                with urllib.request.urlopen(request, timeout=200) as reply:
                    answer = json.loads(reply.read())
                assert "error" in answer or answer.get("images") == [] or set(answer) & {"step", "points"}, answer
