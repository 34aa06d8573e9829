"""The page as a whole: it is laid out, opens what an address asks for, and draws only what has changed."""

import copy
import re
import shutil
import sys
import threading
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import parse_qsl

import numpy as np
import pytest


gr = pytest.importorskip("gradio", reason="the page needs the extra `space`: pip install 'ssl_zoo[space]'")

from ssl_zoo.explore.gallery import Step  # noqa: E402
from ssl_zoo.explore.workbench import ExploreError, NotReady, Request, Rules  # noqa: E402
from tests.explore.made_explained import explain, make_gallery  # noqa: E402


SPACE = Path(__file__).parents[2] / "space"
OPEN = {"model": "made", "data": "made"}


@pytest.fixture(scope="module")
def modules():
    """The page's own files, which are imported from their folder."""
    before, patch = set(sys.modules), pytest.MonkeyPatch()
    patch.syspath_prepend(str(SPACE))
    import app
    import pages
    import registry
    import shell
    import view

    yield SimpleNamespace(app=app, shell=shell, view=view, pages=pages, registry=registry)
    patch.undo()
    for name in set(sys.modules) - before:
        if Path(str(getattr(sys.modules[name], "__file__", ""))).is_relative_to(SPACE):
            del sys.modules[name]


class Bench:
    """Opens one model, with 2 heads of 6 clusters, on 40 images of 2 classes with hostile names."""

    def __init__(self, folder: Path) -> None:
        self.rules, self.is_slow, self.ready = Rules(folders=(folder / "missing",)), False, False
        gallery = make_gallery(folder / "gallery", np.arange(40) % 2, ["<script>alert(1)</script>", "b&b"])
        rng = np.random.default_rng(0)
        self.known = {
            name: explain(folder / name, gallery, np.log(rng.dirichlet(np.full(6, 0.3), (40, 2))))
            for name in ("made", "other")
        }

    def get(self, request: Request):
        if self.is_slow and not self.ready:
            raise NotReady("It is not open.")
        return self._find(request)

    def _find(self, request: Request):
        if request.model not in self.known or request.data != "made":
            raise ExploreError(f"There is no model '{request.model}' <here>.")
        return self.known[request.model]

    def open(self, request: Request):
        found = self._find(request)
        if self.is_slow and request.model == "made":
            yield Step(1, 40, "looking at the images of made")
        self.ready = True
        return found


@pytest.fixture(scope="module")
def page(modules, tmp_path_factory):
    bench = Bench(tmp_path_factory.mktemp("page"))
    made: list = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modules.app, "App", lambda *parts: made.append(modules.shell.App(*parts)) or made[0])
        demo = modules.app.build(bench, Request(model="made", data="made"))
    named = {block.elem_id: block for block in demo.blocks.values() if getattr(block, "elem_id", None)}
    events = {function.name: function.fn for function in demo.fns.values()}
    return SimpleNamespace(
        demo=demo,
        parts=named,
        events=events,
        bench=bench,
        app=made[0],
        visitor=partial(modules.view.Visitor, made[0].defaults),
    )


def parts(changes: dict) -> dict:
    """An answer by `elem_id`."""
    return {getattr(part, "elem_id", None) or part: value for part, value in changes.items()}


def visit(page, **query: str) -> tuple:
    """A new visitor, and what has been put on the page when an address is open."""
    visitor = page.visitor()
    shown = dict(page.events["arrived"](visitor, SimpleNamespace(query_params=query)))
    for changes in page.events["goes_on"](visitor):
        shown |= changes
    shown |= {part: value for part, value in page.events["offers"](visitor).items() if value != gr.skip()}
    return visitor, parts(shown)


def look(page, /, **view: str) -> dict:
    """All that is drawn for these settings of what is open."""
    visitor = page.visitor()
    visitor.request = OPEN
    visitor.change(lambda before: {**before, **view})
    return parts(page.events["update"](visitor))


def test_all_pages_are_there(page):
    titles = [block.label for block in page.demo.blocks.values() if isinstance(block, gr.Tab)]
    assert titles == [page.title for page in page.app.pages.values()]
    assert titles[0] == "Clusters"
    assert {path.stem for path in (SPACE / "pages").glob("[!_]*.py")} == set(page.app.pages)
    assert {"model", "data", "open", "cancel", "cluster-cards", "map", "query", "comparison", "health"} <= set(
        page.parts
    )


def test_no_endpoint_is_there_by_accident(page):
    """Every event is private but those that are named."""
    public = {function.api_name for function in page.demo.fns.values() if function.api_visibility == "public"}
    assert public == {"clusters", "try_image"}


def test_an_empty_address_opens_the_first_thing(page):
    visitor, shown = visit(page)
    assert visitor.request == OPEN
    assert shown["cluster-cards"].count('class="card"') == 6
    assert "40 images" in shown["status"]
    assert shown["progress"] == ""


def test_what_is_ready_is_drawn_once(page):
    """The first answer holds the whole page; the events that follow an opening find nothing left to do."""
    visitor = page.visitor()
    first = parts(page.events["arrived"](visitor, SimpleNamespace(query_params={"sort": "-purity", "cluster": "3"})))
    assert {"cluster-cards", "cluster-detail", "status", "address", "model"} <= set(first)
    assert [parts(changes) for changes in page.events["goes_on"](visitor)] == [{"progress": ""}]
    assert set(parts(page.events["offers"](visitor))) & {"cluster-cards", "cluster-detail", "status", "sort"} == set()
    assert parts(page.events["update"](visitor)) == {"address": gr.skip()}


def test_long_work_says_how_far_it_is(page, monkeypatch):
    """The pages are drawn by the event that follows."""
    monkeypatch.setattr(page.bench, "is_slow", True)
    monkeypatch.setattr(page.bench, "ready", False)
    visitor, answers = page.visitor(), []
    first = parts(page.events["arrived"](visitor, SimpleNamespace(query_params={"tab": "health"})))
    assert "health" not in first
    assert 'role="progressbar"' in first["progress"]
    for changes in page.events["goes_on"](visitor):
        answers.append(changes)
        assert visitor.request == ({} if len(answers) == 1 else OPEN)
    progress = [changes[page.parts["progress"]] for changes in answers]
    assert 'aria-valuenow="2"' in progress[0]
    assert ">looking at the images of made<" in progress[0]
    assert progress[1:] == [""]
    assert "<svg" in parts(page.events["offers"](visitor))["health"]


def test_what_was_asked_for_last_is_opened(page, monkeypatch):
    """A slow opening that ends after another was asked for opens nothing."""
    monkeypatch.setattr(page.bench, "is_slow", True)
    monkeypatch.setattr(page.bench, "ready", False)
    visitor = page.visitor()
    slow = page.events["pressed"](visitor, "made", "", "made", *[""] * 6)
    for _ in range(2):
        next(slow)
    for _ in page.events["pressed"](visitor, "other", "", "made", *[""] * 6):
        pass
    assert [parts(changes) for changes in slow] == []
    assert visitor.request == {**OPEN, "model": "other"}


def test_another_model_starts_afresh(page, modules):
    """Heads and numbers of clusters of one model mean nothing in another; sort and search stay."""
    visitor, _ = visit(page, head="1", cluster="3", sort="number", find="b")
    for _ in page.events["pressed"](visitor, "other", "", "made", *[""] * 6):
        pass
    assert visitor.view["cluster"] == ""
    assert (visitor.view["head"], visitor.view["sort"], visitor.view["find"]) == ("0", "number", "b")


@pytest.mark.parametrize(
    ("tab", "part"), [("health", "health"), ("compare", "comparison"), ("clusters", "cluster-cards")]
)
def test_only_the_page_of_the_address_is_drawn(page, tab, part):
    _, shown = visit(page, tab=tab)
    assert part in shown
    assert {"health", "comparison", "cluster-cards"} & set(shown) == {part}


def test_an_address_restores_everything_and_is_given_again(page):
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
    visitor, shown = visit(page, **query)
    answer, _, address = shown["address"].partition(" ")
    assert int(answer) >= 1
    assert dict(parse_qsl(address[1:])) == query
    assert shown["head"]["value"] == "1"
    assert shown["temperature"]["value"] == 0.5
    assert "NMI" in shown["comparison"]
    visitor.change(lambda view: {**view, "page": "clusters"})
    drawn = parts(page.events["update"](visitor))
    assert drawn["sort"]["value"] == "-purity"
    assert drawn["find"]["value"] == "b&b"
    assert drawn["only"]["value"] is True
    assert "Cluster 3" in drawn["cluster-detail"]


def test_what_has_not_changed_is_not_drawn_again(page):
    visitor, _ = visit(page)
    visitor.change(lambda view: {**view, "cluster": "2"})
    again = parts(page.events["update"](visitor))
    assert "cluster-detail" in again
    assert "cluster-cards" not in again
    visitor.change(lambda view: {**view, "head": "1"})
    assert "cluster-cards" in parts(page.events["update"](visitor))
    again = set(parts(page.events["again"](visitor)))
    assert {"cluster-detail", "cluster-cards", "status"} <= again
    assert not {"find", "sort", "mode"} & again, "they may hold what was typed since"


def test_changes_at_the_same_time_all_count(page):
    """While one is drawn, others come: each changes only what it is about, and the last answer shows them all."""
    visitor, _ = visit(page)
    reached, go = threading.Event(), threading.Event()
    cards = page.parts["cluster-cards"]
    (drawing,) = [found for found in page.app.drawings if found.outputs == (cards,)]
    answers: list[dict] = []

    def slow(request, view):
        reached.set()
        assert go.wait(200)
        return str(sorted(view.items()))

    place = page.app.drawings.index(drawing)
    drawings = list(page.app.drawings)
    drawings[place] = drawing._replace(render=slow)
    app = replace(page.app, drawings=drawings)

    def act(**settings: str) -> None:
        visitor.change(lambda view: {**view, **settings})
        answers.append(parts(app.update(visitor)))

    workers = [threading.Thread(target=act, kwargs=one) for one in ({"sort": "number"}, {"head": "1"}, {"find": "b"})]
    workers[0].start()
    assert reached.wait(200)
    for worker in workers[1:]:
        worker.start()
    while visitor.view.get("find") != "b" or visitor.view["head"] != "1":
        time.sleep(0.01)
    go.set()
    for worker in workers:
        worker.join(200)
    last = max((answer for answer in answers if isinstance(answer.get("address"), str)), key=_number)
    assert all(words in last["cluster-cards"] for words in ("'number'", "('head', '1')", "('find', 'b')"))
    assert len([answer for answer in answers if "cluster-cards" in answer]) == 2, "two that wait are drawn as one"
    numbers = [_number(answer) for answer in answers if isinstance(answer.get("address"), str)]
    assert len(set(numbers)) == len(numbers)


def _number(answer: dict) -> int:
    return int(answer["address"].partition(" ")[0])


def test_an_earlier_click_that_comes_later_is_left_out(page):
    visitor, _ = visit(page)
    for cluster, clicked in (("2", 20.5), ("1", 10), ("3", None), ("4", "now"), ("5", 21)):
        visitor.change(lambda view, cluster=cluster: {**view, "cluster": cluster}, clicked)
        assert visitor.view["cluster"] == ("2" if cluster == "1" else cluster)


def test_every_visitor_has_settings_of_their_own(modules):
    one = modules.view.Visitor({"sort": "size"})
    one.change(lambda view: {**view, "sort": "number"})
    other = copy.deepcopy(one)
    assert other.view == {"sort": "size"}
    assert other.changing is not one.changing


def test_settings_that_the_model_lacks_are_put_right(page):
    view = visit(page, head="9", mode="assignment", temperature="hot")[0].view
    assert (view["head"], view["mode"], view["temperature"]) == ("0", "softmax", "1")


@pytest.mark.parametrize("query", [{"model": "nothing"}, {"data": "nowhere"}, {"cluster": "½"}, {"cluster": "77"}])
def test_what_is_wrong_with_an_address_is_said(page, query):
    _, shown = visit(page, **query)
    said = shown["progress"] + shown.get("cluster-detail", "")
    assert 'role="alert"' in said
    assert "<here>" not in said
    assert shown["cluster-cards"]


def test_names_from_data_are_text(page):
    """A class name that is markup stays text on every page."""
    for tab in ("clusters", "compare", "health"):
        shown = look(page, page=tab, other="other", cluster="0")
        words = "".join(value for value in shown.values() if isinstance(value, str))
        assert "<script" not in words.casefold(), tab
        assert "&lt;script" in words, tab


def test_pictures_have_names(page):
    for tab in ("clusters", "compare", "health"):
        shown = look(page, page=tab, other="other", cluster="0")
        words = "".join(value for value in shown.values() if isinstance(value, str))
        assert all(" alt=" in tag for tag in re.findall(r"<img[^>]*>", words))
        assert all('role="img"' in tag and "aria-label=" in tag for tag in re.findall(r"<svg[^>]*>", words))


TOY = """
import gradio as gr
from view import READING, Setting, changed

TITLE, ORDER = "Toy", 25
SETTINGS = {"letters": Setting("few"), "seen": Setting(in_address=False, of_model=True)}


def build(app):
    letters = gr.Textbox(label="Letters", elem_id="letters")
    words = gr.HTML(elem_id="toy")
    app.draw(lambda request, view: f"{len(app.clustering(request, view))} clusters, {view['letters']}", words,
             uses=(*READING, "letters"))
    app.set(letters.input, lambda view, value: changed(view, letters=value), letters)


def prepare(app, request, view):
    yield "preparing the toy"
"""


@pytest.fixture
def toy(modules, tmp_path, monkeypatch):
    """The pages of a copy of the folder, to which files may be added."""
    folder = tmp_path / "pages"
    shutil.copytree(SPACE / "pages", folder, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(modules.pages, "__path__", [str(folder)])
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_new_page_is_one_file(modules, toy, tmp_path, monkeypatch):
    """Its tab, its settings in the address, its parts and its preparation are there without another edit."""
    (toy / "toy.py").write_text(TOY)
    made = []
    monkeypatch.setattr(modules.app, "App", lambda *parts: made.append(modules.shell.App(*parts)) or made[0])
    demo = modules.app.build(Bench(tmp_path), Request(model="made", data="made"))
    titles = [block.label for block in demo.blocks.values() if isinstance(block, gr.Tab)]
    assert titles[titles.index("Map") :][:3] == ["Map", "Toy", "Try an image"]
    page = SimpleNamespace(
        events={function.name: function.fn for function in demo.fns.values()},
        visitor=partial(modules.view.Visitor, made[0].defaults),
    )
    visitor, shown = visit(page, tab="toy", letters="many", seen="1")
    assert shown["toy"] == "6 clusters, many"
    assert visitor.view["seen"] == "", "a setting that isn't of the address doesn't come from it"
    assert dict(parse_qsl(shown["address"].partition("?")[2])) == {**OPEN, "tab": "toy", "letters": "many"}
    visitor.change(lambda view: {**view, "seen": "1"})
    progress = [
        parts(changes).get("progress") for changes in page.events["pressed"](visitor, "other", "", "made", *[""] * 6)
    ]
    assert "preparing the toy" in progress
    assert (visitor.view["letters"], visitor.view["seen"]) == ("many", "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("TITLE = 'Toy'", "pages/toy.py is no page: it has no ORDER, build"),
        (
            TOY.replace('"letters": Setting', '"sort": Setting'),
            "the setting 'sort' belongs to pages/clusters.py already",
        ),
        (TOY.replace('"letters": Setting', '"model": Setting'), "the setting 'model' belongs to all pages already"),
    ],
)
def test_what_is_wrong_with_a_page_is_said(modules, toy, text, words):
    (toy / "toy.py").write_text(text)
    with pytest.raises(ValueError, match=words):
        modules.registry.find_pages()


def test_a_page_that_is_not_there_is_the_first(page):
    visitor, shown = visit(page, tab="nothing")
    assert visitor.view["page"] == "clusters"
    assert shown["cluster-cards"]
