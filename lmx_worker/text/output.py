"""The way from sampled tokens to deltas, for every backend: characters, reasoning, calls of tools, stop strings.

Rules:
- A character whose bytes are spread over several tokens comes out with its last byte; bytes that are no UTF-8 as U+FFFD.
- Stop strings end the answer's text. They are not looked for in reasoning nor in calls, whose form is the model's and not the
  client's: a stop string `}` would else cut every call. Where nothing is parsed (plain prompts), all is text.
- Every token is counted in exactly one delta; one without a visible piece in an empty `TextDelta`.
- Log-probabilities are those of the answer's text: a token's come with the text it is a part of, or after it. Those of
  reasoning, calls and marks are dropped, and those of a stop string.
"""

import codecs
import secrets
from collections.abc import Callable, Sequence
from dataclasses import replace

from lmx_protocol.limits import TOOL_CALLS_MAX
from lmx_protocol.messages import TokenLogprob
from lmx_protocol.states import FinishReason
from lmx_worker.backends.base import Delta, ReasoningDelta, TextDelta, ToolCallDelta
from lmx_worker.text.answer_reader import PLAIN, AnswerReader, Reading
from lmx_worker.text.pieces import CallArguments, CallBegun, Piece, Said, Thought
from lmx_worker.text.stops import StopMatcher

_OutputDelta = TextDelta | ReasoningDelta | ToolCallDelta
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
CALL_ID_CHARACTERS = 9
"""Mistral's templates take ids of exactly this length; all others take any."""


def new_call_id() -> str:
    """An id for a call that the model gave none."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(CALL_ID_CHARACTERS))


class AnswerOutput:
    """The output of one request. Not thread-safe."""

    def __init__(
        self,
        request_id: str,
        reading: Reading = PLAIN,
        *,
        stops: Sequence[str] = (),
        make_call_id: Callable[[], str] = new_call_id,
    ) -> None:
        self._request_id = request_id
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._reader = AnswerReader(reading)
        self._stops = StopMatcher(stops)
        self._calls_max = 1 if reading.one_call else TOOL_CALLS_MAX
        self._make_call_id = make_call_id
        self._calls = 0
        self._logprobs: list[TokenLogprob] = []
        """Of the tokens whose text, or whose being text, is not known yet."""
        self._has_ended = False
        self.reasoning_tokens = 0

    @property
    def has_ended(self) -> bool:
        """Whether the answer is over although the model may go on: after a stop string, or the last call that is allowed."""
        return self._has_ended

    @property
    def stop_sequence(self) -> str | None:
        """The stop string that ended the answer, or None."""
        return self._stops.matched

    @property
    def is_thinking(self) -> bool:
        """Whether the next token belongs to the reasoning, as far as can be told."""
        return self._reader.is_thinking

    def push(self, piece: bytes, logprob: TokenLogprob | None = None) -> list[Delta]:
        """Take the bytes of the next token; never returns nothing, since the token must be counted."""
        return self.push_text(self._decoder.decode(piece), logprob)

    def push_text(self, text: str, logprob: TokenLogprob | None = None) -> list[Delta]:
        """As `push`, of a token whose text the backend knows."""
        was_thinking = self._reader.is_thinking
        if logprob is not None and not was_thinking:
            self._logprobs.append(logprob)
        pieces = self._reader.push(text)
        self.reasoning_tokens += was_thinking or self._reader.is_thinking or any(isinstance(piece, Thought) for piece in pieces)
        return self._deltas(pieces, tokens=1) or [TextDelta(self._request_id, "", tokens=1)]

    def take(self, pieces: Sequence[Piece]) -> list[Delta]:
        """As `push`, of a token of which the backend knows what it means."""
        self.reasoning_tokens += any(isinstance(piece, Thought) for piece in pieces)
        return self._deltas(pieces, tokens=1) or [TextDelta(self._request_id, "", tokens=1)]

    def finish(self, text: str = "") -> list[Delta]:
        """No token follows: what was held back, here or (`text`) by the backend. `stop_sequence` may still come to be set."""
        pieces = self._reader.push(self._decoder.decode(b"", final=True) + text) + self._reader.finish()
        deltas = [*self._deltas(pieces, tokens=0), *self._text(self._stops.flush())]
        if self._logprobs and not self._has_ended:
            deltas.append(TextDelta(self._request_id, "", tokens=0, logprobs=self._spend_logprobs()))
        return deltas

    def reason(self, reason: FinishReason) -> FinishReason:
        """Why the answer ended, when the model's own reason is this one."""
        if self.stop_sequence is not None:
            return FinishReason.STOP
        if self._calls and (self._has_ended or reason != FinishReason.LENGTH):
            return FinishReason.TOOL_CALLS
        return reason

    def _deltas(self, pieces: Sequence[Piece], tokens: int) -> list[Delta]:
        deltas: list[_OutputDelta] = []
        for piece in _merged(pieces):
            if self._has_ended:
                break
            deltas += self._of_piece(piece)
        if deltas:
            deltas[0] = replace(deltas[0], tokens=tokens)
        return list(deltas)

    def _of_piece(self, piece: Piece) -> list[_OutputDelta]:
        if isinstance(piece, Said):
            text = self._stops.push(piece.text)
            self._has_ended = self._stops.matched is not None
            return self._text(text)
        # A stop string does not reach over a call: what looked like the beginning of one is text.
        held = self._text(self._stops.flush())
        self._logprobs.clear()
        match piece:
            case Thought():
                return [*held, ReasoningDelta(self._request_id, piece.text, tokens=0)]
            case CallArguments():
                return [*held, ToolCallDelta(self._request_id, self._calls - 1, piece.text, tokens=0)]
            case CallBegun():
                return [*held, *self._begin_call(piece)]

    def _begin_call(self, call: CallBegun) -> list[_OutputDelta]:
        if self._calls == self._calls_max:
            self._has_ended = True
            return []
        self._calls += 1
        call_id = call.call_id or self._make_call_id()
        return [ToolCallDelta(self._request_id, self._calls - 1, "", tokens=0, call_id=call_id, name=call.name)]

    def _text(self, text: str) -> list[_OutputDelta]:
        return [TextDelta(self._request_id, text, tokens=0, logprobs=self._spend_logprobs())] if text else []

    def _spend_logprobs(self) -> tuple[TokenLogprob, ...]:
        spent = tuple(self._logprobs)
        self._logprobs.clear()
        return spent


def _merged(pieces: Sequence[Piece]) -> list[Piece]:
    """The same, with neighbours of one kind put together."""
    merged: list[Piece] = []
    for piece in pieces:
        last = merged[-1] if merged else None
        if isinstance(piece, CallBegun) or isinstance(last, CallBegun) or type(piece) is not type(last):
            merged.append(piece)
        else:
            assert last is not None
            merged[-1] = replace(last, text=last.text + piece.text)
    return merged
