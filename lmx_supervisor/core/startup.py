"""How a start goes, decided from what the last one left: normal, or a safe one that loads nothing.

A supervisor that keeps dying must not keep doing what kills it. Starts without a clean stop in between are counted; too many in
a short time make the next one safe: it serves health and operators, and loads only what they order.
"""

from dataclasses import dataclass

from lmx_protocol import limits


@dataclass(frozen=True, slots=True)
class LastRun:
    """What the state file says. Times are unix seconds."""

    clean: bool = True
    recent_starts: tuple[float, ...] = ()
    """Of the starts since the last clean stop."""
    loaded_models: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class StartupDecision:
    """What this start does."""

    startup_count: int
    """Starts without a clean stop in between, this one included, within the last minute."""
    recent_starts: tuple[float, ...]
    """To be remembered for the next start, this one included."""
    crash_loop_detected: bool
    safe_mode: bool
    restore: tuple[str, ...]
    """Models that were loaded and are to be there again, beside those that the configuration names."""
    reason: str | None
    """Why this start is a safe one."""


def decide_startup(last: LastRun, now_unix_seconds: float, *, nothing_wanted: bool = False) -> StartupDecision:
    """How to start at `now_unix_seconds`. `nothing_wanted`: the operator said explicitly that nothing is to be loaded.

    The wall clock may have jumped between two starts, so a start "in the future" counts by its distance like any other.
    """
    before = () if last.clean else last.recent_starts
    recent = (*_within(limits.UNCLEAN_STARTS_LONG_SECONDS, before, now_unix_seconds), now_unix_seconds)
    recent = recent[-limits.UNCLEAN_STARTS_KEPT :]
    startup_count = len(_within(limits.UNCLEAN_STARTS_SECONDS, recent, now_unix_seconds))
    reason = _crash_loop(startup_count, len(recent))
    crash_loop_detected = reason is not None
    if reason is None and nothing_wanted:
        reason = "the operator set models.auto_load to nothing for this start"
    return StartupDecision(
        startup_count=startup_count,
        recent_starts=recent,
        crash_loop_detected=crash_loop_detected,
        safe_mode=reason is not None,
        restore=() if last.clean or reason is not None else last.loaded_models,
        reason=reason,
    )


def _crash_loop(in_a_minute: int, in_an_hour: int) -> str | None:
    if in_a_minute >= limits.UNCLEAN_STARTS_MAX:
        return f"{in_a_minute} starts without a clean stop within {limits.UNCLEAN_STARTS_SECONDS:g} s"
    if in_an_hour >= limits.UNCLEAN_STARTS_LONG_MAX:
        return f"{in_an_hour} starts without a clean stop within {limits.UNCLEAN_STARTS_LONG_SECONDS:g} s"
    return None


def _within(seconds: float, starts: tuple[float, ...], now: float) -> tuple[float, ...]:
    return tuple(at for at in starts if abs(now - at) <= seconds)
