"""From submitted requests to one HTTP response, streamed or whole, in any dialect.

A client's request is one or several generations ("choices"). The status is held back until the first text of any of them or
`STATUS_HOLD_SECONDS`: a failure before that is a proper HTTP status, one after it an error event in the stream, which then ends
without the dialect's end marker. The failure of one choice is the failure of the whole. The next event of a choice is asked for
only when its previous one was written: that is the flow control from the client's socket back to the worker.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence

from starlette.types import Message, Receive, Scope, Send

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import AnyRequestEvent, Cancelled, Failed, Finished, GenerateRequest, ModelFacts, Prefill
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.answer_reader import AnswerReader, OpenAnswers
from lmx_supervisor.gateway.callers import caller_of
from lmx_supervisor.gateway.dialects.abilities import refuse_what_the_model_cannot
from lmx_supervisor.gateway.dialects.base import AnswerPart, CollectedAnswer, Translator
from lmx_supervisor.gateway.disconnect import ClientGoneError, watched
from lmx_supervisor.gateway.edge import note, request_id_of
from lmx_supervisor.gateway.origin import origin_of
from lmx_supervisor.gateway.problem import Problem, internal_error
from lmx_supervisor.gateway.responses import EVENT_STREAM_HEADERS

logger = logging.getLogger("lmx.http")

ChoiceEvent = tuple[int, AnyRequestEvent]


class SlowClientError(Exception):
    """The client took nothing for so long that its place is given to others."""


class AnswerResponse:
    """An ASGI application that submits the generations of one request and answers with what comes of them.

    `requests` are of one model; `params` says how the dialect calls fields of a `GenerateRequest` that it calls otherwise.
    """

    def __init__(
        self,
        service: Service,
        requests: Sequence[GenerateRequest],
        translator: Translator,
        *,
        facts: ModelFacts | None,
        stream: bool,
        open_answers: OpenAnswers,
        params: Mapping[str, str] | None = None,
        on_prompt: Callable[[Prefill], None] = lambda _: None,
    ) -> None:
        """`facts` of the model, where they are known.

        `on_prompt` is told how long the prompt is, if that becomes known before the stream opens.
        """
        self._service = service
        self._requests = requests
        self._translator = translator
        self._facts = facts
        self._stream = stream
        self._open_answers = open_answers
        self._params = params or {}
        self._on_prompt = on_prompt
        self._server = service.config.server

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer. Raises `Problem` and `ClientGoneError` while nothing was sent yet."""
        first = self._requests[0]
        note(scope, model=first.model_id, generation_id=first.request_id, choices=len(self._requests), stream=self._stream)
        caller = caller_of(scope)
        caller.refuse_other_models(first.model_id)
        if self._facts is not None:
            refuse_what_the_model_cannot(first, self._facts, self._params)
        origin = origin_of(scope, stream=self._stream)
        until_gone = await watched(receive)
        answers = [self._service.submit(request, origin) for request in self._requests]
        reader = AnswerReader(
            answers,
            self._open_answers,
            until_gone=until_gone,
            ids=(request_id_of(scope),),
            owner=caller.owner,
        )
        try:
            if self._stream:
                await self._send_stream(reader, send)
            else:
                await self._send_whole(reader, send)
        except SlowClientError:
            note(scope, outcome="slow_client")
            logger.warning("slow_client", extra={"generation_id": first.request_id})
        finally:
            reader.close()

    async def _send_whole(self, reader: AnswerReader, send: Send) -> None:
        answers = [CollectedAnswer() for _ in self._requests]
        while any(answer.finished is None for answer in answers):
            came = await reader.next_event(wait_seconds=None)
            assert came is not None, "it was to wait for as long as it takes"
            choice, event = came
            if isinstance(event, AnswerPart):
                answers[choice].add(event)
            elif isinstance(event, Finished):
                answers[choice].finished = event
            elif isinstance(event, Failed | Cancelled):
                raise problem_of(event, self._params)
        body = self._translator.whole(answers)
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._write(send({"type": "http.response.body", "body": body, "more_body": False}))

    async def _send_stream(self, reader: AnswerReader, send: Send) -> None:
        first = await self._hold_status(reader)
        await send({"type": "http.response.start", "status": 200, "headers": EVENT_STREAM_HEADERS})
        try:
            await self._relay(first, reader, send)
        except (ClientGoneError, SlowClientError):
            raise
        except Problem as problem:
            await self._write(send(_part(self._translator.failing(problem))))
        except Exception:
            logger.exception("a stream broke", extra={"generation_id": self._requests[0].request_id})
            await self._write(send(_part(self._translator.failing(internal_error()))))
        await self._write(send({"type": "http.response.body", "body": b"", "more_body": False}))

    async def _relay(self, came: ChoiceEvent | None, reader: AnswerReader, send: Send) -> None:
        """Write the stream from its opening to its end marker. Raises `Problem` where it is cut off."""
        now = asyncio.get_running_loop().time
        finished: dict[int, Finished] = {}
        opening, quiet_since_seconds = self._translator.opening(), now()
        while True:
            part = opening + self._render(came, finished)
            opening = b""
            if part:
                await self._write(send(_part(part)))
                quiet_since_seconds = now()
            if len(finished) == len(self._requests):
                return
            quiet_seconds = now() - quiet_since_seconds
            if quiet_seconds >= self._server.stream_keep_alive_seconds:
                await self._write(send(_part(self._translator.keep_alive())))
                quiet_since_seconds, quiet_seconds = now(), 0.0
            came = await reader.next_event(wait_seconds=self._server.stream_keep_alive_seconds - quiet_seconds)

    def _render(self, came: ChoiceEvent | None, finished: dict[int, Finished]) -> bytes:
        if came is None:
            return b""
        choice, event = came
        if isinstance(event, AnswerPart):
            return self._translator.part(choice, event)
        if isinstance(event, Finished):
            finished[choice] = event
            is_last = len(finished) == len(self._requests)
            ended = self._translator.finished(choice, event)
            return ended + (self._translator.closing([finished[each] for each in sorted(finished)]) if is_last else b"")
        if isinstance(event, Failed | Cancelled):
            raise problem_of(event, self._params)
        return b""

    async def _hold_status(self, reader: AnswerReader) -> ChoiceEvent | None:
        """The event a stream begins with, or None when it must begin without one. Raises `Problem` and `ClientGoneError`.

        Prompt progress does not end the wait: until the first text, a lost worker is still worth a clean 503.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + limits.STATUS_HOLD_SECONDS
        while (remaining_seconds := deadline - now()) > 0:
            came = await reader.next_event(wait_seconds=remaining_seconds)
            if came is None:
                return None
            if isinstance(came[1], Failed | Cancelled):
                raise problem_of(came[1], self._params)
            if not isinstance(came[1], Prefill):
                return came
            self._on_prompt(came[1])
        return None

    async def _write(self, sending: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._server.slow_client_seconds):
                await sending
        except TimeoutError:
            raise SlowClientError from None


def problem_of(event: Failed | Cancelled, params: Mapping[str, str]) -> Problem:
    """An end that is no answer, as a problem; `params` as in `AnswerResponse`."""
    if isinstance(event, Cancelled):
        return Problem(ErrorCode.GENERATION_ERROR, "The server cancelled this request; send it again.")
    param = params.get(event.param, event.param) if event.param is not None else None
    return Problem(event.code, event.message, param=param, retry_after_seconds=event.retry_after_seconds)


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}
