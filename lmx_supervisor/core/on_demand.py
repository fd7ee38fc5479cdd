"""Models that are loaded because requests ask for them (`models.load_on_demand`): whose turn it is, and who gives up waiting.

A model that is asked for has a slot from then on, in which its requests wait by the rules of every line. It is loaded as soon
as there is room: the one that was waited for longest first, and before it one that takes nothing of what that needs. What
nobody waits for any more is not loaded; a load that has begun belongs to the service and goes on.
"""

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import events as e
from lmx_supervisor.core.budget import is_somebody_leaving
from lmx_supervisor.core.loading import Loading, take_order
from lmx_supervisor.core.making_room import Hopeless, SpokenFor, Start, Wait, make_room
from lmx_supervisor.core.memory_return import MemoryReturn
from lmx_supervisor.core.serving import Serving
from lmx_supervisor.core.slot import Slot
from lmx_supervisor.core.state import FleetState
from lmx_supervisor.core.why_not import held_off_until, not_loaded_text


class OnDemand:
    """The requests' side of loading."""

    def __init__(self, state: FleetState, loading: Loading, serving: Serving, memory_return: MemoryReturn) -> None:
        self._state = state
        self._memory_return = memory_return
        self._loading = loading
        self._serving = serving
        self._doors_closed = False

    def demanded(self, event: e.Demanded, now: float) -> None:
        """A request for a model is about to come. Nothing is loaded before it has."""
        state, order = self._state, event.load
        model_id = order.spec.model_id
        if state.draining or state.safe_mode or not state.policy.loads_on_demand(model_id):
            return
        slot = state.slots.get(model_id)
        if slot is not None and slot.is_demanded:
            # What there was no room for when somebody asked last, there may be room for now.
            slot.demanded_at, slot.room_at = now, 0.0
            return
        if slot is None:
            slot = state.slots[model_id] = Slot(order.spec, order.backend, digest=order.digest, state_since=now)
        elif slot.state is WorkerState.FAILED and now >= held_off_until(state.policy, slot):
            slot.move(WorkerState.STOPPED, now, "a request asks for it")
        elif slot.state is not WorkerState.DRAINING or slot.keeps_its_line or slot.quarantine_reason is not None:
            return
        take_order(slot, order)
        slot.wanted = False
        slot.demanded_at = now

    def look(self, now: float) -> None:
        """After every event: load what there is room for now, and have room made for the rest."""
        demanded = [slot for slot in self._state.slots.values() if slot.demanded_at is not None]
        if not demanded and not self._doors_closed:
            return
        yields: dict[str, str] = {}
        spoken_for = SpokenFor()
        for slot in sorted(demanded, key=_waited_for_since):
            if not self._is_still_wanted(slot, now) or slot.state is not WorkerState.STOPPED or slot.evicted_for is not None:
                continue
            plan = make_room(self._state, slot, spoken_for, now)
            if isinstance(plan, Start):
                self._loading.begin_on_demand(slot, plan.evict, now)
            elif isinstance(plan, Hopeless):
                self._give_up(slot, plan, now)
            else:
                spoken_for = spoken_for.and_what(plan)
                yields |= dict.fromkeys(plan.yields, slot.model_id)
                self._have_wait(slot, plan, now)
        self._close_doors(yields, now)

    def _is_still_wanted(self, slot: Slot, now: float) -> bool:
        """Whether somebody waits for it, and it still may be loaded for that."""
        if slot.waiting and not self._state.policy.loads_on_demand(slot.model_id):
            self._serving.refuse_waiting(slot, ErrorCode.MODEL_NOT_FOUND, not_loaded_text(slot.model_id, None))
            self._forget(slot)
        elif slot.waiting:
            slot.demanded_at = now
        elif slot.demanded_at is not None and now - slot.demanded_at >= limits.DEMAND_GRACE_SECONDS:
            self._forget(slot)
        return bool(slot.waiting)

    def _forget(self, slot: Slot) -> None:
        slot.demanded_at = None
        if slot.state is WorkerState.STOPPED and slot.evicted_for is None:
            del self._state.slots[slot.model_id]

    def _give_up(self, slot: Slot, plan: Hopeless, now: float) -> None:
        if is_somebody_leaving(self._state) or self._memory_return.is_being_verified:
            # What the leaving one still holds, or held until just now, may look like somebody else's.
            self._have_wait(slot, Wait(now, "memory is about to come back", frozenset(), 0), now)
            return
        self._state.tell("load_refused", model_id=slot.model_id, reason="insufficient_memory", text=plan.text)
        self._serving.refuse_waiting(slot, ErrorCode.OVERLOADED, plan.text)
        self._forget(slot)

    def _have_wait(self, slot: Slot, plan: Wait, now: float) -> None:
        slot.room_at, slot.waits_because = plan.not_before, plan.because
        self._serving.expire_waiting(slot, now)

    def _close_doors(self, yields: dict[str, str], now: float) -> None:
        """Those that make room begin nothing new; those that need not any more go on."""
        opened = False
        for slot in self._state.slots.values():
            yields_to = yields.get(slot.model_id)
            opened = opened or (slot.yields_to is not None and yields_to is None)
            if yields_to is not None and yields_to != slot.yields_to:
                self._state.tell(
                    "model_yields",
                    model_id=slot.model_id,
                    for_model_id=yields_to,
                    requests_running=len(slot.running),
                    requests_waiting=len(slot.waiting),
                )
            slot.yields_to = yields_to
        self._doors_closed = bool(yields)
        if opened:
            self._serving.dispatch(now)


def _waited_for_since(slot: Slot) -> float:
    """Since when the one has waited that waits for longest."""
    return min((entry.arrived_at for entry in slot.waiting.entries), default=0.0)
