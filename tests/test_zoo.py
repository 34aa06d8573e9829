"""The zoo: its index says what the entry files, the recipes and the code say, and finds what is asked for."""

import dataclasses
import importlib.util
import json
import re
import statistics
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import ssl_zoo
from ssl_zoo.conversion.convert import LAYOUTS
from ssl_zoo.models.registry import method_names
from ssl_zoo.protocol import known_metrics
from ssl_zoo.zoo import entries as zoo
from ssl_zoo.zoo.entries import License, Reported, ZooEntry, find_entry, load_index, release_license
from tests.test_import import HEAVY, loaded_after


ROOT = Path(__file__).resolve().parents[1]
CARDS = ROOT / "model_cards"
NAMES = sorted(path.name.removesuffix(".md") for path in CARDS.glob("*.md"))

_spec = importlib.util.spec_from_file_location("model_cards_build", CARDS / "build.py")
build = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(build)


@pytest.fixture(scope="module")
def built():
    return build.read_entries()


# What is in the repository


def test_the_index_and_the_page_are_those_of_the_entry_files(built):
    advice = "run: python model_cards/build.py"
    assert zoo.INDEX.read_text(encoding="utf-8") == build.render_index(built), advice
    assert (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8") == build.render_page(built), advice


def test_the_index_survives_json(built):
    assert load_index() == {entry.name: entry for entry in built}
    assert list(load_index()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_an_entry_names_only_what_exists(name):
    entry = find_entry(name)
    assert re.fullmatch(r"[a-z0-9_]+-[a-z0-9_]+\.[a-z0-9]+(-[a-z0-9]+)*", name)
    assert name == f"{entry.method}-{entry.backbone}.{entry.tag}" == f"{entry.repository}.{entry.tag}"
    assert entry.method in method_names()
    assert entry.layout is None or entry.layout in {layout.name for layout in LAYOUTS if layout.method == entry.method}
    assert {line.metric for line in (*entry.reported, *entry.measured)} <= set(known_metrics())
    assert all(line.dataset and line.protocol and line.where for line in entry.reported)
    assert entry.license.where.startswith("https://")
    assert entry.license.name or entry.license.id is None
    assert entry.paper.startswith("https://huggingface.co/papers/")
    assert entry.recipe is None or yaml.safe_load((ROOT / entry.recipe).read_text())["method"] == entry.method
    assert entry.verified == (not entry.doubt)
    assert len(entry.notes) > 40
    assert "{" not in entry.notes


@pytest.mark.parametrize("name", [name for name in NAMES if load_index()[name].origin == "authors"])
def test_an_entry_of_the_authors_says_where_it_is_and_claims_no_measurement_of_ours(name):
    entry = find_entry(name)
    assert entry.source.startswith("https://github.com/")
    assert entry.measured == ()
    assert entry.folder is None
    assert entry.url or entry.doubt, "no address of the file, and not a word about it"
    assert entry.url is None or re.match("https?://", entry.url)
    assert entry.url or entry.file
    assert entry.layout or "onverter" in entry.notes, "say why it has no converter"


def test_every_measured_recipe_has_an_entry_of_ours_with_its_numbers():
    ours = [entry for entry in load_index().values() if entry.origin == "ours"]
    measured = {path.relative_to(ROOT / "results") for path in (ROOT / "results").glob("*/cifar10_small_cpu*.jsonl")}
    assert {entry.recipe for entry in ours} == {str("recipes" / path.with_suffix(".yaml")) for path in measured}
    for entry in ours:
        file = ROOT / "results" / Path(entry.recipe).relative_to("recipes").with_suffix(".jsonl")
        results = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        seeds = {
            line["seed"]: line["value"]
            for line in results
            if (line["subject"], line["metric"], line["protocol"]["name"]) == ("trained", "knn_top1", "knn")
        }
        (shown,) = (line for line in entry.measured if line.metric == "knn_top1")
        assert shown.value == pytest.approx(statistics.mean(seeds.values()), abs=1e-6)
        assert shown.seeds == len(seeds)
        assert shown.commits
        assert f"{100 * shown.value:.1f}" in entry.notes
        assert entry.license.id == "apache-2.0"
        assert entry.reported == ()


def test_the_embedded_models_are_there_and_small():
    folders = [ROOT / entry.folder for entry in load_index().values() if entry.folder]
    assert len(folders) == 2
    for folder in folders:
        assert (folder / "config.json").is_file(), f"{folder.relative_to(ROOT)} is in the zoo's index but not here"
        assert (folder / "model.safetensors").stat().st_size <= 5e6


def test_the_page_shows_all_entries_and_keeps_reported_and_measured_apart():
    page = (ROOT / "docs" / "zoo.md").read_text(encoding="utf-8")
    rows = [[cell.strip() for cell in line.split(" | ")] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(row[0].split("`")[1] for row in rows) == NAMES
    heads = [line for line in page.splitlines() if line.startswith("| name ")]
    assert heads
    for head in heads:
        assert "reported by the authors | measured by us | licence" in head
    for entry in load_index().values():
        (row,) = (row for row in rows if row[0].split("`")[1] == entry.name)
        for line in entry.reported:
            assert f"{line.value:g}" in row[5]
            assert line.where in row[5]
        if entry.origin == "authors":
            assert row[6] == ""
            assert (entry.license.name or "none stated") in row[7]


def test_an_installed_package_has_the_index_and_the_templates():
    package = ROOT / "ssl_zoo"
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["ssl_zoo"]
    installed = {file for pattern in patterns for file in package.glob(pattern)}
    files = {file for file in package.rglob("*") if file.is_file() and file.suffix not in (".py", ".pyc")}
    assert zoo.INDEX in files
    assert files == installed


# What the builder refuses


def write_card(folder, *, name="mira-resnet50.imagenet1k-800ep", old="", new="", rename=None):
    """Copy an entry file with one thing changed."""
    text = (CARDS / f"{name}.md").read_text(encoding="utf-8")
    assert old in text
    path = folder / f"{rename or name}.md"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def test_the_builder_reads_what_the_file_says(tmp_path):
    entry = build.read_entry(write_card(tmp_path, old="value: 74.1", new="value: 70.0"))
    assert entry.reported[0].value == 70
    assert "(70.0 linear top-1)" in entry.notes
    assert (entry.method, entry.backbone, entry.tag) == ("mira", "resnet50", "imagenet1k-800ep")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rename": "mira_resnet50"}, "a zoo name is <method>-<backbone>.<recipe tag>"),
        ({"rename": "mira-resnet50.ImageNet"}, "in lower case"),
        ({"rename": "moco-resnet50.imagenet1k"}, "`method` must be one of"),
        ({"old": "origin:", "new": "orgin:"}, "missing or unknown: orgin, origin"),
        ({"old": '"authors"', "new": '"others"'}, "`origin` must be one of authors, ours"),
        ({"old": "id: null, ", "new": ""}, "`license` needs exactly id, name, where"),
        ({"old": "metric: linear_top1", "new": "metric: linear"}, "`metric` must be one of"),
        ({"old": "value: 74.1", "new": "value: 0.741"}, "`linear_top1` is in per cent, got 0.741"),
        ({"old": 'protocol: "linear probe", ', "new": ""}, "`reported` needs exactly metric, value"),
        ({"old": "800ep.yaml", "new": "900ep.yaml"}, "there is no recipe"),
        ({"old": "{{ epochs }}", "new": "{{ epoch }}"}, "'epoch' is undefined"),
        ({"old": "{{ reported.linear_top1 }}", "new": "{{ reported.knn_top1 }}"}, "can't be rendered"),
        ({"old": "---", "new": ""}, "must begin with data between two lines of ---"),
        ({"old": "origin: ", "new": "origin: ]"}, "isn't YAML"),
    ],
)
def test_the_builder_refuses(tmp_path, change, message):
    path = write_card(tmp_path, **change)
    with pytest.raises(build.CardError, match=re.escape(message)) as error:
        build.read_entry(path)
    assert path.name in str(error.value)


def test_a_repository_has_one_default(tmp_path):
    write_card(tmp_path)
    with pytest.raises(build.CardError, match=r"'mira-resnet50' needs exactly one entry with `default: true`.* none"):
        build.read_entries(tmp_path)
    write_card(tmp_path, old="default: false", new="default: true")
    assert len(build.read_entries(tmp_path)) == 1
    write_card(tmp_path, old="default: false", new="default: true", rename="mira-resnet50.other")
    with pytest.raises(build.CardError, match=r"imagenet1k-800ep, mira-resnet50\.other"):
        build.read_entries(tmp_path)


def test_check_says_what_is_stale_and_writes_nothing(tmp_path, monkeypatch, capsys, built):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "INDEX", tmp_path / "index.json")
    monkeypatch.setattr(build, "PAGE", tmp_path / "zoo.md")
    monkeypatch.setattr(build, "read_entries", lambda: built)
    outcomes = []
    for arguments in (["--check"], [], ["--check"]):
        monkeypatch.setattr(sys, "argv", ["build.py", *arguments])
        with pytest.raises(SystemExit) as stop:
            build.main()
        outcomes.append((stop.value.code, sorted(path.name for path in tmp_path.iterdir())))
    assert outcomes == [(True, []), (False, ["index.json", "zoo.md"]), (False, ["index.json", "zoo.md"])]
    assert "stale: index.json, zoo.md" in capsys.readouterr().out


# What users call


def test_list_models_filters():
    assert ssl_zoo.list_models() == NAMES
    assert ssl_zoo.list_models(method="msf") == [name for name in NAMES if name.startswith("msf-")]
    assert ssl_zoo.list_models("sela", "resnet*", "imagenet-1k") == [
        "sela-resnet18.imagenet1k-280ep-1x1k",
        "sela-resnet50.imagenet1k-280ep-10x3k",
        "sela-resnet50.imagenet1k-280ep-1x1k",
    ]
    cifar = ssl_zoo.list_models(method="corinfomax", dataset="cifar*")
    assert {ssl_zoo.model_info(name).dataset for name in cifar} == {"cifar10", "cifar100"}
    assert ssl_zoo.list_models(method="msf", backbone="resnet18") == [], "known values that no model has together"


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"method": "moco"}, "`method` must fit one of byol, cmsf, .*, got 'moco'"),
        ({"method": "Mira"}, "got 'Mira'"),
        ({"backbone": "vit*"}, r"`backbone` must fit one of alexnet_bn, .*, got 'vit\*'"),
        ({"dataset": "imagenet1k"}, "`dataset` must fit one of .*imagenet-1k.*, got 'imagenet1k'"),
        ({"method": "msf", "dataset": "mnist"}, "got 'mnist'"),
    ],
)
def test_list_models_refuses_values_that_no_model_has(filters, message):
    with pytest.raises(ValueError, match=message):
        ssl_zoo.list_models(**filters)


def test_model_info_gives_the_entry_or_the_nearest_names():
    entry = ssl_zoo.model_info("mira-resnet50.imagenet1k-800ep")
    assert (entry.layout, entry.epochs, entry.license.id) == ("mira", 800, None)
    with pytest.raises(
        ValueError, match=r"'mira-resnet50'; did you mean 'mira-resnet50\.imagenet1k-400ep-multicrop' or"
    ):
        ssl_zoo.model_info("mira-resnet50")
    with pytest.raises(ValueError, match=r"did you mean 'mira-resnet50\.imagenet1k-800ep"):
        ssl_zoo.model_info("mria-resnet50.imagenet1k-800ep")
    with pytest.raises(ValueError, match=r"no model 'x' \(`ssl_zoo.list_models\(\)` lists all"):
        ssl_zoo.model_info("x")


def test_the_index_that_is_handed_out_is_a_copy():
    load_index().clear()
    assert list(load_index()) == NAMES


def entry_with(name, license, origin="authors"):
    given = find_entry("mira-resnet50.imagenet1k-800ep").to_dict() | {"name": name, "origin": origin}
    return ZooEntry.from_dict({**given, "license": dataclasses.asdict(license)})


def test_release_license(monkeypatch):
    assert release_license("sela").id == "mit"
    assert release_license("mira") == License(id=None, name=None, where="https://github.com/movinghoon/MIRA")
    with pytest.raises(ValueError, match="no checkpoint that the authors of 'cmsf' published"):
        release_license("cmsf")
    mit, other = License("mit", "MIT", "https://a"), License("cc-by-4.0", "CC BY 4.0", "https://b")
    index = {"a": entry_with("a", mit), "b": entry_with("b", other), "c": entry_with("c", other, "ours")}
    monkeypatch.setattr(zoo, "_index", lambda: index)
    with pytest.raises(ValueError, match=r"different licences \(cc-by-4.0, mit\): name the entry"):
        release_license("mira")
    del index["b"]
    assert release_license("mira") == mit


def test_an_entry_survives_json():
    entry = find_entry("mira-resnet10nano.cifar10-4ep")
    assert entry.measured
    assert ZooEntry.from_dict(json.loads(json.dumps(entry.to_dict()))) == entry
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.name = "other"
    assert Reported(**dataclasses.asdict(find_entry("msf-resnet50.imagenet1k-200ep").reported[0])).value == 72.4


def test_listing_models_loads_no_framework():
    assert loaded_after(
        "import ssl_zoo; ssl_zoo.list_models(); ssl_zoo.model_info(ssl_zoo.list_models()[0])"
    ).isdisjoint((*HEAVY, "yaml", "jinja2"))
