import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ssl_zoo import provenance


def test_versions_name_what_changes_a_number():
    found = provenance.versions()
    assert {"python", "torch", "timm", "transformers", "datasets"} <= found.keys()
    assert all(re.match(r"\d+\.\d+", version) for version in found.values())


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    package = tmp_path / "checkout" / "ssl_zoo"
    package.mkdir(parents=True)
    shutil.copy(provenance.__file__, package / "provenance.py")
    monkeypatch.setattr(provenance, "_PACKAGE", package)
    return package


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout


def test_commit_of_a_checkout_and_its_changes(checkout):
    git(checkout.parent, "init", "-q")
    git(checkout.parent, "commit", "-q", "--allow-empty", "-m", "someone else's")
    assert provenance.commit() is None  # installed inside someone else's checkout
    git(checkout.parent, "add", ".")
    git(checkout.parent, "commit", "-q", "-m", "first")
    head = git(checkout, "rev-parse", "HEAD").strip()
    assert provenance.commit() == head
    (checkout / "scratch.txt").write_text("not tracked")
    assert provenance.commit() == head
    with (checkout / "provenance.py").open("a") as file:
        file.write("\n")
    assert provenance.commit() == f"{head}+dirty"


def test_git_looks_at_the_package_whatever_git_is_told_outside(checkout, monkeypatch, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    for folder in (checkout.parent, other):
        git(folder, "init", "-q")
        git(folder, "add", ".")
        git(folder, "commit", "-q", "--allow-empty", "-m", folder.name)
    head = git(checkout, "rev-parse", "HEAD").strip()
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    assert provenance.commit() == head


def test_no_checkout_and_no_git(checkout, monkeypatch):
    assert provenance.commit() is None
    monkeypatch.setenv("PATH", "")
    assert provenance.commit() is None


def test_command_names_no_folder_of_this_machine(monkeypatch, tmp_path, root):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    arguments = [
        str(root / "recipes" / "evaluate.py"),
        str(tmp_path / "runs" / "first"),
        "--data=/somewhere/else/pets",
        "data.path=~/pictures",
        "--k",
        "20",
        "org/name",
        "../other run",
        "key=1/2",
    ]
    expected = (
        "python recipes/evaluate.py runs/first --data=pets data.path=pictures --k 20 org/name 'other run' key=1/2"
    )
    assert provenance.command(arguments) == expected
    assert provenance.command(["a.py"], num_processes=2) == "torchrun --nproc_per_node 2 a.py"
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert provenance.command(["a.py"]) == "torchrun --nproc_per_node 4 a.py"
