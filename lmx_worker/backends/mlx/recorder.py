"""Keeping a request's own logits inside mlx-lm's batch, until the token that was sampled from them is delivered."""

from typing import Any

from lmx_protocol.messages import TokenLogprob
from lmx_worker.backends.logprobs import LogprobReader


class LogprobRecorder:
    """A logits processor that changes nothing and remembers what it saw; it has to be the first.

    The batch samples one token ahead of what it delivers, and samples again what it had not delivered when a sequence left it:
    so rows are kept by position. What the batch itself reports are log-probabilities after all processors, in the model's own
    precision, which for bfloat16 is two digits.
    """

    def __init__(self, reader: LogprobReader, *, prompt_tokens: int) -> None:
        self._reader = reader
        self._prompt_tokens = prompt_tokens
        self._rows: dict[int, Any] = {}

    def __call__(self, context: Any, logits: Any) -> Any:
        """Remember the logits of shape (1, vocabulary) for what follows `context`, all tokens of the sequence."""
        self._rows[len(context) - self._prompt_tokens] = logits
        return logits

    def take(self, position: int, token: int) -> TokenLogprob:
        """What is told of the answer's token number `position`."""
        import mlx.core as mx
        import numpy as np

        row = self._rows.pop(position)
        self._reader.note(np.array(row[0].astype(mx.float32)))
        return self._reader.of(token)
