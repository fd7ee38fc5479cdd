"""One HTTP connection to a server, byte by byte: for what no HTTP library would send, and for leaving in every way there is."""

import contextlib
import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

PATIENCE_SECONDS = 30.0
_READ_BYTES = 65536
_RESET_ON_CLOSE = b"\x01\0\0\0\0\0\0\0"


def request(method: str, target: str, body: bytes = b"", **headers: str) -> bytes:
    """A well-formed HTTP/1.1 request; underscores in header names mean dashes."""
    lines = {"Host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
    if body:
        lines["Content-Length"] = str(len(body))
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {target} HTTP/1.1\r\n{head}\r\n".encode("latin-1") + body


def chat_request(body: dict[str, Any], **headers: str) -> bytes:
    """A chat completion."""
    return request("POST", "/v1/chat/completions", json.dumps(body).encode(), **headers)


@dataclass(frozen=True, slots=True)
class Response:
    """One response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> dict[str, str | None]:
        """The four fields of the error envelope."""
        return json.loads(self.body)["error"]


class Wire:
    """A client connection. Use it as a context manager, or leave by `reset` or `close`."""

    def __init__(self, url: str, *, receive_buffer_bytes: int | None = None) -> None:
        address = urlsplit(url)
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        if receive_buffer_bytes is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._socket.settimeout(PATIENCE_SECONDS)
        self._socket.connect((address.hostname, address.port))
        self._unread = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def local_port(self) -> int:
        """Our end's port."""
        port: int = self._socket.getsockname()[1]
        return port

    # --- sending ----------------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send it all. Raises `OSError` when the server has closed."""
        self._socket.sendall(data)

    def send_until_closed(self, chunk: bytes, bytes_max: int) -> int:
        """Send the chunk again and again; how many bytes the server's side took before it closed, at most `bytes_max`."""
        sent = 0
        with contextlib.suppress(OSError):
            while sent < bytes_max:
                sent += self._socket.send(chunk)
        return sent

    # --- leaving ----------------------------------------------------------------------------------------------------------

    def finish_sending(self) -> None:
        """Close the sending half only."""
        self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Leave in order (FIN)."""
        self._socket.close()

    def reset(self) -> None:
        """Leave without a word (RST)."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._socket.close()

    # --- reading ----------------------------------------------------------------------------------------------------------

    def response(self) -> Response:
        """The next whole response. Raises `EOFError` when the server closes before its end."""
        head = self._read_until(b"\r\n\r\n").decode("latin-1")
        status_line, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        if "content-length" in headers:
            body = self._read_exactly(int(headers["content-length"]))
        else:
            body = b""
            while size := int(self._read_until(b"\r\n"), 16):
                body += self._read_exactly(size + 2)[:-2]
            self._read_until(b"\r\n")
        return Response(int(status_line.split()[1]), headers, body)

    def read_until(self, mark: bytes) -> bytes:
        """Everything up to and including the mark. Raises `EOFError` when the server closes before it."""
        return self._read_until(mark)

    def read_some(self, byte_count: int) -> bytes:
        """At most so many bytes; empty when the server has closed."""
        return self._socket.recv(byte_count)

    def rest(self) -> bytes:
        """What still comes until the server closes; a reset is a close too. Raises `TimeoutError` when it does not."""
        with contextlib.suppress(ConnectionError):
            while data := self._socket.recv(_READ_BYTES):
                self._unread += data
        rest, self._unread = self._unread, b""
        return rest

    def seconds_until_closed(self) -> float:
        """Wait for the server to close; how long that took."""
        started = time.monotonic()
        self.rest()
        return time.monotonic() - started

    def _read_until(self, mark: bytes) -> bytes:
        while mark not in self._unread:
            self._receive()
        found, _, self._unread = self._unread.partition(mark)
        return found + mark

    def _read_exactly(self, byte_count: int) -> bytes:
        while len(self._unread) < byte_count:
            self._receive()
        found, self._unread = self._unread[:byte_count], self._unread[byte_count:]
        return found

    def _receive(self) -> None:
        data = self._socket.recv(_READ_BYTES)
        if not data:
            raise EOFError(f"the server closed after {self._unread[-200:]!r}")
        self._unread += data


def unread_bytes(*wires: Wire) -> int:
    """What was sent on these connections and the server's process has not read yet, as the kernel tells (Linux)."""
    ports = {f"{wire.local_port:04X}" for wire in wires}
    waiting = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, local, remote, _, queues = line.split()[:5]
        sent, received = (int(number, 16) for number in queues.split(":"))
        if local.rpartition(":")[2] in ports:
            waiting += sent
        elif remote.rpartition(":")[2] in ports:
            waiting += received
    return waiting
