"""Where one answer stands in the form it is held to: which tokens may follow, and whether any may.

A thin owner of an llguidance matcher, which never raises: it falls into an error state and stays there. So does this; a backend
looks at `failure` after each token.
"""

from typing import Any

_QUOTED_CHARACTERS = 400
_DEAD_END = "no token of this model can go on from here"


class Constraint:
    """The state of one answer. Made on the prepare thread, then used by the engine thread only."""

    def __init__(self, matcher: Any) -> None:
        """`matcher` is an `llguidance.LLMatcher` at its beginning."""
        self._matcher = matcher
        self._failure: str | None = None

    @property
    def failure(self) -> str | None:
        """Why the form cannot be followed any further; None while it can."""
        if self._failure is None and self._matcher.is_error():
            self._failure = in_one_line(self._matcher.get_error())
        return self._failure

    @property
    def is_complete(self) -> bool:
        """Whether the answer has the form and nothing can follow: its end does not have to be sampled."""
        return self.failure is None and bool(self._matcher.is_stopped())

    def allowed(self) -> bytes | None:
        """A bit for each token, the lowest of a byte first, set where it may come next. None: the answer is over or failed."""
        if self.failure is not None or self._matcher.is_stopped():
            return None
        bits: bytes = self._matcher.compute_bitmask()
        if self.failure is None and not bits.strip(b"\0"):
            self._failure = _DEAD_END
        return bits if self.failure is None else None

    def accept(self, token: int) -> None:
        """This token was sampled. After the end of the answer it is ignored."""
        if self.failure is None and not self._matcher.is_stopped():
            self._matcher.consume_token(token)


def in_one_line(message: str) -> str:
    """What llguidance has to say: its first line, and the error in a regular expression that it quotes at length."""
    lines = [line.strip() for line in message.replace("<non-verbose/>", "").strip().splitlines()]
    return " ".join(
        [*(line[:_QUOTED_CHARACTERS] for line in lines[:1]), *(line for line in lines[1:] if line.startswith("error:"))]
    )
