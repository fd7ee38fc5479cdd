"""OpenAI Responses: neutral events to the typed, numbered events of a response, and to the whole `response` object. Pure.

A response is a list of items: what the model thought, what it said, the calls it made. A stream opens an item, fills it and
closes it before the next one begins; the object that the last event carries has them all.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from lmx_protocol.messages import Finished, Reasoning, Text, ToolCallPart
from lmx_protocol.states import FinishReason
from lmx_supervisor.gateway.dialects.base import AnswerPart, CollectedAnswer
from lmx_supervisor.gateway.dialects.openai_shapes import chat_logprobs, event
from lmx_supervisor.gateway.problem import Problem
from lmx_supervisor.gateway.responses import to_json

IN_PROGRESS, COMPLETED, INCOMPLETE, FAILED, CANCELLED = "in_progress", "completed", "incomplete", "failed", "cancelled"


class ResponsesTranslator:
    """One response. `echoed` is what its object repeats of the request."""

    def __init__(self, response_id: str, echoed: dict[str, Any], *, created_unix_seconds: int, logprobs: bool = False) -> None:
        self._id = response_id
        self._suffix = response_id.partition("_")[2]
        self._echoed = echoed
        self._created = created_unix_seconds
        self._logprobs = logprobs
        self._sequence_number = 0
        self._items: list[dict[str, Any]] = []
        self._is_open = False
        """Whether the last item is still being filled."""
        self._error: dict[str, str] | None = None
        self.status = IN_PROGRESS
        self.answer = CollectedAnswer()
        """What came so far."""

    # --- the stream -----------------------------------------------------------------------------------------------------------

    def opening(self) -> bytes:
        """The response exists, and is being made."""
        return self._event("response.created", response=self.response()) + self.keep_alive()

    def keep_alive(self) -> bytes:
        """It is still being made."""
        return self._event("response.in_progress", response=self.response())

    def part(self, choice: int, part: AnswerPart) -> bytes:
        """A piece of an item, after the beginning of that item where it is the first one."""
        self.answer.add(part)
        match part:
            case Text():
                return self._text(part)
            case Reasoning():
                return self._reasoning(part.text) if part.text else b""
            case ToolCallPart():
                return self._call(part)

    def finished(self, choice: int, finished: Finished) -> bytes:
        """The last item is whole."""
        self._finish(finished)
        return self._close(COMPLETED if self.status == COMPLETED else INCOMPLETE)

    def closing(self, answers: Sequence[Finished]) -> bytes:
        """The response is whole, or was cut at its bound."""
        return self._event(f"response.{self.status}", response=self.response())

    def failing(self, problem: Problem) -> bytes:
        """The response failed; then the error by itself, which the official SDKs raise as an exception."""
        self.fail(problem)
        error = {"code": problem.code.value, "message": problem.message, "param": problem.param}
        return self._event("response.failed", response=self.response()) + self._event("error", **error, **problem.envelope())

    # --- the object -----------------------------------------------------------------------------------------------------------

    def whole(self, answers: Sequence[CollectedAnswer]) -> bytes:
        """The `response` object of an answer that was not streamed."""
        (answer,) = answers
        assert answer.finished is not None
        for part in _parts(answer):
            self.part(0, part)
        self._finish(answer.finished)
        self._close(COMPLETED if self.status == COMPLETED else INCOMPLETE)
        return to_json(self.response())

    def fail(self, problem: Problem) -> None:
        """It will not be finished; the reason is told in the object, unless somebody asked for that."""
        if self.status != CANCELLED:
            self._error = {"code": "server_error", "message": problem.message}
            self.status = FAILED

    def cancel(self) -> None:
        """Somebody asked for its end."""
        self.status = CANCELLED

    def response(self) -> dict[str, Any]:
        """The `response` object as far as it is made."""
        ended = self.status in (COMPLETED, INCOMPLETE)
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": self.status,
            "error": self._error,
            "incomplete_details": {"reason": "max_output_tokens"} if self.status == INCOMPLETE else None,
            **self._echoed,
            "output": list(self._items),
            "output_text": self.answer.text,
            "usage": _usage(self.answer.finished) if ended and self.answer.finished is not None else None,
        }

    def _finish(self, finished: Finished) -> None:
        self.answer.finished = finished
        self.status = INCOMPLETE if finished.reason is FinishReason.LENGTH else COMPLETED

    # --- items ----------------------------------------------------------------------------------------------------------------

    def _text(self, part: Text) -> bytes:
        logprobs = chat_logprobs(part.logprobs)["content"] if self._logprobs else []
        if not part.text and not logprobs:
            return b""
        opened = self._open_message("message", "output_text", annotations=[], logprobs=[])
        content = self._items[-1]["content"][0]
        content["text"] += part.text
        content["logprobs"] += logprobs
        return opened + self._in_item("response.output_text.delta", content_index=0, delta=part.text, logprobs=logprobs)

    def _reasoning(self, text: str) -> bytes:
        opened = self._open_message("reasoning", "reasoning_text")
        self._items[-1]["content"][0]["text"] += text
        return opened + self._in_item("response.reasoning_text.delta", content_index=0, delta=text)

    def _call(self, part: ToolCallPart) -> bytes:
        opened = b""
        if part.call_id:
            item = {"type": "function_call", "call_id": part.call_id, "name": part.name, "arguments": ""}
            opened = self._open("fc", item)
        if not part.arguments:
            return opened
        self._items[-1]["arguments"] += part.arguments
        return opened + self._in_item("response.function_call_arguments.delta", delta=part.arguments)

    def _open_message(self, kind: str, part_type: str, **part_fields: Any) -> bytes:
        """Begin an item of one content part, unless it is the one that is open."""
        if self._is_open and self._items[-1]["type"] == kind:
            return b""
        beginning: dict[str, Any] = {"type": kind, "content": []}
        if kind == "message":
            beginning["role"] = "assistant"
        else:
            beginning["summary"] = []
        opened = self._open("msg" if kind == "message" else "rs", beginning)
        part = {"type": part_type, "text": "", **part_fields}
        opened += self._in_item("response.content_part.added", content_index=0, part=part)
        self._items[-1]["content"].append(part)
        return opened

    def _open(self, prefix: str, item: dict[str, Any]) -> bytes:
        closed = self._close(COMPLETED)
        self._items.append({"id": f"{prefix}_{self._suffix}{len(self._items):02x}", "status": IN_PROGRESS, **item})
        self._is_open = True
        return closed + self._event("response.output_item.added", output_index=len(self._items) - 1, item=self._items[-1])

    def _close(self, status: str) -> bytes:
        """End the open item, if there is one."""
        if not self._is_open:
            return b""
        self._is_open = False
        item = self._items[-1]
        item["status"] = status
        done = b"".join(self._in_item(kind, **fields) for kind, fields in _endings(item))
        return done + self._event("response.output_item.done", output_index=len(self._items) - 1, item=item)

    # --- events ---------------------------------------------------------------------------------------------------------------

    def _in_item(self, kind: str, /, **fields: Any) -> bytes:
        return self._event(kind, item_id=self._items[-1]["id"], output_index=len(self._items) - 1, **fields)

    def _event(self, kind: str, /, **fields: Any) -> bytes:
        number, self._sequence_number = self._sequence_number, self._sequence_number + 1
        return f"event: {kind}\n".encode() + event({"type": kind, "sequence_number": number, **fields})


def _endings(item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The events that end the content of an item, and their fields."""
    if item["type"] == "function_call":
        yield "response.function_call_arguments.done", {"arguments": item["arguments"], "name": item["name"]}
        return
    (part,) = item["content"]
    done: dict[str, Any] = {"content_index": 0, "text": part["text"]}
    if item["type"] == "reasoning":
        yield "response.reasoning_text.done", done
    else:
        yield "response.output_text.done", {**done, "logprobs": part["logprobs"]}
    yield "response.content_part.done", {"content_index": 0, "part": part}


def _parts(answer: CollectedAnswer) -> Iterator[AnswerPart]:
    """A collected answer as the parts it could have come in."""
    if answer.reasoning:
        yield Reasoning(request_id="", text=answer.reasoning)
    if answer.text or answer.logprobs:
        yield Text(request_id="", text=answer.text, logprobs=tuple(answer.logprobs))
    for index, call in enumerate(answer.tool_calls):
        yield ToolCallPart(request_id="", index=index, arguments=call.arguments, call_id=call.call_id, name=call.name)


def _usage(finished: Finished) -> dict[str, Any]:
    usage = finished.usage
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {
            "cached_tokens": usage.cached_tokens,
            # Every prompt token that was computed is kept for the next request.
            "cache_write_tokens": usage.prompt_tokens - usage.cached_tokens,
        },
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
