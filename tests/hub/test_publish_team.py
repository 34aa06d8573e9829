"""Publishing in teams: repeatedly, under tags, privately, with interruptions, and not without a licence."""

import json
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from safetensors.torch import load_file, save_file

from ssl_zoo.hub.history import History, merge_results
from ssl_zoo.hub.publish import PublishError, publish, write_repository
from tests.hub.conftest import ROOT
from tests.hub.runs import make_conversion, make_run, result
from tests.hub.server import READ_TOKEN, STALL, STRANGER_TOKEN


pytestmark = pytest.mark.hub


def refused(*arguments, **options):
    with pytest.raises(PublishError) as caught:
        publish(*arguments, **options)
    return str(caught.value)


def repository(hub, repo_id="org/name"):
    return hub.server.repos["model", repo_id]


def lines(hub, name, branch="main"):
    blob = repository(hub).resolve(branch).tree.get(name)
    return [] if blob is None else [json.loads(line) for line in blob.data.decode().splitlines()]


def measured(run, *results):
    (run / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in results))
    return run


def heads(hub):
    return dict(repository(hub).branches)


def run_script(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["publish.py", *map(str, arguments)])
    runpy.run_path(str(ROOT / "recipes" / "publish.py"), run_name="__main__")


# --- old numbers ---


def test_numbers_of_all_versions_are_kept(hub_here, tmp_path):
    knn, nmi = result(value=0.4375), result(metric="nmi", protocol={"name": "nmi"}, value=0.125)
    runs = [measured(make_run(tmp_path / str(seed), seed=seed), knn) for seed in range(3)]
    first = publish(runs[0], "org/name")
    weights = {0: repository(hub_here).resolve("main").tree["model.safetensors"].sha256}

    measured(runs[0], nmi)  # a colleague's copy of the run, who measured something else
    second = publish(runs[0], "org/name")
    assert lines(hub_here, "results.jsonl") == [knn, nmi]
    assert "earlier_results.jsonl" not in second.files

    measured(runs[1], result(value=0.5))
    third = publish(runs[1], "org/name")
    weights[1] = repository(hub_here).resolve("main").tree["model.safetensors"].sha256
    assert lines(hub_here, "results.jsonl") == [result(value=0.5)]
    mark = {"revision": second.commit, "weights_sha256": weights[0]}
    assert lines(hub_here, "earlier_results.jsonl") == [knn | mark, nmi | mark]
    assert "## Earlier versions" in third.card
    assert "43.75" in third.card.split("## Earlier versions")[1]

    fourth = publish(measured(runs[2]), "org/name")
    earlier = lines(hub_here, "earlier_results.jsonl")
    assert earlier == [knn | mark, nmi | mark, result(value=0.5, revision=third.commit, weights_sha256=weights[1])]
    for line in earlier:  # each line names a commit that holds the weights it was measured of
        assert (
            repository(hub_here).resolve(line["revision"]).tree["model.safetensors"].sha256 == line["weights_sha256"]
        )

    back = publish(measured(runs[0], nmi), "org/name")  # the first weights after all: their numbers are theirs again
    assert lines(hub_here, "results.jsonl") == [knn, nmi]
    assert lines(hub_here, "earlier_results.jsonl") == earlier[2:]
    again = publish(runs[0], "org/name")
    assert not again.changed
    assert again.commit == back.commit
    assert len({made.commit for made in (first, second, third, fourth, back)}) == 5


def test_a_branch_begins_without_the_numbers_of_main(hub_here, tmp_path):
    runs = [measured(make_run(tmp_path / str(seed), seed=seed), result(value=seed / 8)) for seed in range(3)]
    publish(runs[0], "org/name")
    hub_here.server.fail("POST", "/commit/", 500)
    assert "the new branch 'other-recipe'" in refused(runs[1], "org/name", revision="other-recipe")
    made = publish(runs[1], "org/name", revision="other-recipe")
    assert "earlier_results.jsonl" not in made.files
    publish(runs[2], "org/name", revision="other-recipe")
    assert [line["value"] for line in lines(hub_here, "earlier_results.jsonl", "other-recipe")] == [0.125]
    assert [line["value"] for line in lines(hub_here, "results.jsonl")] == [0.0], "main is as it was"


def test_merging():
    old, new = result(date="2026-01-01", value=0.1), result(date="2026-01-02", value=0.2)
    same = {"weights_sha256": "a", "commit": "c1"}
    for results, published, expected in (
        ([new], [old], [new]),
        ([old], [new], [new]),  # measured again by a colleague, on a later day
        ([old], [result(date="2026-01-01", value=0.3)], [old]),
        ([], [old], [old]),
        ([old, new], [], [new]),
        ([new, result(seed=1)], [old], [new, result(seed=1)]),
        ([result(images_seen=64)], [old], [old, result(images_seen=64)]),  # of a checkpoint: another measurement
    ):
        history = History(results=published, **same)
        merged, earlier = merge_results(results, [], weights_sha256="a", history=history)
        assert (merged, earlier) == (expected, [])
        again = merge_results(results, [], weights_sha256="a", history=History(results=merged, **same))
        assert again == (merged, []), "publishing again changes nothing"
    mark = {"revision": "c1", "weights_sha256": "a"}
    moved = merge_results([new], [], weights_sha256="b", history=History(results=[old], **same))
    assert moved == ([new], [old | mark])
    back = merge_results([], [new | mark], weights_sha256="a", history=None)
    assert back == ([new], [])


def test_a_spoilt_history_is_no_history_to_lose(hub_here, tmp_path):
    run = make_run(tmp_path)
    publish(run, "org/name")
    repository(hub_here).put({"results.jsonl": b"<<<<<<< mine\n"})
    error = refused(run, "org/name")
    assert "results.jsonl of 'org/name'" in error
    assert "mend it on the Hub" in error
    assert repository(hub_here).resolve("main").title == "put"


# --- tags ---


def test_tags_never_move(hub_here, tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path)
    run_script(monkeypatch, run, "org/name", "--tag", "v1")
    assert re.search(r"Published \d+ files, tag v1: ", capsys.readouterr().out)
    first = repository(hub_here).branches["main"]
    assert repository(hub_here).tags == {"v1": first}
    assert not publish(run, "org/name", tag="v1").changed, "the same version under the same tag"
    publish(run, "org/name", tag="v2")
    assert repository(hub_here).tags == {"v1": first, "v2": first}

    measured(run, result(value=0.5))
    before = len(hub_here.server.requests)
    error = refused(run, "org/name", tag="v1")
    assert f"'v1' of 'org/name' is at another commit, {first[:12]}" in error
    assert "such as --tag v3" in error
    assert "Nothing was sent" in error
    assert "main" in refused(run, "org/name", tag="main")
    assert "name of a tag" in refused(run, "org/name", revision="v1")
    assert "can't be the name of a tag" in refused(run, "org/name", tag="a b")
    assert {method for method, _, _ in hub_here.server.requests[before:]} == {"GET", "HEAD"}
    with pytest.raises(SystemExit, match=r"It would be refused\. The tag 'v1'"):
        run_script(monkeypatch, run, "org/name", "--tag", "v1", "--dry-run")
    assert heads(hub_here) == {"main": first}

    hub_here.server.fail("POST", "/tag/", 500)
    error = refused(run, "org/name", tag="v3")
    assert "published whole, without the tag 'v3'" in error
    made = publish(run, "org/name", tag="v3")
    assert not made.changed
    assert repository(hub_here).tags["v3"] == heads(hub_here)["main"] == made.commit


# --- licences ---


def test_weights_without_a_licence(hub_here, tmp_path, monkeypatch, capsys):
    conversion = make_conversion(tmp_path, license_id=None)
    error = refused(conversion, "org/name")
    assert "The authors of MIRA released these weights without a licence (https://example.org/mira/LICENSE)" in error
    assert "--private" in error
    assert "--i-have-permission" in error
    assert hub_here.server.repos == {}, "not even made"
    assert publish(conversion, "org/hidden", private=True).changed
    assert repository(hub_here, "org/hidden").private
    (conversion / "results.jsonl").write_text(json.dumps(result()) + "\n")
    assert publish(conversion, "org/hidden").changed, "an existing private repository is as good"

    for options in ({}, {"gated": True}):
        hub_here.server.add_repo("org/name", {"README.md": b"x"}, **options)
        assert "without a licence" in refused(conversion, "org/name")
        assert "without a licence" in refused(conversion, "org/name", revision="other", tag="v1")
        assert set(repository(hub_here).resolve("main").tree) == {".gitattributes", "README.md"}
    with pytest.raises(SystemExit, match="without a licence"):
        run_script(monkeypatch, conversion, "org/name", "--dry-run")
    assert "| 75.6" in capsys.readouterr().out, "the card is shown all the same"

    hub_here.server.add_repo("org/name", {})
    made = publish(conversion, "org/name", with_permission=True)
    told = json.loads(repository(hub_here).resolve("main").tree["conversion.json"].data)
    today = datetime.now(UTC).date().isoformat()
    assert told["published_with_permission"] == today
    assert today in made.card.split("## Licence")[1]
    assert repository(hub_here).resolve("main").title == "Publish converted weights of MIRA, with permission"
    monkeypatch.setattr("ssl_zoo.hub.export.datetime", Tomorrow)
    assert not publish(conversion, "org/name", with_permission=True).changed, "the day of the first time stays"
    assert "without a licence" in refused(conversion, "org/name"), "the permission isn't one for everybody"


class Tomorrow(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(2100, 1, 1, tzinfo=tz)


def test_a_downloaded_permission_is_none(hub_here, tmp_path):
    """The files of a repository that was published with permission don't pass the permission on."""
    conversion = make_conversion(tmp_path, license_id=None)
    write_repository(conversion, "org/name", tmp_path / "repository")
    told = json.loads((tmp_path / "repository" / "conversion.json").read_text())
    (tmp_path / "repository" / "conversion.json").write_text(
        json.dumps({**told, "published_with_permission": "2026-01-01"})
    )
    assert "without a licence" in refused(tmp_path / "repository", "org/name")
    publish(tmp_path / "repository", "org/name", private=True)
    told = json.loads(repository(hub_here).resolve("main").tree["conversion.json"].data)
    assert "published_with_permission" not in told


def test_licensed_weights_are_free_to_go(hub_here, tmp_path):
    conversion = make_conversion(tmp_path, license_id="mit")
    assert publish(conversion, "org/name", with_permission=True).changed
    told = json.loads(repository(hub_here).resolve("main").tree["conversion.json"].data)
    assert "published_with_permission" not in told, "it needs none"
    assert not publish(conversion, "org/name").changed


# --- looking first ---


def test_a_dry_run_compares(hub_here, tmp_path, monkeypatch, capsys):
    runs = [make_run(tmp_path / str(seed), seed=seed, evaluated=not seed) for seed in range(2)]
    hub_here.server.add_repo("org/name", {"NOTES.md": b"by hand"})
    publish(runs[0], "org/name")
    before = heads(hub_here)
    run_script(monkeypatch, runs[1], "org/name", "--dry-run")
    shown = capsys.readouterr().out
    for fate in (
        r"model\.safetensors +[\d,]+ bytes  replaced",
        r"config\.json +[\d,]+ bytes  same",
        r"metrics\.jsonl +[\d,]+ bytes  same",
        r"earlier_results\.jsonl +[\d,]+ bytes  new",
        r"clusters\.png +deleted: written by an earlier publication",
        r"NOTES\.md +kept as it is",
    ):
        assert re.search(rf"^(\S+/)?{fate}", shown, re.MULTILINE), fate
    assert "## Earlier versions" in shown, "the card is the one that would be published"
    assert heads(hub_here) == before
    made = publish(runs[1], "org/name")
    assert made.card.strip() in shown


@pytest.mark.parametrize("trouble", ["no network", "offline", "wrong token", "stalled"])
def test_a_dry_run_needs_no_hub(hub_here, tmp_path, monkeypatch, capsys, trouble):
    if trouble == "no network":
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    elif trouble == "offline":
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    elif trouble == "wrong token":
        monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    else:
        monkeypatch.setattr("ssl_zoo.hub.remote._TIMEOUT_SECONDS", 0.5)
        hub_here.server.fail("GET", "/api/models/", STALL)
    conversion = make_conversion(tmp_path, license_id=None)
    run_script(monkeypatch, conversion, "org/name", "--dry-run")
    shown = capsys.readouterr().out
    assert re.search(r"model\.safetensors +[\d,]+ bytes", shown)
    assert "Not compared with the Hub" in shown
    assert "Publishing to a public repository would be refused" in shown
    assert "# name" in shown
    monkeypatch.setattr("ssl_zoo.hub.remote._TIMEOUT_SECONDS", 0.5)
    hub_here.server.fail("GET", "/api/models/", STALL)
    assert "Repeating the command is safe" in refused(conversion, "org/name")


def test_a_repository_as_a_folder(hub_here, tmp_path, monkeypatch, capsys):
    """Written where there is no network, carried elsewhere, published there: the same as published at once."""
    run = make_run(tmp_path)
    run_script(monkeypatch, run, "org/name", "--out", tmp_path / "repository")
    assert hub_here.server.requests == []
    assert "publish.py" in capsys.readouterr().out
    publish(tmp_path / "repository", "org/name")
    carried = dict(repository(hub_here).resolve("main").tree)
    assert not publish(run, "org/name").changed
    assert carried["config.json"].data == (tmp_path / "repository" / "config.json").read_bytes()
    with pytest.raises(SystemExit, match="not empty"):
        run_script(monkeypatch, run, "org/name", "--out", tmp_path / "repository")
    with pytest.raises(SystemExit):
        run_script(monkeypatch, run, "org/name", "--out", tmp_path / "other", "--tag", "v1")
    assert not (tmp_path / "other").exists()


# --- interruptions ---


def test_a_killed_upload_goes_on(hub_here, tmp_path):
    """A real process, killed in the middle of the second file: what was sent isn't sent again."""
    run = make_run(tmp_path)
    hub_here.server.fail("PUT", "/lfs/", STALL, nth=2)
    command = [sys.executable, str(ROOT / "recipes" / "publish.py"), str(run), "org/name"]
    environment = {**hub_here.environment, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, env=environment, cwd=hub_here.home, stderr=subprocess.DEVNULL) as process:
        assert hub_here.server.stalled.wait(120)
        deadline = time.monotonic() + 120
        while not sent(hub_here) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    before = sent(hub_here)
    assert before
    assert set(repository(hub_here).resolve("main").tree) == {".gitattributes"}, "nothing of it is visible"
    assert publish(run, "org/name").changed
    after = sent(hub_here)
    assert len(after) == len(set(after)) == 3, "each file is sent once"
    assert after[: len(before)] == before
    assert len(repository(hub_here).history("main")) == 2


def sent(hub):
    return [path for method, path, status in hub.server.requests if method == "PUT" and status == 200]


# --- refusals ---


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that tests only read."""
    return make_run(tmp_path_factory.mktemp("shared"))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (401, "hf auth login"),
        (402, "asks for a payment"),
        (403, "an organisation you may write to"),
        (404, "Check the name and the token"),
        (409, "Somebody else changed"),
        (412, "Look at it and try again"),
        (413, "too large"),
        (429, "too many requests"),
        (500, "a problem of its own"),
        (503, "Try again later"),
        (418, "The Hub refused (418"),
    ],
)
def test_what_the_hub_says_in_words(hub_here, run, status, words):
    hub_here.server.add_repo("org/name", {"NOTES.md": b"x"})
    for request in ("POST", "org/name/commit/"), ("GET", "org/name/refs"):
        before = heads(hub_here)
        hub_here.server.fail(*request, status)
        error = refused(run, "org/name")
        assert words in error
        assert str(status) in error
        assert "Nothing of this push is visible" in error
        assert "Repeating the command is safe" in error
        assert heads(hub_here) == before


def test_whose_repository_it_is(hub_here, tmp_path):
    run = make_run(tmp_path)
    hub_here.server.add_repo("org/name", {}, private=True)
    assert "403" in refused(run, "org/name", token=STRANGER_TOKEN), "hidden and taken: it can't be made"
    assert "403" in refused(run, "org/name", token=READ_TOKEN)
    hub_here.server.add_repo("org/new", {})
    hub_here.server.renamed["org/old"] = "org/new"
    error = refused(run, "org/old")
    assert "'org/old' is called 'org/new' now" in error
    assert "Nothing was sent" in error
    assert set(repository(hub_here, "org/new").resolve("main").tree) == {".gitattributes"}


def test_somebody_publishes_at_the_same_time(hub_here, tmp_path, monkeypatch):
    run, other = make_run(tmp_path / "a"), make_run(tmp_path / "b", seed=1)
    publish(other, "org/name")
    import ssl_zoo.hub.publish as module

    compare = module.compare

    def compare_late(*arguments, **options):
        changes = compare(*arguments, **options)
        repository(hub_here).put({"NOTES.md": b"a colleague was faster"})
        return changes

    monkeypatch.setattr(module, "compare", compare_late)
    assert "Somebody else changed" in refused(run, "org/name")
    assert repository(hub_here).resolve("main").title == "put"


# --- what is never sent ---


SECRET = "correct-horse-battery"


def lay_traps(run):
    """Other files in folders of runs."""
    for name in (
        *("optimizer.bin", "scheduler.pt", "pytorch_model.bin", "model.ckpt", ".env", "events.out.tfevents.1"),
        *("checkpoints/step_2/optimizer.bin", "checkpoints/step_2/model.safetensors", "notebook.ipynb", "extra.png"),
        *("model/optimizer.pt", "model/training_args.bin", "model/README.md", "wandb/run.json", "features/a.npy"),
        *("bank.safetensors", "debug.log", "extra.py", "other.jsonl", "pretraining/model.safetensors"),
    ):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_bytes(SECRET.encode())


def test_only_what_belongs_there_is_published(hub_here, tmp_path, monkeypatch):
    monkeypatch.setenv("MY_SECRET_THING", SECRET)
    run = make_run(tmp_path)
    plain = publish(run, "org/plain")
    lay_traps(run)
    file = run / "model" / "model.safetensors"
    save_file(load_file(file), file, metadata={"format": "pt", "made_by": SECRET, "where": str(tmp_path)})
    made = publish(run, "org/name")
    assert set(made.files) == set(plain.files)
    for name, blob in repository(hub_here).resolve("main").tree.items():
        assert SECRET.encode() not in blob.data, name
        assert str(tmp_path).encode() not in blob.data, name
        assert not name.endswith((".bin", ".pt", ".ckpt", ".ipynb", ".npy", ".log", ".env")), name


@pytest.mark.parametrize(
    "place", ["recipe.yaml", "metrics.jsonl", "results.jsonl", "model/config.json", "clusters.png"]
)
def test_a_secret_stops_it(hub_here, tmp_path, monkeypatch, place):
    monkeypatch.setenv("MY_SECRET_THING", SECRET)
    run = make_run(tmp_path)
    if place == "recipe.yaml":
        (run / place).write_text((run / place).read_text() + f"note: {SECRET}\n")
    elif place == "metrics.jsonl":
        (run / place).write_text(json.dumps({"step": 1, "images_seen": 64, "note": SECRET}) + "\n")
    elif place == "results.jsonl":
        measured(run, result(command=f"TOKEN={SECRET} python x.py"))
    elif place == "model/config.json":
        config = json.loads((run / place).read_text())
        (run / place).write_text(json.dumps({**config, "note": SECRET}))
    else:
        from PIL import Image, PngImagePlugin

        comments = PngImagePlugin.PngInfo()
        comments.add_text("made by", SECRET, zip=True)
        Image.new("RGB", (4, 4)).save(run / place, pnginfo=comments)
        assert SECRET.encode() not in (run / place).read_bytes(), "packed, so not to be seen at once"
    error = refused(run, "org/name")
    assert "MY_SECRET_THING" in error
    assert SECRET not in error
    assert hub_here.server.repos == {}
