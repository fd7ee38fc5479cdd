"""Reading a key set from a file and over HTTP: within bounds, and every failure is the one that is promised."""

import contextlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmx_protocol import limits
from lmx_supervisor.core.service import KeySetUnavailable
from lmx_supervisor.runtime.key_set_reader import KeySetReader

DOCUMENT = b'{"keys": []}'


@contextlib.contextmanager
def serving(status: int, body: bytes, headers: dict[str, str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """A small server on the loopback that always answers so; its address, and the paths it was asked for."""
    asked: list[str] = []

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            with contextlib.suppress(ConnectionError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with http.server.HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


async def test_a_file_by_path_and_by_address(tmp_path: Path) -> None:
    """Both mean the same; a blank is escaped in the address."""
    file = tmp_path / "my keys.json"
    file.write_bytes(DOCUMENT)
    reader = KeySetReader()

    assert await reader.read(str(file)) == await reader.read(f"file://{tmp_path}/my%20keys.json") == DOCUMENT


async def test_over_http() -> None:
    """The document as it is."""
    with serving(200, DOCUMENT) as (address, asked):
        assert await KeySetReader().read(f"{address}/jwks.json") == DOCUMENT
    assert asked == ["/jwks.json"]


@pytest.mark.parametrize(
    ("status", "body", "headers", "words"),
    [
        (500, b"", {}, "answered with status 500"),
        (302, b"", {"Location": "/elsewhere"}, "answered with status 302"),
        (200, b"x" * (limits.KEY_SET_BYTES_MAX + 1), {}, "is larger than"),
    ],
)
async def test_what_is_no_answer(status: int, body: bytes, headers: dict[str, str], words: str) -> None:
    """Errors and floods are told; a redirect is not followed, because only the configured address is trusted."""
    with serving(status, body, headers) as (address, asked), pytest.raises(KeySetUnavailable, match=words):
        await KeySetReader().read(f"{address}/jwks.json")
    assert asked == ["/jwks.json"]


async def test_nobody_there(tmp_path: Path) -> None:
    """A port that is closed, and a file that is missing."""
    with serving(200, DOCUMENT) as (address, _):
        closed = address
    for gone, words in ((closed, "cannot be reached"), (str(tmp_path / "none.json"), "No such file")):
        with pytest.raises(KeySetUnavailable, match=words):
            await KeySetReader().read(gone)


async def test_a_host_that_is_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """The time one reading may take is bounded as a whole, whatever the host does."""
    monkeypatch.setattr(limits, "KEY_SET_SECONDS", 0.2)
    released = threading.Event()

    class Silent(http.server.BaseHTTPRequestHandler):
        def handle(self) -> None:
            released.wait(30)

    with http.server.HTTPServer(("127.0.0.1", 0), Silent) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(KeySetUnavailable, match=r"did not answer within|cannot be reached"):
            await KeySetReader().read(f"http://127.0.0.1:{server.server_port}/")
        released.set()
        thread.join()
