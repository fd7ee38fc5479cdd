"""One long answer of server-sent events to one reader: frames as they come, signs of life, and an end whoever leaves first."""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
from starlette.types import Receive, Scope, Send

from lmx_protocol import limits
from lmx_supervisor.config.schema import ServerConfig
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.disconnect import ClientGoneError, until_disconnect
from lmx_supervisor.gateway.edge import note
from lmx_supervisor.gateway.responses import EVENT_STREAM_HEADERS


class FrameSource(Protocol):
    """Where the frames come from."""

    def read(self) -> bytes:
        """Frames that have not been read; empty when there is nothing new."""

    async def wait(self, seconds: float) -> None:
        """Return when there may be something to read or the end has come, at the latest after `seconds`."""

    @property
    def ended(self) -> bool:
        """Whether nothing will follow what was read."""

    def close(self) -> None:
        """The reader is gone."""


class FrameStream:
    """An ASGI application for one request. Without `follow` it ends after what is known."""

    def __init__(self, service: Service, open_source: Callable[[], FrameSource], *, follow: bool) -> None:
        """`open_source` may refuse, as long as nothing was sent."""
        self._service = service
        self._open_source = open_source
        self._follow = follow

    @property
    def _server(self) -> ServerConfig:
        # A reload of the configuration reaches streams that are open.
        return self._service.config.server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer until the source ends or the client leaves. Raises what `open_source` raises, and `ClientGoneError`."""
        source = self._open_source()
        gone = asyncio.create_task(until_disconnect(receive))
        relay = asyncio.create_task(self._relay(source, scope, send))
        try:
            await asyncio.wait((gone, relay), return_when=asyncio.FIRST_COMPLETED)
            if not relay.done():
                raise ClientGoneError
            relay.result()
        finally:
            gone.cancel()
            relay.cancel()
            source.close()

    async def _relay(self, source: FrameSource, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM_HEADERS})
        try:
            await self._send_frames(source, send)
        except TimeoutError:
            # It can come back and resume; what it has not read by then and is lost will be a gap.
            note(scope, outcome="slow_client")

    async def _send_frames(self, source: FrameSource, send: Send) -> None:
        """Write frames and heartbeats until the end. Raises `TimeoutError` when the client takes nothing."""

        async def write(body: bytes, *, more: bool = True) -> None:
            async with asyncio.timeout(self._server.slow_client_seconds):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        now = asyncio.get_running_loop().time
        # The first bytes go out at once: a reader knows that it is connected before anything happens.
        await write(b"retry: %d\n\n" % limits.EVENT_RECONNECT_MILLISECONDS + _heartbeat())
        heartbeat_at = now() + self._server.sse_heartbeat_interval_sec
        while True:
            if frames := source.read():
                await write(frames)
            elif source.ended or not self._follow:
                break
            elif now() >= heartbeat_at:
                await write(_heartbeat())
                heartbeat_at = now() + self._server.sse_heartbeat_interval_sec
            else:
                await source.wait(heartbeat_at - now())
        await write(b"", more=False)


def event_frame(kind: str, data: Mapping[str, object], event_id: int | str | None) -> bytes:
    """One server-sent event."""
    # ASCII: some readers take U+2028 and its like for line ends, which would cut an event in two.
    text = json.dumps(msgspec.to_builtins(data), separators=(",", ":"))
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {kind}\ndata: {text}\n\n".encode("ascii")


def _heartbeat() -> bytes:
    return event_frame("heartbeat", {"timestamp": round(time.time(), 3)}, None)
