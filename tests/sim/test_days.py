"""A thousand days, no broken promise; and the same day twice is the same day."""

import pytest

from tests.sim.day import DayFailedError, run_day
from tests.sim.mutants import MUTANTS
from tests.sim.regressions import SEEDS

DAYS = 1000
SEEDS_TO_FIND_A_BUG = 500


def test_a_thousand_days_keep_every_promise() -> None:
    """Crashes, hangs, lies, sleep, cancels and orders in a thousand mixes break nothing; a failure says how to replay it."""
    failures = []
    requests = finished = workers = 0
    for seed in range(DAYS):
        try:
            diary = run_day(seed)
        except DayFailedError as failure:
            failures.append(str(failure))
        else:
            requests += diary.requests
            workers += diary.workers
            finished += dict(diary.ended).get("Finished", 0)

    assert not failures, f"{len(failures)} of {DAYS} days failed:\n" + "\n".join(failures[:5])
    # A simulation in which little happens would prove little.
    assert requests > 50 * DAYS
    assert finished > 10 * DAYS
    assert workers > 3 * DAYS


@pytest.mark.parametrize(("seed", "found"), SEEDS.items())
def test_a_day_that_once_failed_keeps_every_promise(seed: int, found: str) -> None:
    """What was found stays fixed. These days were found before people had names."""
    run_day(seed, anonymous=True)


def test_a_seed_is_a_day() -> None:
    """The same seed gives the same events and actions, so that a failure can be seen again."""
    first: list[str] = []
    second: list[str] = []
    diaries = run_day(7, trace=first.append), run_day(7, trace=second.append)

    assert diaries[0] == diaries[1]
    assert first == second


@pytest.mark.parametrize("name", MUTANTS)
def test_a_planted_bug_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The simulation can fail: it sees each of these bugs within a few hundred days, most on the first, and says what it is."""
    plant, says = MUTANTS[name]
    plant(monkeypatch)
    failures = []
    for seed in range(SEEDS_TO_FIND_A_BUG):
        try:
            run_day(seed)
        except DayFailedError as failure:
            failures.append(str(failure))
            if says in failures[-1]:
                return

    raise AssertionError(f"not found in {SEEDS_TO_FIND_A_BUG} days; other failures: {failures[:3]}")
