"""How much of its time a worker puts into prompts, while others on the same host wait for their next token. Pure.

A bucket of seconds: it fills as fast as the supervisor's ratio says, a piece of a prompt empties it by what it took, and the
next piece waits until it is level again. Seconds, not tokens, because they need no knowledge of how fast model and machine are.
The pieces are short then, since whoever waits for the same device waits for the whole of one.
"""

from lmx_protocol.limits import PACED_PREFILL_STEP_SECONDS, PACED_PREFILL_TOKENS_MIN


class PrefillPacing:
    """Set `ratio` when the supervisor changes it; 1 is no pacing at all."""

    def __init__(self) -> None:
        self.ratio = 1.0
        self._level_at = 0.0
        """When the bucket is level again."""
        self._tokens_per_second = 0.0
        """Of the last piece; 0: none was measured."""

    def tokens_allowed(self, now: float) -> int | None:
        """How many prompt tokens the next step may take; None: whatever it likes."""
        if self.ratio >= 1:
            return None
        if now < self._level_at:
            return 0
        return max(PACED_PREFILL_TOKENS_MIN, int(self._tokens_per_second * PACED_PREFILL_STEP_SECONDS))

    def rest_seconds(self, now: float) -> float:
        """How long there is to wait for the next piece; 0: it may come now."""
        return 0.0 if self.ratio >= 1 else max(0.0, self._level_at - now)

    def stepped(self, prefilled_tokens: int, started_at: float, stepped_at: float) -> None:
        """A step took so many prompt tokens, and perhaps decoded beside them."""
        seconds = stepped_at - started_at
        if prefilled_tokens and seconds > 0:
            self._tokens_per_second = prefilled_tokens / seconds
            self._level_at = stepped_at + seconds * (1 / self.ratio - 1)
