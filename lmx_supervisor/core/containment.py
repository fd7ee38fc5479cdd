"""When a decision itself failed: a bug of ours costs what the event was about, and nothing else.

The handler may have stopped half-way, so nothing here decides anything: what hung on the event is ended, a worker it came
from is not trusted any further, and a slot whose worker's exit could not be handled is given up by hand.
"""

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Failed
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import events as e
from lmx_supervisor.core.actions import Deliver, OrderRefused, Signal, WorkerSignal
from lmx_supervisor.core.slot import Slot
from lmx_supervisor.core.state import FleetState

_TEXT = "Something went wrong inside the server; it has been logged."


class Containment:
    """Ends what a failed decision was about."""

    def __init__(self, state: FleetState) -> None:
        self._state = state

    def contain(self, event: e.Event) -> None:
        """Undo as little as possible and leave nobody waiting."""
        match event:
            case e.RequestArrived(request):
                self._end_request(request.request_id)
            case e.LoadWanted() | e.UnloadWanted() | e.RestartWanted() | e.QuarantineClearWanted():
                self._refuse_order(event.order_id)
            case e.Said() | e.Misbehaved() | e.FilesChanged() | e.Spawned():
                # Its exit will be handled like any other.
                if event.incarnation in self._state.incarnations:
                    self._state.emit(Signal(event.incarnation, WorkerSignal.KILL))
            case e.Exited() | e.SpawnFailed():
                self._abandon(event.incarnation)
            case _:
                pass

    def story(self, event: e.Event) -> list[str]:
        """What led to it, for the log."""
        slot = self._slot_of(event)
        return [line.text for line in slot.story] if slot is not None else []

    def _slot_of(self, event: e.Event) -> Slot | None:
        model_id: str | None = getattr(event, "model_id", None)
        if isinstance(event, e.LoadWanted):
            model_id = event.spec.model_id
        elif isinstance(event, e.RequestArrived):
            model_id = event.request.model_id
        by_incarnation = (slot for slot in self._state.slots.values() if slot.incarnation == getattr(event, "incarnation", ""))
        return self._state.slots.get(model_id) if model_id is not None else next(by_incarnation, None)

    def _end_request(self, request_id: str) -> None:
        if request_id in self._state.ledger:
            self._state.ledger.end(request_id)
            for slot in self._state.slots.values():
                slot.running.discard(request_id)
                if request_id in slot.waiting:
                    slot.waiting.remove(request_id)
        self._state.emit(Deliver(Failed(request_id=request_id, code=ErrorCode.INTERNAL_ERROR, message=_TEXT)))

    def _refuse_order(self, order_id: str) -> None:
        for slot in self._state.slots.values():
            for waiting in (slot.load_orders, slot.unload_orders, slot.reload_orders):
                if order_id in waiting:
                    waiting.remove(order_id)
        self._state.emit(OrderRefused(order_id, ErrorCode.INTERNAL_ERROR, _TEXT))

    def _abandon(self, incarnation: str) -> None:
        """The process is gone and its slot could not be told: give the slot up, whatever state it is in."""
        self._state.incarnations.pop(incarnation, None)
        for entry in self._state.ledger.of_incarnation(incarnation):
            if entry.internal:
                self._state.ledger.end(entry.request_id)
            else:
                self._end_request(entry.request_id)
        for slot in self._state.slots.values():
            if slot.incarnation in (incarnation, None) and slot.state not in (WorkerState.FAILED, WorkerState.QUARANTINED):
                self._give_up(slot)

    def _give_up(self, slot: Slot) -> None:
        for request_id in list(slot.waiting):
            self._end_request(request_id)
        for order_id in [*slot.load_orders, *slot.unload_orders, *slot.reload_orders]:
            self._refuse_order(order_id)
        slot.running.clear()
        slot.incarnation = None
        slot.wanted = False
        slot.demanded_at = None
        slot.state = WorkerState.FAILED
