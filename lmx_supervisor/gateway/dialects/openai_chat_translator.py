"""OpenAI chat completions: neutral events to `chat.completion` and `chat.completion.chunk` objects. Pure.

The parts of a chunk that do not change within a stream are encoded once, so that a token costs one small JSON string.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from lmx_protocol.messages import Finished, Reasoning, Text, ToolCallPart
from lmx_supervisor.gateway.dialects.base import AnswerPart, CollectedAnswer, CollectedCall
from lmx_supervisor.gateway.dialects.openai_shapes import (
    DONE,
    SYSTEM_FINGERPRINT,
    chat_logprobs,
    error_event,
    event,
    on_one_line,
    usage_of,
)
from lmx_supervisor.gateway.problem import Problem
from lmx_supervisor.gateway.responses import to_json

_PLACE = "text"

_encode_text = msgspec.json.Encoder().encode


class ChatTranslator:
    """The choices of one chat request in OpenAI's form.

    With `include_usage`, every chunk has a `usage`, null but in the last one; with `logprobs`, chunks of text have theirs.
    """

    def __init__(
        self,
        request_id: str,
        model: str,
        *,
        created_unix_seconds: int,
        include_usage: bool,
        choices: int = 1,
        logprobs: bool = False,
    ) -> None:
        self._identity: dict[str, Any] = {"id": request_id, "created": created_unix_seconds, "model": model}
        self._include_usage = include_usage
        self._choices = choices
        self._open_choices = set(range(choices))
        self._logprobs = logprobs
        # From the right: the model's name comes earlier, and is the client's to choose.
        around_text = [self._chunk(choice, {"content": _PLACE}).rpartition(_encode_text(_PLACE)) for choice in range(choices)]
        self._around_text = [(before, after) for before, _, after in around_text]

    def opening(self) -> bytes:
        """The role of each choice, with empty content."""
        return b"".join(self._chunk(choice, {"role": "assistant", "content": ""}) for choice in range(self._choices))

    def part(self, choice: int, part: AnswerPart) -> bytes:
        """One chunk."""
        match part:
            case Text():
                return self._text(choice, part)
            case Reasoning():
                return self._chunk(choice, {"reasoning_content": part.text}) if part.text else b""
            case ToolCallPart():
                return self._chunk(choice, {"tool_calls": [_call_delta(part)]})

    def _text(self, choice: int, part: Text) -> bytes:
        if self._logprobs and part.logprobs:
            return self._chunk(choice, {"content": part.text}, logprobs=chat_logprobs(part.logprobs))
        if not part.text:
            return b""
        before, after = self._around_text[choice]
        return before + on_one_line(_encode_text(part.text)) + after

    def finished(self, choice: int, finished: Finished) -> bytes:
        """The finish reason."""
        self._open_choices.discard(choice)
        return self._chunk(choice, {}, finish_reason=finished.reason.value)

    def keep_alive(self) -> bytes:
        """A chunk that changes nothing, of a choice that may still say something."""
        return self._chunk(min(self._open_choices), {})

    def closing(self, answers: Sequence[Finished]) -> bytes:
        """The usage if it was asked for, and the end marker."""
        if not self._include_usage:
            return DONE
        return self._event({"choices": [], "usage": usage_of(answers, choices_per_prompt=self._choices)}) + DONE

    def failing(self, problem: Problem) -> bytes:
        """The error envelope as an event."""
        return error_event(problem)

    def whole(self, answers: Sequence[CollectedAnswer]) -> bytes:
        """The `chat.completion` object."""
        ends = [answer.finished for answer in answers if answer.finished is not None]
        return to_json(
            {
                **self._identity,
                "object": "chat.completion",
                "system_fingerprint": SYSTEM_FINGERPRINT,
                "choices": [self._choice(choice, answer) for choice, answer in enumerate(answers)],
                "usage": usage_of(ends, choices_per_prompt=self._choices),
            }
        )

    def _choice(self, choice: int, answer: CollectedAnswer) -> dict[str, Any]:
        assert answer.finished is not None
        message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
        if answer.reasoning:
            message["reasoning_content"] = answer.reasoning
        if answer.tool_calls:
            message["content"] = answer.text or None
            message["tool_calls"] = [_whole_call(call) for call in answer.tool_calls]
        logprobs = chat_logprobs(answer.logprobs) if self._logprobs else None
        return {"index": choice, "message": message, "logprobs": logprobs, "finish_reason": answer.finished.reason.value}

    def _chunk(
        self,
        choice: int,
        delta: dict[str, Any],
        *,
        finish_reason: str | None = None,
        logprobs: dict[str, Any] | None = None,
    ) -> bytes:
        shown = {"index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return self._event({"choices": [shown], **usage})

    def _event(self, fields: dict[str, Any]) -> bytes:
        head = {**self._identity, "object": "chat.completion.chunk", "system_fingerprint": SYSTEM_FINGERPRINT}
        return event({**head, **fields})


def _call_delta(part: ToolCallPart) -> dict[str, Any]:
    if not part.call_id:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    function = {"name": part.name, "arguments": part.arguments}
    return {"index": part.index, "id": part.call_id, "type": "function", "function": function}


def _whole_call(call: CollectedCall) -> dict[str, Any]:
    return {"id": call.call_id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
