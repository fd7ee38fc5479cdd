"""How far a model is from being routed to, and noticing when that changes."""

from collections.abc import Iterator, Mapping

from lmx_protocol.states import READINESS, Readiness
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.slot import SERVING, Slot
from lmx_supervisor.core.views import ReadinessView

READINESS_CHANGED = "model_readiness_changed"


def readiness_of(slot: Slot) -> ReadinessView:
    """The readiness of a slot, and why it is not routable if it is not."""
    reason = None
    if slot.state not in SERVING:
        reason = slot.quarantine_reason or (slot.last_exit.text if slot.last_exit is not None else None)
    return ReadinessView(state=READINESS[slot.state], reason=reason, crash_count=slot.failures.consecutive)


class ReadinessWatch:
    """Remembers every slot's readiness. It is asked after each event of the fleet: looking must cost next to nothing."""

    def __init__(self) -> None:
        self._seen: dict[str, Readiness] = {}

    def changes(self, slots: Mapping[str, Slot]) -> Iterator[Tell]:
        """One `READINESS_CHANGED` per slot that is now in another readiness; one that is gone is unknown."""
        for model_id, slot in slots.items():
            seen = self._seen.setdefault(model_id, Readiness.UNKNOWN)
            if READINESS[slot.state] is not seen:
                now = readiness_of(slot)
                self._seen[model_id] = now.state
                yield _change(model_id, seen, now)
        if len(self._seen) > len(slots):
            for model_id in self._seen.keys() - slots.keys():
                seen = self._seen.pop(model_id)
                if seen is not Readiness.UNKNOWN:
                    yield _change(model_id, seen, ReadinessView(state=Readiness.UNKNOWN))


def _change(model_id: str, previous: Readiness, now: ReadinessView) -> Tell:
    fields: dict[str, object] = {
        "model_id": model_id,
        "previous_state": previous,
        "state": now.state,
        "reason": now.reason,
        "crash_count": now.crash_count,
    }
    return Tell(READINESS_CHANGED, fields)
