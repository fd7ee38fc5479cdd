"""Stop strings found in text that arrives in pieces.

Covers matching across any borders and holding back what may still become a stop string. Does not cover stop tokens, which a
backend sees before there is text.
"""

from collections.abc import Sequence

from lmx_worker.text.source import partial_match_start


class StopMatcher:
    """Finds the first stop string in a stream of text pieces.

    The stop string that is complete first wins; of two that are complete at the same character, the longer one. So the result
    does not depend on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.matched: str | None = None

    def push(self, text: str) -> str:
        """Take the next piece; return the text that is final now. After a match (`matched` is set) everything is dropped."""
        if self.matched is not None:
            return ""
        if not self._stops:
            return text
        seen = self._held + text
        match = self._first_match(seen)
        if match is not None:
            start, self.matched = match
            self._held = ""
            return seen[:start]
        hold_from = min(partial_match_start(seen, stop) for stop in self._stops)
        self._held = seen[hold_from:]
        return seen[:hold_from]

    def flush(self) -> str:
        """The text held back, which is final because nothing follows it."""
        held, self._held = self._held, ""
        return held

    def _first_match(self, text: str) -> tuple[int, str] | None:
        found = [(start + len(stop), start, stop) for stop in self._stops if (start := text.find(stop)) >= 0]
        if not found:
            return None
        _, start, stop = min(found)
        return start, stop
