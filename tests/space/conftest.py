"""The Space as visitors see it: `space/app.py` in a process of its own, Chromium, and a record of all requests."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.hub.server import serve


ROOT = Path(__file__).parents[2]
CHROMIUM = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
PATIENCE = 120_000  # milliseconds; the machine may be busy with other tests


@dataclass
class Space:
    """A running server, its output so far, and its folders."""

    address: str
    log: Path
    cache: Path
    uploads: Path  # where Gradio would put files of visitors
    shelf: Path  # a folder that visitors may open from
    seconds: float  # until it answered

    def get(self, path: str = "") -> tuple[int, bytes]:
        """Ask for an address of the server, without a browser."""
        try:
            with urllib.request.urlopen(self.address + path, timeout=200) as reply:
                return reply.status, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def files(self) -> dict[str, int]:
        """Everything that the server has written, apart from its log."""
        found = [file for root in (self.cache, self.uploads) for file in root.rglob("*") if file.is_file()]
        return {str(file): file.stat().st_size for file in found}


@pytest.fixture(scope="session")
def space(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Space]:
    """The server with its embedded model and images, a folder of a user's, and a Hub without anything on it."""
    pytest.importorskip("gradio", reason="gradio is not installed: pip install 'ssl_zoo[space]'")
    folder = tmp_path_factory.mktemp("space")
    made = Space("", folder / "log.txt", folder / "cache", folder / "uploads", folder / "shelf", 0.0)
    for place in (made.uploads, made.shelf):
        place.mkdir()
    render_embedded(made.cache)
    fill_shelf(made.shelf)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made.address = f"http://127.0.0.1:{port}/"
    with contextlib.ExitStack() as stack:
        hub = stack.enter_context(serve())
        environment = {
            **{name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HOME": str(folder / "hf"),
            "SSL_ZOO_CACHE": str(made.cache),
            "GRADIO_TEMP_DIR": str(made.uploads),
            "TMPDIR": str(made.uploads),
            "PYTHONPATH": str(ROOT),
            "NO_PROXY": "127.0.0.1",
        }
        log = stack.enter_context(made.log.open("w"))
        command = [sys.executable, str(ROOT / "space/app.py"), "--port", str(port), "--folders", str(made.shelf)]
        start = time.monotonic()
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
        )
        stack.callback(process.wait)
        stack.callback(process.terminate)
        while True:
            with contextlib.suppress(OSError):
                made.get()
                break
            if process.poll() is not None or time.monotonic() - start > 200:
                raise AssertionError(f"the Space did not start:\n{made.log.read_text()}")
            time.sleep(0.1)
        made.seconds = time.monotonic() - start
        yield made
    assert "Traceback" not in made.log.read_text(), made.log.read_text()[-8000:]


def render_embedded(cache: Path) -> None:
    """Render the embedded images that the Space opens, and few of those it doesn't, under the name of them all."""
    from ssl_zoo.data.embedded import embedded_dataset_dir

    sizes = embedded_dataset_dir.__kwdefaults__
    small = embedded_dataset_dir(num_train=16, num_test=sizes["num_test"], cache_dir=cache)
    small.rename(small.with_name(small.name.replace("-16-", f"-{sizes['num_train']}-")))


def fill_shelf(shelf: Path) -> None:
    """Classes with hostile names, images that take a while, a run with a checkpoint, a model without clusters."""
    import numpy as np
    import timm
    from PIL import Image
    from timm.models import save_for_hf

    generator = np.random.default_rng(0)
    for name in ("<img src=x onerror=alert(1)>", "b & c"):
        place = shelf / "pets" / name
        place.mkdir(parents=True)
        for number in range(12):
            shade = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
            Image.fromarray(shade).resize((40, 40)).save(place / f"{number}.png")
    large = shelf / "large" / "one"
    large.mkdir(parents=True)
    Image.linear_gradient("L").convert("RGB").resize((1600, 1600)).save(large / "0.jpg")
    for number in range(1, 200):
        os.link(large / "0.jpg", large / f"{number}.jpg")
    models = ROOT / "space/models"
    for name, place in (("mira-embedded", "run/checkpoints/step-5"), ("mira-cifar10", "run/model")):
        source = models / name / "pretraining"
        shutil.copytree(source, shelf / place)
    shutil.copy(models / "mira-embedded/recipe.yaml", shelf / "run/recipe.yaml")
    backbone = shelf / "backbone"
    save_for_hf(timm.create_model("test_resnet", num_classes=0), backbone, safe_serialization=True)
    config = json.loads((backbone / "config.json").read_text())
    (backbone / "config.json").write_text(json.dumps({**config, "model_args": {}}))
    log = '{"step": 5, "epoch": 0.5}\n{"step": 10, "epoch": 1.0}\n'
    (shelf / "run/metrics.jsonl").write_text(log)


def is_trouble(said: Any) -> bool:
    """Whether the console reports an error; that a page which is left drops its connection to the server is none."""
    return said.type == "error" and not any(words in said.text for words in ("AbortError", "errored out"))


@dataclass
class Watched:
    """Errors and requests of a browser, which the screen doesn't show."""

    troubles: list[str] = field(default_factory=list)  # errors in scripts, and what the console calls errors
    outside: list[str] = field(default_factory=list)  # addresses of other hosts that were asked
    answers: list[tuple[int, str]] = field(default_factory=list)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = next(filter(None, map(shutil.which, CHROMIUM)), None)
    with sync_api.sync_playwright() as driver:
        if program is None and not Path(driver.chromium.executable_path).exists():
            pytest.skip("there is no Chromium: apt-get install chromium, or playwright install chromium")
        # As root, as in a container, Chromium refuses to start with its sandbox.
        options = ["--no-sandbox", "--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]
        browser = driver.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture
def visit(chromium: Any, space: Space) -> Iterator[Any]:
    """Open a page as a new visitor, `visit("?tab=map", phone=True, dark=True)`; what is amiss fails the test."""
    contexts, seen = [], []

    def go(
        query: str = "",
        *,
        phone: bool = False,
        dark: bool = False,
        until: str | None = "#status .status",
        before: str = "",
    ) -> Any:
        context = chromium.new_context(
            viewport=PHONE if phone else WIDE,
            color_scheme="dark" if dark else "light",
            has_touch=phone,
            device_scale_factor=1,
            reduced_motion="reduce",
            permissions=["camera"],
        )
        contexts.append(context)
        context.set_default_timeout(PATIENCE)
        watched = Watched()
        seen.append(watched)
        page = context.new_page()
        page.watched = watched

        def route(route: Any) -> None:
            address = route.request.url
            if address.startswith(space.address):
                route.continue_()
            else:
                watched.outside.append(address)
                route.abort()

        context.route("**/*", route)
        page.on("pageerror", lambda error: watched.troubles.append(f"script: {error}"))
        page.on("console", lambda said: is_trouble(said) and watched.troubles.append(f"console: {said.text}"))
        page.on("response", lambda reply: watched.answers.append((reply.status, reply.url)))
        page.add_init_script(before)
        page.goto(space.address + query)
        if until is not None:
            page.wait_for_selector(until)
        return page

    yield go
    for context in contexts:
        context.close()
    assert [address for watched in seen for address in watched.outside] == []
    assert [trouble for watched in seen for trouble in watched.troubles] == []
