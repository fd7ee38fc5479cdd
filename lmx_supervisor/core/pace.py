"""How fast a model answers, as far as its last answers tell: when to come back, and what is too late to begin. Pure."""

import math
from collections import deque

from lmx_protocol import limits

_NEWEST_COUNTS = 0.2


class Pace:
    """What the recent requests of one model took, from when its worker got them."""

    def __init__(self) -> None:
        self._first_text_seconds: deque[float] = deque(maxlen=limits.PACE_SAMPLES_MAX)
        self._answer_seconds: float | None = None

    def first_text(self, seconds: float) -> None:
        """An answer began."""
        self._first_text_seconds.append(seconds)

    def answered(self, seconds: float) -> None:
        """An answer is whole."""
        mean = self._answer_seconds if self._answer_seconds is not None else seconds
        self._answer_seconds = mean + _NEWEST_COUNTS * (seconds - mean)

    @property
    def quickest_seconds(self) -> float:
        """No recent answer began in less: what has to be over sooner cannot be done. 0 while there was none."""
        return min(self._first_text_seconds, default=0.0)

    def retry_after_seconds(self, waiting: int, places: int) -> int:
        """When those who wait now will have been served, in whole seconds and within bounds."""
        if self._answer_seconds is None:
            return limits.RETRY_AFTER_UNKNOWN_SECONDS
        seconds = math.ceil(self._answer_seconds * (waiting + 1) / max(1, places))
        return min(max(seconds, 1), limits.RETRY_AFTER_MAX_SECONDS)
