"""OpenAI's legacy completions: neutral events to `text_completion` objects, of which a stream's chunks are also made. Pure."""

from collections.abc import Sequence
from math import inf
from typing import Any

from lmx_protocol.messages import Finished, Reasoning, Text
from lmx_protocol.states import FinishReason
from lmx_supervisor.gateway.dialects.base import AnswerPart, CollectedAnswer
from lmx_supervisor.gateway.dialects.openai_shapes import (
    DONE,
    SYSTEM_FINGERPRINT,
    LegacyLogprobs,
    error_event,
    event,
    usage_of,
)
from lmx_supervisor.gateway.problem import Problem
from lmx_supervisor.gateway.responses import to_json

_KEEP_ALIVE = b": keep-alive\n\n"
"""A comment: an event without text would be an answer to clients of this old interface."""


class CompletionTranslator:
    """The completions of one request: `candidates` for each prompt, of which the best `shown` are shown, all if streamed.

    `echoes` are what each prompt's completions begin with.
    """

    def __init__(
        self,
        request_id: str,
        model: str,
        *,
        created_unix_seconds: int,
        include_usage: bool,
        echoes: Sequence[str],
        candidates: int = 1,
        shown: int = 1,
        logprobs: bool = False,
    ) -> None:
        self._head: dict[str, Any] = {
            "id": request_id,
            "object": "text_completion",
            "created": created_unix_seconds,
            "model": model,
            "system_fingerprint": SYSTEM_FINGERPRINT,
        }
        self._include_usage = include_usage
        self._echoes = echoes
        self._candidates = candidates
        self._shown = shown
        self._logprobs = logprobs
        self._logprobs_so_far = [LegacyLogprobs() for _ in range(len(echoes) * candidates)]

    def opening(self) -> bytes:
        """What each completion begins with, mostly nothing."""
        return b"".join(
            self._chunk(prompt * self._candidates + candidate, echo)
            for prompt, echo in enumerate(self._echoes)
            for candidate in range(self._candidates)
        )

    def part(self, choice: int, part: AnswerPart) -> bytes:
        """One chunk."""
        match part:
            case Text():
                entries = part.logprobs if self._logprobs else ()
                if not part.text and not entries:
                    return b""
                return self._chunk(choice, part.text, logprobs=self._logprobs_so_far[choice].add(entries) if entries else None)
            case Reasoning():
                # There is no other place for it here, and it is what the model said first.
                return self._chunk(choice, part.text) if part.text else b""
            case _:
                return b""

    def finished(self, choice: int, finished: Finished) -> bytes:
        """The finish reason."""
        return self._chunk(choice, "", finish_reason=_finish_reason(finished))

    def keep_alive(self) -> bytes:
        """A comment."""
        return _KEEP_ALIVE

    def closing(self, answers: Sequence[Finished]) -> bytes:
        """The usage if it was asked for, and the end marker."""
        if not self._include_usage:
            return DONE
        return event({**self._head, "choices": [], "usage": usage_of(answers, choices_per_prompt=self._candidates)}) + DONE

    def failing(self, problem: Problem) -> bytes:
        """The error envelope as an event."""
        return error_event(problem)

    def whole(self, answers: Sequence[CollectedAnswer]) -> bytes:
        """The `text_completion` object."""
        choices: list[dict[str, Any]] = []
        for prompt, echo in enumerate(self._echoes):
            candidates = answers[prompt * self._candidates : (prompt + 1) * self._candidates]
            for answer in self._best(candidates):
                choices.append(self._choice(len(choices), echo + answer.reasoning + answer.text, answer))
        ends = [answer.finished for answer in answers if answer.finished is not None]
        return to_json({**self._head, "choices": choices, "usage": usage_of(ends, choices_per_prompt=self._candidates)})

    def _best(self, candidates: Sequence[CollectedAnswer]) -> Sequence[CollectedAnswer]:
        if self._shown == self._candidates:
            return candidates
        return sorted(candidates, key=_mean_logprob, reverse=True)[: self._shown]

    def _choice(self, index: int, text: str, answer: CollectedAnswer) -> dict[str, Any]:
        assert answer.finished is not None
        logprobs = LegacyLogprobs().add(answer.logprobs) if self._logprobs else None
        return {"text": text, "index": index, "logprobs": logprobs, "finish_reason": _finish_reason(answer.finished)}

    def _chunk(
        self, choice: int, text: str, *, logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> bytes:
        shown = {"text": text, "index": choice, "logprobs": logprobs, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return event({**self._head, "choices": [shown], **usage})


def _mean_logprob(answer: CollectedAnswer) -> float:
    """Per token, so that a long answer is not worse for its length."""
    if not answer.logprobs:
        return -inf
    return sum(entry.logprob for entry in answer.logprobs) / len(answer.logprobs)


def _finish_reason(finished: Finished) -> str:
    """This interface knows no calls of tools."""
    return "length" if finished.reason is FinishReason.LENGTH else "stop"
