"""GET /admin/events: what operators are told, as server-sent events that can be resumed.

Every event has an `id`; its `data` says the same again with type and time, so that one line is worth keeping. A reader names
the last one it saw in `Last-Event-ID` (or `?last_event_id=`; 0 asks for everything that is still known) and gets what
followed; what is not known any more is an `event: gap`. `?follow=false` ends the answer after that.
"""

import asyncio
import json
import time
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.config.schema import ServerConfig
from lmx_supervisor.core.event_log import Gap, LoggedEvent
from lmx_supervisor.core.service import EventSubscription, Service
from lmx_supervisor.gateway.disconnect import ClientGoneError, until_disconnect
from lmx_supervisor.gateway.edge import note
from lmx_supervisor.gateway.problem import Problem
from lmx_supervisor.gateway.responses import EVENT_STREAM_HEADERS

_LAST_ID_PARAM = "last_event_id"
_ID_DIGITS_MAX = 18


class AdminEvents:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def stream(self, request: Request) -> ASGIApp:
        """Subscribe. Raises `Problem` (400), `Refusal` (503 when there are too many readers)."""
        offered = request.headers.get("last-event-id") or request.query_params.get(_LAST_ID_PARAM)
        follow = request.query_params.get("follow", "true")
        if follow not in ("true", "false"):
            raise Problem(ErrorCode.INVALID_VALUE, "`follow` is true or false.", param="follow")
        return _EventStream(self._service, _event_id(offered), follow=follow == "true")


def _event_id(text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS_MAX):
        raise Problem(ErrorCode.INVALID_VALUE, "An event's id is a number, as its `id:` line says.", param=_LAST_ID_PARAM)
    return int(text)


class _EventStream:
    """The answer to one reader."""

    def __init__(self, service: Service, last_id: int | None, *, follow: bool) -> None:
        self._service = service
        self._last_id = last_id
        self._follow = follow

    @property
    def _server(self) -> ServerConfig:
        # A reload of the configuration reaches streams that are open.
        return self._service.config.server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        subscription = self._service.events.subscribe(self._last_id)
        gone = asyncio.create_task(until_disconnect(receive))
        relay = asyncio.create_task(self._relay(subscription, scope, send))
        try:
            await asyncio.wait((gone, relay), return_when=asyncio.FIRST_COMPLETED)
            if not relay.done():
                raise ClientGoneError
            relay.result()
        finally:
            gone.cancel()
            relay.cancel()
            subscription.close()

    async def _relay(self, subscription: EventSubscription, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM_HEADERS})
        try:
            await self._send_events(subscription, send)
        except TimeoutError:
            # It can come back and resume; what it has not read by then and is lost will be a gap.
            note(scope, outcome="slow_client")

    async def _send_events(self, subscription: EventSubscription, send: Send) -> None:
        """Write events and heartbeats until the end. Raises `TimeoutError` when the client takes nothing."""

        async def write(body: bytes, *, more: bool = True) -> None:
            async with asyncio.timeout(self._server.slow_client_seconds):
                await send({"type": "http.response.body", "body": body, "more_body": more})

        now = asyncio.get_running_loop().time
        # The first bytes go out at once: a reader knows that it is connected before anything happens.
        await write(b"retry: %d\n\n" % limits.EVENT_RECONNECT_MILLISECONDS + _heartbeat())
        heartbeat_at = now() + self._server.sse_heartbeat_interval_sec
        while True:
            if frames := b"".join(map(_frame, subscription.read())):
                await write(frames)
            elif subscription.ended or not self._follow:
                break
            elif now() >= heartbeat_at:
                await write(_heartbeat())
                heartbeat_at = now() + self._server.sse_heartbeat_interval_sec
            else:
                await subscription.wait(heartbeat_at - now())
        await write(b"", more=False)


def _frame(item: LoggedEvent | Gap) -> bytes:
    if isinstance(item, Gap):
        # The id is the last one that is lost: who resumes there is not told of this gap again.
        return _event("gap", {"type": "gap", "from_id": item.from_id, "to_id": item.to_id}, item.to_id - 1)
    data = {"id": item.id, "type": item.kind, "timestamp": round(item.at_unix_seconds, 6), **item.fields}
    return _event(item.kind, data, item.id)


def _heartbeat() -> bytes:
    return _event("heartbeat", {"timestamp": round(time.time(), 3)}, None)


def _event(kind: str, data: dict[str, Any], event_id: int | None) -> bytes:
    # ASCII: some readers take U+2028 and its like for line ends, which would cut an event in two.
    text = json.dumps(msgspec.to_builtins(data), separators=(",", ":"))
    head = f"id: {event_id}\n" if event_id is not None else ""
    return f"{head}event: {kind}\ndata: {text}\n\n".encode("ascii")
