"""Which models have been idle for too long. Pure.

A model is idle from the end of its last request. Its own `keep_alive_sec` goes before the configuration's `ttl_seconds`, is
looked at with every tick, and 0 pins it; the configuration's is looked at every `ttl_check_interval_sec`.
"""

from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.slot import Slot
from lmx_supervisor.core.state import FleetState


class IdleWatch:
    """Remembers when it last looked."""

    def __init__(self, state: FleetState) -> None:
        self._state = state
        self._looked_at: float | None = None

    def overdue(self, now: float) -> list[tuple[Slot, float]]:
        """The models to unload now, and for how many seconds each has been idle."""
        policy = self._state.policy
        sweeps = self._looked_at is None or now - self._looked_at >= policy.ttl_check_interval_seconds
        if sweeps:
            self._looked_at = now
        found = []
        for slot in self._state.slots.values():
            allowed_seconds = _allowed_seconds(slot, policy, sweeps=sweeps)
            if allowed_seconds is None or not _may_go(self._state, slot):
                continue
            idle_seconds = now - (slot.last_used_at if slot.last_used_at is not None else now)
            if idle_seconds >= allowed_seconds:
                found.append((slot, idle_seconds))
        return found


def _allowed_seconds(slot: Slot, policy: Policy, *, sweeps: bool) -> float | None:
    """How long the slot may be idle; None: it is not to be looked at now, or never."""
    if slot.keep_alive_seconds is not None:
        return slot.keep_alive_seconds or None
    return policy.ttl_seconds if policy.ttl_enabled and sweeps else None


def _may_go(state: FleetState, slot: Slot) -> bool:
    incarnation = state.incarnation_of(slot)
    return slot.is_idle and incarnation is not None and incarnation.ladder is None
