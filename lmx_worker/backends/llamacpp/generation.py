"""One request inside the batch: how far its prompt is, what it has said, and how it ends."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lmx_protocol.messages import Timing, TokenLogprob, Usage
from lmx_protocol.states import FinishReason
from lmx_worker.backends.base import Delta, FinishDelta, PrefillDelta, Prepared, TextDelta
from lmx_worker.backends.llamacpp.sampler import TokenSampler
from lmx_worker.backends.llamacpp.slots import Slot
from lmx_worker.backends.logprobs import LogprobReader
from lmx_worker.text.output import AnswerOutput


@dataclass(slots=True, eq=False)
class Generation:
    """State of one inserted request. Its slot's tokens say what is computed; `pending` is sampled but not computed yet."""

    prepared: Prepared
    slot: Slot
    sampler: TokenSampler
    output: AnswerOutput
    cached_tokens: int
    started_at: float
    logprobs: LogprobReader | None = None
    first_token_at: float = 0.0
    pending: int | None = None
    produced: int = 0
    paused: bool = False

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.prepared.request.request_id

    @property
    def remaining_prompt(self) -> int:
        """Prompt tokens still to compute."""
        return max(0, len(self.prepared.tokens) - len(self.slot.tokens))

    def next_tokens(self, prefill: int) -> Sequence[int]:
        """What to compute in this step: the pending token, or the next `prefill` tokens of the prompt."""
        if self.pending is not None:
            return (self.pending,)
        done = len(self.slot.tokens)
        return self.prepared.tokens[done : done + prefill]

    def usage(self) -> Usage:
        """Token counts so far."""
        return Usage(
            prompt_tokens=len(self.prepared.tokens),
            completion_tokens=self.produced,
            cached_tokens=self.cached_tokens,
            reasoning_tokens=self.output.reasoning_tokens,
        )

    def prefill_delta(self) -> PrefillDelta:
        """How far the prompt is."""
        total = len(self.prepared.tokens)
        done = min(len(self.slot.tokens), total)
        return PrefillDelta(self.request_id, done_tokens=done, prompt_tokens=total, cached_tokens=self.cached_tokens)

    def sample(self, context: Any, row: int) -> tuple[int, TokenLogprob | None]:
        """Choose the next token from this row of the last batch; say how likely the model thought it, if that is asked for."""
        if self.logprobs is None:
            return self.sampler.sample(context, row), None
        # First: sampling under a form writes into the row.
        self.logprobs.note(self.sampler.logits(context, row))
        token = self.sampler.sample(context, row)
        return token, self.logprobs.of(token)

    def accept(self, token: int, piece: bytes | None, now: float, logprob: TokenLogprob | None = None) -> list[Delta]:
        """Take the sampled token; `piece` is None for an end token. Ends with a `FinishDelta` when the generation is over.

        An end token is counted though it says nothing: it was computed, and OpenAI and the mlx backend count it too.
        """
        if not self.first_token_at:
            self.first_token_at = now
        self.produced += 1
        if piece is None:
            return self._finish([TextDelta(self.request_id, "", tokens=1)], FinishReason.STOP, now)
        deltas = self.output.push(piece, logprob)
        constraint = self.prepared.constraint
        if self.output.has_ended or (constraint is not None and constraint.is_complete):
            return self._finish(deltas, FinishReason.STOP, now)
        if self.produced >= self.prepared.max_tokens:
            return self._finish(deltas, FinishReason.LENGTH, now)
        self.pending = token
        return deltas

    def _finish(self, deltas: list[Delta], reason: FinishReason, now: float) -> list[Delta]:
        deltas += self.output.finish()
        finish = FinishDelta(
            self.request_id,
            self.output.reason(reason),
            self.usage(),
            Timing(prefill_seconds=self.first_token_at - self.started_at, decode_seconds=now - self.first_token_at),
            self.output.stop_sequence,
        )
        return [*deltas, finish]
