"""How often something happened in the last minute, counted by the second: a busy one costs no more than a quiet one. Pure."""

from collections import deque

_SECONDS = 60


class LastMinute:
    """Counts what is added."""

    def __init__(self) -> None:
        self._counts: deque[tuple[int, int]] = deque(maxlen=_SECONDS)
        """Whole second → how many, the newest last; seconds without any are left out."""

    def add(self, now: float) -> None:
        """Once more, at monotonic second `now`."""
        second = int(now)
        count = self._counts.pop()[1] if self._counts and self._counts[-1][0] == second else 0
        self._counts.append((second, count + 1))

    def per_second(self, now: float) -> float:
        """The mean rate over the minute before `now`."""
        return sum(count for second, count in self._counts if second > now - _SECONDS) / _SECONDS
