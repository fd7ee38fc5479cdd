"""One request's way out: numbering, coalescing and credit. Pure: time comes in as an argument, events come out as values.

Rules, in the order they matter:
- Events leave in the order they were put in, numbered from 0 without gaps, and the terminal event is the last.
- Output costs one frame and its bytes of credit; `Prefill` and terminal events are free, but keep their place.
- Text of one kind (answer, reasoning, arguments of one tool call) is merged until 20 ms or 16 tokens have passed since the last
  frame; the first text goes at once, and so does all text of a model that needs longer than that for a token.
- Out of credit, text is merged further until it would have made `STALLED_FRAMES_MAX` frames; then the stream is `stalled`.
"""

from collections import deque
from dataclasses import dataclass, field

import msgspec

from lmx_protocol.credit import is_output, logprob_bytes, output_bytes
from lmx_protocol.limits import CREDIT_BYTES, FLUSH_MILLISECONDS, FLUSH_TOKENS, STALLED_FRAMES_MAX
from lmx_protocol.messages import (
    AnyRequestEvent,
    Cancelled,
    Failed,
    Finished,
    Prefill,
    Reasoning,
    Scores,
    Terminal,
    Text,
    TokenLogprob,
    ToolCallPart,
    Usage,
    Vectors,
)
from lmx_worker.backends.base import ToolCallDelta

_FLUSH_SECONDS = FLUSH_MILLISECONDS / 1000


_ANSWER = "answer"
_REASONING = "reasoning"


@dataclass(slots=True)
class _HeldText:
    """Text that is final but not sent yet: of the answer, of the reasoning, or (a number) of that tool call's arguments."""

    channel: str | int
    text: str
    tokens: int
    logprobs: list[TokenLogprob] = field(default_factory=list)
    call_id: str = ""
    name: str = ""

    @property
    def must_go_alone(self) -> bool:
        """Whether there is something to send even without text."""
        return bool(self.logprobs or self.call_id)

    def takes(self, other: "_HeldText") -> bool:
        """Whether the other's content may leave in one frame with this one's. Log-probabilities are bounded per frame."""
        is_full = bool(other.logprobs) and len(self.logprobs) >= FLUSH_TOKENS
        return self.channel == other.channel and not other.call_id and not is_full

    def absorb(self, other: "_HeldText") -> None:
        """Take over what follows."""
        self.text += other.text
        self.tokens += other.tokens
        self.logprobs += other.logprobs

    def event(self, request_id: str, part: str) -> Text | Reasoning | ToolCallPart:
        """The event for the next part of the text; what is told once goes with the first part."""
        tokens, self.tokens = self.tokens, 0
        if self.channel == _REASONING:
            return Reasoning(request_id=request_id, text=part, tokens=tokens)
        if isinstance(self.channel, int):
            call_id, self.call_id, name, self.name = self.call_id, "", self.name, ""
            return ToolCallPart(
                request_id=request_id, index=self.channel, arguments=part, call_id=call_id, name=name, tokens=tokens
            )
        logprobs, self.logprobs = tuple(self.logprobs), []
        return Text(request_id=request_id, text=part, tokens=tokens, logprobs=logprobs)


class RequestStream:
    """The events of one request that are not sent yet."""

    def __init__(self, request_id: str, *, credit_frames: int, credit_bytes: int) -> None:
        self.request_id = request_id
        self._credit_frames = credit_frames
        self._credit_bytes = credit_bytes
        self._next_seq = 0
        self._pending: deque[_HeldText | Prefill | Vectors | Scores | Terminal] = deque()
        self._terminal: Terminal | None = None
        self._ended = False
        self._silent_tokens = 0
        self._silent_logprobs: list[TokenLogprob] = []
        # Pacing: a frame's worth of text is complete when the interval or the token count since the last one is reached.
        self._frame_at: float | None = None
        self._fresh_tokens = 0
        self._has_fresh_text = False
        self._complete_frames = 0

    @property
    def ended(self) -> bool:
        """Whether the terminal event has been handed out."""
        return self._ended

    @property
    def ending(self) -> bool:
        """Whether the terminal event is known; it may still wait behind text that has no credit."""
        return self._terminal is not None

    @property
    def stalled(self) -> bool:
        """Whether so much text waits for credit that no more should be made."""
        return self._complete_frames >= STALLED_FRAMES_MAX

    @property
    def flush_at(self) -> float | None:
        """When text that is held back only for merging must go, or None."""
        if not self._has_fresh_text or not self._has_credit or self._frame_at is None:
            return None
        return self._frame_at + _FLUSH_SECONDS

    def grant(self, frames: int, bytes_: int) -> None:
        """Allow further text."""
        self._credit_frames += frames
        self._credit_bytes += bytes_

    def add_prefill(self, *, done_tokens: int, prompt_tokens: int, cached_tokens: int) -> None:
        """Prompt tokens were processed."""
        assert self._terminal is None
        self._pending.append(
            Prefill(
                request_id=self.request_id, done_tokens=done_tokens, prompt_tokens=prompt_tokens, cached_tokens=cached_tokens
            )
        )

    def add_text(self, text: str, tokens: int, now: float, logprobs: tuple[TokenLogprob, ...] = ()) -> None:
        """Text of the answer became final; with no text, the tokens are counted with the next output that has some."""
        self._silent_logprobs += logprobs
        self._hold(_HeldText(_ANSWER, text, tokens), now)

    def add_reasoning(self, text: str, tokens: int, now: float) -> None:
        """Text of the reasoning became final; without text as in `add_text`."""
        self._hold(_HeldText(_REASONING, text, tokens), now)

    def add_tool_call(self, delta: ToolCallDelta, now: float) -> None:
        """A piece of a tool call became final."""
        self._hold(_HeldText(delta.index, delta.arguments, delta.tokens, call_id=delta.call_id, name=delta.name), now)

    def add_result(self, result: Vectors | Scores) -> None:
        """Vectors or scores are known; the event's `seq` is assigned when it leaves."""
        assert self._terminal is None
        self._pending.append(result)

    def _hold(self, held: _HeldText, now: float) -> None:
        assert self._terminal is None
        if not held.text and not held.call_id:
            self._silent_tokens += held.tokens
            return
        held.tokens += self._silent_tokens
        self._silent_tokens = 0
        if held.channel == _ANSWER:
            held.logprobs, self._silent_logprobs = self._silent_logprobs, []
        tokens = held.tokens
        last = self._pending[-1] if self._pending else None
        if isinstance(last, _HeldText) and last.takes(held):
            last.absorb(held)
        else:
            self._pending.append(held)
        self._fresh_tokens += tokens
        self._has_fresh_text = True
        self._pace(now)

    def end(self, terminal: Terminal) -> None:
        """The request is over; the event's `seq` is assigned when it leaves. Further ends are a bug of the caller."""
        assert self._terminal is None
        if isinstance(terminal, Finished) and self._silent_logprobs:
            self._pending.append(_HeldText(_ANSWER, "", self._silent_tokens, logprobs=self._silent_logprobs))
        self._terminal = terminal
        self._pending.append(terminal)

    def cancel(self, usage: Usage) -> None:
        """Nobody reads on: drop what was not sent and end as cancelled, also when the real end was known but not sent."""
        assert not self._ended
        if isinstance(self._terminal, Finished):
            usage = self._terminal.usage
        self._pending.clear()
        self._forget_pace()
        self._terminal = Cancelled(request_id=self.request_id, usage=usage)
        self._pending.append(self._terminal)

    def take(self, now: float) -> list[AnyRequestEvent]:
        """Every event that may and should leave now, numbered."""
        if not self._pending:
            return []
        self._pace(now)
        events: list[AnyRequestEvent] = []
        while self._pending:
            head = self._pending[0]
            if isinstance(head, _HeldText):
                # Text waits for its frame to be complete, unless something waits behind it.
                if self._complete_frames == 0 and len(self._pending) == 1:
                    break
                if not self._send_text(head, events):
                    break
            elif not self._send_whole(head, events):
                break
            self._pending.popleft()
        if not any(isinstance(waiting, _HeldText) for waiting in self._pending):
            self._forget_pace()
        return events

    @property
    def _has_credit(self) -> bool:
        return self._credit_frames > 0 and self._credit_bytes > 0

    def _send_text(self, held: _HeldText, events: list[AnyRequestEvent]) -> bool:
        """Send what the credit covers, cut between characters; True when nothing is left."""
        while (held.text or held.must_go_alone) and self._has_credit:
            part, size_bytes = _fit(held.text, min(self._credit_bytes, CREDIT_BYTES))
            if held.text and not part:
                return False
            self._credit_frames -= 1
            self._credit_bytes -= (
                size_bytes + logprob_bytes(held.logprobs) + len(held.call_id.encode()) + len(held.name.encode())
            )
            self._number(held.event(self.request_id, part), events)
            held.text = held.text[len(part) :]
        return not (held.text or held.must_go_alone)

    def _send_whole(self, event: Prefill | Vectors | Scores | Terminal, events: list[AnyRequestEvent]) -> bool:
        """Send an event that cannot be cut, if it is free or there is any credit; whether it was sent."""
        if is_output(event):
            if not self._has_credit:
                return False
            self._credit_frames -= 1
            self._credit_bytes -= output_bytes(event)
        self._number(event, events)
        return True

    def _number(self, event: AnyRequestEvent, events: list[AnyRequestEvent]) -> None:
        events.append(msgspec.structs.replace(event, seq=self._next_seq))
        self._next_seq += 1
        self._ended = isinstance(event, Finished | Failed | Cancelled)

    def _forget_pace(self) -> None:
        self._complete_frames = 0
        self._fresh_tokens = 0
        self._has_fresh_text = False

    def _pace(self, now: float) -> None:
        if not self._has_fresh_text:
            return
        if self._frame_at is None or self._fresh_tokens >= FLUSH_TOKENS or now - self._frame_at >= _FLUSH_SECONDS:
            self._frame_at = now
            self._fresh_tokens = 0
            self._has_fresh_text = False
            self._complete_frames += 1


def _fit(text: str, bytes_max: int) -> tuple[str, int]:
    """The longest prefix of whole characters within `bytes_max` UTF-8 bytes, and its size."""
    encoded = text.encode()
    if len(encoded) <= bytes_max:
        return text, len(encoded)
    part = encoded[:bytes_max].decode(errors="ignore")
    return part, len(part.encode())
