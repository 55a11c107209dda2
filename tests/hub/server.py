"""A Hub for the tests: a real HTTP server on loopback that huggingface_hub's client talks to.

    with Hub() as hub:
        run([sys.executable, "push.py"], env=os.environ | hub.environment(tmp_path / "home"))
        assert "config.json" in hub.files("org/model")

The client reads its settings when it is imported, so it runs in a fresh process, with the variables of `environment`.
The server starts in milliseconds and needs no network. It knows:

- users with tokens and the organizations that they write for (`add_user`); repositories, public and private;
- creating, deleting, commits (ndjson), branches, tags, `info`, `refs`, `tree`, `paths-info`, `validate-yaml`;
- uploads by git-lfs and by Xet (a content store that takes xorbs and shards), downloads by plain HTTP with ETag,
  X-Repo-Commit and Range, large files by a redirect to another host;
- faults: `hub.fail("commit", status=429, headers={"Retry-After": "1"}, times=2)`, `hub.fail("upload", cut=True)`,
  `hub.fail("download", alter=True)`, `hub.fail("resolve", seconds=2)`; `hub.then("resolve", action)` does something
  between two requests.

What it does not have: downloads by Xet (no `X-Xet-Hash` is sent, so clients take plain HTTP), discussions, data sets
and spaces, limits of any kind.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from tests.hub.repositories import LARGE, Commit, File, Repository, folders_of
from tests.hub.xet import ContentStore

TOKEN = "hf_wEarENotSecretThisIsATestsToken"
"""The token of the user `tester`, who writes for the organization `org`: distinctive, to be searched for."""


@dataclass(frozen=True)
class Request:
    """A request: endpoint's name, method, path, token, and the status of the response (0: cut off)."""

    endpoint: str
    method: str
    path: str
    token: str | None
    status: int


@dataclass
class Fault:
    """A fault of an endpoint, and how often it occurs."""

    endpoint: str
    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    lose_answer: bool = False
    alter: bool = False
    seconds: float = 0
    left: int = 1
    after: int = 0


@dataclass
class Answer:
    """A response with status, headers and body."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)


class Failure(Exception):
    """An error response of the Hub."""

    def __init__(self, status: int, message: str, code: str = "", **headers: str):
        super().__init__(message)
        self.answer = as_json({"error": message}, status)
        self.answer.headers |= {"X-Error-Message": message, **headers}
        if code:
            self.answer.headers["X-Error-Code"] = code


def as_json(content: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


class Hub:
    """The server, with everything that it holds; see the module.

    Attributes:
        url: what `HF_ENDPOINT` is to be.
        users: names by token.
        organizations: those that a user writes for, by the user's name.
        repositories: by `owner/name`.
        requests: every request, in their order.
    """

    def __init__(self) -> None:
        self.users: dict[str, str] = {}
        self.organizations: dict[str, set[str]] = {}
        self.repositories: dict[str, Repository] = {}
        self.requests: list[Request] = []
        self.large_files: dict[str, bytes] = {}
        self.content_store = ContentStore()
        self.lock = threading.RLock()
        self._faults: list[Fault] = []
        self._actions: list[tuple[str, Callable[[], Any]]] = []
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.add_user("tester", TOKEN, "org")

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()

    def environment(
        self, home: Path, token: str | None = TOKEN, xet: bool = True, **more: str
    ) -> dict[str, str]:
        """Return the variables that make a new process's client use this Hub, with cache and settings below `home`."""
        variables = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_TOKEN": token or "",
            "HF_HUB_DISABLE_XET": "0" if xet else "1",
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        return variables | more

    def add_user(self, name: str, token: str, *organizations: str) -> None:
        """Add a user with a token that may write for the user and these organizations."""
        self.users[token] = name
        self.organizations[name] = set(organizations)

    def fail(
        self,
        endpoint: str,
        *,
        status: int = 500,
        times: int = 1,
        headers: dict[str, str] | None = None,
        cut: bool = False,
        lose_answer: bool = False,
        alter: bool = False,
        seconds: float = 0,
        after: int = 0,
    ) -> None:
        """Make the next requests to an endpoint fail."""
        if endpoint not in (*ENDPOINTS, "any"):
            raise ValueError(f"no endpoint {endpoint!r}; there are {', '.join(ENDPOINTS)}")
        self._faults.append(
            Fault(endpoint, status, headers or {}, cut, lose_answer, alter, seconds, times, after)
        )

    def then(self, endpoint: str, action: Callable[[], Any]) -> None:
        """Call a function once, after the next successful request to an endpoint was answered."""
        self._actions.append((endpoint, action))

    def heal(self) -> None:
        """End all faults, and forget pending calls."""
        self._faults.clear()
        self._actions.clear()

    def _act_after(self, endpoint: str) -> None:
        with self.lock:
            for entry in [entry for entry in self._actions if entry[0] == endpoint][:1]:
                self._actions.remove(entry)
                entry[1]()

    def files(self, name: str, revision: str = "main") -> dict[str, bytes]:
        """Return the files of a repository by path, without .gitattributes."""
        commit = self.repositories[name].find(revision)
        assert commit is not None
        return {path: file.content for path, file in commit.files.items() if path != ".gitattributes"}

    def asked(self, endpoint: str) -> list[Request]:
        """Return the requests to an endpoint so far."""
        return [request for request in self.requests if request.endpoint == endpoint]

    def _take_fault(self, endpoint: str) -> Fault | None:
        with self.lock:
            for fault in self._faults:
                if fault.endpoint in (endpoint, "any") and fault.left:
                    if fault.after:
                        fault.after -= 1
                        continue
                    fault.left -= 1
                    return fault
        return None


class _Handler(BaseHTTPRequestHandler):
    """One connection."""

    hub: ClassVar[Hub]
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._serve()

    do_HEAD = do_POST = do_PUT = do_DELETE = do_GET  # noqa: N815

    def log_message(self, *args: Any) -> None:
        """Nothing: `Hub.requests` has it."""

    def _serve(self) -> None:
        split = urlsplit(self.path)
        self.query = parse_qs(split.query)
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        endpoint, call, names = "unknown", None, {}
        for endpoint, (methods, pattern, call) in ENDPOINTS.items():  # noqa: B007
            match = pattern.fullmatch(split.path)
            if match and self.command in methods:
                names = {name: unquote(value) for name, value in match.groupdict().items() if value}
                break
        else:
            endpoint, call = "unknown", None
        fault = self.hub._take_fault(endpoint)
        if fault is not None and fault.cut and self._length() is not None:
            self.rfile.read(self._length() // 2)
            self._cut_off(endpoint)
            return
        self.body = self._read()
        served = fault is None or fault.cut or fault.lose_answer or fault.alter or fault.seconds
        if fault is not None and not served:
            answer = as_json({"error": f"made to fail with {fault.status}"}, fault.status)
            answer.headers |= fault.headers
        else:
            answer = self._answer(call, names)
        if fault is not None and (fault.cut or fault.lose_answer):
            self._cut_off(
                endpoint, self._head(answer) + answer.body[: len(answer.body) // 2] if fault.cut else b""
            )
            return
        self._note(endpoint, answer.status)
        body = b"" if self.command == "HEAD" else answer.body
        half = len(body) // 2
        if fault is not None and fault.alter and body:
            body = body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :]
        self.wfile.write(self._head(answer) + body[:half])
        if fault is not None and fault.seconds:
            self.wfile.flush()
            time.sleep(fault.seconds)
        self.wfile.write(body[half:])
        if answer.status < 400:
            self.hub._act_after(endpoint)

    def _answer(self, call: Callable[..., Answer] | None, names: dict[str, str]) -> Answer:
        try:
            if call is None:
                raise Failure(404, f"no such endpoint: {self.command} {self.path}")
            with self.hub.lock:
                return call(self, **names)
        except Failure as failure:
            return failure.answer

    def _length(self) -> int | None:
        """The length of the body that is to come; None where there is none, or it comes in chunks."""
        return int(self.headers.get("Content-Length") or 0) or None

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(self._length() or 0)
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _head(self, answer: Answer) -> bytes:
        headers = {"Content-Length": str(len(answer.body)), **answer.headers}
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        return f"HTTP/1.1 {answer.status} -\r\n{lines}\r\n".encode()

    def _cut_off(self, endpoint: str, first: bytes = b"") -> None:
        self._note(endpoint, 0)
        self.wfile.write(first)
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _note(self, endpoint: str, status: int) -> None:
        self.hub.requests.append(Request(endpoint, self.command, self.path, self.token, status))

    # Who asks, and for what

    def json(self) -> Any:
        return json.loads(self.body)

    def user(self) -> str:
        name = self.hub.users.get(self.token or "")
        if name is None:
            raise Failure(401, "Invalid credentials in Authorization header")
        return name

    def repository(self, repo: str, write: bool = False) -> Repository:
        found = self.hub.repositories.get(repo)
        name = self.hub.users.get(self.token or "")
        theirs = {name, *self.hub.organizations.get(name or "", ())}
        allowed = found is not None and found.owner in theirs
        if self.token is not None and name is None:
            raise Failure(401, "Invalid credentials in Authorization header")
        if found is None or (found.private and not allowed):
            # As the Hub does, so that strangers learn nothing of private repositories.
            raise Failure(404 if name else 401, "Repository not found", "RepoNotFound")
        if write:
            self.user()
            if not allowed:
                raise Failure(403, f"Forbidden: you have no rights to write to {repo}")
        return found

    def commit_of(self, repo: str, revision: str) -> Commit:
        commit = self.repository(repo).find(revision)
        if commit is None:
            raise Failure(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit


ENDPOINTS: dict[str, tuple[tuple[str, ...], re.Pattern[str], Callable[..., Answer]]] = {}
"""Methods, path and answer by name, in the order in which they are looked for."""

_REPO = r"(?P<repo>[^/]+(?:/[^/]+)?)"


def endpoint(
    name: str, methods: str, pattern: str
) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Register a function in `ENDPOINTS`; in the pattern `REPO` and `REV` stand for a repository and a revision."""
    full = pattern.replace("REPO", _REPO).replace("REV", r"(?P<revision>[^/]+)")

    def enter(call: Callable[..., Answer]) -> Callable[..., Answer]:
        ENDPOINTS[name] = (tuple(methods.split()), re.compile(full), call)
        return call

    return enter


@endpoint("whoami", "GET", "/api/whoami-v2")
def whoami(request: _Handler) -> Answer:
    name = request.user()
    organizations = [{"type": "org", "name": each} for each in sorted(request.hub.organizations[name])]
    access = {"accessToken": {"displayName": "tests", "role": "write"}}
    return as_json({"type": "user", "id": name, "name": name, "orgs": organizations, "auth": access})


@endpoint("create", "POST", "/api/repos/create")
def create(request: _Handler) -> Answer:
    user, asked = request.user(), request.json()
    owner = asked.get("organization") or user
    if owner != user and owner not in request.hub.organizations[user]:
        raise Failure(403, f"You don't have the rights to create a model under the namespace {owner!r}")
    name = f"{owner}/{asked['name']}"
    content = {"url": f"{request.hub.url}/{name}", "name": name, "id": name}
    if name in request.hub.repositories:
        return as_json({"error": "You already created this model repo", **content}, 409)
    request.hub.repositories[name] = Repository(name, asked.get("visibility") == "private")
    return as_json(content)


@endpoint("delete", "DELETE", "/api/repos/delete")
def delete(request: _Handler) -> Answer:
    asked = request.json()
    name = f"{asked.get('organization') or request.user()}/{asked['name']}"
    request.repository(name, write=True)
    del request.hub.repositories[name]
    return as_json({})


@endpoint("validate", "POST", "/api/validate-yaml")
def validate(request: _Handler) -> Answer:
    content, errors = request.json()["content"], []
    front_matter = re.match(r"---\r?\n(.*?)\r?\n---\r?\n", content, re.S)
    try:
        metadata = yaml.safe_load(front_matter[1]) if front_matter else {}
        if not isinstance(metadata, dict):
            errors.append({"message": "the metadata must be a mapping"})
    except yaml.YAMLError as error:
        errors.append({"message": str(error)})
    return as_json({"errors": errors, "warnings": []}, 400 if errors else 200)


@endpoint("preupload", "POST", "/api/models/REPO/preupload/REV")
def preupload(request: _Handler, repo: str, revision: str) -> Answer:
    commit = request.repository(repo, write=True).find(revision)
    if commit is None:
        raise Failure(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    answers = []
    for each in request.json()["files"]:
        large = each["path"].endswith(LARGE) or each["size"] > 10_000_000
        there = commit.files.get(each["path"])
        answers.append(
            {
                "path": each["path"],
                "uploadMode": "lfs" if large else "regular",
                "shouldIgnore": False,
                "oid": None if there is None else there.oid,
            }
        )
    return as_json({"files": answers, "commitOid": commit.oid})


@endpoint("batch", "POST", "/REPO\\.git/info/lfs/objects/batch")
def batch(request: _Handler, repo: str) -> Answer:
    request.repository(repo, write=True)
    objects = []
    for each in request.json()["objects"]:
        found: dict[str, Any] = {"oid": each["oid"], "size": each["size"]}
        if each["oid"] not in request.hub.large_files:
            link = f"{request.hub.url}/large-files/{each['oid']}"
            found["actions"] = {"upload": {"href": link}, "verify": {"href": f"{link}/verify"}}
        objects.append(found)
    return as_json({"transfer": "basic", "objects": objects})


@endpoint("upload", "PUT", "/large-files/(?P<oid>[0-9a-f]{64})")
def upload(request: _Handler, oid: str) -> Answer:
    if hashlib.sha256(request.body).hexdigest() != oid:
        raise Failure(400, "the content's sha256 is another")
    request.hub.large_files[oid] = request.body
    return Answer()


@endpoint("verify", "POST", "/large-files/(?P<oid>[0-9a-f]{64})/verify")
def verify(request: _Handler, oid: str) -> Answer:
    request.user()
    if len(request.hub.large_files.get(oid, b"")) != request.json()["size"]:
        raise Failure(404, "the file has not been uploaded")
    return as_json({})


@endpoint("xet_token", "GET", "/api/models/REPO/xet-(?P<kind>read|write)-token/REV")
def xet_token(request: _Handler, repo: str, kind: str, revision: str) -> Answer:
    request.repository(repo, write=kind == "write")
    store, expiry = f"{request.hub.url}/xet", int(time.time()) + 3600
    answer = as_json({"accessToken": "xet-access", "exp": expiry, "casUrl": store})
    answer.headers |= {
        "X-Xet-Cas-Url": store, "X-Xet-Access-Token": "xet-access", "X-Xet-Token-Expiration": str(expiry),
    }  # fmt: skip
    return answer


@endpoint("xorb", "POST", "/xet/v1/xorbs/[^/]+/(?P<name>[0-9a-f]{64})")
def xorb(request: _Handler, name: str) -> Answer:
    request.hub.content_store.add_xorb(name, request.body)
    return as_json({"was_inserted": True})


@endpoint("shard", "POST", "/xet/v1/shards")
def shard(request: _Handler) -> Answer:
    for oid, content in request.hub.content_store.files_of(request.body).items():
        if hashlib.sha256(content).hexdigest() != oid:
            raise Failure(400, "the content's sha256 is another")
        request.hub.large_files[oid] = content
    return as_json({"result": 1})


@endpoint("commit", "POST", "/api/models/REPO/commit/REV")
def commit(request: _Handler, repo: str, revision: str) -> Answer:
    repository = request.repository(repo, write=True)
    if revision not in repository.branches:
        raise Failure(404, f"Invalid rev id: {revision}", "RevisionNotFound")
    message, changes = "", {}
    for line in request.body.splitlines():
        entry = json.loads(line)
        kind, value = entry["key"], entry["value"]
        if kind == "header":
            message = value["summary"]
            if value.get("parentCommit", repository.branches[revision]) != repository.branches[revision]:
                raise Failure(412, "A commit has happened since. Please refresh and try again.")
        elif kind == "file":
            changes[value["path"]] = File(base64.b64decode(value["content"]))
        elif kind == "lfsFile":
            if value["oid"] not in request.hub.large_files:
                raise Failure(400, f"the content of {value['path']} has not been uploaded")
            changes[value["path"]] = File(request.hub.large_files[value["oid"]], is_large=True)
        else:
            changes[value["path"]] = None
    made = repository.commit(revision, message, changes)
    return as_json(
        {"success": True, "commitUrl": f"{request.hub.url}/{repo}/commit/{made.oid}", "commitOid": made.oid}
    )


@endpoint("branch", "POST", "/api/models/REPO/branch/REV")
def branch(request: _Handler, repo: str, revision: str) -> Answer:
    repository = request.repository(repo, write=True)
    start = repository.find((request.json() if request.body else {}).get("startingPoint") or "main")
    if revision in repository.branches:
        raise Failure(409, "Reference already exists")
    if start is None:
        raise Failure(404, "Invalid rev id", "RevisionNotFound")
    repository.branches[revision] = start.oid
    return as_json({})


@endpoint("tag", "POST", "/api/models/REPO/tag/REV")
def tag(request: _Handler, repo: str, revision: str) -> Answer:
    repository = request.repository(repo, write=True)
    repository.tags[request.json()["tag"]] = request.commit_of(repo, revision).oid
    return as_json({})


@endpoint("refs", "GET", "/api/models/REPO/refs")
def refs(request: _Handler, repo: str) -> Answer:
    repository = request.repository(repo)
    listed = {
        kind: [
            {"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": oid} for name, oid in found.items()
        ]
        for kind, folder, found in (
            ("branches", "heads", repository.branches),
            ("tags", "tags", repository.tags),
        )
    }
    return as_json({**listed, "converts": []})


@endpoint("tree", "GET HEAD", "/api/models/REPO/tree/REV(?:/(?P<folder>.+))?")
def tree(request: _Handler, repo: str, revision: str, folder: str = "") -> Answer:
    commit = request.commit_of(repo, revision)
    prefix, recursive = (
        folder and f"{folder}/",
        request.query.get("recursive", [""])[0].lower() in ("true", "1"),
    )
    paths = [path for path in [*commit.files, *folders_of(list(commit.files))] if path.startswith(prefix)]
    if folder and not paths:
        raise Failure(404, f"{folder} does not exist", "EntryNotFound", **{"X-Repo-Commit": commit.oid})
    shown = [path for path in sorted(paths) if recursive or "/" not in path.removeprefix(prefix)]
    return as_json([_entry(commit, path) for path in shown])


@endpoint("paths_info", "POST", "/api/models/REPO/paths-info/REV")
def paths_info(request: _Handler, repo: str, revision: str) -> Answer:
    commit = request.commit_of(repo, revision)
    asked = request.json()["paths"]
    known = [*commit.files, *folders_of(list(commit.files))]
    return as_json([_entry(commit, path) for path in asked if path in known])


def _entry(commit: Commit, path: str) -> dict[str, Any]:
    file = commit.files.get(path)
    if file is None:
        return {"type": "directory", "oid": hashlib.sha1(path.encode()).hexdigest(), "size": 0, "path": path}
    entry = {"type": "file", "oid": file.oid[:40], "size": len(file.content), "path": path}
    large = {"oid": file.sha256, "size": len(file.content), "pointerSize": 130}
    return {**entry, "lfs": large} if file.is_large else entry


@endpoint("info", "GET", "/api/models/REPO(?:/revision/REV)?")
def info(request: _Handler, repo: str, revision: str = "main") -> Answer:
    repository, commit = request.repository(repo), request.commit_of(repo, revision)
    card = commit.files.get("README.md", File(b"")).content.decode()
    front_matter = re.match(r"---\n(.*?)\n---\n", card, re.S)
    metadata = yaml.safe_load(front_matter[1]) if front_matter else {}
    return as_json(
        {
            "_id": "0" * 24, "id": repo, "modelId": repo, "author": repository.owner, "sha": commit.oid,
            "lastModified": "2026-01-01T00:00:00.000Z", "createdAt": "2026-01-01T00:00:00.000Z",
            "private": repository.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0,
            "tags": metadata.get("tags") or [], "pipeline_tag": metadata.get("pipeline_tag"),
            "library_name": metadata.get("library_name"), "cardData": metadata,
            "siblings": [{"rfilename": path} for path in commit.files],
        }
    )  # fmt: skip


@endpoint("download", "GET HEAD", "/cdn/(?P<oid>[0-9a-f]{64})")
def download(request: _Handler, oid: str) -> Answer:
    return _content(request, request.hub.large_files[oid])


@endpoint("resolve", "GET HEAD", "/REPO/resolve/REV/(?P<path>.+)")
def resolve(request: _Handler, repo: str, revision: str, path: str) -> Answer:
    commit = request.commit_of(repo, revision)
    file = commit.files.get(path)
    if file is None:
        raise Failure(404, f"Entry not found: {path}", "EntryNotFound", **{"X-Repo-Commit": commit.oid})
    if not file.is_large:
        answer = _content(request, file.content)
        answer.headers |= {"X-Repo-Commit": commit.oid, "ETag": f'"{file.oid}"'}
        return answer
    # Elsewhere, as the Hub's: the client then leaves the token behind.
    headers = {"Location": f"http://localhost:{request.hub.port}/cdn/{file.oid}", "X-Repo-Commit": commit.oid}
    headers |= {"X-Linked-ETag": f'"{file.oid}"', "X-Linked-Size": str(len(file.content))}
    return Answer(302, b"", headers)


def _content(request: _Handler, content: bytes) -> Answer:
    asked = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or "")
    if asked is None:
        return Answer(200, content, {"Accept-Ranges": "bytes"})
    first, last = int(asked[1]), int(asked[2] or len(content) - 1)
    if first >= len(content):
        raise Failure(416, "Range Not Satisfiable", **{"Content-Range": f"bytes */{len(content)}"})
    part = content[first : last + 1]
    return Answer(206, part, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(content)}"})
