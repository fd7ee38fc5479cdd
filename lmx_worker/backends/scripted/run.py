"""One request of a scripted model: its prompt in chunks, its answer token by token, each when its time has come. Pure."""

from lmx_protocol.messages import Timing, Usage
from lmx_protocol.states import FinishReason
from lmx_worker.backends.base import Delta, FinishDelta, PrefillDelta, Prepared
from lmx_worker.backends.scripted.utterance import Utterance
from lmx_worker.text.output import AnswerOutput


class Run:
    """What is left of one request."""

    def __init__(
        self,
        prepared: Prepared,
        prompt: str,
        utterance: Utterance,
        *,
        token_seconds: float,
        chunk_seconds: float,
        now: float,
    ) -> None:
        self.request_id = prepared.request.request_id
        self.prompt = prompt
        self.paused = False
        self.due_at = now + chunk_seconds
        self.tokens_prefilled = 0
        self.tokens_decoded = 0
        self._output = AnswerOutput(self.request_id, prepared.reading, stops=prepared.request.stop)
        self._prompt_tokens = len(prepared.tokens)
        self._total_tokens = min(utterance.total_tokens, prepared.max_tokens)
        self._finish = FinishReason.LENGTH if self._total_tokens < utterance.total_tokens else utterance.finish
        self._tokens = utterance.tokens()
        self._token_seconds = token_seconds
        self._chunk_seconds = chunk_seconds
        self._started_at = now
        self._decoding_since = now

    @property
    def is_prefilling(self) -> bool:
        """Whether prompt is left."""
        return self.tokens_prefilled < self._prompt_tokens

    @property
    def usage(self) -> Usage:
        """What it has used so far."""
        return Usage(
            prompt_tokens=self._prompt_tokens,
            completion_tokens=self.tokens_decoded,
            reasoning_tokens=self._output.reasoning_tokens,
        )

    def prefill(self, chunk_tokens: int, now: float) -> Delta:
        """Process the next chunk of the prompt."""
        self.tokens_prefilled = min(self._prompt_tokens, self.tokens_prefilled + chunk_tokens)
        self._decoding_since = now
        self.due_at = now + (self._chunk_seconds if self.is_prefilling else self._token_seconds)
        return PrefillDelta(self.request_id, self.tokens_prefilled, self._prompt_tokens, cached_tokens=0)

    def decode(self, now: float) -> list[Delta]:
        """Emit the next token, and the end with the last one."""
        self.tokens_decoded += 1
        self.due_at = now + self._token_seconds
        token = next(self._tokens)
        deltas = self._output.take(token.pieces) if token.pieces else self._output.push_text(token.text, token.logprob)
        if self.tokens_decoded == self._total_tokens or self._output.has_ended:
            deltas += self._output.finish()
            timing = Timing(prefill_seconds=self._decoding_since - self._started_at, decode_seconds=now - self._decoding_since)
            reason = self._output.reason(self._finish)
            deltas.append(FinishDelta(self.request_id, reason, self.usage, timing, self._output.stop_sequence))
        return deltas
