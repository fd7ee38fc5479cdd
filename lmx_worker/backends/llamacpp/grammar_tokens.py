"""A GGUF file's vocabulary as llguidance wants it: the bytes of each token, the control tokens, the ends of an answer."""

from collections.abc import Sequence
from typing import Any

from lmx_worker.backends.llamacpp.weights import Weights

_FORCED_BYTES = 256
"""llguidance asks for the tokens of text that a form leaves no choice about, before every token anew. It needs the next ones
only, and llama.cpp's time for text without spaces grows with the square of its length."""


def open_grammar_tokenizer(weights: Weights) -> Any:
    """An `llguidance.LLTokenizer` of the model. Reads every token: about a second for 100,000 of them."""
    from llguidance import LLTokenizer, TokenizerWrapper

    vocabulary = _Vocabulary(weights)
    return LLTokenizer(
        TokenizerWrapper(vocabulary), n_vocab=weights.vocabulary_size, eos_token=vocabulary.end_token_ids or None
    )


class _Vocabulary:
    """What `llguidance.TokenizerWrapper` reads."""

    def __init__(self, weights: Weights) -> None:
        self._weights = weights
        tokens = range(weights.vocabulary_size)
        self.tokens = [weights.token_text(token) for token in tokens]
        # What is no text in an answer is none to a form either, whatever its name looks like.
        self.special_token_ids = [token for token in tokens if weights.is_control(token)]
        self.end_token_ids = [token for token in tokens if weights.ends_generation(token)]
        self.eos_token_id = self.end_token_ids[0] if self.end_token_ids else None
        self.bos_token_id = None

    def __call__(self, text: bytes | str) -> Sequence[int]:
        data = text.encode() if isinstance(text, str) else bytes(text)
        return list(self._weights.tokenize_plain(data[:_FORCED_BYTES]))
