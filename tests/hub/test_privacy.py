"""Nothing of this machine in what is published."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save_file

from ssl_zoo.hub.privacy import file_leaks, find_leaks, is_local_folder, without_paths


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/home/me/runs/x", "x"),
        ("python /home/me/x/recipes/train.py a.yaml", "python train.py a.yaml"),
        ("/opt/python recipes/evaluate.py runs/x", "python recipes/evaluate.py runs/x"),
        ("data.path=/data/pets seed=1", "data.path=pets seed=1"),
        ("data.path='/data/my pets' seed=1", "data.path=my pets seed=1"),
        (r"train.py data.path=/data/my\ pets", r"train.py data.path=my\ pets"),
        ("~/runs/x", "x"),
        ("file:///home/me/x.parquet", "x.parquet"),
        ("PYTHONPATH=/a/b:/c/d python", "PYTHONPATH=b:d python"),
        (r"C:\Users\me\run", "run"),
        ("https://huggingface.co/papers/2211.02284", "https://huggingface.co/papers/2211.02284"),
        ("recipes/mira/a.yaml, 3/4, a / b, img/s, and/or", "recipes/mira/a.yaml, 3/4, a / b, img/s, and/or"),
        ("uoft-cs/cifar10", "uoft-cs/cifar10"),
    ],
)
def test_without_paths(text: str, expected: str) -> None:
    assert without_paths(text) == expected
    assert without_paths({"a": [text, 1, None]}) == {"a": [expected, 1, None]}


def test_one_existing_path_with_blanks(tmp_path: Path) -> None:
    folder = tmp_path / "my own" / "pets and all"
    folder.mkdir(parents=True)
    assert without_paths(str(folder)) == "pets and all"


def test_find_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MY_API_KEY", "correct-horse")
    assert find_leaks("recipes/train.py and https://example.org/home") == []
    assert find_leaks(f"see {tmp_path}/home/x")
    assert find_leaks("password: correct-horse") == ["the value of the environment variable MY_API_KEY"]
    assert find_leaks("hf_" + "a1" * 17) == ["something that looks like a Hub token"]
    assert find_leaks("in /mnt/run7/model", paths=(Path("/mnt/run7"),)) == ["the path '/mnt/run7'"]
    assert find_leaks("in /mnt/run77/model", paths=(Path("/mnt/run7"),)) == []


# Put together here, so that no scanner takes this file for one that holds secrets.
FORMS = {
    "Hub token": "hf_" + "a1" * 17,
    "GitHub token": "ghp_" + "a1" * 18,
    "key of AWS": "AKIA" + "ABCD" * 4,
    "API key": "sk-" + "proj-" + "a1" * 20,
    "Slack token": "xoxb-" + "1234567890-" * 3,
    "private key": "-----BEGIN " + "RSA PRIVATE KEY-----",
    "URL with a password": "https://me:" + "horse" + "@example.org/x",
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_secrets(name: str) -> None:
    (found,) = find_leaks(f"key={FORMS[name]} rest")
    assert name in found
    assert FORMS[name] not in found


@pytest.mark.parametrize(
    "harmless",
    [
        "0b2714987fa478483af9968de7c934580d0bb9a2",
        "https://example.org:8080/a@b",
        "sk-learn",
        "ghp_short",
        "hf-hub:org/name@exp/one",
        "2026-01-01T12:00:00",
        "user@example.org",
    ],
)
def test_what_is_no_secret(harmless: str) -> None:
    assert find_leaks(f"see {harmless} and") == []


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MY_API_KEY", "correct-horse-ü")
    return "correct-horse-ü"


def test_leaks_in_comments_of_pictures(tmp_path: Path, secret: str) -> None:
    picture = Image.new("RGB", (8, 8), "white")
    picture.save(tmp_path / "clean.png", pnginfo=PngImagePlugin.PngInfo())
    assert file_leaks(tmp_path / "clean.png") == []
    for number, (how, packed) in enumerate([("text", False), ("text", True), ("itxt", False), ("itxt", True)]):
        comments = PngImagePlugin.PngInfo()
        add = comments.add_text if how == "text" else comments.add_itxt
        # Latin-1 is what plain comments are written in.
        value = "correct-horse-abc" if how == "text" else secret
        add("Comment", f"made with {value}", zip=packed)
        file = tmp_path / f"{number}.png"
        picture.save(file, pnginfo=comments)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MY_API_KEY", value)
            assert file_leaks(file) == ["the value of the environment variable MY_API_KEY"], (how, packed)
    behind = tmp_path / "behind.png"
    behind.write_bytes((tmp_path / "clean.png").read_bytes() + secret.encode())
    assert file_leaks(behind)
    behind.write_bytes(f"not a picture, but {secret}".encode())
    assert file_leaks(behind)


def test_leaks_in_headers_of_weights(tmp_path: Path, secret: str) -> None:
    file = tmp_path / "model.safetensors"
    save_file({"weight": torch.zeros(3)}, file, metadata={"format": "pt"})
    assert file_leaks(file) == []
    for metadata, name in (({"made_by": secret}, "weight"), ({"format": "pt"}, f"{secret}.weight")):
        save_file({name: torch.zeros(3)}, file, metadata=metadata)
        assert file_leaks(file) == ["the value of the environment variable MY_API_KEY"]


def test_leaks_behind_escapes(tmp_path: Path, secret: str) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text(json.dumps({"command": f"x {secret}"}))
    assert secret not in file.read_text(), "JSON writes it by its number"
    assert file_leaks(file) == ["the value of the environment variable MY_API_KEY"]


@pytest.mark.parametrize(
    ("path", "local"), [("uoft-cs/cifar10", False), ("embedded", False), ("./x", True), ("/x", True), ("a/b/c", True)]
)
def test_is_local_folder(path: str, local: bool) -> None:
    assert is_local_folder(path) is local
