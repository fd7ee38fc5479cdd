"""Holding an answer to a form inside mlx-lm's batch, and a Hugging Face vocabulary as llguidance wants it."""

import math
from typing import Any

from lmx_protocol.errors import ErrorCode
from lmx_worker.backends.base import RequestError
from lmx_worker.text.constraint import Constraint
from lmx_worker.text.grammar import FORM_PARAM


class FormProcessor:
    """A logits processor that forbids what the form does not allow.

    The batch samples ahead: when it asks for the logits after a token, that token is about to be delivered. A sequence that
    left the batch and comes back asks again after its last token. So what was sampled is read off the context, by position.
    """

    def __init__(self, constraint: Constraint, *, prompt_tokens: int, vocabulary_size: int) -> None:
        import numpy as np  # here: importing a backend's modules must be cheap

        self._constraint = constraint
        self._prompt_tokens = prompt_tokens
        self._vocabulary_size = vocabulary_size
        self._accepted = 0
        self._np = np

    def __call__(self, context: Any, logits: Any) -> Any:
        """Logits of shape (1, vocabulary) for what follows `context`, all tokens of the sequence."""
        import mlx.core as mx

        answered = len(context) - self._prompt_tokens
        if answered > self._accepted:
            assert answered == self._accepted + 1, "the batch skipped a token"
            self._constraint.accept(int(context[-1].item()))
            self._accepted = answered
        allowed = self._constraint.allowed()
        if allowed is None:
            return logits
        bits = self._np.unpackbits(self._np.frombuffer(allowed, "uint8"), bitorder="little", count=self._vocabulary_size)
        return mx.where(mx.array(bits.view(bool)), logits, -math.inf)


def open_grammar_tokenizer(tokenizer: Any, *, vocabulary_size: int) -> Any:
    """An `llguidance.LLTokenizer` of mlx-lm's `TokenizerWrapper`: about a second for 100,000 tokens.

    Raises:
        RequestError: it is none of the tokenizers that llguidance can read.
    """
    from llguidance.hf import from_tokenizer

    known = max(vocabulary_size, len(tokenizer))
    try:
        return from_tokenizer(tokenizer._tokenizer, n_vocab=known, eos_token=sorted(tokenizer.eos_token_ids))
    # llguidance reads the tokenizer's file on its own, and what it does not know in there it says with any of these.
    except (ValueError, RuntimeError) as error:
        raise RequestError(
            ErrorCode.NOT_SUPPORTED, f"the tokens of this model's tokenizer cannot be told: {error}", FORM_PARAM
        ) from error
