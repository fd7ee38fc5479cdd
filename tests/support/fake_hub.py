"""A model hub on the loopback that the real client talks to (`HF_ENDPOINT`), and that fails on cue.

It speaks what the client needs of the hub's API: a model's listing with sizes and hashes, and its files with ranges.
"""

import hashlib
import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

_PIECE_BYTES = 16 * 1024
_LFS_FROM_BYTES = 1024
"""Larger files are listed by SHA-256, as the hub does with LFS files; smaller ones by their git hash."""


@dataclass
class Repository:
    """One model repository, and what is wrong with it."""

    files: dict[str, bytes]
    refuse: tuple[int, str] | None = None
    """Status and error code of every answer."""
    tells_hashes: bool = True
    """Otherwise the listing names the files only, as some mirrors' do."""
    listed_sizes: dict[str, int] = field(default_factory=dict)
    """Sizes that are not true."""
    served_instead: dict[str, list[bytes]] = field(default_factory=dict)
    """Content that the next answers for a file have instead of the right one."""
    drop_after_bytes: dict[str, list[int]] = field(default_factory=dict)
    """The next connections for a file are reset after so many bytes."""
    stall_after_bytes: dict[str, int] = field(default_factory=dict)
    """Connections for a file stand still after so many bytes, until `FakeHub.go_on`."""
    statuses: list[int] = field(default_factory=list)
    """Of the next answers with content."""
    ignores_ranges: bool = False

    @property
    def commit(self) -> str:
        """Changes with the content."""
        digest = hashlib.sha1(usedforsecurity=False)
        for name, content in sorted(self.files.items()):
            digest.update(name.encode() + b"\0" + content)
        return digest.hexdigest()


class FakeHub:
    """Any number of repositories. Use it with `serving`."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.url = ""
        self.bytes_sent: Counter[str] = Counter()
        """By file name."""
        self.starts: list[tuple[str, int]] = []
        """File name and first byte of every answer with content."""
        self.authorizations: list[str | None] = []
        self._gate = threading.Condition()
        self._stalled = 0
        self._open = False

    def add(self, repo_id: str, files: dict[str, bytes]) -> Repository:
        """Publish a repository."""
        self.repositories[repo_id] = Repository(files)
        return self.repositories[repo_id]

    def wait_until_stalled(self, seconds: float = 30.0) -> None:
        """Return when a connection stands still."""
        with self._gate:
            assert self._gate.wait_for(lambda: self._stalled > 0, seconds), "no connection came to its stalling point"

    def stop_stalling(self) -> None:
        """Let connections that stand still go on, and none stall any more."""
        with self._gate:
            self._open = True
            self._gate.notify_all()

    def stall_here(self) -> None:
        """Stand still."""
        with self._gate:
            if not self._open:
                self._stalled += 1
                self._gate.notify_all()
                self._gate.wait_for(lambda: self._open, 60.0)
                self._stalled -= 1


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that is killed resets its connection; the tests look at what it left behind."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


@contextmanager
def serving() -> Iterator[FakeHub]:
    """A hub on a free port."""
    hub = FakeHub()
    server = _Server(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="fake-hub")
    thread.start()
    try:
        yield hub
    finally:
        hub.stop_stalling()
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: FakeHub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def _answer(self, *, with_body: bool) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.authorizations.append(self.headers.get("Authorization"))
            parts = path.strip("/").split("/")
            try:
                if parts[:2] == ["api", "models"]:
                    self._list("/".join(parts[2:4]))
                else:
                    self._file("/".join(parts[:2]), "/".join(parts[4:]), with_body=with_body)
            except (BrokenPipeError, ConnectionResetError):
                self.close_connection = True

        def _refuse(self, status: int, code: str = "") -> None:
            self.send_response(status)
            if code:
                self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _list(self, repo_id: str) -> None:
            repository = hub.repositories.get(repo_id)
            if repository is None:
                self._refuse(404, "RepoNotFound")
                return
            if repository.refuse:
                self._refuse(*repository.refuse)
                return
            siblings = [_sibling(repository, name, content) for name, content in repository.files.items()]
            body = json.dumps({"id": repo_id, "sha": repository.commit, "siblings": siblings}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _file(self, repo_id: str, name: str, *, with_body: bool) -> None:
            repository = hub.repositories.get(repo_id)
            if repository is None or name not in repository.files:
                self._refuse(404, "RepoNotFound" if repository is None else "EntryNotFound")
                return
            if repository.refuse:
                self._refuse(*repository.refuse)
                return
            if with_body and repository.statuses:
                self._refuse(repository.statuses.pop(0))
                return
            content = repository.files[name]
            if with_body and repository.served_instead.get(name):
                content = repository.served_instead[name].pop(0)
            self._send_file(repository, name, content, with_body=with_body)

        def _send_file(self, repository: Repository, name: str, content: bytes, *, with_body: bool) -> None:
            wanted = self.headers.get("Range")
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and not repository.ignores_ranges else 0
            if start and start >= len(content):
                self._refuse(416)
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("ETag", f'"{_hash(content)}"')
            self.send_header("X-Repo-Commit", repository.commit)
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            if with_body:
                hub.starts.append((name, start))
                self._send_pieces(repository, name, content[start:])

        def _send_pieces(self, repository: Repository, name: str, content: bytes) -> None:
            drops = repository.drop_after_bytes.get(name)
            end = drops.pop(0) if drops else len(content)
            stall_at = repository.stall_after_bytes.get(name, -1)
            sent = 0
            while sent < min(end, len(content)):
                stop = min(end, len(content), stall_at if sent < stall_at else end)
                piece = content[sent : min(sent + _PIECE_BYTES, stop)]
                self.wfile.write(piece)
                sent += len(piece)
                hub.bytes_sent[name] += len(piece)
                if sent == stall_at:
                    hub.stall_here()
            if end < len(content):
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    return Handler


def _sibling(repository: Repository, name: str, content: bytes) -> dict[str, object]:
    if not repository.tells_hashes:
        return {"rfilename": name}
    size = repository.listed_sizes.get(name, len(content))
    git_sha1 = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    sibling: dict[str, object] = {"rfilename": name, "size": size, "blobId": git_sha1}
    if len(content) >= _LFS_FROM_BYTES:
        sibling["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": size, "pointerSize": 128}
    return sibling


def _hash(content: bytes) -> str:
    """The ETag of a file."""
    if len(content) >= _LFS_FROM_BYTES:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
