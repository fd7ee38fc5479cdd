"""Anthropic's messages: neutral events to content blocks and to the events of a stream.

A block goes on as long as parts of its kind come; another kind, or the next tool call, begins the next block. The stream and
the whole message are made by that one rule, so that they say the same.
"""

import base64
import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any

from lmx_protocol.messages import Finished, Prefill, Reasoning, Text, Usage
from lmx_protocol.states import FinishReason
from lmx_supervisor.gateway.dialects.anthropic_errors import error_envelope
from lmx_supervisor.gateway.dialects.base import AnswerPart, CollectedAnswer
from lmx_supervisor.gateway.dialects.openai_shapes import event
from lmx_supervisor.gateway.problem import Problem
from lmx_supervisor.gateway.responses import to_json

_STOP_REASONS = {
    FinishReason.STOP: "end_turn",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.TOOL_CALLS: "tool_use",
}
_PING = b'event: ping\ndata: {"type":"ping"}\n\n'

_TEXT, _THINKING = "text", "thinking"
BlockKey = str | int
"""Which block a part belongs to: the answer's text, its thinking, or the tool call of that number."""


class MessageTranslator:
    """One message. With `hides_thinking`, thinking blocks are empty but for their signature."""

    def __init__(self, message_id: str, model: str, *, http_request_id: str, hides_thinking: bool = False) -> None:
        self._identity: dict[str, Any] = {"id": message_id, "type": "message", "role": "assistant", "model": model}
        self._http_request_id = http_request_id
        self._hides_thinking = hides_thinking
        self._prompt = Usage()
        self._open: BlockKey | None = None
        self._index = -1
        self._thought = hashlib.sha256()

    def prompt_progress(self, prefill: Prefill) -> None:
        """How long the prompt is, when that is known before the stream opens."""
        self._prompt = Usage(prompt_tokens=prefill.prompt_tokens, cached_tokens=prefill.cached_tokens)

    def opening(self) -> bytes:
        """`message_start`: a message without content."""
        return _event("message_start", {"message": self._message([], None, None, self._prompt)})

    def part(self, choice: int, part: AnswerPart) -> bytes:
        """The next piece of a block, and the border between two."""
        key = _key(part)
        if key is None:
            return b""
        border = b""
        if key != self._open:
            border = self._close_block()
            self._open = key
            self._index += 1
            border += _event("content_block_start", {"index": self._index, "content_block": _empty_block(part)})
        return border + self._delta(part)

    def finished(self, choice: int, finished: Finished) -> bytes:
        """The end of the last block, why the message ended, and what it cost in all."""
        reason, sequence = _stop(finished)
        delta = {"stop_reason": reason, "stop_sequence": sequence}
        return self._close_block() + _event("message_delta", {"delta": delta, "usage": _usage(finished.usage)})

    def closing(self, answers: Sequence[Finished]) -> bytes:
        """`message_stop`, without which the message is not complete."""
        return _event("message_stop", {})

    def keep_alive(self) -> bytes:
        """An event of the vendor's that says nothing."""
        return _PING

    def failing(self, problem: Problem) -> bytes:
        """The error envelope as an event, which the SDK raises as an exception."""
        return _named("error", error_envelope(problem, self._http_request_id))

    def whole(self, answers: Sequence[CollectedAnswer]) -> bytes:
        """The message."""
        (answer,) = answers
        assert answer.finished is not None
        reason, sequence = _stop(answer.finished)
        return to_json(self._message(self._blocks(answer.parts), reason, sequence, answer.finished.usage))

    def _message(
        self, content: list[dict[str, Any]], stop_reason: str | None, stop_sequence: str | None, usage: Usage
    ) -> dict[str, Any]:
        end = {"stop_reason": stop_reason, "stop_sequence": stop_sequence}
        return {**self._identity, "content": content, **end, "usage": {**_usage(usage), "service_tier": "standard"}}

    def _delta(self, part: AnswerPart) -> bytes:
        match part:
            case Text():
                delta = {"type": "text_delta", "text": part.text}
            case Reasoning():
                self._thought.update(part.text.encode())
                if self._hides_thinking:
                    return b""
                delta = {"type": "thinking_delta", "thinking": part.text}
            case _:
                if not part.arguments:
                    return b""
                delta = {"type": "input_json_delta", "partial_json": part.arguments}
        return _event("content_block_delta", {"index": self._index, "delta": delta})

    def _close_block(self) -> bytes:
        if self._open is None:
            return b""
        signature = b""
        if self._open == _THINKING:
            delta = {"type": "signature_delta", "signature": _signature(self._thought.digest())}
            signature = _event("content_block_delta", {"index": self._index, "delta": delta})
            self._thought = hashlib.sha256()
        self._open = None
        return signature + _event("content_block_stop", {"index": self._index})

    def _blocks(self, parts: Iterable[AnswerPart]) -> list[dict[str, Any]]:
        blocks: list[dict[str, Any]] = []
        pieces: list[list[str]] = []
        last: BlockKey | None = None
        for part in parts:
            key = _key(part)
            if key is None:
                continue
            if key != last:
                last = key
                blocks.append(_empty_block(part))
                pieces.append([])
            pieces[-1].append(part.text if isinstance(part, Text | Reasoning) else part.arguments)
        for block, said in zip(blocks, pieces, strict=True):
            self._fill(block, "".join(said))
        return blocks

    def _fill(self, block: dict[str, Any], said: str) -> None:
        match block["type"]:
            case "text":
                block["text"] = said
            case "thinking":
                block["thinking"] = "" if self._hides_thinking else said
                block["signature"] = _signature(hashlib.sha256(said.encode()).digest())
            case _:
                block["input"] = _input(said)


def _key(part: AnswerPart) -> BlockKey | None:
    match part:
        case Text():
            return _TEXT if part.text else None
        case Reasoning():
            return _THINKING if part.text else None
        case _:
            return part.index


def _empty_block(part: AnswerPart) -> dict[str, Any]:
    match part:
        case Text():
            return {"type": "text", "text": ""}
        case Reasoning():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case _:
            return {"type": "tool_use", "id": part.call_id, "name": part.name, "input": {}}


def _input(arguments: str) -> dict[str, Any]:
    """A call's arguments; none for a call that was cut off in the middle, as the stop reason `max_tokens` then tells."""
    try:
        parsed = json.loads(arguments)
    except ValueError:
        return {}
    return parsed if isinstance(parsed, dict) else {}


def _signature(digest: bytes) -> str:
    """What the vendor proves a thought's origin with, and clients insist on; ours is a check sum that nobody looks at again."""
    return f"lmx1-{base64.b64encode(digest).decode('ascii')}"


def _stop(finished: Finished) -> tuple[str, str | None]:
    if finished.reason is FinishReason.STOP and finished.stop_sequence is not None:
        return "stop_sequence", finished.stop_sequence
    return _STOP_REASONS[finished.reason], None


def _usage(usage: Usage) -> dict[str, Any]:
    """The vendor's parts of the prompt add up: what the cache saved is not counted under `input_tokens` again."""
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
    }


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return _named(name, {"type": name, **fields})


def _named(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode("ascii") + b"\n" + event(data)
