"""A dead worker's memory is spent again only after it is back.

On unified-memory machines the memory of a killed process can stay wired for seconds, or until the next boot; loading the next
model on top of it drives the host into swap, and a restart loop makes it worse each time. So every death of a large worker is
followed by a check, and loads wait for it. What did not come back is lost until a later check finds it: loads that no longer
fit are refused.
"""

from lmx_protocol import limits
from lmx_supervisor.core import events as e
from lmx_supervisor.core.actions import VerifyMemory
from lmx_supervisor.core.incarnation import Incarnation
from lmx_supervisor.core.slot import Slot
from lmx_supervisor.core.state import FleetState


class MemoryReturn:
    """What dead workers still owe the machine."""

    def __init__(self, state: FleetState) -> None:
        self._state = state
        self._unverified: set[str] = set()
        self._lost_bytes: dict[str, int] = {}
        self._available_bytes: int | None = None

    def died(self, incarnation: Incarnation) -> None:
        """Have a large worker's memory verified."""
        owed_bytes = incarnation.footprint_bytes or 0
        if owed_bytes >= limits.MEMORY_RETURN_MIN_BYTES and not self._state.draining:
            self._unverified.add(incarnation.name)
            self._state.emit(VerifyMemory(incarnation.name, owed_bytes))

    def checked(self, event: e.MemoryChecked) -> None:
        """Take in what a check found; it may be repeated until all is back."""
        self._unverified.discard(event.incarnation)
        self._available_bytes = event.available_bytes
        was_lost_bytes = self._lost_bytes.pop(event.incarnation, 0)
        if event.missing_bytes > 0:
            self._lost_bytes[event.incarnation] = event.missing_bytes
            if was_lost_bytes == 0:
                self._state.tell("memory_not_reclaimed", missing_bytes=event.missing_bytes, alarming=True)
        elif was_lost_bytes:
            self._state.tell("memory_reclaimed", returned_bytes=was_lost_bytes)

    @property
    def is_being_verified(self) -> bool:
        """Whether loads must wait."""
        return bool(self._unverified)

    def problem(self, slot: Slot) -> str | None:
        """Why a slot's model must not be loaded now, with the numbers; None when it fits."""
        lost_bytes = sum(self._lost_bytes.values())
        if not lost_bytes or self._available_bytes is None or slot.size_bytes <= self._available_bytes:
            return None
        needs = f"'{slot.model_id}' needs at least {_gb(slot.size_bytes)} and {_gb(self._available_bytes)} are available"
        advice = "Wait, unload another model, or restart the host."
        return f"memory_not_reclaimed: {_gb(lost_bytes)} of a worker that died have not come back; {needs}. {advice}"


def _gb(size_bytes: int) -> str:
    return f"{size_bytes / 1024**3:.1f} GB"
