"""From sampled tokens to deltas for one request: mlx-lm's detokenizer, then the output that all backends share."""

from typing import Any

from lmx_protocol.messages import TokenLogprob
from lmx_worker.backends.base import Delta
from lmx_worker.text.answer_format import belongs_to_marks
from lmx_worker.text.output import AnswerOutput


class TextStream:
    """The text of one request. mlx-lm's streaming detokenizer holds back incomplete characters."""

    def __init__(self, detokenizer: Any, is_visible: bytes, output: AnswerOutput) -> None:
        """`is_visible` has one byte per token id: 0 for ids that stand for no text (control tokens, unused ids)."""
        self._detokenizer = detokenizer
        self._is_visible = is_visible
        self.output = output

    def push(self, token: int, logprob: TokenLogprob | None = None) -> list[Delta]:
        """Take one token, which is counted in one of the deltas."""
        if self._is_visible[token]:
            self._detokenizer.add_token(token)
        return self.output.push_text(self._detokenizer.last_segment, logprob)

    def finish(self) -> list[Delta]:
        """No more tokens: what was held back."""
        self._detokenizer.finalize()
        return self.output.finish(self._detokenizer.last_segment)


def visible_tokens(tokenizer: Any, vocabulary_size: int, marks: frozenset[str]) -> bytes:
    """One byte per token id: 0 for control tokens and for ids the tokenizer does not know; the tokens of marks are seen."""
    visible = bytearray(vocabulary_size)
    for token in tokenizer.get_vocab().values():
        if token < vocabulary_size:
            visible[token] = 1
    for token, added in tokenizer.added_tokens_decoder.items():
        if added.special and token < vocabulary_size:
            visible[token] = belongs_to_marks(added.content, marks)
    return bytes(visible)
