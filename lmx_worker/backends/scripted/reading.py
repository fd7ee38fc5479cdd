"""One request for embeddings or a ranking of a scripted model: input after input, each when its time has come. Pure.

A text's vector is the sum of its words' vectors, which come from their hashes: equal texts have equal vectors, texts that share
words have close ones. A cross-encoder's score is the share of the query's words that the document has.
"""

import hashlib
from collections.abc import Iterable

from lmx_protocol.messages import EmbedRequest, Timing, Usage
from lmx_protocol.states import FinishReason, RankMethod
from lmx_worker.backends.base import Delta, FinishDelta, PrefillDelta, PreparedInputs, ResultDelta
from lmx_worker.backends.results import results_for
from lmx_worker.backends.vectors import Vector


class Reading:
    """What is left of one request; to the backend it is like a `Run` that decodes inputs instead of tokens."""

    def __init__(
        self, prepared: PreparedInputs, method: RankMethod, *, dimensions: int, input_seconds: float, now: float
    ) -> None:
        request = prepared.request
        self.request_id = request.request_id
        self.paused = False
        self.due_at = now + input_seconds
        self.tokens_decoded = 0
        """Inputs that are done, here."""
        self._prepared = prepared
        self._total_tokens = sum(map(len, prepared.inputs))
        self._results = results_for(request, method)
        self._input_seconds = input_seconds
        self._started_at = now
        if isinstance(request, EmbedRequest):
            texts = [given if isinstance(given, str) else " ".join(map(str, given)) for given in request.inputs]
        else:
            texts = [request.query, *request.documents]
        self.prompt = "\n".join(texts)
        if isinstance(request, EmbedRequest) or method is RankMethod.COSINE:
            self._vectors = [_vector(text.split(), dimensions) for text in texts]
        else:
            self._vectors = [_score(texts[0], document) for document in texts[1:]]

    @property
    def usage(self) -> Usage:
        """What it has used so far."""
        return Usage(prompt_tokens=sum(map(len, self._prepared.inputs[: self.tokens_decoded])))

    def decode(self, now: float) -> list[Delta]:
        """Give the next input's vector or score, and the end with the last one."""
        fresh = self._results.of([self._vectors[self.tokens_decoded]])
        self.tokens_decoded += 1
        progress = PrefillDelta(self.request_id, self.usage.prompt_tokens, self._total_tokens, cached_tokens=0)
        deltas: list[Delta] = [progress, *(ResultDelta(self.request_id, result) for result in fresh)]
        self.due_at = now + self._input_seconds
        if self.tokens_decoded == len(self._vectors):
            timing = Timing(prefill_seconds=now - self._started_at)
            deltas.append(FinishDelta(self.request_id, FinishReason.STOP, self.usage, timing))
        return deltas


def _vector(words: Iterable[str], dimensions: int) -> Vector:
    vector = [0.0] * dimensions
    for word in words:
        bits = int.from_bytes(hashlib.shake_128(word.lower().encode()).digest(-(-dimensions // 8)))
        for index in range(dimensions):
            vector[index] += 1.0 if bits >> index & 1 else -1.0
    return vector


def _score(query: str, document: str) -> Vector:
    wanted, there = set(query.lower().split()), set(document.lower().split())
    return [len(wanted & there) / max(1, len(wanted))]
