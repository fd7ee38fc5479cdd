"""From the bytes of sampled tokens to text a client may see: whole characters only, and nothing of a stop string."""

import codecs
from collections.abc import Sequence

from lmx_worker.text.stops import StopMatcher


class TextAssembler:
    """The text of one generation, built token by token.

    A character whose bytes are spread over several tokens comes out with its last byte; bytes that are no UTF-8 come out as
    U+FFFD.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._matcher = StopMatcher(stops)

    @property
    def stop_sequence(self) -> str | None:
        """The stop string that ended the text, or None."""
        return self._matcher.matched

    def push(self, piece: bytes) -> str:
        """Take the bytes of the next token; return the text that became final (often empty)."""
        return self._matcher.push(self._decoder.decode(piece))

    def finish(self) -> str:
        """No token follows: return what was held back. It may still complete a stop string; then `stop_sequence` is set."""
        text = self._matcher.push(self._decoder.decode(b"", final=True))
        return text + self._matcher.flush()
