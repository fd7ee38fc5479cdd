"""Log-probabilities of sampled tokens, for every backend: those of the model itself.

They are the log-softmax of the logits as the model computed them: before temperature, penalties, bias, cuts and forms. So they
say what the model thought likely, and mean the same in every request; what was done to the logits afterwards is the client's
own doing and known to it. vLLM answers the same by default.
"""

from collections.abc import Callable
from typing import Any

from lmx_protocol.messages import Alternative, TokenLogprob

_FLOOR = -9999.0
"""For tokens that the model rules out: JSON has no minus infinity, and clients know this number from OpenAI."""


class LogprobReader:
    """Reads the log-probabilities of one request's tokens, each out of its row of logits."""

    def __init__(self, alternatives: int, token_bytes: Callable[[int], bytes]) -> None:
        """`alternatives` is how many of the likeliest tokens are told; `token_bytes` gives the bytes of any token."""
        import numpy as np  # here: importing a backend's modules must be cheap

        self._np = np
        self._alternatives = alternatives
        self._token_bytes = token_bytes
        self._row: Any = None

    def note(self, logits: Any) -> None:
        """Take the row that the next token is sampled from, a numpy array. It is copied: sampling may write into it."""
        np = self._np
        shifted = logits.astype(np.float32) - logits.max()
        self._row = shifted - np.log(np.exp(shifted).sum(dtype=np.float64))

    def of(self, token: int) -> TokenLogprob:
        """What is told of the token that was sampled from the noted row."""
        alternatives = tuple(
            Alternative(token=self._token_bytes(other), logprob=self._logprob(other)) for other in self._likeliest()
        )
        return TokenLogprob(token=self._token_bytes(token), logprob=self._logprob(token), alternatives=alternatives)

    def _likeliest(self) -> list[int]:
        np = self._np
        count = min(self._alternatives, len(self._row))
        if count == 0:
            return []
        candidates = np.argpartition(-self._row, count - 1)[:count]
        return [int(token) for token in candidates[np.argsort(-self._row[candidates], kind="stable")]]

    def _logprob(self, token: int) -> float:
        value = float(self._row[token])
        # A broken model's "not a number" is not larger than anything either.
        return min(value, 0.0) if value > _FLOOR else _FLOOR
