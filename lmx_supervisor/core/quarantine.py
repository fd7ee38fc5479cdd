"""Quarantines: what is known from before a start, the gate before a load, and what an operator releases."""

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import events as e
from lmx_supervisor.core.actions import OrderRefused, QuarantineSettled
from lmx_supervisor.core.slot import Slot
from lmx_supervisor.core.state import FleetState
from lmx_supervisor.core.why_not import quarantine_text


def clear_wanted(state: FleetState, order: e.QuarantineClearWanted) -> None:
    """Release one model, or all of them."""
    found = [
        slot
        for slot in state.slots.values()
        if slot.state is WorkerState.QUARANTINED and order.model_id in (None, slot.model_id)
    ]
    if order.model_id is not None and not found:
        text = f"Model '{order.model_id}' is not quarantined."
        state.emit(OrderRefused(order.order_id, ErrorCode.MODEL_NOT_FOUND, text))
        return
    for slot in found:
        release(state, slot, "an operator")
        del state.slots[slot.model_id]
    state.emit(QuarantineSettled(order.order_id, tuple(slot.model_id for slot in found)))


def known(state: FleetState, event: e.QuarantineKnown, now: float) -> None:
    """A quarantine from before the last start."""
    slot = Slot(event.spec, event.backend, digest=event.digest, state=WorkerState.QUARANTINED, state_since=now)
    slot.quarantine_reason = event.reason
    slot.last_exit, slot.last_exit_at = event.last_exit, now
    slot.failures.consecutive = event.consecutive_failures
    slot.note(now, f"quarantined since before this start: {event.reason}")
    state.slots[slot.model_id] = slot


def passes(state: FleetState, slot: Slot, order: e.LoadWanted) -> bool:
    """Whether an order may load a slot: a change releases a quarantined model, force tries it, any other is refused."""
    if slot.quarantine_reason is None:
        return True
    # A trial has other settings by its nature; that is no reason to trust the model again.
    changed = order.trial is None and (order.backend != slot.backend or order.digest != slot.digest)
    if changed:
        release(state, slot, "another backend, other files or another configuration")
    elif not order.force:
        state.emit(OrderRefused(order.order_id, ErrorCode.MODEL_UNSTABLE, quarantine_text(slot)))
    return changed or order.force


def release(state: FleetState, slot: Slot, by: str) -> None:
    """End a quarantine."""
    slot.quarantine_reason = None
    slot.failures.forgive()
    slot.failures.at_seconds.clear()
    state.tell("quarantine_cleared", model_id=slot.model_id, by=by)
