"""The embedded set: the same bytes every time, complete or absent, rendered once, read like any other data set."""

from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from ssl_zoo.data import DataConfig, DataError, embedded, open_source
from ssl_zoo.data.embedded import EMBEDDED_NAME, embedded_dataset_dir
from tests.forked import Forked


SIZES = {"num_train": 40, "num_test": 20}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by its path."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def visible(folder: Path) -> list[str]:
    """What a user sees in a folder."""
    return sorted(child.name for child in folder.iterdir() if not child.name.startswith("."))


def child(code: str, folder: Path, out: Path) -> Forked:
    """A process that runs `code` with the module as `embedded`, then renders into `folder`."""
    lines = [
        "import os",
        "from ssl_zoo.data import embedded",
        code,
        f"print(embedded.embedded_dataset_dir(num_train=40, num_test=20, cache_dir={str(folder)!r}))",
    ]
    return Forked("-c", "\n".join(lines), stdout=out, stderr=out.with_suffix(".err"))


def failing_at(call: int, error: BaseException) -> Any:
    """A stand-in for `_render` that raises at one call."""
    render, calls = embedded._render, []

    def render_or_fail(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == call:
            raise error
        return render(*args)

    return render_or_fail


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedded_dataset_dir(**SIZES, cache_dir=tmp_path_factory.mktemp("cache"))


def test_same_seed_gives_the_same_bytes_anywhere(folder: Path, tmp_path: Path) -> None:
    again = embedded_dataset_dir(**SIZES, cache_dir=tmp_path / "not" / "there")
    other = embedded_dataset_dir(**SIZES, cache_dir=tmp_path, seed=1)
    assert contents(folder) == contents(again)
    assert again.name == folder.name != other.name
    assert not set(contents(folder).values()) & set(contents(other).values())


def test_a_picture_does_not_depend_on_how_many_there_are(folder: Path, tmp_path: Path) -> None:
    fewer = embedded_dataset_dir(num_train=40, num_test=10, cache_dir=tmp_path)
    pictures = [contents(path)["data/train-00003-of-00008.parquet"] for path in (folder, fewer)]
    assert pictures[0] == pictures[1]


def test_streams_through_datasets_with_balanced_classes(folder: Path) -> None:
    for split, size in (("train", 40), ("test", 20)):
        stream = datasets.load_dataset(str(folder), split=split, streaming=True)
        rows = list(stream)
        assert isinstance(stream.features["image"], datasets.Image)
        assert stream.features["label"].names[7] == "seven"
        assert Counter(row["label"] for row in rows) == dict.fromkeys(range(10), size // 10)
        assert {(row["image"].mode, row["image"].size) for row in rows} == {("RGB", (48, 48))}
        assert len({row["image"].tobytes() for row in rows}) == size


def test_opens_by_its_name_as_a_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSL_ZOO_CACHE", str(tmp_path))
    defaults = {**(embedded_dataset_dir.__kwdefaults__ or {}), **SIZES}
    monkeypatch.setattr(embedded_dataset_dir, "__kwdefaults__", defaults)
    source = open_source(DataConfig(path=EMBEDDED_NAME, split="test"))
    assert source.num_rows == 20
    assert len(visible(tmp_path)) == 1


def test_the_cache_is_where_the_environment_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SSL_ZOO_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert embedded._default_cache() == tmp_path / ".cache" / "ssl_zoo"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert embedded._default_cache() == tmp_path / "xdg" / "ssl_zoo"
    monkeypatch.setenv("SSL_ZOO_CACHE", "~/own")
    assert embedded._default_cache() == tmp_path / "own"


def test_a_second_call_renders_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded, "_render", failing_at(1, AssertionError("rendered again")))
    assert embedded_dataset_dir(**SIZES, cache_dir=folder.parent) == folder


@pytest.mark.parametrize("call", [1, 40, 41, 60])
def test_an_interrupted_render_leaves_nothing(
    call: int, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(embedded, "_render", failing_at(call, KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            embedded_dataset_dir(**SIZES, cache_dir=tmp_path)
    assert [child.name for child in tmp_path.iterdir() if child.is_dir()] == []
    assert contents(embedded_dataset_dir(**SIZES, cache_dir=tmp_path)) == contents(folder)


@pytest.mark.slow(seconds=9)
def test_a_killed_render_is_not_taken_for_a_data_set(folder: Path, tmp_path: Path) -> None:
    killed = child("embedded._png = lambda pixels: os._exit(9)", tmp_path, tmp_path / ".out")
    assert killed.wait(100) == 9
    assert visible(tmp_path) == []
    assert contents(embedded_dataset_dir(**SIZES, cache_dir=tmp_path)) == contents(folder)


def test_two_processes_at_once_share_one_render(folder: Path, tmp_path: Path) -> None:
    counting = (
        "render = embedded._render\n"
        f"log = os.open({str(tmp_path / '.log')!r}, os.O_CREAT | os.O_APPEND | os.O_WRONLY)\n"
        "embedded._render = lambda *args: (os.write(log, b'.'), render(*args))[1]"
    )
    files = [tmp_path / f".out-{number}" for number in range(2)]
    both = [child(counting, tmp_path, file) for file in files]
    assert [process.wait(100) for process in both] == [0, 0]
    answers = [file.read_text().strip() for file in files]
    assert answers == [str(tmp_path / folder.name)] * 2
    assert visible(tmp_path) == [folder.name]
    assert contents(tmp_path / folder.name) == contents(folder)
    assert (tmp_path / ".log").stat().st_size == 60


def test_train_and_test_share_no_handwriting() -> None:
    train, test = (embedded._scans(split) for split in ("train", "test"))
    assert sum(map(len, train)) + sum(map(len, test)) == 1797
    for label in range(10):
        assert not {scan.tobytes() for scan in train[label]} & {scan.tobytes() for scan in test[label]}


def test_everything_but_the_digit_varies() -> None:
    scan = embedded._scans("train")[3][0]
    pictures = np.stack([embedded._render(scan, np.random.default_rng([0, 0, row])) for row in range(32)]) / 255
    assert pictures.mean(axis=(1, 2, 3)).std() > 0.01  # light
    assert pictures.mean(axis=0).std() < 0.5 * pictures.std()  # position: no place is always ink
    assert (pictures.max(axis=-1) - pictures.min(axis=-1)).max() > 0.3  # colour
    dark = pictures[pictures.max(axis=-1) < 0.1]
    assert 0 < dark.std() < 0.1  # ground and noise


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"seed": -1}, "`seed` must be at least 0, got -1"),
        ({"num_train": 7}, "`num_train` must be at least 8, got 7"),
        ({"num_test": 0}, "`num_test` must be at least 2, got 0"),
    ],
)
def test_impossible_values_are_refused(values: dict[str, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        embedded_dataset_dir(**values, cache_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []
