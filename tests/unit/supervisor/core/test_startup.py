"""When a start is a safe one, and what the others bring back."""

import pytest

from lmx_protocol import limits
from lmx_supervisor.core.startup import LastRun, decide_startup

NOW = 1_800_000_000.0


def starts_ago(*seconds: float) -> tuple[float, ...]:
    """Starts that were this long before now."""
    return tuple(NOW - ago for ago in seconds)


@pytest.mark.parametrize(
    ("ago", "count", "safe"),
    [
        ((), 1, False),
        ((10,), 2, False),
        ((20, 10), 3, True),
        ((60, 30), 3, True),
        ((61, 30), 2, False),
        ((600, 300), 1, False),
        ((3000, 2000, 1000), 1, False),
        ((3000, 2000, 1000, 500), 1, True),
        ((3601, 2000, 1000, 500), 1, False),
        ((3000, 2000, 20, 10), 3, True),
        ((40, 30, 20, 10), 5, True),
    ],
)
def test_too_many_unclean_starts_make_a_safe_one(ago: tuple[float, ...], count: int, safe: bool) -> None:
    """Three within a minute or five within an hour, this one included, the bounds themselves included."""
    decision = decide_startup(LastRun(clean=False, recent_starts=starts_ago(*ago), loaded_models=("m",)), NOW)

    assert (count, safe, safe) == (decision.startup_count, decision.safe_mode, decision.crash_loop_detected)
    assert decision.restore == (() if safe else ("m",))
    assert decision.recent_starts[-1] == NOW


def test_a_clean_stop_forgets_the_starts_and_the_models() -> None:
    """Whatever the file still holds, the next start is the first, and brings nothing back."""
    decision = decide_startup(LastRun(clean=True, recent_starts=starts_ago(3, 2, 1), loaded_models=("m",)), NOW)

    assert (1, False, (), (NOW,)) == (
        decision.startup_count,
        decision.safe_mode,
        decision.restore,
        decision.recent_starts,
    )


def test_no_file_is_a_clean_slate() -> None:
    """A first start is a normal one."""
    decision = decide_startup(LastRun(), NOW)

    assert (1, False, None) == (decision.startup_count, decision.safe_mode, decision.reason)


def test_an_operator_can_ask_for_a_safe_start() -> None:
    """It loads and restores nothing, and is told from a crash loop."""
    decision = decide_startup(LastRun(clean=False, loaded_models=("m",)), NOW, nothing_wanted=True)

    assert (True, False, ()) == (decision.safe_mode, decision.crash_loop_detected, decision.restore)
    assert decision.reason is not None


@pytest.mark.parametrize("jump_seconds", [-30.0, 30.0])
def test_a_small_step_of_the_wall_clock_hides_no_crash_loop(jump_seconds: float) -> None:
    """Starts that seem to lie in the future count by their distance."""
    decision = decide_startup(LastRun(clean=False, recent_starts=(NOW, NOW + 1)), NOW + jump_seconds)

    assert decision.safe_mode


@pytest.mark.parametrize("years", [-10, 10])
def test_a_large_jump_of_the_wall_clock_starts_the_count_anew(years: int) -> None:
    """Ten years are no minute, in either direction."""
    decision = decide_startup(LastRun(clean=False, recent_starts=starts_ago(2, 1)), NOW + years * 365 * 86400)

    assert (1, False) == (decision.startup_count, decision.safe_mode)


def test_what_is_remembered_is_bounded() -> None:
    """A file that says a million starts does not grow from start to start."""
    many = tuple(NOW - 1 for _ in range(10_000))

    assert len(decide_startup(LastRun(clean=False, recent_starts=many), NOW).recent_starts) == limits.UNCLEAN_STARTS_KEPT
