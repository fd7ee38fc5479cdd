"""How a worker lies on its socket: the `Sabotage` of the scripted backend. Lies are armed by triggers and told once each."""

import os
from collections.abc import Callable, Iterable

import msgspec

from lmx_protocol.limits import FRAME_BYTES_MAX_UP
from lmx_protocol.messages import (
    Beat,
    Begin,
    Finished,
    FromWorker,
    Hello,
    RequestEvent,
    Shutdown,
    StepEvents,
    Text,
    ToWorker,
)
from lmx_protocol.version import PROTOCOL_VERSION
from lmx_worker.backends.scripted.script import Trigger

_CREDIT_WITHOUT_END = 2**40
_GARBAGE = b"\xc1 this is no message \xff\xfe"


class Liar:
    """Passes messages through until told otherwise."""

    def __init__(self, reach: Callable[[Trigger], None]) -> None:
        """`reach` commits the faults of a trigger; it may arm this object, and it may not return."""
        self._reach = reach
        self._armed: set[str] = set()
        self._is_loaded = False
        self._ready_reached = False

    def arm(self, lie: str) -> None:
        """Tell this lie at the next occasion."""
        self._armed.add(lie)

    def loaded(self) -> None:
        """The model is loaded: the next beat is the trigger `ready`."""
        self._is_loaded = True

    def outgoing(self, message: FromWorker) -> Iterable[FromWorker | bytes]:
        """See `Sabotage.outgoing`."""
        if isinstance(message, Hello):
            self._reach("hello")
        elif isinstance(message, Beat) and self._is_loaded and not self._ready_reached:
            self._ready_reached = True
            self._reach("ready")
        if not self._armed:
            return (message,)
        if "mute" in self._armed:
            return ()
        if isinstance(message, Hello) and self._spend("wrong_version"):
            return (msgspec.structs.replace(message, protocol=PROTOCOL_VERSION + 1),)
        if isinstance(message, StepEvents):
            message = self._twist(message)
        return (*self._extras(), message)

    def incoming(self, message: ToWorker) -> ToWorker | None:
        """See `Sabotage.incoming`."""
        if isinstance(message, Shutdown):
            self._reach("shutdown")
            return None if "ignore_shutdown" in self._armed else message
        if isinstance(message, Begin) and "ignore_credit" in self._armed:
            return msgspec.structs.replace(message, credit_frames=_CREDIT_WITHOUT_END, credit_bytes=_CREDIT_WITHOUT_END)
        return message

    def _extras(self) -> Iterable[FromWorker | bytes]:
        if self._spend("garbage"):
            yield _GARBAGE
        if self._spend("oversized"):
            yield bytes(FRAME_BYTES_MAX_UP + 1)
        if self._spend("second_hello"):
            yield Hello(protocol=PROTOCOL_VERSION, incarnation="another", pid=os.getpid(), backend="scripted")
        if self._spend("foreign_request"):
            yield StepEvents(events=(Text(request_id="nobody-asked", text="?"),))

    def _twist(self, message: StepEvents) -> StepEvents:
        events: list[RequestEvent] = []
        for event in message.events:
            if isinstance(event, Text) and self._spend("seq_gap"):
                event = msgspec.structs.replace(event, seq=event.seq + 1)
            events.append(event)
            if isinstance(event, Finished) and self._spend("double_finished"):
                events.append(msgspec.structs.replace(event, seq=event.seq + 1))
        return msgspec.structs.replace(message, events=tuple(events))

    def _spend(self, lie: str) -> bool:
        if lie not in self._armed:
            return False
        self._armed.discard(lie)
        return True
