"""Repositories in memory, with the part of git that the Hub's protocol shows: blobs, commits, branches, tags."""

import base64
import hashlib
import threading
from dataclasses import dataclass, field
from typing import Any


LFS_SUFFIXES = (".safetensors", ".parquet", ".png", ".jpg", ".bin", ".pt", ".arrow", ".tar", ".zip", ".npy", ".gz")


class ApiError(Exception):
    """A refusal, as the Hub words it: status, `X-Error-Code`, message."""

    def __init__(self, status: int, code: str | None, message: str) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


@dataclass(frozen=True)
class Blob:
    data: bytes
    lfs: bool = False

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def git_oid(self) -> str:
        data = self.data
        if self.lfs:
            data = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(data)}\n".encode()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid

    def describe(self, path: str) -> dict[str, Any]:
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(self.data), "oid": self.git_oid}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": 130}
        return entry


@dataclass(frozen=True)
class Commit:
    oid: str
    title: str
    message: str
    author: str
    tree: dict[str, Blob]
    parent: str | None


@dataclass
class Repo:
    repo_type: str
    repo_id: str
    private: bool = False
    gated: bool = False
    allowed: set[str] = field(default_factory=set)  # users who may read a gated repository
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)  # uploaded, not necessarily in a commit
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        tree = {".gitattributes": Blob(b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n")}
        self._add_commit("main", "initial commit", "", "system", tree)

    @property
    def namespace(self) -> str:
        return self.repo_id.split("/")[0]

    def resolve(self, revision: str) -> Commit:
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise ApiError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return self.commits[oid]

    def file(self, revision: str, path: str) -> tuple[Commit, Blob]:
        commit = self.resolve(revision)
        if path not in commit.tree:
            raise ApiError(404, "EntryNotFound", "Entry not found")
        return commit, commit.tree[path]

    def history(self, revision: str) -> list[Commit]:
        commits = [self.resolve(revision)]
        while (parent := commits[-1].parent) is not None:
            commits.append(self.commits[parent])
        return commits

    def listing(self, revision: str, folder: str = "", *, recursive: bool = False) -> list[dict[str, Any]]:
        """The entries below a folder: files, and folders once each."""
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, Any]] = {}
        for path, blob in sorted(self.resolve(revision).tree.items()):
            if not path.startswith(prefix):
                continue
            parts = path.removeprefix(prefix).split("/")
            for depth in range(1, len(parts) if recursive else min(2, len(parts))):
                name = prefix + "/".join(parts[:depth])
                oid = hashlib.sha1(name.encode()).hexdigest()
                entries.setdefault(name, {"type": "directory", "path": name, "size": 0, "oid": oid})
            if recursive or len(parts) == 1:
                entries[path] = blob.describe(path)
        if folder and not entries:
            raise ApiError(404, "EntryNotFound", f"{folder} does not exist on '{revision}'")
        return list(entries.values())

    def upload_mode(self, revision: str, path: str, size: int) -> dict[str, Any]:
        lfs = path.endswith(LFS_SUFFIXES) or size > 10 * 2**20
        known = self.resolve(revision).tree.get(path)
        answer = {"path": path, "uploadMode": "lfs" if lfs else "regular", "shouldIgnore": False}
        return answer if known is None else {**answer, "oid": known.etag}

    def commit(self, branch: str, lines: list[dict[str, Any]], author: str) -> Commit:
        """Apply the lines of a commit request, all of them or none."""
        with self.lock:
            if branch not in self.branches:
                raise ApiError(404, "RevisionNotFound", f"Invalid rev id: {branch}")
            head = self.commits[self.branches[branch]]
            header = lines[0]["value"]
            if header.get("parentCommit") not in (None, head.oid):
                raise ApiError(412, None, "A commit has happened since. Please refresh and try again.")
            tree = dict(head.tree)
            for line in lines[1:]:
                self._apply(tree, line["key"], line["value"])
            return self._add_commit(branch, header["summary"], header.get("description", ""), author, tree)

    def put(self, files: dict[str, bytes], *, branch: str = "main") -> Commit:
        """Commit files directly, for tests that only read."""
        tree = dict(self.resolve(branch).tree)
        tree.update({path: Blob(data, lfs=path.endswith(LFS_SUFFIXES)) for path, data in files.items()})
        return self._add_commit(branch, "put", "", "test", tree)

    def _apply(self, tree: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
        path = value["path"]
        if key == "file":
            tree[path] = Blob(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in self.lfs:
                raise ApiError(400, None, f"LFS object {value['oid']} of {path} was not uploaded")
            tree[path] = Blob(self.lfs[value["oid"]], lfs=True)
        elif key == "deletedFile":
            if tree.pop(path, None) is None:
                raise ApiError(404, "EntryNotFound", "A file with this name doesn't exist")
        elif key == "deletedFolder":
            for name in [name for name in tree if name.startswith(path.rstrip("/") + "/")]:
                del tree[name]
        else:
            raise ApiError(400, None, f"unknown operation '{key}'")

    def _add_commit(self, branch: str, title: str, message: str, author: str, tree: dict[str, Blob]) -> Commit:
        parent = self.branches.get(branch)
        text = f"{self.repo_type}/{self.repo_id}/{len(self.commits)}/{parent}/{title}"
        oid = hashlib.sha1(text.encode()).hexdigest()
        self.commits[oid] = Commit(oid, title, message, author, tree, parent)
        self.branches[branch] = oid
        return self.commits[oid]


@dataclass(frozen=True)
class User:
    name: str
    orgs: tuple[str, ...] = ()
    can_write: bool = True

    def member_of(self, namespace: str) -> bool:
        return namespace == self.name or namespace in self.orgs
