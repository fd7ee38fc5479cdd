"""How the next token is chosen: one llama.cpp sampler chain per request.

The order is llama.cpp's own: bias, penalties, top_k, top_p, min_p, temperature, draw. A form comes before all of them: what it
forbids is minus infinity, which no bias lifts. Everything after top_k sees its few
candidates only (0.05 ms a token here); `top_k` 0 keeps the whole vocabulary, exactly and ten times slower. Greedy without
bias and penalties needs no chain: it is the place of the largest logit.
"""

import secrets
from collections.abc import Sequence
from typing import Any

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Sampling
from lmx_worker.backends.base import RequestError
from lmx_worker.text.constraint import Constraint

_REPEAT_WINDOW_TOKENS = 64
_RANDOM_SEED = 0xFFFFFFFF
"""llama.cpp takes this value as "choose one"; seeds are folded below it."""


def check_sampling(sampling: Sampling, vocabulary_size: int) -> None:
    """Refuse what would make native code misbehave. Raises `RequestError`."""
    if sampling.repeat_penalty <= 0:
        raise RequestError(ErrorCode.INVALID_VALUE, "repeat_penalty must be greater than 0", param="repeat_penalty")
    for token, _ in sampling.logit_bias:
        if not 0 <= token < vocabulary_size:
            raise RequestError(
                ErrorCode.INVALID_VALUE,
                f"logit_bias names token {token}; this model's tokens are 0 to {vocabulary_size - 1}",
                param="logit_bias",
            )


def _is_plain_greedy(sampling: Sampling) -> bool:
    adjusted = sampling.logit_bias or sampling.frequency_penalty or sampling.presence_penalty or sampling.repeat_penalty != 1
    return sampling.temperature <= 0 and not adjusted


class TokenSampler:
    """The sampler of one request; `close` frees it."""

    def __init__(
        self,
        api: Any,
        sampling: Sampling,
        *,
        prompt: Sequence[int],
        vocabulary_size: int,
        window_tokens: int,
        constraint: Constraint | None = None,
    ) -> None:
        import numpy as np  # here: importing a backend's modules must be cheap

        self._api = api
        self._np = np
        self._vocabulary_size = vocabulary_size
        self._constraint = constraint
        self._chain: Any = None
        if _is_plain_greedy(sampling):
            return
        params = api.llama_sampler_chain_default_params()
        params.no_perf = True
        self._chain = api.llama_sampler_chain_init(params)
        self._add_bias(sampling, vocabulary_size)
        self._add_penalties(sampling, prompt, vocabulary_size, window_tokens)
        self._add_choice(sampling)

    def sample(self, context: Any, output: int) -> int:
        """Choose a token from the batch row `output` of the last decode, and remember it for the penalties."""
        if self._constraint is not None:
            self._forbid(self.logits(context, output), self._constraint)
        if self._chain is not None:
            token = int(self._api.llama_sampler_sample(self._chain, context, output))
        else:
            token = int(self.logits(context, output).argmax())
        if self._constraint is not None:
            self._constraint.accept(token)
        return token

    def close(self) -> None:
        """Free the chain; idempotent."""
        if self._chain is not None:
            self._api.llama_sampler_free(self._chain)
            self._chain = None

    def logits(self, context: Any, output: int) -> Any:
        """The row as it lies in llama.cpp's memory: what is written there, the chain reads."""
        logits = self._api.llama_get_logits_ith(context, output)
        return self._np.ctypeslib.as_array(logits, shape=(self._vocabulary_size,))

    def _forbid(self, logits: Any, constraint: Constraint) -> None:
        allowed = constraint.allowed()
        if allowed is None:
            return
        np = self._np
        forbidden = np.unpackbits(~np.frombuffer(allowed, np.uint8), bitorder="little", count=self._vocabulary_size)
        logits[forbidden.view(bool)] = -np.inf

    def _add(self, sampler: Any) -> None:
        self._api.llama_sampler_chain_add(self._chain, sampler)

    def _add_bias(self, sampling: Sampling, vocabulary_size: int) -> None:
        if not sampling.logit_bias:
            return
        biases = (self._api.llama_logit_bias * len(sampling.logit_bias))(*sampling.logit_bias)
        self._add(self._api.llama_sampler_init_logit_bias(vocabulary_size, len(biases), biases))

    def _add_penalties(self, sampling: Sampling, prompt: Sequence[int], vocabulary_size: int, window_tokens: int) -> None:
        # A chain tells every member about each token. Repetition counts the end of the prompt too, the OpenAI penalties count
        # the answer only: so their sampler joins the chain after the prompt was told.
        init = self._api.llama_sampler_init_penalties
        if sampling.repeat_penalty != 1:
            self._add(init(vocabulary_size, _REPEAT_WINDOW_TOKENS, sampling.repeat_penalty, 0.0, 0.0))
            for token in prompt[-_REPEAT_WINDOW_TOKENS:]:
                self._api.llama_sampler_accept(self._chain, token)
        if sampling.frequency_penalty or sampling.presence_penalty:
            self._add(init(vocabulary_size, window_tokens, 1.0, sampling.frequency_penalty, sampling.presence_penalty))

    def _add_choice(self, sampling: Sampling) -> None:
        api = self._api
        if sampling.temperature <= 0:
            self._add(api.llama_sampler_init_greedy())
            return
        if sampling.top_k > 0:
            self._add(api.llama_sampler_init_top_k(sampling.top_k))
        if sampling.top_p < 1:
            self._add(api.llama_sampler_init_top_p(sampling.top_p, 1))
        if sampling.min_p > 0:
            self._add(api.llama_sampler_init_min_p(sampling.min_p, 1))
        self._add(api.llama_sampler_init_temp(sampling.temperature))
        seed = secrets.randbelow(_RANDOM_SEED) if sampling.seed is None else sampling.seed % _RANDOM_SEED
        self._add(api.llama_sampler_init_dist(seed))
