"""GET /admin/events: what operators are told, as server-sent events that can be resumed.

Every event has an `id`; its `data` says the same again with type and time, so that one line is worth keeping. A reader names
the last one it saw in `Last-Event-ID` (or `?last_event_id=`; 0 asks for everything that is still known) and gets what
followed; what is not known any more is an `event: gap`. `?follow=false` ends the answer after that.
"""

from collections.abc import Mapping

from starlette.requests import Request
from starlette.types import ASGIApp

from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.event_log import Gap, LoggedEvent
from lmx_supervisor.core.service import EventSubscription, Service
from lmx_supervisor.gateway.frame_stream import FrameStream, event_frame
from lmx_supervisor.gateway.problem import EdgeCode, Problem

LAST_ID_PARAM = "last_event_id"
_ID_DIGITS_MAX = 18


class AdminEvents:
    """The route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def stream(self, request: Request) -> ASGIApp:
        """Subscribe. Raises `Problem` (400; 404 when it is switched off), `Refusal` (503 when there are too many readers)."""
        if not self._service.config.server.sse_events_enabled:
            message = "The event stream is switched off; set server.sse_events_enabled to true, then POST /admin/config/reload."
            raise Problem(EdgeCode.NOT_FOUND, message)
        last_id = _event_id(last_id_of(request))
        follow = follow_of(request.query_params, default=True)
        return FrameStream(self._service, lambda: _EventFrames(self._service.events.subscribe(last_id)), follow=follow)


def last_id_of(request: Request) -> str | None:
    """Where a reader says it was; the query is for those that cannot send the header."""
    return request.headers.get("last-event-id") or request.query_params.get(LAST_ID_PARAM)


def follow_of(parameters: Mapping[str, str], *, default: bool) -> bool:
    """Whether a reader wants what is to come. Raises `Problem`."""
    follow = parameters.get("follow", str(default).lower())
    if follow not in ("true", "false"):
        raise Problem(ErrorCode.INVALID_VALUE, "`follow` is true or false.", param="follow")
    return follow == "true"


def _event_id(text: str | None) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS_MAX):
        raise Problem(ErrorCode.INVALID_VALUE, "An event's id is a number, as its `id:` line says.", param=LAST_ID_PARAM)
    return int(text)


class _EventFrames:
    """The events of one subscription."""

    def __init__(self, subscription: EventSubscription) -> None:
        self._subscription = subscription

    def read(self) -> bytes:
        return b"".join(map(_frame, self._subscription.read()))

    async def wait(self, seconds: float) -> None:
        await self._subscription.wait(seconds)

    @property
    def ended(self) -> bool:
        return self._subscription.ended

    def close(self) -> None:
        self._subscription.close()


def _frame(item: LoggedEvent | Gap) -> bytes:
    if isinstance(item, Gap):
        # The id is the last one that is lost: who resumes there is not told of this gap again.
        return event_frame("gap", {"type": "gap", "from_id": item.from_id, "to_id": item.to_id}, item.to_id - 1)
    data = {"id": item.id, "type": item.kind, "timestamp": round(item.at_unix_seconds, 6), **item.fields}
    return event_frame(item.kind, data, item.id)
