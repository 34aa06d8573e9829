"""The page as a whole: it is laid out, opens what an address asks for, and draws only what has changed."""

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl

import numpy as np
import pytest


gr = pytest.importorskip("gradio", reason="the page needs the extra `space`: pip install 'ssl_zoo[space]'")

from ssl_zoo.explore.gallery import Step  # noqa: E402
from ssl_zoo.explore.workbench import ExploreError, Request, Rules  # noqa: E402
from tests.explore.made_explained import explain, make_gallery  # noqa: E402


SPACE = Path(__file__).parents[2] / "space"
OPEN = {"model": "made", "data": "made"}


@pytest.fixture(scope="module")
def modules():
    """The page's own files, which are imported from their folder."""
    before, patch = set(sys.modules), pytest.MonkeyPatch()
    patch.syspath_prepend(str(SPACE))
    import app
    import shell
    from pages import bar, clusters, compare, health

    yield SimpleNamespace(app=app, shell=shell, bar=bar, clusters=clusters, compare=compare, health=health)
    patch.undo()
    for name in set(sys.modules) - before:
        if Path(str(getattr(sys.modules[name], "__file__", ""))).is_relative_to(SPACE):
            del sys.modules[name]


class Bench:
    """Opens one model, with 2 heads of 6 clusters, on 40 images of 2 classes with hostile names."""

    def __init__(self, folder: Path) -> None:
        self.rules, self.is_slow = Rules(folders=(folder / "missing",)), False
        gallery = make_gallery(folder / "gallery", np.arange(40) % 2, ["<script>alert(1)</script>", "b&b"])
        rng = np.random.default_rng(0)
        self.known = {
            name: explain(folder / name, gallery, np.log(rng.dirichlet(np.full(6, 0.3), (40, 2))))
            for name in ("made", "other")
        }

    def get(self, request: Request):
        if request.model not in self.known or request.data != "made":
            raise ExploreError(f"There is no model '{request.model}' <here>.")
        return self.known[request.model]

    def open(self, request: Request):
        found = self.get(request)
        if self.is_slow:
            yield Step(1, 40, f"looking at the images of {self.rules.folders[0]}/made")
        return found


@pytest.fixture(scope="module")
def page(modules, tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("page"))
    demo = modules.app.build(bench, Request(model="made", data="made"))
    parts = {block.elem_id: block for block in demo.blocks.values() if getattr(block, "elem_id", None)}
    events = {function.name: function.fn for function in demo.fns.values()}
    return SimpleNamespace(demo=demo, parts=parts, events=events, bench=bench)


def visit(page, **query: str) -> dict:
    """What has been put on the page when an address is open, by `elem_id` or, for states, by component."""
    shown: dict = {}
    for changes in page.events["arrived"]({}, SimpleNamespace(query_params=query)):
        shown |= changes
    return {getattr(part, "elem_id", None) or part: value for part, value in shown.items()}


def states(shown: dict) -> tuple[dict, dict]:
    """Request and view."""
    found = [value for part, value in shown.items() if isinstance(part, gr.State)]
    (request,) = [value for value in found if value == OPEN]
    (view,) = [value for value in found if "page" in value]
    return request, view


def test_all_pages_are_there(page):
    titles = [block.label for block in page.demo.blocks.values() if isinstance(block, gr.Tab)]
    assert titles == ["Clusters", "Map", "Try an image", "Compare", "Health"]
    assert {"model", "data", "open", "cancel", "cluster-cards", "map", "query", "comparison", "health"} <= set(
        page.parts
    )


def test_no_endpoint_is_there_by_accident(page):
    """Every event is private but those that are named."""
    public = {function.api_name for function in page.demo.fns.values() if function.api_visibility == "public"}
    assert public == {"clusters", "try_image"}


def test_an_empty_address_opens_the_first_thing(page):
    shown = visit(page)
    assert states(shown)[0] == OPEN
    assert shown["cluster-cards"].count('class="card"') == 6
    assert "40 images" in shown["status"]
    assert shown["progress"] == ""


def test_long_work_says_how_far_it_is(page, monkeypatch):
    """The pages are drawn by the event that follows."""
    monkeypatch.setattr(page.bench, "is_slow", True)
    parts = page.parts
    answers = list(page.events["arrived"]({}, SimpleNamespace(query_params={"tab": "health"})))
    assert 'aria-valuenow="2"' in answers[0][parts["progress"]]
    assert ">looking at the images of made<" in answers[0][parts["progress"]]
    opened = next(answer for answer in answers if OPEN in answer.values())
    assert opened[parts["progress"]] == ""
    assert parts["health"] not in opened


def test_another_model_starts_afresh(page):
    """Heads and numbers of clusters of one model mean nothing in another; sort and search stay."""
    view = states(visit(page, head="1", cluster="3", sort="number", find="b"))[1]
    shown = page_drawings(page, {**OPEN, "model": "other"}, view)
    (view,) = [value for value in shown.values() if isinstance(value, dict) and "page" in value]
    assert "cluster" not in view
    assert (view["head"], view["sort"], view["find"]) == ("0", "number", "b")


@pytest.mark.parametrize(
    ("tab", "part"), [("health", "health"), ("compare", "comparison"), ("clusters", "cluster-cards")]
)
def test_only_the_page_of_the_address_is_drawn(page, tab, part):
    shown = visit(page, tab=tab)
    assert part in shown
    assert {"health", "comparison", "cluster-cards"} & set(shown) == {part}


def test_an_address_restores_everything_and_is_given_again(page, modules):
    query = {
        **OPEN,
        "tab": "compare",
        "head": "1",
        "temperature": "0.5",
        "sort": "-purity",
        "find": "b&b",
        "cluster": "3",
        "only": "1",
        "other": "other",
    }
    shown = visit(page, **query)
    request, view = states(shown)
    assert dict(parse_qsl(modules.shell.link(request, view)[1:])) == query
    assert shown["head"]["value"] == "1"
    assert shown["temperature"]["value"] == 0.5
    drawn = page_drawings(page, request, {**view, "page": "clusters"})
    assert drawn["sort"]["value"] == "-purity"
    assert drawn["find"]["value"] == "b&b"
    assert drawn["only"]["value"] is True
    assert "Cluster 3" in drawn["cluster-detail"]
    assert "NMI" in page_drawings(page, request, view)["comparison"]


def page_drawings(page, request: dict, view: dict, drawn: dict | None = None) -> dict:
    changes = page.events["redraw"](request, view, drawn or {})
    return {getattr(part, "elem_id", None) or part: value for part, value in changes.items()}


def test_what_has_not_changed_is_not_drawn_again(page):
    first = visit(page)
    _, view = states(first)
    (drawn,) = [value for part, value in first.items() if isinstance(part, gr.State) and "0" in value]
    assert len(page_drawings(page, OPEN, view, drawn)) == 1
    again = page_drawings(page, OPEN, {**view, "cluster": "2"}, drawn)
    assert "cluster-detail" in again
    assert "cluster-cards" not in again
    assert "cluster-cards" in page_drawings(page, OPEN, {**view, "head": "1"}, drawn)


def test_settings_that_the_model_lacks_are_put_right(page):
    view = states(visit(page, head="9", mode="assignment", temperature="hot"))[1]
    assert (view["head"], view["mode"], view["temperature"]) == ("0", "softmax", "1")


@pytest.mark.parametrize("query", [{"model": "nothing"}, {"data": "nowhere"}, {"cluster": "½"}, {"cluster": "77"}])
def test_what_is_wrong_with_an_address_is_said(page, query):
    shown = visit(page, **query)
    said = shown["progress"] + shown.get("cluster-detail", "")
    assert 'role="alert"' in said
    assert "<here>" not in said
    assert shown["cluster-cards"]


def test_names_from_data_are_text(page):
    """A class name that is markup stays words on every page."""
    view = {"page": "", "head": "0", "mode": "softmax", "temperature": "1", "sort": "size", "at": "1", "cluster": "0"}
    for tab in ("clusters", "compare", "health"):
        shown = page_drawings(page, OPEN, {**view, "page": tab, "other": "other"})
        words = "".join(value for value in shown.values() if isinstance(value, str))
        assert "<script" not in words.casefold(), tab
        assert "&lt;script" in words, tab


def test_pictures_have_names(page):
    view = {"page": "", "head": "0", "mode": "softmax", "temperature": "1", "sort": "size", "at": "1", "cluster": "0"}
    for tab in ("clusters", "compare", "health"):
        shown = page_drawings(page, OPEN, {**view, "page": tab, "other": "other"})
        words = "".join(value for value in shown.values() if isinstance(value, str))
        assert all(" alt=" in tag for tag in re.findall(r"<img[^>]*>", words))
        assert all('role="img"' in tag and "aria-label=" in tag for tag in re.findall(r"<svg[^>]*>", words))
