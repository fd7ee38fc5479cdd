"""What operators were told lately, numbered, so that a reader who was away can go on where it stopped. Pure.

Ids are contiguous and grow over restarts too: a boot counts on from its wall clock in microseconds. What a reader missed and
the log no longer has is a `Gap`, never silence.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One thing that happened. `fields` are flat and ready for JSON."""

    id: int
    kind: str
    at_unix_seconds: float
    fields: Mapping[str, object]
    alarming: bool = False
    """Whether an operator should look at it."""


@dataclass(frozen=True, slots=True)
class Gap:
    """What happened between these two ids is not known any more; the ids themselves are not part of the gap."""

    from_id: int
    to_id: int


class EventLog:
    """The newest events, at most `size` of them."""

    def __init__(self, started_at_unix_seconds: float, size: int) -> None:
        self._next_id = int(started_at_unix_seconds * 1_000_000)
        self._events: deque[LoggedEvent] = deque(maxlen=size)

    @property
    def newest_id(self) -> int:
        """Of the last event; before the first one, the id that would have come before it."""
        return self._next_id - 1

    def append(self, kind: str, at_unix_seconds: float, fields: Mapping[str, object], *, alarming: bool = False) -> LoggedEvent:
        """Number an event and keep it; the oldest one makes room."""
        event = LoggedEvent(self._next_id, kind, at_unix_seconds, fields, alarming)
        self._events.append(event)
        self._next_id += 1
        return event

    def after(self, last_id: int, count_max: int) -> list[LoggedEvent | Gap]:
        """What follows event `last_id`: at most `count_max` events, after a gap if some are lost.

        An id that this log never gave, older than its first or newer than its newest, is one of another life of the service:
        everything there is follows a gap.
        """
        oldest_id = self._next_id - len(self._events)
        if oldest_id - 1 <= last_id <= self.newest_id:
            skipped = last_id + 1 - oldest_id
            return list(islice(self._events, skipped, skipped + count_max))
        return [Gap(last_id, oldest_id), *islice(self._events, count_max)]
