"""From a submitted request to an HTTP response, streamed or whole, in any dialect.

The status is held back until the first text or `STATUS_HOLD_SECONDS`: a failure before that is a proper HTTP status, one after
it an error event in the stream, which then ends without the dialect's end marker. The next event is asked for only when the
previous one was written: that is the flow control from the client's socket back to the worker.
"""

import asyncio
import logging
from collections.abc import Awaitable

from starlette.types import Message, Receive, Scope, Send

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import AnyRequestEvent, Cancelled, Failed, Finished, GenerateRequest, Prefill
from lmx_supervisor.core.service import Origin, Service
from lmx_supervisor.gateway.answer_reader import AbandonedAnswers, AnswerReader
from lmx_supervisor.gateway.dialects.base import AnswerPart, CollectedAnswer, Translator
from lmx_supervisor.gateway.disconnect import ClientGoneError
from lmx_supervisor.gateway.edge import note
from lmx_supervisor.gateway.problem import Problem, internal_error
from lmx_supervisor.gateway.responses import EVENT_STREAM_HEADERS

logger = logging.getLogger("lmx.http")

_CLIENT_ID_HEADERS = (b"x-client-id", b"x-openclaw-agent-id")
"""What a client calls itself; the first one that is there counts."""


class SlowClientError(Exception):
    """The client took nothing for so long that its place is given to others."""


class AnswerResponse:
    """An ASGI application that submits one request and answers with what comes of it."""

    def __init__(
        self, service: Service, generate: GenerateRequest, translator: Translator, *, stream: bool, abandoned: AbandonedAnswers
    ) -> None:
        self._service = service
        self._generate = generate
        self._translator = translator
        self._stream = stream
        self._abandoned = abandoned
        self._server = service.config.server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises `Problem` and `ClientGoneError` while nothing was sent yet."""
        note(scope, model=self._generate.model_id, generation_id=self._generate.request_id, stream=self._stream)
        reader = AnswerReader(self._service.submit(self._generate, self._origin(scope)), receive, self._abandoned)
        try:
            if self._stream:
                await self._send_stream(reader, send)
            else:
                await self._send_whole(reader, send)
        except SlowClientError:
            note(scope, outcome="slow_client")
            logger.warning("slow_client", extra={"generation_id": self._generate.request_id})
        finally:
            reader.close()

    def _origin(self, scope: Scope) -> Origin:
        headers = dict(scope["headers"])
        names = (headers[name].decode("latin-1") for name in _CLIENT_ID_HEADERS if name in headers)
        return Origin(client_id=next(names, None), stream=self._stream)

    async def _send_whole(self, reader: AnswerReader, send: Send) -> None:
        answer = CollectedAnswer()
        while answer.finished is None:
            event = await reader.next_event(wait_seconds=None)
            if isinstance(event, AnswerPart):
                answer.add(event)
            elif isinstance(event, Finished):
                answer.finished = event
            elif isinstance(event, Failed | Cancelled):
                raise _problem(event)
        body = self._translator.whole([answer])
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._write(send({"type": "http.response.body", "body": body, "more_body": False}))

    async def _send_stream(self, reader: AnswerReader, send: Send) -> None:
        first = await _hold_status(reader)
        await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM_HEADERS})
        try:
            await self._relay(first, reader, send)
        except (ClientGoneError, SlowClientError):
            raise
        except Problem as problem:
            await self._write(send(_part(self._translator.failing(problem))))
        except Exception:
            logger.exception("a stream broke", extra={"generation_id": self._generate.request_id})
            await self._write(send(_part(self._translator.failing(internal_error()))))
        await self._write(send({"type": "http.response.body", "body": b"", "more_body": False}))

    async def _relay(self, event: AnyRequestEvent | None, reader: AnswerReader, send: Send) -> None:
        """Write the stream from its opening to its end marker. Raises `Problem` where it is cut off."""
        now = asyncio.get_running_loop().time
        opening = self._translator.opening()
        while True:
            part = opening + self._render(event)
            opening = b""
            if part:
                await self._write(send(_part(part)))
                quiet_since_seconds = now()
            if isinstance(event, Finished):
                return
            quiet_seconds = now() - quiet_since_seconds
            if quiet_seconds >= self._server.stream_keep_alive_seconds:
                await self._write(send(_part(self._translator.keep_alive())))
                quiet_since_seconds, quiet_seconds = now(), 0.0
            event = await reader.next_event(wait_seconds=self._server.stream_keep_alive_seconds - quiet_seconds)

    def _render(self, event: AnyRequestEvent | None) -> bytes:
        if isinstance(event, AnswerPart):
            return self._translator.part(0, event)
        if isinstance(event, Finished):
            return self._translator.finished(0, event) + self._translator.closing([event])
        if isinstance(event, Failed | Cancelled):
            raise _problem(event)
        return b""

    async def _write(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._server.slow_client_seconds):
                await sending
        except TimeoutError:
            raise SlowClientError from None


async def _hold_status(reader: AnswerReader) -> AnyRequestEvent | None:
    """The event a stream begins with, or None when it must begin without one. Raises `Problem` and `ClientGoneError`.

    Prompt progress does not end the wait: until the first text, a lost worker is still worth a clean 503.
    """
    now = asyncio.get_running_loop().time
    deadline = now() + limits.STATUS_HOLD_SECONDS
    while (remaining_seconds := deadline - now()) > 0:
        event = await reader.next_event(wait_seconds=remaining_seconds)
        if isinstance(event, Failed | Cancelled):
            raise _problem(event)
        if not isinstance(event, Prefill):
            return event
    return None


def _problem(event: Failed | Cancelled) -> Problem:
    if isinstance(event, Failed):
        return Problem.of(event)
    return Problem(ErrorCode.GENERATION_ERROR, "The server cancelled this request; send it again.")


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}
