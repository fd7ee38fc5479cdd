"""A small HTTP server that answers as a test tells it to, and a way to run `lmx` against it."""

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec

from lmx_protocol.states import ModelFormat, Readiness, WorkerState
from lmx_supervisor.core.views import ExitView, ReadinessView, WorkerView

Reply = tuple[int, Any]
"""Status, and a JSON document, ready bytes, or the chunks of a stream."""
Route = Callable[[Any], Reply]


@dataclass
class Asked:
    """One request that arrived."""

    path: str
    body: Any
    headers: dict[str, str]


@dataclass
class Result:
    """What a command came to."""

    status: int
    out: str
    err: str


@dataclass
class StandIn:
    """The server; `routes` maps a path to what answers it."""

    routes: dict[str, Route] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    url: str = ""

    def bodies(self, path: str) -> list[Any]:
        """The bodies that were sent to `path`."""
        return [request.body for request in self.asked if request.path == path]

    def answer(self, path: str, document: Any, status: int = 200) -> None:
        """Always answer `path` with this."""
        self.routes[path] = lambda _: (status, document)

    def refuse(self, path: str, status: int, code: str, message: str) -> None:
        """Always answer `path` with this error."""
        self.answer(path, {"error": {"message": message, "type": "x", "param": None, "code": code}}, status)


def serving(stand_in: StandIn) -> ThreadingHTTPServer:
    """Bind a free port and serve from a thread; the caller shuts the server down and closes it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._reply(None)

        def do_DELETE(self) -> None:
            self._reply(None)

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _reply(self, body: Any) -> None:
            stand_in.asked.append(Asked(self.path, body, dict(self.headers.items())))
            status, document = stand_in.routes[self.path](body)
            self.send_response(status)
            if isinstance(document, bytes | dict | list):
                content = document if isinstance(document, bytes) else msgspec.json.encode(document)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)
            else:
                self.send_header("Connection", "close")
                self.end_headers()
                self._stream(document)

        def _stream(self, chunks: Iterable[bytes]) -> None:
            try:
                for chunk in chunks:
                    self.wfile.write(chunk)
                    self.wfile.flush()
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client left, as some tests want it to
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    stand_in.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, name="stand-in").start()
    return server


def worker(model_id: str = "tiny", **changes: Any) -> WorkerView:
    """A healthy worker, but for the changes."""
    healthy: dict[str, Any] = {
        "path": "/models/tiny.gguf",
        "format": ModelFormat.GGUF,
        "backend": "llamacpp",
        "incarnation": "0a1b2c3d-1",
        "pid": 4242,
        "state": WorkerState.READY,
        "readiness": ReadinessView(state=Readiness.ROUTABLE),
        "wanted": True,
        "state_since_unix_seconds": 1.0,
        "loaded_at_unix_seconds": 1.0,
        "last_used_at_unix_seconds": None,
        "uptime_seconds": 7260.0,
        "restarts": 1,
        "consecutive_failures": 0,
        "restart_in_seconds": None,
        "load_seconds": 1.5,
        "load_progress": None,
        "footprint_bytes": 300 * 1024**2,
        "peak_footprint_bytes": None,
        "requests_active": 0,
        "requests_waiting": 0,
        "requests_total": 12,
        "tokens_total": 340,
        "tokens_per_second": 81.4,
        "suspect": False,
        "last_exit": ExitView(reason="signal SIGKILL", text="killed", at_unix_seconds=1.0),
        "facts": None,
    }
    return WorkerView(model_id=model_id, **(healthy | changes))


def fleet_document(*workers: WorkerView) -> dict[str, Any]:
    """What GET /admin/workers answers."""
    return {"workers": [msgspec.to_builtins(view) for view in workers], "spares": []}


def chunk(text: str | None = None, *, finish_reason: str | None = None, usage: Any = None) -> bytes:
    """One event of a streamed chat completion."""
    delta = {"role": None, "content": text, "tool_calls": None}
    choices = [] if usage else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    return event(json.dumps({"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": choices, "usage": usage}))


def event(data: str) -> bytes:
    """One server-sent event."""
    return f"data: {data}\n\n".encode()


def whole_answer(*pieces: str) -> list[bytes]:
    """All events of an answer that ends well."""
    usage = {"prompt_tokens": 20, "completion_tokens": len(pieces), "prompt_tokens_details": {"cached_tokens": 5}}
    return [*(chunk(piece) for piece in pieces), chunk(finish_reason="stop"), chunk(usage=usage), event("[DONE]")]
