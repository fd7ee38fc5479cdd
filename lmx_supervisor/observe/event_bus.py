"""The event log on the loop: what operators are told goes in, any number of slow or fast subscribers (up to a bound) read it.

A subscriber is a position in the one bounded log, not a queue of its own: one that reads too slowly costs nothing and finds a
gap where it fell behind.
"""

import asyncio
import time
from collections.abc import Callable

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.event_log import EventLog, Gap, LoggedEvent
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.observe.event_names import SERVICE_STOPPED, published_fields, published_kind
from lmx_supervisor.observe.log_format import Redaction


class EventBus:
    """Satisfies `core.service.EventFeed`. Used on one loop. `redaction` strikes secrets out of every field."""

    def __init__(self, redaction: Redaction, unix_now: Callable[[], float] = time.time) -> None:
        self._unix_now = unix_now
        self._redaction = redaction
        self._log = EventLog(unix_now(), limits.EVENTS_KEPT_MAX)
        self._subscriptions: set[Subscription] = set()
        self._listeners: list[Callable[[LoggedEvent], None]] = []
        self._closed = False

    def take(self, tell: Tell) -> None:
        """Publish what operators are told; the service's last words also end every subscription."""
        now = self._unix_now()
        fields = self._redaction.clean_value(published_fields(tell, now))
        event = self._log.append(published_kind(tell), now, fields, alarming=tell.alarming)
        self._closed = self._closed or tell.kind == SERVICE_STOPPED
        for subscription in self._subscriptions:
            subscription.wake()
        for listener in self._listeners:
            listener(event)

    def listen(self, listener: Callable[[LoggedEvent], None]) -> None:
        """Call `listener` with every event from now on, on the loop. It must not raise and not block."""
        self._listeners.append(listener)

    def subscribe(self, last_id: int | None) -> "Subscription":
        """From now on, or from after event `last_id`. Close it when done. Raises `Refusal` when there are too many."""
        if self.subscribers >= limits.EVENT_SUBSCRIBERS_MAX:
            text = f"{limits.EVENT_SUBSCRIBERS_MAX} event streams are open, which is all there may be; close one first."
            raise Refusal(ErrorCode.OVERLOADED, text)
        subscription = Subscription(self, self._log.newest_id if last_id is None else last_id)
        self._subscriptions.add(subscription)
        return subscription

    @property
    def subscribers(self) -> int:
        """How many there are."""
        return len(self._subscriptions)

    @property
    def closed(self) -> bool:
        """Whether the last event was published."""
        return self._closed

    def after(self, last_id: int) -> list[LoggedEvent | Gap]:
        """The next events a subscriber at `last_id` has to read."""
        return self._log.after(last_id, limits.EVENTS_PER_READ_MAX)

    def leave(self, subscription: "Subscription") -> None:
        """Forget a subscriber."""
        self._subscriptions.discard(subscription)


class Subscription:
    """One reader's position. Satisfies `core.service.EventSubscription`."""

    def __init__(self, bus: EventBus, last_id: int) -> None:
        self._bus = bus
        self._last_id = last_id
        self._news = asyncio.Event()

    def wake(self) -> None:
        """There is something to read."""
        self._news.set()

    def read(self) -> list[LoggedEvent | Gap]:
        """What happened since the last read, in order; empty when nothing did."""
        self._news.clear()
        items = self._bus.after(self._last_id)
        if items:
            last = items[-1]
            self._last_id = last.id if isinstance(last, LoggedEvent) else last.to_id - 1
        return items

    async def wait(self, seconds: float) -> None:
        """Return when there may be something to read, at the end of the events, or after `seconds`."""
        if self._bus.closed:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._news.wait()
        except TimeoutError:
            return

    @property
    def ended(self) -> bool:
        """Whether nothing will follow what was read."""
        return self._bus.closed and not self._bus.after(self._last_id)

    def close(self) -> None:
        """Make room for another subscriber."""
        self._bus.leave(self)
