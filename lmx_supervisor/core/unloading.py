"""What the service unloads on its own account: models idle for too long, and the end of every eviction."""

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.eviction import outcome
from lmx_supervisor.core.idle import IdleWatch
from lmx_supervisor.core.loading import Loading
from lmx_supervisor.core.serving import Serving
from lmx_supervisor.core.slot import Slot
from lmx_supervisor.core.state import FleetState
from lmx_supervisor.core.stop_reason import StopReason


class Unloading:
    """The service's own side of unloading."""

    def __init__(self, state: FleetState, loading: Loading, serving: Serving) -> None:
        self._state = state
        self._loading = loading
        self._serving = serving
        self._idle = IdleWatch(state)

    def unload_idle(self, now: float) -> None:
        """Unload what has been idle for too long. A request that comes meanwhile waits, and is served after a fresh start."""
        for slot, idle_seconds in self._idle.overdue(now):
            slot.wanted = False
            slot.stop_reason = StopReason.TTL
            self._state.tell("model_ttl_evicted", model_id=slot.model_id, idle_seconds=round(idle_seconds, 3))
            until = now + self._state.policy.drain_seconds
            self._loading.drain_slot(slot, until, now, f"it was idle for {idle_seconds:.0f} s")

    def settle_evictions(self, now: float) -> None:
        """Give up the evicted whose successor serves, and bring back those whose successor failed."""
        if self._state.draining:
            return
        for slot in [slot for slot in self._state.slots.values() if slot.evicted_for is not None]:
            succeeded = outcome(self._state, slot)
            if succeeded is None:
                continue
            beneficiary, slot.evicted_for = slot.evicted_for, None
            if succeeded and self._state.is_wanted_back(slot):
                slot.wanted, slot.demanded_at = False, now
            elif succeeded:
                self._give_up(slot, f"Model '{slot.model_id}' was unloaded to make room for '{beneficiary}'.")
            elif slot.state is WorkerState.STOPPED:
                self._loading.bring_back(slot, now)
            else:
                slot.comes_back = True

    def _give_up(self, slot: Slot, text: str) -> None:
        slot.wanted = False
        self._serving.refuse_waiting(slot, ErrorCode.MODEL_NOT_FOUND, f"{text} Load it again to use it.")
        if slot.state is WorkerState.STOPPED:
            del self._state.slots[slot.model_id]
