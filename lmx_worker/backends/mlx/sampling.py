"""How the next token is chosen: samplers and logits processors for mlx-lm's batch generator.

MLX's random state is one global, so a draw would depend on whatever else the batch drew before. Here every draw has a key of
its own, made from the request's seed and the position of the token: the same seed gives the same tokens, alone or in company.
"""

import hashlib
import math
import secrets
from collections.abc import Callable
from typing import Any

from lmx_protocol.limits import SEED_MAX
from lmx_protocol.messages import Sampling

LogitsProcessor = Callable[[Any, Any], Any]
"""(context tokens, logits of shape (1, vocabulary)) → logits."""

PENALTY_WINDOW_TOKENS = 64
"""The penalties look back this far, as llama.cpp's do by default, so that both backends answer alike."""


class KeyedSampler:
    """Draws token after token for one request. `position` counts the draws; setting it back repeats them exactly."""

    def __init__(self, sampling: Sampling, *, vocabulary_size: int) -> None:
        self.position = 0
        self._seed = secrets.randbelow(SEED_MAX) if sampling.seed is None else sampling.seed
        self._temperature = sampling.temperature
        self._top_k = sampling.top_k if 0 < sampling.top_k < vocabulary_size else 0
        self._top_p = sampling.top_p
        self._min_p = sampling.min_p

    def __call__(self, log_probabilities: Any) -> Any:
        """Token ids of shape (1,) from log-probabilities of shape (1, vocabulary)."""
        import mlx.core as mx

        candidates = None
        scores = log_probabilities
        if self._top_k:
            # First, so that the sorting below sees `top_k` values and not the whole vocabulary.
            candidates = mx.argpartition(-scores, kth=self._top_k - 1, axis=-1)[..., : self._top_k]
            scores = mx.take_along_axis(scores, candidates, axis=-1)
        scores = scores.astype(mx.float32)
        if 0.0 < self._top_p < 1.0:
            scores = _keep_top_p(mx, scores, self._top_p)
        if self._min_p > 0.0:
            floor = mx.max(scores, axis=-1, keepdims=True) + math.log(self._min_p)
            scores = mx.where(scores < floor, -math.inf, scores)
        choice = mx.random.categorical(scores / self._temperature, key=mx.random.key(self._draw_key()))
        self.position += 1
        if candidates is None:
            return choice
        return mx.take_along_axis(candidates, choice[:, None], axis=-1)[:, 0]

    def _draw_key(self) -> int:
        digest = hashlib.blake2b(f"{self._seed}:{self.position}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "little")


def make_sampler(sampling: Sampling, *, vocabulary_size: int) -> KeyedSampler | None:
    """A sampler for one request, or None for greedy: those requests share the batch's own argmax in a single call."""
    if sampling.temperature <= 0.0 or sampling.top_k == 1:
        return None
    return KeyedSampler(sampling, vocabulary_size=vocabulary_size)


def make_processors(sampling: Sampling) -> list[LogitsProcessor]:
    """What changes the logits before sampling: bias, then penalties over the last `PENALTY_WINDOW_TOKENS` tokens."""
    from mlx_lm.sample_utils import make_logits_processors

    processors: list[LogitsProcessor] = make_logits_processors(
        logit_bias=dict(sampling.logit_bias) or None,
        repetition_penalty=None if sampling.repeat_penalty == 1.0 else sampling.repeat_penalty,
        repetition_context_size=PENALTY_WINDOW_TOKENS,
        presence_penalty=sampling.presence_penalty,
        presence_context_size=PENALTY_WINDOW_TOKENS,
        frequency_penalty=sampling.frequency_penalty,
        frequency_context_size=PENALTY_WINDOW_TOKENS,
    )
    return processors


def _keep_top_p(mx: Any, scores: Any, top_p: float) -> Any:
    """Mask all but the likeliest tokens that together hold `top_p` of the probability; the likeliest always stays."""
    descending = -mx.sort(-scores, axis=-1)
    probabilities = mx.softmax(descending, axis=-1)
    mass_before = mx.cumsum(probabilities, axis=-1) - probabilities
    kept = mx.maximum((mass_before < top_p).sum(axis=-1, keepdims=True), 1)
    threshold = mx.take_along_axis(descending, kept - 1, axis=-1)
    return mx.where(scores < threshold, -math.inf, scores)
