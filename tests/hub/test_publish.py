"""From a run's folder to a repository on the Hub, and back in processes of every kind of user."""

import json
import re
import runpy
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import ssl_zoo
from ssl_zoo.hub.export import ExportError, export_repo
from ssl_zoo.hub.publish import PublishError, publish
from tests.hub.conftest import ROOT, LocalHub
from tests.hub.runs import make_run
from tests.hub.server import HALF_REQUEST, NO_REPLY, READ_TOKEN, STRANGER_TOKEN, HubServer
from tests.tolerances import SAME_NETWORK


pytestmark = pytest.mark.hub

TEXTS = {".json", ".jsonl", ".yaml", ".md", ".py"}

# What every reader prints: the features of the same two images.
REPORT = """
import json, torch
torch.set_num_threads(1)
images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
def listed(features):
    assert features.shape == (2, 32) and features.std() > 0.01
    return features.tolist()
def report(**models):
    with torch.no_grad():
        for name, model in models.items():
            assert not model.training, name
            output = model(images)
            print(json.dumps({name: listed(output if isinstance(output, torch.Tensor) else output.pooler_output)}))
"""


@dataclass
class Published:
    hub: LocalHub
    run: Path
    small: Path  # a local export with the small-image stem
    local: Path  # a local export of the run
    features: list[list[float]]  # of the run's own model


@pytest.fixture(scope="module")
def published(shared_hub: LocalHub, tmp_path_factory: pytest.TempPathFactory) -> Published:
    """Publish a run by the script, and export it and another one to local folders."""
    folder = tmp_path_factory.mktemp("published")
    run = make_run(folder)
    (shared_hub.home / "photo.jpg").write_bytes(jpeg())
    done = shared_hub.run("recipes/publish.py", str(run), "org/name")
    assert "Published" in done.stdout
    export_repo(run, folder / "local")
    export_repo(make_run(folder / "other", small_image_stem=True), folder / "small")
    repo = shared_hub.server.repos["model", "org/name"]
    repo.branches["exp/one"] = repo.branches["main"]
    repo.put({"NOTES.md": b"a branch"}, branch="exp/one")
    model = ssl_zoo.MiraForPreTraining.from_pretrained(run / "model")
    return Published(shared_hub, run, folder / "small", folder / "local", features_of(model.timm_model))


def features_of(backbone: torch.nn.Module) -> list[list[float]]:
    """Do in this process what `report` does in others."""
    threads = torch.get_num_threads()
    names: dict[str, Any] = {}
    exec(REPORT, names)
    with torch.no_grad():
        features: list[list[float]] = names["listed"](backbone(names["images"]))
    torch.set_num_threads(threads)
    return features


def jpeg() -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.radial_gradient("L").convert("RGB").resize((80, 100)).save(buffer, "JPEG")
    return buffer.getvalue()


def files_of(server: HubServer, repo_id: str = "org/name", revision: str = "main") -> dict[str, bytes]:
    repo = server.repos["model", repo_id]
    return {name: blob.data for name, blob in repo.resolve(revision).tree.items() if name != ".gitattributes"}


def card_code(published: Published) -> list[str]:
    card = files_of(published.hub.server)["README.md"].decode()
    return re.findall(r"```python\n(.*?)```", card, re.DOTALL)


def assert_reported(stdout: str, names: set[str], expected: list[list[float]]) -> None:
    """Whether exactly these models were reported, all with these features up to rounding."""
    found: dict[str, Any] = {}
    for line in stdout.splitlines():
        if line.startswith('{"'):
            found |= json.loads(line)
    assert found.keys() == names
    for features in found.values():
        torch.testing.assert_close(torch.tensor(features), torch.tensor(expected), **SAME_NETWORK)


def test_one_commit_with_everything(published: Published) -> None:
    repo = published.hub.server.repos["model", "org/name"]
    assert [commit.title for commit in repo.history("main")][1:] == ["initial commit"]
    files = files_of(published.hub.server)
    for name in ("README.md", "config.json", "model.safetensors", "pretraining/config.json", "recipe.yaml"):
        assert name in files
    assert {"pretraining/model.safetensors", "metrics.jsonl", "results.jsonl", "clusters.png"} < set(files)
    assert {"modeling_mira.py", "configuration_mira.py"} < set(files)
    assert not any("tensorboard" in name for name in files)
    assert len(files["metrics.jsonl"].splitlines()) == 2, "the torn third line is left out"
    assert repo.commits[repo.branches["main"]].author == "owner"


def test_no_path_of_this_machine(published: Published) -> None:
    home, run = str(Path.home()), str(published.run.parent)
    for name, data in files_of(published.hub.server).items():
        if Path(name).suffix not in TEXTS or name.endswith(".py"):
            continue
        text = data.decode()
        assert run not in text, name
        assert home not in text, name
        absolute = re.findall(r"(?<![\w.:/<-])/[A-Za-z][\w.-]*/[\w./-]+", text)
        assert not absolute, (name, absolute)
    recipe = files_of(published.hub.server)["recipe.yaml"].decode()
    assert "path: pets" in recipe
    assert "results" not in recipe, "those of the recipe are none of this model"
    assert recipe.startswith("# `data.path` was a folder")
    results = json.loads(files_of(published.hub.server)["results.jsonl"])
    assert results["data"]["path"] == "pets"
    assert results["command"] == "python evaluate.py run data.path=pets"


def test_with_ssl_zoo(published: Published) -> None:
    code = f"""
    import ssl_zoo
    from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForPreTraining, pipeline
    model = AutoModel.from_pretrained("org/name")
    full = AutoModelForPreTraining.from_pretrained("org/name")
    assert type(model) is ssl_zoo.MiraModel and type(full) is ssl_zoo.MiraForPreTraining
    assert type(AutoConfig.from_pretrained("org/name")) is ssl_zoo.MiraConfig
    branch = AutoModelForPreTraining.from_pretrained("org/name", revision="exp/one")
    report(model=model, full=full.timm_model, branch=branch.timm_model)
    from safetensors.torch import load_file
    saved = load_file({str(published.run / "model" / "model.safetensors")!r})
    loaded = full.state_dict()
    assert set(saved) == set(loaded) and all(torch.equal(saved[name], loaded[name]) for name in saved)
    processor = AutoImageProcessor.from_pretrained("org/name")
    from PIL import Image
    white = processor(Image.new("RGB", (70, 80), "white"), return_tensors="pt")["pixel_values"]
    assert white.shape == (1, 3, 64, 64)
    assert torch.allclose(white[0, :, 0, 0], (1 - torch.tensor([0.5, 0.4, 0.3])) / 0.2), "the recipe's mean and std"
    features = pipeline("image-feature-extraction", model="org/name")(Image.open("photo.jpg"), pool=True)
    assert len(features[0]) == 32
    """
    prepare, own, _, _, _, full = card_code(published)
    done = published.hub.run(REPORT + _dedent(code) + prepare + own + full + "\nassert embedding.shape == (1, 32)")
    assert_reported(done.stdout, {"model", "full", "branch"}, published.features)


def test_trust_remote_code_without_ssl_zoo(published: Published) -> None:
    code = f"""
    try:
        import ssl_zoo
    except ModuleNotFoundError:
        pass
    else:
        raise AssertionError("ssl_zoo can be imported")
    from transformers import AutoModel, AutoModelForImageClassification, AutoModelForPreTraining
    for where in ("org/name", {str(published.local)!r}):
        model = AutoModel.from_pretrained(where, trust_remote_code=True)
        full = AutoModelForPreTraining.from_pretrained(where, trust_remote_code=True)
        direct = AutoModelForPreTraining.from_pretrained(where, subfolder="pretraining", trust_remote_code=True)
        assert type(model).__name__ == "MiraModel" and type(full).__name__ == "MiraForPreTraining"
        assert type(model).__module__.startswith("transformers_modules.")
        assert torch.equal(direct.prototypes.weight, full.prototypes.weight)
        probe = AutoModelForImageClassification.from_pretrained(where, num_labels=3, trust_remote_code=True)
        assert probe(images).logits.shape == (2, 3)
        kind = "hub" if where == "org/name" else "local"
        report(**{{f"{{kind}}_model": model, f"{{kind}}_full": full.timm_model, f"{{kind}}_probe": probe.timm_model}})
    from safetensors.torch import load_file
    saved = load_file({str(published.run / "model" / "model.safetensors")!r})
    assert all(torch.equal(saved[name], tensor) for name, tensor in full.state_dict().items())
    small = AutoModel.from_pretrained({str(published.small)!r}, trust_remote_code=True)
    assert small.timm_model.conv1.kernel_size == (3, 3)
    try:
        AutoModel.from_pretrained("org/name", trust_remote_code=False)
    except ValueError as error:
        assert "trust_remote_code" in str(error)
    else:
        raise AssertionError("loaded without consent")
    """
    prepare, _, remote, _, _, full = card_code(published)
    check = "\nassert embedding.shape == (1, 32) and len(features[0]) == 32 and labels.shape == (1,)"
    done = published.hub.run(REPORT + _dedent(code) + prepare + remote + full + check, without_ssl_zoo=True)
    names = {f"{kind}_{name}" for kind in ("hub", "local") for name in ("model", "full", "probe")}
    assert_reported(done.stdout, names, published.features)


def test_as_a_timm_model(published: Published) -> None:
    code = f"""
    import sys, timm
    hub = timm.create_model("hf-hub:org/name", pretrained=True).eval()
    local = timm.create_model({"local-dir:" + str(published.local)!r}, pretrained=True).eval()
    assert "transformers" not in sys.modules
    branch = timm.create_model("hf-hub:org/name@exp/one", pretrained=True).eval()
    report(hub=hub, local=local, branch=branch)
    data = timm.data.resolve_model_data_config(hub)
    assert tuple(data["input_size"]) == (3, 64, 64) and tuple(data["std"]) == (0.2, 0.2, 0.2), data
    try:
        timm.create_model({"local-dir:" + str(published.small)!r}, pretrained=True)
    except RuntimeError as error:
        assert "conv1.weight" in str(error)
    else:
        raise AssertionError("timm loaded a stem that it doesn't have")
    """
    done = published.hub.run(REPORT + _dedent(code), without_ssl_zoo=True, forked=False)
    assert_reported(done.stdout, {"hub", "local", "branch"}, published.features)


def test_by_the_wrapper_of_transformers(published: Published) -> None:
    code = """
    from transformers import TimmWrapperModel
    report(model=TimmWrapperModel.from_pretrained("org/name"))
    """
    prepare, _, _, timm, wrapper, _ = card_code(published)
    rest = (
        prepare
        + timm
        + "\nfirst = embedding\n"
        + wrapper
        + "\nassert torch.allclose(first, embedding, rtol=1e-5, atol=1e-5)"
    )
    done = published.hub.run(REPORT + _dedent(code) + rest, without_ssl_zoo=True)
    assert_reported(done.stdout, {"model"}, published.features)


def _dedent(code: str) -> str:
    import textwrap

    return textwrap.dedent(code)


def refused(*arguments: Any, **options: Any) -> str:
    with pytest.raises(PublishError) as caught:
        publish(*arguments, **options)
    return str(caught.value)


def visible(hub: LocalHub) -> tuple[set[str], int]:
    """What a reader of the main branch sees, and the number of commits."""
    return set(files_of(hub.server)), len(hub.server.repos["model", "org/name"].history("main"))


def test_a_failed_push_leaves_nothing_half_done(hub_here: LocalHub, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    hub_here.server.fail("PUT", "/lfs/", 403, nth=2)
    error = refused(run, "org/name")
    assert "This push left the new repository 'org/name', without the model" in error
    assert "403" in error
    assert "Repeating the command is safe" in error
    assert visible(hub_here) == (set(), 1)

    for action in (HALF_REQUEST, 500):
        hub_here.server.fail("POST", "/commit/", action)
        error = refused(run, "org/name")
        assert "Nothing of this push is visible. Repeating the command is safe" in error
        assert visible(hub_here) == (set(), 1)

    sent = [path for method, path, status in hub_here.server.requests if method == "PUT" and status == 200]
    assert len(sent) == len(set(sent)), "no file is sent twice, however often the push fails"
    made = publish(run, "org/name")
    assert made.changed
    assert visible(hub_here) == (set(made.files), 2)


def test_a_push_whose_answer_is_lost(hub_here: LocalHub, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    hub_here.server.fail("POST", "/commit/", NO_REPLY)
    error = refused(run, "org/name")
    files, commits = visible(hub_here)
    assert "'main' has a new commit" in error
    assert "Repeating the command is safe" in error
    again = publish(run, "org/name")
    assert not again.changed
    assert visible(hub_here) == (files, commits) == (set(again.files), 2)


def test_a_push_that_loses_the_network(hub_here: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    hub_here.server.fail("POST", "/commit/", HALF_REQUEST)
    hub_here.server.fail("GET", "/api/models/org/name/revision/main", 500)
    error = refused(run, "org/name")
    assert "Whether the commit arrived is unknown; if it did, it arrived whole." in error
    assert visible(hub_here) == (set(), 1)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    assert "Check the network" in refused(run, "org/name")


MINE = {"NOTES.md": b"by hand", "demo.py": b"x = 1", "probe.safetensors": b"x", "pretraining/notes.txt": b"by hand"}


def test_what_an_earlier_run_left_is_replaced(hub_here: LocalHub, tmp_path: Path) -> None:
    first = make_run(tmp_path / "first")
    second = make_run(tmp_path / "second", evaluated=False, seed=1)
    hub_here.server.add_repo(
        "org/name", MINE | {"modeling_old.py": b"# Made from ssl_zoo/old.py: change it there.\nx = 1"}
    )
    one, two = publish(first, "org/name"), publish(second, "org/name")
    assert one.changed
    assert two.changed
    assert {"results.jsonl", *MINE} < set(files_of(hub_here.server, revision=one.commit or ""))
    files = files_of(hub_here.server)
    assert set(files) == {*two.files, *MINE}
    assert all(files[name] == data for name, data in MINE.items())
    assert not {"results.jsonl", "clusters.png", "modeling_old.py"} & set(files)
    assert "earlier_results.jsonl" in files
    assert b"Not measured" in files["README.md"]
    assert len(hub_here.server.repos["model", "org/name"].history("main")) == 4


def test_private_and_revision(hub_here: LocalHub, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    made = publish(run, "org/name", private=True, revision="exp/one")
    assert hub_here.server.repos["model", "org/name"].private
    assert set(files_of(hub_here.server, revision="exp/one")) == set(made.files)
    assert files_of(hub_here.server) == {}, "the main branch is as it was"
    assert 'revision="exp/one"' in made.card
    assert "hf-hub:org/name@exp/one" in made.card
    assert publish(run, "org/name", revision="exp/one").commit == made.commit
    assert hub_here.server.repos["model", "org/name"].private, "publishing again doesn't open it"

    hub_here.server.add_repo("org/public", {"README.md": b"x"})
    error = refused(run, "org/public", private=True)
    assert "is public" in error
    assert "Nothing was sent" in error
    assert files_of(hub_here.server, "org/public") == {"README.md": b"x"}


def test_refusals_in_words(hub_here: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    server = hub_here.server
    server.add_repo("org/open", {"README.md": b"x"})
    for name in ("name", "org/na me", "org/name/x", "-org/name", "org/na--me", "org/x.git", "o" * 60 + "/" + "n" * 60):
        assert "expected org/name" in refused(run, name)
    assert "Yours would be 'owner/name'" in refused(run, "name")
    for branch in ("refs/heads/x", "a b", "a..b", "/a", "a.lock"):
        assert "can't be the name of a branch" in refused(run, "org/name", revision=branch)
    assert "finished run" in refused(tmp_path / "missing", "org/name")
    assert {path for _, path, _ in server.requests} == {"/api/whoami-v2"}

    error = refused(run, "org/name", token="hf_wrong")
    assert "401" in error
    assert "hf auth login" in error
    for name, token in (("elsewhere/name", None), ("org/name", STRANGER_TOKEN), ("org/open", READ_TOKEN)):
        error = refused(run, name, token=token)
        assert "403" in error
        assert f"'{name.split('/')[0]}' must be your user name" in error
        assert "Nothing of this push is visible" in error
    for status, words in (
        (412, "Somebody else changed"),
        (409, "Somebody else changed"),
        (404, "has no 'org/open'"),
    ):
        server.fail("POST", "org/open/commit/", status)
        assert words in refused(run, "org/open")
    server.fail("POST", "org/open/preupload/", 404)
    assert "has no 'org/open'" in refused(run, "org/open")
    assert list(server.repos) == [("model", "org/open")]
    assert set(files_of(server, "org/open")) == {"README.md"}


def run_script(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["publish.py", *arguments])
    runpy.run_path(str(ROOT / "recipes" / "publish.py"), run_name="__main__")


def test_dry_run_sends_nothing(
    hub_here: LocalHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, evaluated=False)
    run_script(monkeypatch, str(run), "org/name", "--dry-run", "--private")
    shown = capsys.readouterr().out
    assert {method for method, _, _ in hub_here.server.requests} == {"GET"}
    assert hub_here.server.repos == {}
    size = (run / "model" / "model.safetensors").stat().st_size
    assert re.search(rf"pretraining/model\.safetensors +{size:,} bytes", shown)
    assert "Not measured" in shown
    with pytest.raises(SystemExit, match=r"^Not published\. .*expected org/name"):
        run_script(monkeypatch, str(run), "name")


def test_root_weights_are_the_teachers(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    export_repo(run, tmp_path / "out")
    saved, root = load_file(run / "model" / "model.safetensors"), load_file(tmp_path / "out" / "model.safetensors")
    assert {f"timm_model.{name}" for name in root} == {name for name in saved if name.startswith("timm_model.")}
    assert all(torch.equal(tensor, saved[f"timm_model.{name}"]) for name, tensor in root.items())
    assert any(not torch.equal(tensor, saved[f"student_backbone.{name}"]) for name, tensor in root.items())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_classes"] == 0
    assert config["model_args"]
    assert config["pretraining_subfolder"] == "pretraining"


def test_runs_that_cannot_be_exported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    with pytest.raises(ExportError, match="not empty"):
        export_repo(run, run)
    config = json.loads((run / "model" / "config.json").read_text())
    (run / "model" / "config.json").write_text(json.dumps({**config, "small_image_stem": True}))
    with pytest.raises(ExportError, match=r"1 tensors are .* conv1\.weight"):
        export_repo(run, tmp_path / "a")
    (run / "model" / "config.json").write_text(json.dumps(config))
    monkeypatch.setenv("MY_SECRET", "correct-horse")
    recipe = (run / "recipe.yaml").read_text()
    (run / "recipe.yaml").write_text(recipe + "note: correct-horse\n")
    with pytest.raises(ExportError, match="MY_SECRET"):
        export_repo(run, tmp_path / "b")
    (run / "recipe.yaml").write_text(recipe.replace("method: mira", "method: other"))
    with pytest.raises(ExportError, match="mixes two runs"):
        export_repo(run, tmp_path / "c")
    shutil.rmtree(run / "model")
    with pytest.raises(ExportError, match="finished run"):
        export_repo(run, tmp_path / "d")
