"""Counting requests against rate limits, each over the time that ends now: 60 a minute holds for every minute there is.

Bounded, whoever asks from how many addresses: beyond the bounds those that asked the longest time ago are forgotten, and would
begin afresh. By the clock that does not jump.
"""

import math
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence

import msgspec

from lmx_protocol import limits
from lmx_supervisor.config.rate_limits import RateLimit

_Window = tuple[str, int, int]
"""Whose, how many, in how many seconds."""


class Count(msgspec.Struct, frozen=True, kw_only=True):
    """How far one limit is used up."""

    limit: int
    window_seconds: int
    remaining: int
    next_free_seconds: int
    """Until one more request is possible than now; 0 when none was counted."""


class MovingWindows:
    """The requests of late."""

    def __init__(
        self,
        *,
        windows_max: int = limits.RATE_LIMIT_WINDOWS_MAX,
        hits_max: int = limits.RATE_LIMIT_HITS_MAX,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._windows_max = windows_max
        self._hits_max = hits_max
        self._now = now
        self._windows: OrderedDict[_Window, deque[float]] = OrderedDict()
        """Times of requests, the oldest first; the window that was used last is the last."""
        self.hits = 0
        """In all windows."""

    def take(self, whose: str, rate_limits: Sequence[RateLimit]) -> tuple[bool, list[Count]]:
        """Whether a request is within all the limits, and how far each is used up. Only one that is within them counts."""
        now = self._now()
        windows = [(whose, each.amount, each.seconds) for each in rate_limits]
        for window in windows:
            self._forget_old(window, now)
        within = all(len(self._windows.get(window, ())) < window[1] for window in windows)
        if within:
            for window in windows:
                self._windows.setdefault(window, deque()).append(now)
                self._windows.move_to_end(window)
                self.hits += 1
            self._forget_more(len(windows))
        return within, [self._count(window, now) for window in windows]

    def _forget_old(self, window: _Window, now: float) -> None:
        times = self._windows.get(window)
        if times is None:
            return
        while times and times[0] <= now - window[2]:
            times.popleft()
            self.hits -= 1
        if not times:
            del self._windows[window]

    def _forget_more(self, in_use: int) -> None:
        """Those in use are the last ones, and stay."""
        while len(self._windows) > in_use and (len(self._windows) > self._windows_max or self.hits > self._hits_max):
            _, times = self._windows.popitem(last=False)
            self.hits -= len(times)

    def _count(self, window: _Window, now: float) -> Count:
        times = self._windows.get(window, ())
        _, limit, seconds = window
        return Count(
            limit=limit,
            window_seconds=seconds,
            remaining=limit - len(times),
            next_free_seconds=max(1, math.ceil(times[0] + seconds - now)) if times else 0,
        )
