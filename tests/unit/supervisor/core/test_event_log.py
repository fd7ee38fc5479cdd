"""Numbers, resumption and gaps of the event log."""

import pytest

from lmx_supervisor.core.event_log import EventLog, Gap, LoggedEvent

FIRST = 5_000_000
"""Of a log started at second 5."""


def _log(count: int, size: int = 10) -> EventLog:
    log = EventLog(5.0, size)
    for number in range(count):
        log.append("k", 5.0 + number, {"n": number})
    return log


def _ids(items: list[LoggedEvent | Gap]) -> list[int]:
    return [item.id for item in items if isinstance(item, LoggedEvent)]


def test_ids_are_contiguous_and_begin_at_the_clock() -> None:
    """The n-th event of a boot has the boot's microsecond plus n, so a later boot's ids are higher."""
    assert _ids(_log(3).after(FIRST - 1, 10)) == [FIRST, FIRST + 1, FIRST + 2]
    assert _log(1000).newest_id < EventLog(6.0, 10).newest_id


@pytest.mark.parametrize("seen", range(4))
def test_a_reader_goes_on_where_it_stopped(seen: int) -> None:
    """Naming the last event seen gives exactly those after it, and no gap."""
    assert _ids(_log(4).after(FIRST + seen, 10)) == list(range(FIRST + seen + 1, FIRST + 4))
    assert not any(isinstance(item, Gap) for item in _log(4).after(FIRST + seen, 10))


def test_what_the_log_lost_is_a_gap() -> None:
    """A reader whose next event made room for newer ones is told between which ids it missed something."""
    items = _log(25, size=10).after(FIRST + 3, 100)
    assert items[0] == Gap(FIRST + 3, FIRST + 15)
    assert _ids(items[1:]) == list(range(FIRST + 15, FIRST + 25))


def test_the_oldest_event_kept_follows_its_predecessor_without_a_gap() -> None:
    """The bound is exact: nothing is called lost that is still there."""
    assert _ids(_log(25, size=10).after(FIRST + 14, 100)) == list(range(FIRST + 15, FIRST + 25))


@pytest.mark.parametrize("foreign", [0, 4_000_000, 9_000_000])
def test_an_id_of_another_life_gets_everything_behind_a_gap(foreign: int) -> None:
    """An id this boot never gave, of an earlier boot or of one with a later clock, hides nothing."""
    items = _log(2).after(foreign, 10)
    assert items[0] == Gap(foreign, FIRST)
    assert _ids(items[1:]) == [FIRST, FIRST + 1]


def test_an_empty_log_tells_a_foreign_reader_of_the_gap_alone() -> None:
    """Before the first event of a boot there is only the gap, up to the id that will come."""
    assert EventLog(5.0, 10).after(7, 10) == [Gap(7, FIRST)]
    assert EventLog(5.0, 10).after(FIRST - 1, 10) == []


def test_a_read_is_bounded() -> None:
    """However much there is, a reader gets it in bounded portions."""
    assert _ids(_log(10).after(FIRST - 1, 3)) == [FIRST, FIRST + 1, FIRST + 2]
