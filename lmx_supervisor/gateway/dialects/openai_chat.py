"""OpenAI chat completions: neutral events to `chat.completion` and `chat.completion.chunk` objects, and the endpoint.

The parts of a chunk that do not change within a stream are encoded once, so that a token costs one small JSON string.
"""

import secrets
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from lmx_protocol.messages import Finished, Text, Usage
from lmx_supervisor.core.service import Service
from lmx_supervisor.gateway.answer_reader import AbandonedAnswers
from lmx_supervisor.gateway.answering import AnswerResponse
from lmx_supervisor.gateway.body import read_json
from lmx_supervisor.gateway.dialects.base import AnswerPart, CollectedAnswer
from lmx_supervisor.gateway.dialects.openai_chat_request import to_generate_request
from lmx_supervisor.gateway.dialects.openai_chat_schema import chat_decoder
from lmx_supervisor.gateway.problem import Problem
from lmx_supervisor.gateway.responses import to_json
from lmx_supervisor.gateway.version import VERSION

SYSTEM_FINGERPRINT = f"lmx-{VERSION}"

_DONE = b"data: [DONE]\n\n"
# Valid inside JSON, but line ends to the readers of some clients, which would cut an event in two.
_LINE_ENDS = tuple((end.encode(), rf"\u{ord(end):04x}".encode()) for end in "\u0085\u2028\u2029")

_PLACE = "text"

_encode_text = msgspec.json.Encoder().encode


class ChatTranslator:
    """One chat answer in OpenAI's form. With `include_usage`, every chunk has a `usage`, null but in the last one."""

    def __init__(self, request_id: str, model: str, *, created_unix_seconds: int, include_usage: bool) -> None:
        self._identity: dict[str, Any] = {"id": request_id, "created": created_unix_seconds, "model": model}
        self._include_usage = include_usage
        # From the right: the model's name comes earlier, and is the client's to choose.
        self._before_text, _, self._after_text = self._chunk({"content": _PLACE}).rpartition(_encode_text(_PLACE))

    def opening(self) -> bytes:
        """The role, with empty content."""
        return self._chunk({"role": "assistant", "content": ""})

    def part(self, choice: int, part: AnswerPart) -> bytes:
        """One content chunk."""
        if not isinstance(part, Text) or not part.text:
            return b""
        return self._before_text + _encode_content(part.text) + self._after_text

    def finished(self, choice: int, finished: Finished) -> bytes:
        """The finish reason."""
        return self._chunk({}, finish_reason=finished.reason.value)

    def keep_alive(self) -> bytes:
        """A chunk that changes nothing."""
        return self._chunk({})

    def closing(self, answers: Sequence[Finished]) -> bytes:
        """The usage if it was asked for, and the end marker."""
        (finished,) = answers
        usage = self._event({"choices": [], "usage": _usage(finished.usage)}) if self._include_usage else b""
        return usage + _DONE

    def failing(self, problem: Problem) -> bytes:
        """The error envelope as an event, which the official SDKs raise as an exception."""
        return b"data: " + problem.body() + b"\n\n"

    def whole(self, answers: Sequence[CollectedAnswer]) -> bytes:
        """The `chat.completion` object."""
        (answer,) = answers
        finished = answer.finished
        assert finished is not None
        message = {"role": "assistant", "content": answer.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finished.reason.value}
        return to_json(
            {
                **self._identity,
                "object": "chat.completion",
                "system_fingerprint": SYSTEM_FINGERPRINT,
                "choices": [choice],
                "usage": _usage(finished.usage),
            }
        )

    def _chunk(self, delta: dict[str, str], *, finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return self._event({"choices": [choice], **usage})

    def _event(self, fields: dict[str, Any]) -> bytes:
        head = {**self._identity, "object": "chat.completion.chunk", "system_fingerprint": SYSTEM_FINGERPRINT}
        return b"data: " + to_json({**head, **fields}) + b"\n\n"


def _encode_content(text: str) -> bytes:
    encoded = _encode_text(text)
    if text.isascii():
        return encoded
    for end, escaped in _LINE_ENDS:
        encoded = encoded.replace(end, escaped)
    return encoded


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


class ChatCompletions:
    """POST /v1/chat/completions."""

    def __init__(self, service: Service, abandoned: AbandonedAnswers) -> None:
        self._service = service
        self._abandoned = abandoned

    async def create(self, request: Request) -> ASGIApp:
        """Validate, then hand over to the answering loop. Raises `Problem`."""
        body = await read_json(request, chat_decoder, self._service.config.server)
        worker = self._service.fleet().worker(body.model)
        facts = worker.facts if worker is not None else None
        generate = to_generate_request(
            body, f"chatcmpl-{secrets.token_hex(12)}", context_length=facts.context_length if facts is not None else None
        )
        translator = ChatTranslator(
            generate.request_id,
            generate.model_id,
            created_unix_seconds=int(time.time()),
            include_usage=bool(body.stream_options and body.stream_options.include_usage),
        )
        return AnswerResponse(self._service, generate, translator, stream=bool(body.stream), abandoned=self._abandoned)
