"""What a scripted model says to a request, token by token: its thoughts, its text, its calls. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice

from lmx_protocol.messages import Alternative, GenerateRequest, TokenLogprob
from lmx_protocol.states import FinishReason, ToolMode
from lmx_worker.backends.scripted.script import Answer, Call
from lmx_worker.text.pieces import CallArguments, CallBegun, Piece, Thought

_NEXT_LIKELIEST = -1.0
"""Below this much per rank, whatever the script says of the sampled token."""


@dataclass(frozen=True, slots=True)
class ScriptedToken:
    """A token: text that is still to be read as a model's is, or pieces of which it is known what they are."""

    text: str = ""
    pieces: tuple[Piece, ...] = ()
    logprob: TokenLogprob | None = None


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

    def tokens(self) -> Iterator[ScriptedToken]:
        """All of it."""
        for piece in self._answer.reasoning:
            yield ScriptedToken(pieces=(Thought(piece),))
        for piece in islice(cycle(self._pieces), self._text_tokens):
            yield ScriptedToken(piece, logprob=self._logprob(piece))
        for index, call in enumerate(self._calls):
            yield from self._call(index, call)
        if not (self._answer.reasoning or self._text_tokens or self._calls):
            # It could have called, but may not: a token that is no text.
            yield ScriptedToken()

    def _call(self, index: int, call: Call) -> Iterator[ScriptedToken]:
        first, *others = call.arguments or ("{}",)
        begun = CallBegun(call.name, f"call_{self._request.request_id}_{index}")
        yield ScriptedToken(pieces=(begun, CallArguments(first)))
        for piece in others:
            yield ScriptedToken(pieces=(CallArguments(piece),))

    def _logprob(self, piece: str) -> TokenLogprob | None:
        if self._request.logprobs is None:
            return None
        sampled = Alternative(token=piece.encode(), logprob=self._answer.logprob)
        others = [
            Alternative(token=f"<{rank}>".encode(), logprob=self._answer.logprob + rank * _NEXT_LIKELIEST)
            for rank in range(1, self._request.logprobs)
        ]
        alternatives = (sampled, *others) if self._request.logprobs else ()
        return TokenLogprob(token=sampled.token, logprob=sampled.logprob, alternatives=alternatives)
