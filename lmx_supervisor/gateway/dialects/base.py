"""What a dialect's translator is to the answering loop: neutral events in, bytes of that dialect out. Pure.

A translator serves one request. It must hold: the texts of `text` chunks, concatenated, equal the text given to `whole`.
"""

from typing import Protocol

from lmx_protocol.messages import Finished, Text
from lmx_supervisor.gateway.problem import Problem


class Translator(Protocol):
    """One request's answer in one dialect. Stream parts may be empty bytes: nothing is sent then."""

    def opening(self) -> bytes:
        """What a stream begins with."""

    def text(self, event: Text) -> bytes:
        """A piece of the answer."""

    def keep_alive(self) -> bytes:
        """What is sent while nothing flows, so that nobody on the way takes the stream for dead."""

    def closing(self, finished: Finished) -> bytes:
        """Everything after the last piece, the dialect's end marker included."""

    def failing(self, problem: Problem) -> bytes:
        """The error event of a stream that is cut off. Never followed by the end marker."""

    def whole(self, text: str, finished: Finished) -> bytes:
        """The body of an answer that is not streamed."""
