"""An ASGI client that a test can stop, starve and disconnect at any point; `httpx` shows a response only when it is whole."""

import asyncio
import json
from typing import Any

from starlette.types import ASGIApp, Message


class Exchange:
    """One request in flight against an application, without a socket."""

    def __init__(
        self,
        app: ASGIApp,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        peer: str = "127.0.0.1",
        upload: bool = True,
        query: bytes = b"",
    ) -> None:
        self._inbound: asyncio.Queue[Message] = asyncio.Queue()
        self._sent: asyncio.Queue[Message] = asyncio.Queue()
        self.writable = asyncio.Event()
        self.writable.set()
        lines = {"content-length": str(len(body)), **(headers or {})}
        scope = {
            "type": "http",
            "http_version": "1.1",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": query,
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in lines.items()],
            "client": (peer, 1),
            "server": ("127.0.0.1", 2),
        }
        if upload:
            self.upload(body)
        self.task = asyncio.create_task(app(scope, self._inbound.get, self._send))

    def upload(self, body: bytes, *, more: bool = False) -> None:
        self._inbound.put_nowait({"type": "http.request", "body": body, "more_body": more})

    def disconnect(self) -> None:
        self._inbound.put_nowait({"type": "http.disconnect"})

    async def _send(self, message: Message) -> None:
        await self.writable.wait()
        self._sent.put_nowait(message)

    async def message(self) -> Message:
        """The next thing the application sent."""
        async with asyncio.timeout(5):
            return await self._sent.get()

    async def rest(self) -> bytes:
        """Everything up to the end of the response's body."""
        body = b""
        while True:
            message = await self.message()
            body += message.get("body", b"")
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                return body

    async def done(self) -> list[Message]:
        """Wait for the application to return; what was sent and not looked at."""
        async with asyncio.timeout(5):
            await self.task
        return [self._sent.get_nowait() for _ in range(self._sent.qsize())]


def chunks(body: bytes) -> list[Any]:
    """The payloads of an event stream, `[DONE]` as it is."""
    events = [event.removeprefix(b"data: ") for event in body.split(b"\n\n") if event]
    return [event.decode() if event == b"[DONE]" else json.loads(event) for event in events]
