"""The models that visitors may open by name, and the messages of refusals."""

import json
import os

import pytest

from ssl_zoo.data.errors import DataError
from ssl_zoo.explore.gallery import check_image_place
from ssl_zoo.explore.models import check_data_name, check_model_name, visitor_message
from ssl_zoo.explore.workbench import ExploreError, Rules
from ssl_zoo.loading.models import ModelLoadError
from tests.hub.conftest import hub, hub_server  # noqa: F401


CONFIG = {"model_type": "mira", "architecture": "resnet18"}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A server's folders: `open/` may be read by visitors, `closed/` may not, links lead from one to the other."""
    for folder in ("open/run/model", "open/deep/er/data", "closed/run/model", "started/org/name"):
        (tmp_path / folder).mkdir(parents=True)
    for run in ("open", "closed"):
        (tmp_path / run / "run" / "model" / "config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "open" / "way_out").symlink_to(tmp_path / "closed")
    (tmp_path / "open" / "way_in").symlink_to(tmp_path / "open" / "deep")
    (tmp_path / "open" / "file").write_text("text")
    (tmp_path / "openly").mkdir()
    monkeypatch.chdir(tmp_path / "started")
    return tmp_path


@pytest.fixture
def rules(place):
    return Rules(folders=(place / "open", place / "missing"))


def test_folders_that_are_open(place, rules):
    assert check_model_name(" run ", rules) == str(place / "open" / "run")
    assert check_model_name(str(place / "open" / "run" / "model"), rules) == str(place / "open" / "run" / "model")
    assert check_data_name("deep/er", rules) == str(place / "open" / "deep" / "er")
    assert check_data_name("way_in/er", rules) == str(place / "open" / "deep" / "er")
    assert check_data_name(str(place / "open"), rules) == str(place / "open")
    assert check_data_name("embedded", rules) == "embedded"
    linked = Rules(folders=(place / "open" / "way_out",))  # whoever runs the server opened what it leads to
    assert check_model_name("run", linked) == str(place / "closed" / "run")


@pytest.mark.parametrize("check", [check_model_name, check_data_name])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("../closed/run", "leads out of the folders"),
        ("run/../../closed/run", "leads out of the folders"),
        ("deep/..", "leads out of the folders"),
        ("..", "leads out of the folders"),
        ("..\\closed", "leads out of the folders"),
        ("~/run", "leads out of the folders"),
        ("~root", "leads out of the folders"),
        ("{place}/open/../closed/run", "leads out of the folders"),
        ("{place}/closed/run", "There is no"),
        ("{place}/openly", "There is no"),
        ("{place}", "There is no"),
        ("/", "There is no"),
        ("/etc/passwd", "There is no"),
        ("file", "There is no"),
        ("org/name", "names a folder of this server"),  # where the server was started
        ("file:///etc/passwd", "is an address"),
        ("file:/etc/passwd", "is an address"),
        ("hf://datasets/org/name", "is an address"),
        ("s3://bucket/name", "is an address"),
        ("http://127.0.0.1/x", "is an address"),
        ("https://huggingface.co/org/net/tree/main", "as org/name, not as an address; .* 'org/net'"),
        ("huggingface.co/datasets/org/set", "not as an address; .* 'org/set'"),
        ("https://huggingface.co/", "not as an address"),
        ("", "Name a "),
        ("  ", "Name a "),
        ("run\0", "isn't plain text"),
        ("run\nrun", "isn't plain text"),
        ("x" * 201, "longer than 200"),
        ("a/b/c", "There is no"),
        ("-x/y", "There is no"),
        ("a--b/c", "There is no"),
        ("a..b/c", "There is no"),
        ("a/b?c", "There is no"),
        ("imagefolder", "There is no"),
        ("parquet", "There is no"),
    ],
)
def test_names_that_are_refused(check, place, rules, name, words):
    name = name.format(place=place)
    with pytest.raises(ExploreError, match=words) as caught:
        check(name, rules)
    assert str(caught.value).count(". ") == 0
    assert str(place) not in str(caught.value) or str(place) in name


def test_a_link_is_not_followed_out(place, rules, monkeypatch):
    with pytest.raises(ExploreError, match="'way_out/run' can't be loaded from the Hub"):  # it looks like a Hub name
        check_model_name("way_out/run", rules)
    with pytest.raises(ExploreError, match="There is no"):
        check_data_name(str(place / "open" / "way_out" / "run"), rules)
    monkeypatch.chdir(place / "open")
    for check in (check_model_name, check_data_name):
        with pytest.raises(ExploreError, match="isn't open to visitors"):
            check("way_out/run", rules)


def test_without_folders_nothing_local_is_open(place):
    for name in ("run", str(place / "open" / "run")):
        with pytest.raises(ExploreError, match=r"expected org/name on the Hub, a timm model$"):
            check_model_name(name, Rules())


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "is damaged"),
        ("[1]", "is damaged"),
        ({"model_type": "bert"}, "of type 'bert', which isn't a vision model"),
        ({"model_type": "own", "auto_map": {"AutoModel": "code.Own"}}, "code of its own, .* --allow-remote-code"),
        ({"model_type": "own"}, "of type 'own', which transformers .* doesn't know"),
        ({}, "of type 'None'"),
    ],
)
def test_configurations_that_are_refused(place, rules, config, words):
    text = config if isinstance(config, str) else json.dumps(config)
    (place / "open" / "run" / "model" / "config.json").write_text(text)
    with pytest.raises(ExploreError, match=words):
        check_model_name("run", rules)


def test_remote_code_is_the_servers_choice(place):
    config = {"model_type": "own", "auto_map": {"AutoModel": "code.Own"}}
    (place / "open" / "run" / "model" / "config.json").write_text(json.dumps(config))
    assert check_model_name("run", Rules(folders=(place / "open",), remote_code=True)).endswith("run")
    for kind in ({"model_type": "vit"}, {"architecture": "resnet18"}, {"model_type": "sela", "auto_map": {"a": "b"}}):
        (place / "open" / "run" / "model" / "config.json").write_text(json.dumps(kind))
        assert check_model_name("run", Rules(folders=(place / "open",))).endswith("run")


def test_a_folder_without_a_model_is_not_named_by_its_place(place, rules):
    (place / "open" / "empty").mkdir()
    with pytest.raises(ExploreError, match="'empty' holds no model") as caught:
        check_model_name("empty", rules)
    assert str(place) not in str(caught.value)


def test_names_of_the_zoo(place, rules):
    with pytest.raises(ExploreError, match=r"its authors' format only: convert .* recipes/convert\.py"):
        check_model_name("mira-resnet50.imagenet1k-800ep", rules)
    with pytest.raises(ExploreError, match="train it with recipes/byol/"):
        check_model_name("byol-resnet10nano.cifar10-4ep", rules)
    (place / "open" / "run").rename(place / "open" / "mira-cifar10")
    found = check_model_name("mira-resnet10nano.cifar10-4ep", rules)
    assert found == check_model_name("mira-cifar10", rules) == str(place / "open" / "mira-cifar10")


def test_words_for_visitors():
    error = ModelLoadError("The model in '/srv/runs/a/model' can't be read:\n  see /srv/runs/a")
    assert visitor_message(error, name="a", place="/srv/runs/a") == ("The model in 'a/model' can't be read: see a")
    error = DataError("'pets' has no split 'tset', only ['test']: choose one with `data.split`; did you mean 'test'?")
    assert visitor_message(error, name="pets").endswith("choose one with 'Split'; did you mean 'test'?")
    outer = ModelLoadError("x")
    outer.__cause__ = ValueError("The repository contains custom code. Please pass the argument `trust_remote_code`")
    assert "--allow-remote-code" in visitor_message(outer, name="a/b")


@pytest.mark.parametrize(
    ("value", "data"),
    [
        ({"bytes": b"x", "path": "/etc/passwd"}, "org/set"),  # with bytes, the path is only a name
        (b"x", "org/set"),
        (None, "org/set"),
        ({"bytes": None, "path": None}, "org/set"),
        ({"bytes": None, "path": "hf://datasets/org/set@abc/a/b.png"}, "org/set"),
        ({"bytes": None, "path": "zip://b.png::hf://datasets/org/set@abc/a.zip"}, "org/set"),
        ({"bytes": None, "path": "{folder}/a/b.png"}, "{folder}"),
        ({"bytes": None, "path": "zip://b.png::{folder}/a.zip"}, "{folder}"),
    ],
)
def test_rows_that_stay_in_their_data_set(tmp_path, value, data):
    if isinstance(value, dict) and value["path"]:
        value = {**value, "path": value["path"].format(folder=tmp_path)}
    check_image_place(value, data.format(folder=tmp_path))


@pytest.mark.parametrize("data", ["org/set", "{folder}", "embedded"])
@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "etc/passwd",
        "{folder}/../x.png",
        "{folder}-other/x.png",
        "{folder}/link/x.png",
        "hf://datasets/org/other@abc/x.png",
        "hf://datasets/org/set@abc/../../org/other/x.png",
        "hf://datasets/org/set-other/x.png",
        "http://169.254.169.254/x.png",
        "zip://{folder}/x.png::/etc/x.zip",
        "hf://datasets/org/set@abc/x.png::http://127.0.0.1/x.zip",
        "file:///etc/passwd",
        "",
    ],
)
def test_rows_that_lead_elsewhere(tmp_path, path, data):
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "link").symlink_to("/etc")
    with pytest.raises(DataError, match="outside the data set"):
        check_image_place({"bytes": None, "path": path.format(folder=folder)}, data.format(folder=folder))


ASK = """
import json
from ssl_zoo.explore import models
from ssl_zoo.explore.workbench import ExploreError, Rules
models.MAX_WEIGHT_BYTES = 1000
for name in {names!r}:
    try:
        print(json.dumps([name, models.check_model_name(name, Rules()), None]))
    except ExploreError as error:
        print(json.dumps([name, None, str(error)]))
"""


@pytest.mark.hub
def test_repositories_on_the_hub(hub):  # noqa: F811
    config = json.dumps({"model_type": "resnet"}).encode()
    server = hub.server
    server.add_repo("org/net", {"config.json": config, "model.safetensors": b"x" * 999})
    server.add_repo("org/large", {"config.json": config, "model.safetensors": b"x" * 700, "b.safetensors": b"x" * 301})
    server.add_repo("org/secret", {"config.json": config}, private=True)
    server.add_repo("org/gated", {"config.json": config}, gated=True)
    server.add_repo("org/bert", {"config.json": b'{"model_type": "bert"}'})
    server.add_repo("org/code", {"config.json": b'{"model_type": "own", "auto_map": {"AutoModel": "code.Own"}}'})
    server.add_repo("org/bare", {"README.md": b"text"})
    names = ["org/net", "org/large", "org/secret", "org/gated", "org/bert", "org/code", "org/bare", "org/missing"]
    done = hub.run(ASK.format(names=names), HF_TOKEN=None)
    said = {name: (found, words) for name, found, words in map(json.loads, done.stdout.splitlines())}
    assert said["org/net"] == ("org/net", None)
    for name, words in {
        "org/large": "at most",
        "org/secret": "no such repository, or it is private",
        "org/gated": "it is gated",
        "org/bert": "isn't a vision model",
        "org/code": "--allow-remote-code",
        "org/bare": "has no config.json",
        "org/missing": "no such repository",
    }.items():
        assert words in said[name][1]
        assert said[name][1].startswith(("'org/", "The weights of 'org/"))
    fetched = [path for method, path, _ in server.requests if method == "GET" and "/resolve/" in path]
    assert fetched
    assert all(path.endswith("config.json") for path in fetched)  # weights are fetched only after all checks


def test_without_a_network(place, rules):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    for name in ("org/net", "resnet18.a1_in1k"):
        with pytest.raises(ExploreError, match="the Hub can't be reached"):
            check_model_name(name, rules)
    assert check_data_name("org/set", rules) == "org/set"
