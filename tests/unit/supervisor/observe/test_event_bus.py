"""The event log on the loop: waking, lagging behind, the number of readers, the end."""

import asyncio

import pytest

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.event_log import Gap, LoggedEvent
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.observe.event_bus import EventBus
from lmx_supervisor.observe.event_names import SERVICE_STOPPED
from lmx_supervisor.observe.log_format import Redaction


@pytest.fixture
def bus() -> EventBus:
    """A bus that started at second 1 and knows one secret."""
    return EventBus(Redaction(("hunter2",)), unix_now=lambda: 1.0)


def _kinds(items: list[LoggedEvent | Gap]) -> list[str]:
    return [item.kind if isinstance(item, LoggedEvent) else "gap" for item in items]


async def test_an_event_wakes_every_reader_and_is_read_once(bus: EventBus) -> None:
    """Two readers wait, one event comes: each reads it, and then has nothing to read."""
    readers = [bus.subscribe(None) for _ in range(2)]
    waits = [asyncio.create_task(reader.wait(10.0)) for reader in readers]
    await asyncio.sleep(0)
    bus.take(Tell("a", {}))
    async with asyncio.timeout(5):
        await asyncio.gather(*waits)
    assert [_kinds(reader.read()) for reader in readers] == [["a"], ["a"]]
    assert [reader.read() for reader in readers] == [[], []]


async def test_an_event_between_reading_and_waiting_is_not_slept_through(bus: EventBus) -> None:
    """What happens after an empty read ends the wait that follows at once."""
    reader = bus.subscribe(None)
    assert reader.read() == []
    bus.take(Tell("a", {}))
    async with asyncio.timeout(5):
        await reader.wait(60.0)
    assert _kinds(reader.read()) == ["a"]


async def test_a_wait_ends_by_itself(bus: EventBus) -> None:
    """A reader gets control back to send its heartbeat though nothing happened."""
    reader = bus.subscribe(None)
    await reader.wait(0.001)
    assert reader.read() == []


async def test_a_reader_that_lags_behind_is_told_of_the_gap(bus: EventBus) -> None:
    """More events than are kept: the slow reader reads a gap and then all that is left, in bounded portions."""
    reader = bus.subscribe(None)
    for _ in range(limits.EVENTS_KEPT_MAX + 5):
        bus.take(Tell("a", {}))
    kinds: list[str] = []
    while items := reader.read():
        assert len(items) <= limits.EVENTS_PER_READ_MAX + 1
        kinds += _kinds(items)
    assert kinds == ["gap"] + ["a"] * limits.EVENTS_KEPT_MAX


async def test_there_is_a_bound_on_readers_and_a_closed_one_makes_room(bus: EventBus) -> None:
    """The one too many is refused with a code for 503, until another leaves."""
    readers = [bus.subscribe(None) for _ in range(limits.EVENT_SUBSCRIBERS_MAX)]
    with pytest.raises(Refusal) as refused:
        bus.subscribe(None)
    assert refused.value.code is ErrorCode.OVERLOADED
    readers[0].close()
    bus.subscribe(None)


async def test_the_service_s_last_words_are_the_end(bus: EventBus) -> None:
    """Readers read all there is, the last event included, and only then it has ended; nobody waits for more."""
    reader = bus.subscribe(None)
    bus.take(Tell("a", {}))
    bus.take(Tell(SERVICE_STOPPED, {}))
    assert not reader.ended
    assert _kinds(reader.read()) == ["a", SERVICE_STOPPED]
    assert reader.ended
    async with asyncio.timeout(5):
        await reader.wait(60.0)


async def test_no_secret_gets_into_an_event(bus: EventBus) -> None:
    """A configured key is struck out of every field, however deep."""
    reader = bus.subscribe(None)
    bus.take(Tell("a", {"text": "the key is hunter2", "deep": {"list": ["hunter2"]}}))
    [event] = reader.read()
    assert isinstance(event, LoggedEvent)
    assert "hunter2" not in str(event.fields)
