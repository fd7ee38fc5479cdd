"""WS /v1/chat/stream: several chats at once on one WebSocket, each frame one JSON object.

From the client `chat.request` (the fields of a chat completion, and a `request_id` of its own if it likes) and `chat.cancel`;
to the client `chat.token`, `chat.tool_call`, `chat.progress`, then exactly one of `chat.done` and `chat.error`. A frame that
cannot be read is answered with `chat.error` and costs nothing else. What a request may say is what OpenAI chat's may.
"""

import asyncio
import logging
import re
import secrets
from typing import Any, Literal

import msgspec
from starlette.types import Message, Receive, Scope, Send

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import (
    AnyRequestEvent,
    Cancelled,
    Failed,
    Finished,
    GenerateRequest,
    Prefill,
    Reasoning,
    Scores,
    Text,
    ToolCallPart,
    Vectors,
)
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.answer_reader import AnswerReader, OpenAnswers
from lmx_supervisor.gateway.auth import Doorkeeper
from lmx_supervisor.gateway.body import decode_json
from lmx_supervisor.gateway.callers import caller_of
from lmx_supervisor.gateway.dialects.abilities import refuse_what_the_model_cannot
from lmx_supervisor.gateway.dialects.openai_chat_request import to_generate_requests
from lmx_supervisor.gateway.dialects.openai_chat_schema import chat_decoder
from lmx_supervisor.gateway.dialects.openai_fields import PARAMS
from lmx_supervisor.gateway.dialects.openai_inbound import not_supported
from lmx_supervisor.gateway.dialects.socket_frames import ChatFrames
from lmx_supervisor.gateway.model_choice import ModelChoice
from lmx_supervisor.gateway.origin import origin_of
from lmx_supervisor.gateway.problem import EdgeCode, Problem, internal_error
from lmx_supervisor.gateway.rate_limits import RateLimits

logger = logging.getLogger("lmx.http")

_SANE_ID = re.compile(rf"[\x21-\x7e]{{1,{limits.REQUEST_ID_CHARACTERS_MAX}}}")
_GOING_AWAY = 1001
_TRY_AGAIN_LATER = 1013


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What every frame of a client has."""

    type: Literal["chat.request", "chat.cancel"]
    request_id: str | None = None


_envelope_decoder = msgspec.json.Decoder(Envelope)


class ChatSocket:
    """The endpoint, for all its sockets."""

    def __init__(self, service: Service, open_answers: OpenAnswers, doorkeeper: Doorkeeper, rate_limits: RateLimits) -> None:
        self._service = service
        self._open_answers = open_answers
        self._doorkeeper = doorkeeper
        self._rate_limits = rate_limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one socket until its client, its silence or the stop of the service ends it.

        Raises `Problem` when sockets are switched off, and for a handshake whose headers cannot be understood.
        """
        opening = await receive()
        assert opening["type"] == "websocket.connect"
        if not self._service.config.server.websocket_enabled:
            raise Problem(EdgeCode.NOT_FOUND, "Chats over a WebSocket are switched off; server.websocket_enabled allows them.")
        # Before it is opened: its headers are those of every chat on it.
        origin_of(scope, stream=True)
        conversation = _Conversation(self._service, self._open_answers, self._doorkeeper, self._rate_limits, scope, send)
        await send({"type": "websocket.accept"})
        await conversation.serve(receive)


class _Conversation:
    """One socket: what its client sent is running in tasks, and they share the way back."""

    def __init__(
        self,
        service: Service,
        open_answers: OpenAnswers,
        doorkeeper: Doorkeeper,
        rate_limits: RateLimits,
        scope: Scope,
        send: Send,
    ) -> None:
        self._service = service
        self._models = ModelChoice(service)
        self._open_answers = open_answers
        self._doorkeeper = doorkeeper
        self._rate_limits = rate_limits
        self._scope = scope
        self._stopping: asyncio.Event = scope.get("state", {}).get("stopping") or asyncio.Event()
        self._send = send
        self._sending = asyncio.Lock()
        self._chats: dict[str, asyncio.Task[None]] = {}
        self._readers: dict[str, AnswerReader] = {}
        self._gone = asyncio.Event()

    async def serve(self, receive: Receive) -> None:
        """Take frames until the end, then let no chat outlive the socket."""
        stopping, gone = (asyncio.create_task(event.wait()) for event in (self._stopping, self._gone))
        try:
            await self._take_frames(receive, stopping, gone)
        finally:
            self._gone.set()
            stopping.cancel()
            gone.cancel()
            await asyncio.gather(*self._chats.values(), return_exceptions=True)

    async def _take_frames(self, receive: Receive, stopping: "asyncio.Task[bool]", gone: "asyncio.Task[bool]") -> None:
        receiving = asyncio.create_task(_message(receive))
        try:
            while True:
                idle = not self._chats
                awaited: set[asyncio.Task[Any]] = {receiving, gone, *self._chats.values(), *([stopping] if idle else [])}
                timeout = limits.SOCKET_IDLE_SECONDS if idle else None
                done, _ = await asyncio.wait(awaited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
                if gone in done:
                    return
                if receiving in done:
                    message = receiving.result()
                    if message["type"] == "websocket.disconnect":
                        return
                    receiving = asyncio.create_task(_message(receive))
                    await self._take(message)
                elif not done or stopping in done:
                    await self._close(_TRY_AGAIN_LATER if self._stopping.is_set() else _GOING_AWAY)
                    return
        finally:
            receiving.cancel()

    async def _take(self, message: Message) -> None:
        """Act on one frame. Whatever is wrong with it is told, and the socket goes on."""
        frame = (message.get("text") or "").encode("utf-8", "surrogatepass") or message.get("bytes") or b""
        request_id: str | None = None
        try:
            envelope = decode_json(frame, _envelope_decoder)
            request_id = envelope.request_id
            if envelope.type == "chat.cancel":
                self._cancel(envelope)
            else:
                # Anew for each chat: a socket can outlast its key.
                self._scope["state"]["caller"] = await self._doorkeeper.inference_caller(self._scope)
                self._rate_limits.take(self._scope)
                request_id = await self._begin(envelope, frame)
        except Problem as problem:
            await self._write(ChatFrames.failed(request_id, problem))

    def _cancel(self, envelope: Envelope) -> None:
        """Stop a chat of this socket; one that has ended meanwhile is ignored, as a race nobody lost."""
        if envelope.request_id is None:
            raise Problem(ErrorCode.INVALID_REQUEST, "request_id: this field is required.", param="request_id")
        reader = self._readers.get(envelope.request_id)
        if reader is not None:
            reader.cancel()

    async def _begin(self, envelope: Envelope, frame: bytes) -> str:
        generation_id = f"chatcmpl-{secrets.token_hex(12)}"
        request_id = generation_id if envelope.request_id is None else envelope.request_id
        if not _SANE_ID.fullmatch(request_id):
            most = limits.REQUEST_ID_CHARACTERS_MAX
            raise Problem(ErrorCode.INVALID_VALUE, f"request_id: 1 to {most} visible ASCII characters.", param="request_id")
        if request_id in self._chats:
            message = "request_id: a chat of that id is open on this socket."
            raise Problem(ErrorCode.INVALID_VALUE, message, param="request_id")
        if len(self._chats) >= limits.SOCKET_CHATS_MAX:
            message = f"This socket has {limits.SOCKET_CHATS_MAX} open chats; wait for one of them to end."
            raise Problem(ErrorCode.RATE_LIMIT_EXCEEDED, message)
        generate, streamed = await self._validated(frame, generation_id)
        chat = asyncio.create_task(self._answer(request_id, generate, ChatFrames(request_id, streamed=streamed)))
        self._chats[request_id] = chat
        chat.add_done_callback(lambda _: self._chats.pop(request_id))
        return request_id

    async def _validated(self, frame: bytes, generation_id: str) -> tuple[GenerateRequest, bool]:
        body = decode_json(frame, chat_decoder)
        if body.n is not None and body.n > 1:
            raise not_supported("n", "one answer per chat is supported here; send several chats, they are answered together.")
        caller = caller_of(self._scope)
        chosen = await self._models.choose(body.model, caller)
        caller.refuse_other_models(chosen.model_id)
        (generate,) = to_generate_requests(body, generation_id, chosen)
        if chosen.facts is not None:
            refuse_what_the_model_cannot(generate, chosen.facts, PARAMS)
        return generate, body.stream is not False

    async def _answer(self, request_id: str, generate: GenerateRequest, frames: ChatFrames) -> None:
        """Answer one chat, whatever happens: its last frame says how it ended."""
        reader = AnswerReader(
            [self._service.submit(generate, origin_of(self._scope, stream=True))],
            self._open_answers,
            until_gone=_until(self._gone),
            ids=(request_id,),
            owner=caller_of(self._scope).owner,
        )
        self._readers[request_id] = reader
        try:
            await self._relay(reader, frames)
        except Problem as problem:
            cancelled = problem.code is EdgeCode.REQUEST_CANCELLED
            await self._write(frames.cancelled() if cancelled else ChatFrames.failed(request_id, problem))
        except Exception:
            if not self._gone.is_set():
                logger.exception("a chat broke", extra={"generation_id": generate.request_id})
                await self._write(ChatFrames.failed(request_id, internal_error()))
        finally:
            del self._readers[request_id]
            reader.close()

    async def _relay(self, reader: AnswerReader, frames: ChatFrames) -> None:
        """Write a chat's frames up to its `chat.done`. Raises `Problem`, and `ClientGoneError`."""
        wait_seconds = min(self._service.config.server.stream_keep_alive_seconds, limits.SOCKET_PROGRESS_SECONDS)
        while True:
            came = await reader.next_event(wait_seconds=wait_seconds)
            event: AnyRequestEvent | None = came[1] if came is not None else None
            match event:
                case None:
                    await self._write(frames.progress())
                case Prefill():
                    frames.note_prefill(event)
                case Finished():
                    await self._write(*frames.finished(event))
                    return
                case Failed():
                    param = PARAMS.get(event.param or "", event.param)
                    raise Problem(event.code, event.message, param=param, retry_after_seconds=event.retry_after_seconds)
                case Cancelled():
                    raise Problem(ErrorCode.GENERATION_ERROR, "The server cancelled this request; send it again.")
                case Text() | Reasoning() | ToolCallPart():
                    await self._write(*frames.part(event))
                case Vectors() | Scores():
                    raise internal_error()

    async def _write(self, *frames: str) -> None:
        """Send frames, one writer at a time. A client that takes nothing loses its socket, and all that runs on it."""
        async with self._sending:
            for frame in frames:
                try:
                    async with asyncio.timeout(self._service.config.server.slow_client_seconds):
                        await self._send({"type": "websocket.send", "text": frame})
                except TimeoutError:
                    logger.warning("slow_client")
                    self._gone.set()

    async def _close(self, code: int) -> None:
        async with self._sending:
            await self._send({"type": "websocket.close", "code": code})


async def _message(receive: Receive) -> Message:
    return await receive()


async def _until(event: asyncio.Event) -> None:
    await event.wait()
