"""Nothing of this machine in what is published."""

from pathlib import Path

import pytest

from ssl_zoo.hub.privacy import find_leaks, is_local_folder, without_paths


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


@pytest.mark.parametrize(
    ("path", "local"), [("uoft-cs/cifar10", False), ("embedded", False), ("./x", True), ("/x", True), ("a/b/c", True)]
)
def test_is_local_folder(path: str, local: bool) -> None:
    assert is_local_folder(path) is local
