"""What a dialect's translator is to the answering loop: neutral events in, bytes of that dialect out. Pure.

A translator serves one request of a client, which may ask for several answers ("choices", numbered from 0). It must hold: what
a stream's parts say, put together, equals what `whole` says of the same events.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from lmx_protocol.messages import Finished, Reasoning, Text, TokenLogprob, ToolCallPart
from lmx_supervisor.gateway.problem import Problem

AnswerPart = Text | Reasoning | ToolCallPart


@dataclass(slots=True)
class CollectedCall:
    """A whole tool call; `arguments` is JSON text."""

    call_id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class CollectedAnswer:
    """One choice, put together from its parts."""

    text: str = ""
    reasoning: str = ""
    tool_calls: list[CollectedCall] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    parts: list[AnswerPart] = field(default_factory=list)
    """Everything in the order it came, for dialects that tell what the model said between two calls."""
    finished: Finished | None = None
    """None until the choice has ended."""

    def add(self, part: AnswerPart) -> None:
        """Take in the next part."""
        self.parts.append(part)
        match part:
            case Text():
                self.text += part.text
                self.logprobs += part.logprobs
            case Reasoning():
                self.reasoning += part.text
            case ToolCallPart():
                if part.call_id:
                    self.tool_calls.append(CollectedCall(part.call_id, part.name))
                self.tool_calls[-1].arguments += part.arguments


class Translator(Protocol):
    """One request's answer in one dialect. Stream parts may be empty bytes: nothing is sent then."""

    def opening(self) -> bytes:
        """What a stream begins with. Better not empty: servers send a response's headers with its first bytes."""

    def part(self, choice: int, part: AnswerPart) -> bytes:
        """A piece of an answer."""

    def finished(self, choice: int, finished: Finished) -> bytes:
        """One choice has ended."""

    def closing(self, answers: Sequence[Finished]) -> bytes:
        """Everything after the end of the last choice, the dialect's end marker included; one `Finished` per choice."""

    def keep_alive(self) -> bytes:
        """What is sent while nothing flows, so that nobody on the way takes the stream for dead."""

    def failing(self, problem: Problem) -> bytes:
        """The error event of a stream that is cut off. Never followed by the end marker."""

    def whole(self, answers: Sequence[CollectedAnswer]) -> bytes:
        """The body of an answer that is not streamed."""
