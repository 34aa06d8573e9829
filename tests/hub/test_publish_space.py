"""The page becomes a Space: one commit with all it needs, none without a change, and nothing is sent by accident."""

import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from ssl_zoo.hub.publish import PublishError
from ssl_zoo.hub.space import publish_space, write_space
from tests.hub.conftest import ROOT, LocalHub
from tests.hub.server import READ_TOKEN, STRANGER_TOKEN


pytestmark = pytest.mark.hub

SPACE = ROOT / "space"
README = "---\ntitle: t\nsdk: gradio\nsdk_version: 6.31.0\napp_file: app.py\n---\n# Page\n"


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A small page."""
    folder = tmp_path / "page"
    for name, text in {
        "app.py": "import ssl_zoo\n",
        "README.md": README,
        "requirements.txt": "torch\n",
        "pages/__init__.py": "",
        "pages/map.py": "MAP = 1\n",
        "assets/style.css": "p {}\n",
        "models/m/config.json": "{}",
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    (folder / "models/m/model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}" + bytes(100))
    return folder


def tree(hub: LocalHub) -> dict[str, bytes]:
    commit = hub.server.repos["space", "org/page"].resolve("main")
    return {name: blob.data for name, blob in commit.tree.items() if name != ".gitattributes"}


def test_the_real_page_by_the_script(hub: LocalHub) -> None:
    dry = hub.run("recipes/publish.py", "--space", "org/page", "--dry-run").stdout
    assert "Would publish to org/page" in dry
    assert re.search(r"app\.py +[\d,]+ bytes +new", dry)
    assert ("space", "org/page") not in hub.server.repos
    done = hub.run("recipes/publish.py", "--space", "org/page")
    assert f"{hub.endpoint}/spaces/org/page" in done.stdout
    repo = hub.server.repos["space", "org/page"]
    assert ("model", "org/page") not in hub.server.repos
    assert not repo.private
    assert len(repo.history("main")) == 2, "the Hub's own first commit and ours"
    files = tree(hub)
    settings = yaml.safe_load(files["README.md"].decode().split("---\n")[1])
    assert settings["sdk"] == "gradio"
    assert settings["app_file"] == "app.py"
    assert len(settings["short_description"]) <= 60, "the Hub takes no longer one"
    for path in SPACE.rglob("*"):
        if path.suffix in (".py", ".css", ".js", ".html", ".safetensors"):
            assert files[path.relative_to(SPACE).as_posix()] == path.read_bytes()
    for name in ("ssl_zoo/__init__.py", "ssl_zoo/py.typed", "ssl_zoo/zoo/index.json", "requirements.txt"):
        assert name in files
    assert not [name for name in files if "__pycache__" in name or Path(name).name.startswith(".")]
    assert max(map(len, files.values())) < 10_000_000
    again = hub.run("recipes/publish.py", "--space", "org/page").stdout
    assert "Nothing has changed" in again
    assert len(repo.history("main")) == 2


def test_what_is_written_runs_by_itself(hub: LocalHub, tmp_path: Path) -> None:
    """Beside app.py, without the checkout: pages, package and its data are found."""
    pytest.importorskip("gradio")
    out = tmp_path / "out"
    done = hub.run("recipes/publish.py", "--space", "org/page", "--out", str(out))
    assert f"python {out}/app.py" in done.stdout
    code = f"""
    import sys
    sys.path[:0] = [{str(out)!r}]
    sys.path = [path for path in sys.path if path != {str(ROOT)!r}]
    import app, ssl_zoo, shell
    from ssl_zoo.zoo.entries import load_index
    assert ssl_zoo.__file__.startswith({str(out)!r}), ssl_zoo.__file__
    assert load_index()
    print(app.MODELS, len(list(app.MODELS.iterdir())))
    """
    assert str(out / "models") in hub.run(code, without_ssl_zoo=False).stdout


def test_private_and_changes(hub_here: LocalHub, page: Path) -> None:
    made = publish_space(page, "org/page", private=True)
    repo = hub_here.server.repos["space", "org/page"]
    assert repo.private
    assert made.changed
    assert made.commit == repo.branches["main"]
    repo.put({"notes.md": b"mine", "models/theirs/config.json": b"{}", "pages/old.py": b"", "other/x.py": b""})
    (page / "pages/map.py").unlink()
    (page / "pages/atlas.py").write_text("MAP = 2\n")
    (page / "assets/style.css").write_text("b {}\n")  # of the same length as before
    (page / "models/m/model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}" + bytes(99) + b"1")
    dry = publish_space(page, "org/page", dry_run=True)
    assert dry.changes is not None
    assert dry.changes.new == ("pages/atlas.py",)
    assert dry.changes.replaced == ("assets/style.css", "models/m/model.safetensors")
    assert dry.changes.deleted == ("pages/map.py", "pages/old.py")
    assert {"notes.md", "models/theirs/config.json", "other/x.py"} < set(dry.changes.kept)
    publish_space(page, "org/page", private=True)
    assert tree(hub_here)["assets/style.css"] == b"b {}\n"
    assert {"pages/atlas.py", "notes.md", "other/x.py"} < set(tree(hub_here))
    assert not {"pages/map.py", "pages/old.py"} & set(tree(hub_here))
    assert repo.private


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda page: (page / "app.py").unlink(), "is not a Space: it has no app.py"),
        (lambda page: shutil.rmtree(page), "is not a Space"),
        (lambda page: (page / "README.md").write_text("# Page\n"), "sdk: None` should be gradio"),
        (lambda page: (page / "README.md").write_text(README.replace("gradio", "docker")), "`sdk: docker`"),
        (lambda page: (page / "README.md").write_text(README.replace("app.py", "main.py")), "`app_file: main.py`"),
        (lambda page: (page / "ssl_zoo").mkdir(), "already holds 'ssl_zoo'"),
        (
            lambda page: (page / "assets/a.js").write_text("// hf_" + "a" * 34),
            "assets/a.js would give away .*Hub token",
        ),
        (lambda page: (page / "pages/x.py").write_text(f"A = '{page}'\n"), "pages/x.py would give away the path"),
    ],
)
def test_what_may_not_leave(hub_here: LocalHub, page: Path, change, words: str) -> None:
    change(page)
    with pytest.raises(PublishError, match=words):
        publish_space(page, "org/page")
    assert hub_here.server.requests == []


def test_only_files_of_a_page_are_sent(hub_here: LocalHub, page: Path) -> None:
    for name in (".env", "assets/.DS_Store", "__pycache__/app.pyc", "pages/map.py.swp", "runs/x.py", "key.pem"):
        (page / name).parent.mkdir(exist_ok=True)
        (page / name).write_text("x")
    (page / "assets/link.css").symlink_to("/etc/passwd")
    made = publish_space(page, "org/page")
    kept_back = {"map.py.swp", "key.pem", "link.css"}
    assert kept_back == {re.findall("'(.*?)'", note)[0] for note in made.notes}
    sent = {name for name in tree(hub_here) if not name.startswith("ssl_zoo/")}
    assert sent == {
        *("app.py", "README.md", "requirements.txt", "pages/__init__.py", "pages/map.py", "assets/style.css"),
        *("models/m/config.json", "models/m/model.safetensors"),
    }


def test_refusals_in_words(hub_here: LocalHub, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("page", "org/pa ge", "org/-x", "a/b/c"):
        with pytest.raises(PublishError, match="is not the id of a repository"):
            publish_space(page, name)
    hub_here.server.add_repo("org/page", {"README.md": b"x"}, repo_type="space")
    with pytest.raises(PublishError, match=r"exists and is public.*Nothing was sent"):
        publish_space(page, "org/page", private=True)
    dry = publish_space(page, "org/page", private=True, dry_run=True)
    assert dry.refusal is not None
    for token, words in (
        (READ_TOKEN, "may not write"),
        (STRANGER_TOKEN, "may not write"),
        ("hf_x", "doesn't know you"),
    ):
        with pytest.raises(PublishError, match=words):
            publish_space(page, "org/page", token=token)
    assert len(hub_here.server.repos["space", "org/page"].commits) == 2
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    dry = publish_space(page, "org/page", dry_run=True)
    assert "Not compared" in dry.notes[-1]
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE"):
        publish_space(page, "org/page")


def test_a_failed_push_leaves_nothing_half_done(hub_here: LocalHub, page: Path) -> None:
    hub_here.server.fail("POST", r"/api/spaces/.*/commit/", 503, times=9)
    with pytest.raises(
        PublishError, match=r"problem of its own.*the new Space 'org/page', without the files"
    ) as caught:
        publish_space(page, "org/page")
    assert "Repeating the command is safe" in str(caught.value)
    assert tree(hub_here) == {}
    hub_here.server.faults.clear()
    assert publish_space(page, "org/page").changed
    assert "app.py" in tree(hub_here)


def test_a_folder_that_holds_something_is_left_alone(page: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert Path("ssl_zoo/__init__.py") in write_space(page, out)
    with pytest.raises(PublishError, match="is not empty"):
        write_space(page, out)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".ssl_zoo")]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("run",),
        ("run", "o/x", "--space", "o/y"),
        ("--space", "o/y", "--tag", "v1"),
        ("--space", "o/y", "--compact"),
    ],
)
def test_arguments_that_do_not_go_together(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script = runpy.run_path(str(ROOT / "recipes/publish.py"))
    monkeypatch.setattr(sys, "argv", ["publish.py", *arguments])
    with pytest.raises(SystemExit) as ended:
        script["parse_arguments"]()
    assert ended.value.code == 2
    assert "error: " in capsys.readouterr().err
