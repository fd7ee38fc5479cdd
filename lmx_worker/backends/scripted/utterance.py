"""What a scripted model says to a request, token by token: its thoughts, its text, its calls. Pure."""

from collections.abc import Iterator, Sequence
from itertools import cycle, islice

from lmx_protocol.messages import Alternative, GenerateRequest, TokenLogprob
from lmx_protocol.states import FinishReason, ToolMode
from lmx_worker.backends.base import ReasoningDelta, TextDelta, ToolCallDelta
from lmx_worker.backends.scripted.script import Answer, Call

TokenDelta = TextDelta | ReasoningDelta | ToolCallDelta

_NEXT_LIKELIEST = -1.0
"""Below this much per rank, whatever the script says of the sampled token."""


class Utterance:
    """One whole answer. Calls are made only by a request that has tools and may call them."""

    def __init__(self, request: GenerateRequest, answer: Answer, pieces: Sequence[str]) -> None:
        self._request = request
        self._answer = answer
        self._pieces = pieces
        self._calls = answer.tool_calls if request.tools and request.tool_choice.mode is not ToolMode.NONE else ()
        self._text_tokens = answer.tokens or len(pieces)

    @property
    def total_tokens(self) -> int:
        """How many there are to say; at least 1."""
        calls = sum(max(1, len(call.arguments)) for call in self._calls)
        return max(1, len(self._answer.reasoning) + self._text_tokens + calls)

    @property
    def finish(self) -> FinishReason:
        """How it ends when it is not cut."""
        return FinishReason.TOOL_CALLS if self._calls else self._answer.finish

    def tokens(self) -> Iterator[TokenDelta]:
        """All of it."""
        request_id = self._request.request_id
        for piece in self._answer.reasoning:
            yield ReasoningDelta(request_id, piece, tokens=1)
        for piece in islice(cycle(self._pieces), self._text_tokens):
            yield TextDelta(request_id, piece, tokens=1, logprobs=self._logprobs(piece))
        for index, call in enumerate(self._calls):
            yield from self._call(index, call)
        if not (self._answer.reasoning or self._text_tokens or self._calls):
            # It could have called, but may not: a token that is no text.
            yield TextDelta(request_id, "", tokens=1)

    def _call(self, index: int, call: Call) -> Iterator[ToolCallDelta]:
        request_id = self._request.request_id
        first, *others = call.arguments or ("{}",)
        yield ToolCallDelta(request_id, index, first, tokens=1, call_id=f"call_{request_id}_{index}", name=call.name)
        for piece in others:
            yield ToolCallDelta(request_id, index, piece, tokens=1)

    def _logprobs(self, piece: str) -> tuple[TokenLogprob, ...]:
        if self._request.logprobs is None:
            return ()
        sampled = Alternative(token=piece.encode(), logprob=self._answer.logprob)
        others = [
            Alternative(token=f"<{rank}>".encode(), logprob=self._answer.logprob + rank * _NEXT_LIKELIEST)
            for rank in range(1, self._request.logprobs)
        ]
        alternatives = (sampled, *others) if self._request.logprobs else ()
        return (TokenLogprob(token=sampled.token, logprob=sampled.logprob, alternatives=alternatives),)
