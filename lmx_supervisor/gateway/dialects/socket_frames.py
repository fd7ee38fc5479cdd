"""The frames of one chat on a WebSocket: neutral events in, JSON texts out. Pure.

Tool calls go out whole, one frame each: a client may take a frame for a call, or put frames of one index together.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from lmx_protocol.messages import Finished, Prefill, Reasoning, Text, ToolCallPart
from lmx_supervisor.gateway.dialects.base import AnswerPart, CollectedAnswer, CollectedCall
from lmx_supervisor.gateway.dialects.openai_shapes import chat_logprobs, usage_of
from lmx_supervisor.gateway.problem import Problem


class ChatFrames:
    """One chat's frames; without `streamed` its text comes in `chat.done` alone."""

    def __init__(self, request_id: str, *, streamed: bool) -> None:
        self._request_id = request_id
        self._streamed = streamed
        self._answer = CollectedAnswer()
        self._calls_sent = 0
        self._prefill: Prefill | None = None

    def part(self, part: AnswerPart) -> Iterator[str]:
        """What a piece of the answer brings."""
        self._answer.add(part)
        match part:
            case ToolCallPart():
                yield from self._whole_calls(len(self._answer.tool_calls) - 1)
            case Text() if self._streamed and (part.text or part.logprobs):
                logprobs = {"logprobs": chat_logprobs(part.logprobs)} if part.logprobs else {}
                yield self._frame("chat.token", content=part.text, **logprobs)
            case Reasoning() if self._streamed and part.text:
                yield self._frame("chat.token", content="", reasoning_content=part.text)

    def note_prefill(self, event: Prefill) -> None:
        """How far the prompt is, for the next `chat.progress`."""
        self._prefill = event

    def progress(self) -> str:
        """A sign of life, and how far the chat is."""
        if self._prefill is None:
            return self._frame("chat.progress", phase="waiting")
        counts = {"prompt_tokens": self._prefill.prompt_tokens, "done_tokens": self._prefill.done_tokens}
        is_reading = self._prefill.done_tokens < self._prefill.prompt_tokens
        return self._frame("chat.progress", phase="prefill" if is_reading else "decode", **counts)

    def finished(self, end: Finished) -> Iterator[str]:
        """The calls that are whole now, then the end."""
        yield from self._whole_calls(len(self._answer.tool_calls))
        whole: dict[str, Any] = {} if self._streamed else {"content": self._answer.text}
        if not self._streamed and self._answer.reasoning:
            whole["reasoning_content"] = self._answer.reasoning
        yield self._frame("chat.done", finish_reason=end.reason.value, usage=usage_of([end], choices_per_prompt=1), **whole)

    def cancelled(self) -> str:
        """The end that somebody asked for."""
        return self._frame("chat.done", finish_reason="cancelled", usage=None)

    @staticmethod
    def failed(request_id: str | None, problem: Problem) -> str:
        """The end of a chat that failed, or the answer to a frame that could not be read."""
        fields = {"request_id": request_id, "error": problem.message, "code": problem.code.value, "param": problem.param}
        return msgspec.json.encode({"type": "chat.error", **fields}).decode()

    def _whole_calls(self, count: int) -> Iterator[str]:
        while self._calls_sent < count:
            call = self._answer.tool_calls[self._calls_sent]
            yield self._frame("chat.tool_call", tool_call=_shown(self._calls_sent, call))
            self._calls_sent += 1

    def _frame(self, kind: str, /, **fields: Any) -> str:
        return msgspec.json.encode({"type": kind, "request_id": self._request_id, **fields}).decode()


def _shown(index: int, call: CollectedCall) -> dict[str, Any]:
    return {"index": index, "id": call.call_id, "name": call.name, "arguments": call.arguments}
