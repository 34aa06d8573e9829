"""A file or folder is replaced whole or not at all, and nothing is left beside it."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ssl_zoo.atomic import replace_atomically


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    target = tmp_path / "file.json"
    with replace_atomically(target) as partial:
        partial.write_text("first")
        assert not target.exists()
        assert (partial.parent, partial.name, partial.suffix) == (tmp_path, ".partial-file.json", ".json")
    with replace_atomically(str(target)) as partial:
        partial.write_text("second")
        assert target.read_text() == "first"
    assert target.read_text() == "second"
    assert names(tmp_path) == ["file.json"]


def write_folder(target: Path, text: str, **options: bool) -> None:
    with replace_atomically(target, **options) as partial:
        (partial / "inner").mkdir(parents=True)
        (partial / "inner" / text).write_text(text)


def test_a_folder_is_replaced_as_a_whole(tmp_path):
    write_folder(tmp_path / "folder", "first")
    write_folder(tmp_path / "folder", "second")
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder" / "inner") == ["second"]


def test_a_folder_with_content_is_kept_on_request(tmp_path):
    (tmp_path / "folder").mkdir()
    write_folder(tmp_path / "folder", "first", overwrite=False)  # an empty folder counts as none
    with pytest.raises(OSError, match="not empty"):
        write_folder(tmp_path / "folder", "second", overwrite=False)
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder" / "inner") == ["first"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_after_an_error_all_is_as_it_was(tmp_path, kind, error):
    target = tmp_path / "target"
    target.write_text("old")

    def fail() -> None:
        with replace_atomically(target) as partial:
            if kind == "file":
                partial.write_text("half")
            else:
                partial.mkdir()
                (partial / "half").write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_text() == "old"
    assert names(tmp_path) == ["target"]


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / ".partial-folder").mkdir()
    (tmp_path / ".partial-folder" / "stale").touch()
    (tmp_path / ".partial-replaced-folder").mkdir()
    write_folder(tmp_path / "folder", "first")
    write_folder(tmp_path / "folder", "second")
    assert names(tmp_path) == ["folder"]
    assert names(tmp_path / "folder") == ["inner"]


def test_all_is_flushed_before_it_is_moved_and_the_folder_after(tmp_path, monkeypatch):
    events: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: events.append(os.readlink(f"/proc/self/fd/{descriptor}")))
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda source, target: (events.append("moved"), replace(source, target)))
    write_folder(tmp_path / "folder", "first")
    moved = events.index("moved")
    partial = tmp_path / ".partial-folder"
    assert set(events[:moved]) == {str(path) for path in (partial, partial / "inner", partial / "inner" / "first")}
    assert events[moved + 1 :] == [str(tmp_path)]


def test_writers_at_the_same_time_do_not_meet(tmp_path):
    target, everyone = tmp_path / "file", threading.Barrier(4)

    def write(text: str) -> None:
        with replace_atomically(target, concurrent=True) as partial:
            everyone.wait()
            partial.write_text(text * 1000)
            everyone.wait()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(write, "abcd"))
    assert target.read_text() in {text * 1000 for text in "abcd"}
    assert names(tmp_path) == ["file"]


def test_only_the_main_process_moves_what_all_write(tmp_path):
    with replace_atomically(tmp_path / "folder") as main:
        main.mkdir()
        with replace_atomically(tmp_path / "folder", is_main=False) as other:
            assert other == main
            (other / "second").touch()
        assert not (tmp_path / "folder").exists()
    assert names(tmp_path / "folder") == ["second"]
