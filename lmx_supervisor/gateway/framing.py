"""Where one HTTP message ends: requests whose framing is ambiguous are refused, bodies nobody read are read away.

Covers every route, whatever the endpoint does with its body. See `body` for reading one.
"""

import asyncio
import math
from collections.abc import Awaitable, Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.gateway.problem import CLOSE, EdgeCode, Problem


class RefuseBadHeaders:
    """Middleware: refuses headers that are too many, or that leave open where the body ends.

    Both `Content-Length` and `Transfer-Encoding` is how requests are smuggled past proxies. The server's parser bounds only
    headers that arrive in pieces; a block that comes in one read passes it at four times the limit.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on. Raises `Problem`."""
        if scope["type"] == "http":
            _check_headers(scope["headers"])
        await self._app(scope, receive, send)


def _check_headers(headers: Sequence[tuple[bytes, bytes]]) -> None:
    if sum(len(name) + len(value) for name, value in headers) > limits.HEADER_BYTES_MAX:
        raise Problem(EdgeCode.HEADERS_TOO_LARGE, f"The headers are over {limits.HEADER_BYTES_MAX} bytes.", headers=CLOSE)
    names = {name for name, _ in headers}
    if b"content-length" in names and b"transfer-encoding" in names:
        message = "Send either Content-Length or Transfer-Encoding, not both."
        raise Problem(ErrorCode.INVALID_REQUEST, message, headers=CLOSE)


class DiscardUnreadBody:
    """Middleware: an answer given before the request's body was read does not wedge or reset the connection.

    The answer goes out at once; what the client still sends is then thrown away, for a short while and up to a size. Without
    that, closing a socket with unread bytes makes the kernel send a reset that can destroy the answer before the client reads
    it; and Hypercorn (its queue to the application is bounded) would wait for ever for somebody to take the body.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, and clean up behind an early answer."""
        if scope["type"] != "http" or not _has_body(scope):
            await self._app(scope, receive, send)
            return
        upload = _Upload(receive)

        async def send_then_discard(message: Message) -> None:
            is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
            if not is_last or upload.ended:
                await send(message)
                return
            await send({**message, "more_body": True})
            await upload.discard(limits.UNREAD_BODY_SECONDS)
            await upload.discard_while(send({"type": "http.response.body", "body": b"", "more_body": False}))

        await self._app(scope, upload.receive, send_then_discard)


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0") != b"")
        for name, value in scope["headers"]
    )


class _Upload:
    """One request's body as it arrives."""

    def __init__(self, receive: Receive) -> None:
        self.ended = False
        self._receive = receive
        self._bytes_read = 0

    async def receive(self) -> Message:
        message = await self._receive()
        self._bytes_read += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body", False):
            self.ended = True
        return message

    async def discard(self, seconds: float) -> None:
        """Read the rest away, for at most `seconds`, and not beyond the bound for the whole body."""
        try:
            async with asyncio.timeout(seconds):
                await self._discard_rest(limits.UNREAD_BODY_BYTES_MAX)
        except TimeoutError:
            return

    async def discard_while(self, sending: Awaitable[None]) -> None:
        """Finish a send while keeping the server's queue from filling up."""
        discarding = asyncio.ensure_future(self._discard_rest(math.inf))
        try:
            await sending
        finally:
            discarding.cancel()

    async def _discard_rest(self, bytes_max: float) -> None:
        while not self.ended and self._bytes_read <= bytes_max:
            await self.receive()
