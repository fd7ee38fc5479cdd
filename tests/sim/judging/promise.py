"""What a broken promise is, and the clock that forgives sleep."""

from lmx_protocol import limits

EPSILON_SECONDS = 1e-6


class BrokenPromiseError(AssertionError):
    """The core did what it must never do, or did not do what it must."""


def promise(kept: bool, text: str, *about: object) -> None:
    """Raises `BrokenPromiseError` when a promise is not kept. `about` fills the text's `{}`, and costs nothing until then."""
    if not kept:
        raise BrokenPromiseError(text.format(*about) if about else text)


class AwakeClock:
    """Seconds in which the supervisor could act: gaps between ticks beyond the tolerated ones do not count."""

    def __init__(self) -> None:
        self.now = 0.0
        self._last_tick: float | None = None
        self._slept_seconds = 0.0

    def note(self, now: float, *, is_tick: bool) -> None:
        """An event is handled at monotonic `now`."""
        gap_seconds = now - self._last_tick if self._last_tick is not None else 0.0
        if gap_seconds > limits.CLOCK_GAP_SECONDS:
            self._slept_seconds += gap_seconds
        if is_tick or gap_seconds > limits.CLOCK_GAP_SECONDS:
            self._last_tick = now
        self.now = now - self._slept_seconds
