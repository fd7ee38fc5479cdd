"""The outermost layer of every request: its id, its log line, and the last catch for failures.

Pure ASGI, so that streams pass through untouched. Problems raised anywhere below become responses here and nowhere else.
"""

import logging
import re
import secrets
import time
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmx_protocol import limits
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.client_address import client_address
from lmx_supervisor.gateway.dialects.anthropic_errors import error_response, speaks_anthropic
from lmx_supervisor.gateway.disconnect import ClientGoneError
from lmx_supervisor.gateway.problem import Problem, internal_error

logger = logging.getLogger("lmx.http")

CLIENT_GONE_STATUS = 499
"""Logged, never sent: the client left before it got an answer."""

_SANE_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,%d}" % limits.REQUEST_ID_CHARACTERS_MAX)
_DENIAL_RESPONSE = "websocket.http.response"
_SILENT_PATHS = frozenset({"/healthz"})


def note(scope: Scope, **fields: Any) -> None:
    """Add fields to the log line of this request. Never prompts, never keys."""
    scope["state"]["log_fields"].update(fields)


def new_request_id() -> str:
    """An id for a request whose client named none."""
    return f"req-{secrets.token_hex(12)}"


def request_id_of(scope: Scope) -> str:
    """What this request's response will have as its `X-Request-ID`."""
    request_id: str = scope["state"]["request_id"]
    return request_id


class Edge:
    """Middleware: `X-Request-ID` on every response, one log line per request, failures to responses, bugs to 500."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app = app
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request, whatever happens below."""
        if scope["type"] == "websocket":
            await self._refuse_or_pass_on(scope, receive, send)
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        self._begin(scope)
        exchange = _Exchange(scope, send)
        try:
            try:
                await self._app(scope, receive, exchange.send)
            except (Problem, Refusal) as failure:
                if exchange.status is not None:
                    raise
                await exchange.response(_as_problem(failure))(scope, receive, exchange.send)
        except (ClientDisconnect, ClientGoneError):
            note(scope, outcome="client_gone")
        except Exception:
            logger.exception("request failed with a bug", extra={"request_id": exchange.request_id})
            if exchange.status is None:
                await exchange.response(internal_error())(scope, receive, exchange.send)
        finally:
            exchange.log()

    async def _refuse_or_pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A problem with a WebSocket's handshake is its answer; under a server that can send none it is a 403."""
        self._begin(scope)
        try:
            await self._app(scope, receive, send)
        except Problem as problem:
            fields = {"request_id": request_id_of(scope), "code": problem.code.value, **scope["state"]["log_fields"]}
            logger.info("websocket refused", extra=fields)
            if _DENIAL_RESPONSE not in scope.get("extensions", {}):
                await send({"type": "websocket.close"})
                return
            response = problem.response()
            response.headers["X-Request-ID"] = request_id_of(scope)
            await response(scope, receive, send)

    def _begin(self, scope: Scope) -> None:
        """Give a request its id, its client's address, and room for what its log line will say."""
        address = client_address(scope, self._service.config.security)
        state = scope.setdefault("state", {})
        state["request_id"] = _client_request_id(scope) or new_request_id()
        state["client_address"] = address
        state["log_fields"] = {"client_address": address}


def _as_problem(failure: Problem | Refusal) -> Problem:
    return Problem.of(failure) if isinstance(failure, Refusal) else failure


class _Exchange:
    """What is observed of one request and its response."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.request_id = request_id_of(scope)
        self.status: int | None = None
        self._scope = scope
        self._send = send
        self._bytes_sent = 0
        self._started_seconds = time.monotonic()
        self._speaks_anthropic = speaks_anthropic(scope["path"])

    def response(self, problem: Problem) -> Response:
        """A failure in the envelope of the dialect that is spoken at this path: nowhere else is that chosen."""
        return error_response(problem, self.request_id) if self._speaks_anthropic else problem.response()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            request_id = self.request_id.encode("ascii")
            headers = [*message.get("headers", ()), (b"x-request-id", request_id)]
            if self._speaks_anthropic:
                headers.append((b"request-id", request_id))
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body":
            self._bytes_sent += len(message.get("body", b""))
        await self._send(message)

    def log(self) -> None:
        path = self._scope["path"]
        if path in _SILENT_PATHS:
            return
        fields = {
            "request_id": self.request_id,
            "method": self._scope["method"],
            "path": path[: limits.LOGGED_PATH_CHARACTERS_MAX],
            "status": self.status or CLIENT_GONE_STATUS,
            "seconds": round(time.monotonic() - self._started_seconds, 4),
            "bytes_sent": self._bytes_sent,
            **self._scope["state"]["log_fields"],
        }
        logger.info("%s %s %s", fields["method"], fields["path"], fields["status"], extra=fields)


def _client_request_id(scope: Scope) -> str | None:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value.decode("ascii") if _SANE_REQUEST_ID.fullmatch(value) else None
    return None
