"""A server that speaks the Hub's HTTP protocol on the loopback interface, for the unmodified clients.

It knows models, datasets and spaces; private and gated repositories; branches and tags; LFS uploads and atomic
commits; range requests. `HubServer.fail` makes any request fail on purpose. Its answers to each call of
`huggingface_hub` follow version 2.4.
"""

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

from tests.hub.store import ApiError, Blob, Commit, Repo, User


WRITE_TOKEN = "hf_write"  # user "owner", who may write to the organisation "org"
READ_TOKEN = "hf_read"  # the same user with a token that may not write
STRANGER_TOKEN = "hf_stranger"  # another user
NO_REPLY = "no reply"  # the request is carried out, then the connection is cut
HALF_REQUEST = "half request"  # the connection is cut in the middle of the request's body
HALF_REPLY = "half reply"  # the connection is cut in the middle of the reply's body
STALL = "stall"  # the request is never carried out nor answered; `HubServer.stalled` tells that it has come

Reply = tuple[int, dict[str, str], bytes]


@dataclass
class Fault:
    """Makes requests fail: the `nth` that fits, and the `times - 1` after it."""

    method: str
    path: str
    action: int | str
    nth: int = 1
    times: int = 1
    seen: int = 0

    def strikes(self, method: str, path: str) -> bool:
        if method != self.method or not re.search(self.path, path):
            return False
        self.seen += 1
        return self.nth <= self.seen < self.nth + self.times


@dataclass
class HubServer:
    """The state: users by token, repositories, faults to inject, and a log of the requests."""

    endpoint: str = ""
    users: dict[str, User] = field(
        default_factory=lambda: {
            WRITE_TOKEN: User("owner", orgs=("org",)),
            READ_TOKEN: User("owner", orgs=("org",), can_write=False),
            STRANGER_TOKEN: User("stranger"),
        }
    )
    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, str, int]] = field(default_factory=list)  # method, path, status (0: connection cut)
    renamed: dict[str, str] = field(default_factory=dict)  # old id -> new id: asked of the old, it redirects
    stalled: threading.Event = field(default_factory=threading.Event)
    closing: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add_repo(self, repo_id: str, files: dict[str, bytes], *, repo_type: str = "model", **options: Any) -> Repo:
        """Create a repository that holds `files`, without a client."""
        repo = self.repos[repo_type, repo_id] = Repo(repo_type, repo_id, **options)
        repo.put(files)
        return repo

    def fail(self, method: str, path: str, action: int | str, *, nth: int = 1, times: int = 1) -> Fault:
        """Make the `nth` request whose path matches fail by a status code, or by a cut connection."""
        self.faults.append(Fault(method, path, action, nth, times))
        return self.faults[-1]

    def reset(self) -> None:
        """Forget all requests, repositories and faults, and keep the address."""
        self.closing.set()
        self.__dict__.update(vars(HubServer(self.endpoint)))

    def fault_for(self, method: str, path: str) -> int | str | None:
        with self.lock:
            struck = [fault.action for fault in self.faults if fault.strikes(method, path)]
        return struck[0] if struck else None

    def readable(self, repo_type: str, repo_id: str, user: User | None, *, content: bool = False) -> Repo:
        """The repository, or the Hub's refusal: what a user may not see looks as if it did not exist."""
        repo = self.repos.get((repo_type, repo_id))
        if repo is None or (repo.private and not (user and user.member_of(repo.namespace))):
            if user is None:
                raise ApiError(401, "RepoNotFound", "Invalid username or password.")
            raise ApiError(404, "RepoNotFound", "Repository not found")
        if content and repo.gated and not (user and (user.member_of(repo.namespace) or user.name in repo.allowed)):
            raise ApiError(403 if user else 401, "GatedRepo", f"Access to {repo_type} {repo_id} is restricted.")
        return repo

    def writable(self, repo_type: str, repo_id: str, user: User | None) -> Repo:
        repo = self.readable(repo_type, repo_id, user)
        check_write(user, repo.namespace)
        return repo


def check_write(user: User | None, namespace: str) -> User:
    if user is None:
        raise ApiError(401, None, "Invalid username or password.")
    if not user.can_write or not user.member_of(namespace):
        raise ApiError(403, None, f"You don't have the rights to write to the namespace {namespace}")
    return user


@dataclass
class Request:
    """What a handler gets: who asks, for what, with which body."""

    hub: HubServer
    user: User | None
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    groups: dict[str, str]

    def __getitem__(self, name: str) -> str:
        return self.groups[name]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def key(self) -> tuple[str, str]:
        return (self.groups["type"] or "models").rstrip("/").removesuffix("s"), self.groups["id"]


def reply(value: Any, status: int = 200, **headers: str) -> Reply:
    return status, {"Content-Type": "application/json", **headers}, json.dumps(value).encode()


ROUTES: list[tuple[str, re.Pattern[str], Callable[[Request], Reply]]] = []
API = r"/api/(?P<type>models|datasets|spaces)/(?P<id>[^/]+/[^/]+)"
FILES = r"/(?P<type>datasets/|spaces/)?(?P<id>[^/]+/[^/]+)"


def route(method: str, pattern: str) -> Callable[[Callable[[Request], Reply]], Callable[[Request], Reply]]:
    def add(handler: Callable[[Request], Reply]) -> Callable[[Request], Reply]:
        ROUTES.append((method, re.compile(pattern), handler))
        return handler

    return add


@route("GET", r"/api/whoami-v2")
def whoami(request: Request) -> Reply:
    user = request.user
    if user is None:
        raise ApiError(401, None, "Invalid username or password.")
    orgs = [{"type": "org", "name": name, "roleInOrg": "write"} for name in user.orgs]
    token = {"displayName": "test", "role": "write" if user.can_write else "read"}
    auth = {"type": "access_token", "accessToken": token}
    return reply({"type": "user", "id": user.name, "name": user.name, "fullname": "", "orgs": orgs, "auth": auth})


@route("POST", r"/api/validate-yaml")
def validate_yaml(request: Request) -> Reply:
    content = request.json["content"]
    errors = [] if content.startswith("---\n") else [{"message": "the card has no metadata block"}]
    return reply({"errors": errors, "warnings": []}, 400 if errors else 200)


@route("POST", r"/api/repos/create")
def create_repo(request: Request) -> Reply:
    data, hub = request.json, request.hub
    if request.user is None:
        raise ApiError(401, None, "Invalid username or password.")
    namespace, repo_type = data.get("organization") or request.user.name, data.get("type") or "model"
    check_write(request.user, namespace)
    repo_id = f"{namespace}/{data['name']}"
    url = f"{hub.endpoint}/{'' if repo_type == 'model' else repo_type + 's/'}{repo_id}"
    with hub.lock:
        if (repo_type, repo_id) in hub.repos:
            return reply({"error": f"You already created this {repo_type} repo", "url": url}, 409)
        private = bool(data.get("private")) or data.get("visibility") == "private"
        hub.repos[repo_type, repo_id] = Repo(repo_type, repo_id, private=private)
    return reply({"url": url, "name": repo_id, "id": repo_id})


@route("DELETE", r"/api/repos/delete")
def delete_repo(request: Request) -> Reply:
    data = request.json
    namespace = data.get("organization") or (request.user.name if request.user else "")
    repo = request.hub.writable(data.get("type") or "model", f"{namespace}/{data['name']}", request.user)
    del request.hub.repos[repo.repo_type, repo.repo_id]
    return reply({})


@route("PUT", API + r"/settings")
def settings(request: Request) -> Reply:
    repo, data = request.hub.writable(*request.key, request.user), request.json
    repo.private = data.get("private", data.get("visibility") == "private")
    return reply({"private": repo.private})


@route("GET", API + r"(/revision/(?P<rev>[^/]+))?")
def info(request: Request) -> Reply:
    repo = request.hub.readable(*request.key, request.user)
    commit = repo.resolve(unquote(request["rev"] or "main"))
    siblings = [{"rfilename": path, "size": len(blob.data)} for path, blob in sorted(commit.tree.items())]
    return reply(
        {
            "_id": repo.repo_id,
            "id": repo.repo_id,
            "author": repo.namespace,
            "sha": commit.oid,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "createdAt": "2026-01-01T00:00:00.000Z",
            "lastModified": "2026-01-01T00:00:00.000Z",
            "siblings": siblings,
        }
    )


@route("GET", API + r"/tree/(?P<rev>[^/]+)(/(?P<path>.+))?")
def tree(request: Request) -> Reply:
    repo = request.hub.readable(*request.key, request.user, content=True)
    recursive = request.query.get("recursive", ["false"])[0].lower() in ("true", "1")
    return reply(repo.listing(unquote(request["rev"]), unquote(request["path"] or ""), recursive=recursive))


@route("POST", API + r"/paths-info/(?P<rev>[^/]+)")
def paths_info(request: Request) -> Reply:
    repo = request.hub.readable(*request.key, request.user, content=True)
    data = parse_qs(request.body.decode())
    if "json" in request.headers.get("content-type", ""):
        data = request.json
    entries = {entry["path"]: entry for entry in repo.listing(unquote(request["rev"]), recursive=True)}
    return reply([entries[path] for path in data["paths"] if path in entries])


@route("GET", API + r"/refs")
def refs(request: Request) -> Reply:
    repo = request.hub.readable(*request.key, request.user)
    branches = [{"name": n, "ref": f"refs/heads/{n}", "targetCommit": oid} for n, oid in repo.branches.items()]
    tags = [{"name": n, "ref": f"refs/tags/{n}", "targetCommit": oid} for n, oid in repo.tags.items()]
    return reply({"branches": branches, "tags": tags, "converts": []})


@route("GET", API + r"/commits/(?P<rev>[^/]+)")
def commits(request: Request) -> Reply:
    history = request.hub.readable(*request.key, request.user).history(unquote(request["rev"]))
    return reply([_describe(commit) for commit in history])


def _describe(commit: Commit) -> dict[str, Any]:
    return {
        "id": commit.oid,
        "title": commit.title,
        "message": commit.message,
        "authors": [{"user": commit.author}],
        "date": "2026-01-01T00:00:00.000Z",
    }


@route("POST", API + r"/branch/(?P<name>[^/]+)")
def create_branch(request: Request) -> Reply:
    repo, name = request.hub.writable(*request.key, request.user), unquote(request["name"])
    if name in repo.branches:
        raise ApiError(409, None, f"Reference refs/heads/{name} already exists")
    if name.startswith("refs/"):
        raise ApiError(400, None, f"Invalid reference for a branch: {name}")
    repo.branches[name] = repo.resolve(request.json.get("startingPoint") or "main").oid
    return reply({})


@route("DELETE", API + r"/branch/(?P<name>[^/]+)")
def delete_branch(request: Request) -> Reply:
    repo, name = request.hub.writable(*request.key, request.user), unquote(request["name"])
    if name == "main" or name not in repo.branches:
        raise ApiError(403 if name == "main" else 404, None, f"Can't delete branch {name}")
    del repo.branches[name]
    return reply({})


@route("POST", API + r"/tag/(?P<rev>[^/]+)")
def create_tag(request: Request) -> Reply:
    repo, name = request.hub.writable(*request.key, request.user), request.json["tag"]
    if name in repo.tags:
        raise ApiError(409, None, f"Tag {name} already exists")
    repo.tags[name] = repo.resolve(unquote(request["rev"])).oid
    return reply({})


@route("POST", API + r"/preupload/(?P<rev>[^/]+)")
def preupload(request: Request) -> Reply:
    repo, revision = request.hub.writable(*request.key, request.user), unquote(request["rev"])
    files = [repo.upload_mode(revision, file["path"], file["size"]) for file in request.json["files"]]
    return reply({"files": files})


@route("POST", FILES + r"\.git/info/lfs/objects/batch")
def lfs_batch(request: Request) -> Reply:
    repo, objects = request.hub.writable(*request.key, request.user), []
    base = f"{request.hub.endpoint}/lfs/{repo.repo_type}/{repo.repo_id}"
    for item in request.json["objects"]:
        entry = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in repo.lfs:
            upload, verify = {"href": f"{base}/{item['oid']}"}, {"href": f"{base}/verify"}
            entry["actions"] = {"upload": upload, "verify": verify}
        objects.append(entry)
    return reply({"transfer": "basic", "objects": objects})


@route("PUT", r"/lfs/(?P<type>[^/]+)/(?P<id>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})")
def lfs_put(request: Request) -> Reply:
    if Blob(request.body).sha256 != request["oid"]:
        raise ApiError(400, None, "The content does not have the announced sha256")
    request.hub.repos[request.key].lfs[request["oid"]] = request.body
    return 200, {}, b""


@route("POST", r"/lfs/(?P<type>[^/]+)/(?P<id>[^/]+/[^/]+)/verify")
def lfs_verify(request: Request) -> Reply:
    data, stored = request.json, request.hub.repos[request.key].lfs
    if len(stored.get(data["oid"], b"")) != data["size"]:
        raise ApiError(404, None, "LFS object is missing or has another size")
    return reply({})


@route("POST", API + r"/commit/(?P<rev>[^/]+)")
def commit(request: Request) -> Reply:
    repo = request.hub.writable(*request.key, request.user)
    user = check_write(request.user, repo.namespace)
    lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
    done = repo.commit(unquote(request["rev"]), lines, user.name)
    url = f"{request.hub.endpoint}/{repo.repo_id}/commit/{done.oid}"
    return reply({"success": True, "commitOid": done.oid, "commitUrl": url, "hookOutput": ""})


@route("GET", FILES + r"/resolve/(?P<rev>[^/]+)/(?P<path>.+)")
def resolve(request: Request) -> Reply:
    repo = request.hub.readable(*request.key, request.user, content=True)
    found, blob = repo.file(unquote(request["rev"]), unquote(request["path"]))
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", "X-Repo-Commit": found.oid}
    headers["ETag"] = f'"{blob.etag}"'
    if blob.lfs:
        headers.update({"X-Linked-ETag": f'"{blob.etag}"', "X-Linked-Size": str(len(blob.data))})
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", ""))
    if not wanted:
        return 200, headers, blob.data
    size = len(blob.data)
    first, last = wanted.groups()
    start, stop = (int(first), int(last or size - 1) + 1) if first else (max(0, size - int(last)), size)
    if start >= size:
        return 416, {"Content-Range": f"bytes */{size}"}, b""
    stop = min(stop, size)
    return 206, {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{size}"}, blob.data[start:stop]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm: ClassVar[bool] = True
    hub: ClassVar[HubServer]

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing: `HubServer.requests` is the log."""

    def _serve(self) -> None:
        self._log = self.hub.requests  # also if the Hub becomes another test's before the end
        path = urlsplit(self.path).path
        method = "GET" if self.command == "HEAD" else self.command
        fault = self.hub.fault_for(self.command, path)
        if fault == HALF_REQUEST:
            self.rfile.read(int(self.headers.get("Content-Length", 0)) // 2)
            return self._cut(path)
        body = self._read_body()
        if fault == STALL:
            self.hub.stalled.set()
            self.hub.closing.wait(120)
            return self._cut(path)
        if isinstance(fault, int):
            status, headers, content = reply({"error": "injected fault"}, fault)
        else:
            status, headers, content = self._answer(method, path, body)
        if fault == NO_REPLY:
            return self._cut(path)
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if fault == HALF_REPLY:
            self.wfile.write(content[: len(content) // 2])
            return self._cut(path)
        if self.command != "HEAD":
            self.wfile.write(content)
        self._log.append((self.command, path, status))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

    def _read_body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _answer(self, method: str, path: str, body: bytes) -> Reply:
        for old, new in self.hub.renamed.items():
            if re.search(rf"/{re.escape(old)}(?=[/.]|$)", path):
                place = self.hub.endpoint + path.replace(f"/{old}", f"/{new}", 1)
                return 307, {"Location": place}, b""
        headers = {name.lower(): value for name, value in self.headers.items()}
        token = headers.get("authorization", "").removeprefix("Bearer ")
        try:
            if token and token not in self.hub.users:
                raise ApiError(401, None, "Invalid credentials in Authorization header")
            query = parse_qs(urlsplit(self.path).query)
            for verb, pattern, handler in ROUTES:
                if verb == method and (match := pattern.fullmatch(path)):
                    user = self.hub.users.get(token)
                    return handler(Request(self.hub, user, query, headers, body, match.groupdict()))
            if re.match(r"/api/(models|datasets|spaces)/[^/]+(/revision/[^/]+)?$|.*/resolve/", path):
                raise ApiError(404 if token else 401, "RepoNotFound", "Repository not found")
            raise ApiError(404, None, f"no such route: {method} {path}")
        except ApiError as error:
            named = {"X-Error-Message": error.message} | ({"X-Error-Code": error.code} if error.code else {})
            return reply({"error": error.message}, error.status, **named)

    def _cut(self, path: str) -> None:
        self._log.append((self.command, path, 0))
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that closes the connection is no error; anything else is."""
        import sys

        if not isinstance(sys.exc_info()[1], (ConnectionError, ValueError)):
            super().handle_error(request, client_address)


@contextmanager
def serve() -> Iterator[HubServer]:
    """Run a server on a free port of the loopback interface for as long as the context lasts."""
    hub = HubServer()
    handler = type("Handler", (_Handler,), {"hub": hub})
    with _Quiet(("127.0.0.1", 0), handler) as http:
        hub.endpoint = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            hub.closing.set()
            http.shutdown()
            thread.join()
