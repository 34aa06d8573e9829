"""Files and folders that appear whole or not at all, whatever happens while they are written."""

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4


__all__ = ["replace_atomically"]


@contextlib.contextmanager
def replace_atomically(
    target: str | Path, *, overwrite: bool = True, concurrent: bool = False, is_main: bool = True
) -> Iterator[Path]:
    """Lend a path beside `target` to write a file or a folder to, and move that to `target` at the end of the block.

    What was written is flushed to disk first, so that even a power cut leaves the old content or the new. After an
    error the target is as it was and nothing is left beside it; what a killed process left there is removed by the
    next one that writes the same target.

    Args:
        target (`str` or `Path`): File or folder to write; its folder must exist.
        overwrite (`bool`): Replace a folder that isn't empty. An existing file is always replaced.
        concurrent (`bool`): Other processes or threads may write the same target at the same time: everyone gets a
            path of their own, and the last one wins.
        is_main (`bool`): For processes that write into one folder together: only the main one prepares and moves it,
            the others just get the same path. They must wait for each other at both ends of the block.

    Yields:
        `Path`: `.partial-<name>` in the target's folder, with the target's suffix; doesn't exist yet.

    Raises:
        OSError: If something can't be written, or is in the way with `overwrite=False`.
    """
    target = Path(target)
    partial = target.with_name(f".partial-{uuid4().hex + '-' if concurrent else ''}{target.name}")
    if not is_main:
        yield partial
        return
    _remove(partial)
    try:
        yield partial
        _flush(partial)
        if overwrite and target.is_dir():
            replaced = target.with_name(f".partial-replaced-{target.name}")
            _remove(replaced)
            os.replace(target, replaced)
            os.replace(partial, target)
            _remove(replaced)
        else:
            os.replace(partial, target)
        _flush_one(target.parent)
    finally:
        _remove(partial)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    for inner in path.rglob("*"):
        _flush_one(inner)
    _flush_one(path)


def _flush_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems can't flush a folder
            raise
    finally:
        os.close(descriptor)
