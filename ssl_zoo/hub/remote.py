"""What a repository on the Hub holds, and what a publication would change."""

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from ssl_zoo.hub.export import CODE_MARK, EARLIER_FILE, RESULTS_FILE, WRITTEN
from ssl_zoo.hub.history import History
from ssl_zoo.hub.sources import CONVERSION_FILE, ExportError
from ssl_zoo.hub.weights import WEIGHTS_FILE


__all__ = ["Changes", "Remote", "compare", "is_exported", "look", "read_history"]

_TIMEOUT_SECONDS = 30.0
"""Of the first request to the Hub, which shows whether there is a network at all."""


@dataclass(frozen=True)
class Remote:
    """A repository on the Hub, as it is now.

    Attributes:
        repo_id: Its id; not the one that was asked for if it was renamed.
        exists: Whether there is one that this user can see.
        private: Whether only its owners can see it.
        branches: Name -> id of the head.
        tags: Name -> id of the commit.
        head: Commit that a publication would follow: the head of the branch, or of `main` where the branch is new.
        files: Path -> file, at `head`.
    """

    repo_id: str
    exists: bool = False
    private: bool = False
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    head: str | None = None
    files: dict[str, RepoFile] = field(default_factory=dict)


@dataclass(frozen=True)
class Changes:
    """What a publication does to a branch: paths that are new, replaced, unchanged, deleted, or not written by us."""

    new: tuple[str, ...]
    replaced: tuple[str, ...]
    same: tuple[str, ...]
    deleted: tuple[str, ...]
    kept: tuple[str, ...]

    def __bool__(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.new or self.replaced or self.deleted)


def look(api: HfApi, repo_id: str, branch: str, *, repo_type: str = "model") -> Remote:
    """Ask the Hub for the state of a repository.

    Args:
        api (`HfApi`): Client.
        repo_id (`str`): `"org/name"`; the state has `exists=False` where this user can see no such repository.
        branch (`str`): Branch that will be published to; it need not exist.
        repo_type (`str`): `"model"` or `"space"`.
    """
    try:
        info = api.repo_info(repo_id, repo_type=repo_type, timeout=_TIMEOUT_SECONDS)
    except GatedRepoError:
        raise
    except RepositoryNotFoundError:
        return Remote(repo_id)
    refs = api.list_repo_refs(repo_id, repo_type=repo_type)
    branches = {ref.name: ref.target_commit for ref in refs.branches}
    head = branches.get(branch) or branches.get("main")
    entries = api.list_repo_tree(repo_id, recursive=True, revision=head, repo_type=repo_type) if head else ()
    return Remote(
        info.id,
        exists=True,
        private=bool(info.private),
        branches=branches,
        tags={ref.name: ref.target_commit for ref in refs.tags},
        head=head,
        files={entry.path: entry for entry in entries if isinstance(entry, RepoFile)},
    )


def read_history(api: HfApi, remote: Remote, branch: str) -> History | None:
    """Read the results that a branch holds; a branch that was never published to has none, whatever `main` holds.

    Raises:
        ExportError: for a file that is no longer valid JSON.
    """
    commit, main = remote.branches.get(branch), remote.branches.get("main")
    if commit is None or (branch != "main" and commit == main):
        return None
    weights = remote.files.get(WEIGHTS_FILE)
    conversion = _objects(api, remote, CONVERSION_FILE, whole=True)
    return History(
        commit=commit,
        weights_sha256=weights.lfs.sha256 if weights is not None and weights.lfs is not None else None,
        results=_objects(api, remote, RESULTS_FILE),
        earlier=_objects(api, remote, EARLIER_FILE),
        conversion=conversion[0] if conversion else None,
    )


def compare(remote: Remote, folder: Path, paths: Iterable[str], *, is_ours: Callable[[str], bool]) -> Changes:
    """Tell what publishing a folder changes.

    What earlier publications wrote and this one doesn't is deleted: it must not pass for a part of this one. All other
    files, which people put there, stay as they are.

    Args:
        remote ([`Remote`]): What is there.
        folder (`Path`): Files to publish.
        paths (`Iterable[str]`): Their paths in the repository.
        is_ours (`Callable`): Whether a publication wrote the file at a path.
    """
    there = remote.files
    new = [path for path in paths if path not in there]
    same = [path for path in paths if path in there and _is_published(folder / path, there[path])]
    others = sorted(set(there) - set(paths))
    deleted = [path for path in others if is_ours(path)]
    return Changes(
        new=tuple(new),
        replaced=tuple(path for path in paths if path not in {*new, *same}),
        same=tuple(same),
        deleted=tuple(deleted),
        kept=tuple(path for path in others if path not in deleted),
    )


def _is_published(file: Path, published: RepoFile) -> bool:
    """Whether a file on the Hub has the content of one here."""
    if file.stat().st_size != published.size:
        return False
    with file.open("rb") as stream:
        if published.lfs is not None:
            return hashlib.file_digest(stream, "sha256").hexdigest() == published.lfs.sha256
        return hashlib.sha1(b"blob %d\0" % published.size + stream.read()).hexdigest() == published.blob_id


def is_exported(api: HfApi, remote: Remote, path: str) -> bool:
    """Whether an earlier export wrote the file at a path of a model's repository."""
    if path in WRITTEN or "/" in path or not path.endswith(".py"):
        return path in WRITTEN
    return (_download(api, remote, path) or "").startswith(CODE_MARK)


def _download(api: HfApi, remote: Remote, path: str) -> str | None:
    """Text of a published file; no cache keeps it."""
    if path not in remote.files:
        return None
    with tempfile.TemporaryDirectory(prefix="ssl_zoo-") as folder:
        file = api.hf_hub_download(remote.repo_id, path, revision=remote.head, cache_dir=folder)
        return Path(file).read_text(encoding="utf-8", errors="replace")


def _objects(api: HfApi, remote: Remote, path: str, *, whole: bool = False) -> list[dict[str, Any]]:
    """JSON objects of a published file: one a line, or the `whole` file one."""
    text = _download(api, remote, path) or ""
    try:
        rows = [json.loads(part) for part in ([text] if whole else text.splitlines()) if part.strip()]
    except ValueError:
        rows = [None]
    if not all(isinstance(row, dict) for row in rows):
        raise ExportError(
            f"{path} of '{remote.repo_id}' (commit {str(remote.head)[:12]}) is not valid JSON any more, so its "
            f"content can't be kept: mend it on the Hub, or delete it there"
        )
    return rows
