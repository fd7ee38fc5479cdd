"""Loading, readiness, unloading and draining of slots."""

from collections.abc import Iterable

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import AnyRequestEvent, Load, Loaded
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import admission
from lmx_supervisor.core import events as e
from lmx_supervisor.core.actions import LoadSettled, OrderRefused, Send, UnloadSettled
from lmx_supervisor.core.canary import canary_for, canary_passed
from lmx_supervisor.core.eviction import Candidate
from lmx_supervisor.core.exit_reason import KillCause
from lmx_supervisor.core.incarnation import Incarnation
from lmx_supervisor.core.memory_return import MemoryReturn
from lmx_supervisor.core.quarantine import passes
from lmx_supervisor.core.roster import Roster
from lmx_supervisor.core.serving import Serving
from lmx_supervisor.core.slot import SERVING, STARTING, Slot
from lmx_supervisor.core.state import FleetState
from lmx_supervisor.core.stop_reason import StopReason

_TERMINAL_SLOTS_MAX = 64
_REPLACEABLE = SERVING | STARTING | {WorkerState.BACKOFF}
"""States of a slot that a load of other settings ends; in the others it has nothing to end."""


class Loading:
    """The operators' side of the fleet."""

    def __init__(self, state: FleetState, roster: Roster, serving: Serving, memory_return: MemoryReturn) -> None:
        self._state = state
        self._roster = roster
        self._serving = serving
        self._memory_return = memory_return

    # --- orders -----------------------------------------------------------------------------------------------------------

    def load_wanted(self, order: e.LoadWanted, now: float) -> None:
        """Start, join or refuse a load."""
        state = self._state
        if state.draining:
            state.emit(OrderRefused(order.order_id, ErrorCode.SHUTTING_DOWN, "The server is shutting down.", 5))
            return
        slot = state.slots.get(order.spec.model_id)
        if slot is None:
            slot = state.slots[order.spec.model_id] = Slot(order.spec, order.backend, digest=order.digest, state_since=now)
            self._forget_old_terminal_slots()
        slot.prefetched = False
        if not order.at_start and order.trial is None:
            state.predictor.note(slot.model_id)
        if order.keep_alive_seconds is not None:
            slot.keep_alive_seconds = order.keep_alive_seconds
        if order.replaces and slot.state in _REPLACEABLE:
            self._replace(slot, order, now)
        elif slot.state in SERVING:
            state.emit(LoadSettled(order.order_id, slot.model_id, True, None, None))
        elif slot.state is WorkerState.DRAINING:
            if passes(self._state, slot, order):
                take_order(slot, order)
                slot.reload_orders.append(order.order_id)
        elif slot.state is WorkerState.QUARANTINED:
            if passes(self._state, slot, order):
                take_order(slot, order)
                slot.wanted = False
                slot.load_orders.append(order.order_id)
                forced = slot.quarantine_reason is not None
                self.begin(slot, now, "forced despite its quarantine" if forced else "changed since its quarantine")
        else:
            slot.load_orders.append(order.order_id)
            if slot.state in (WorkerState.STOPPED, WorkerState.FAILED):
                take_order(slot, order)
                slot.wanted = order.at_start
                self.begin(slot, now, "a load was asked for")

    def prefetch(self, order: e.LoadWanted, now: float) -> None:
        """Start a load that nobody asked for; its memory is known to be free, and there is no slot for the model."""
        slot = self._state.slots[order.spec.model_id] = Slot(order.spec, order.backend, digest=order.digest, state_since=now)
        self._forget_old_terminal_slots()
        slot.prefetched = True
        slot.load_orders.append(order.order_id)
        take_order(slot, order)
        self.begin(slot, now, "it is likely to be wanted next", may_evict=False)

    def _replace(self, slot: Slot, order: e.LoadWanted, now: float) -> None:
        """Give up what is loaded or is being loaded, and load it anew as ordered."""
        take_order(slot, order)
        slot.wanted = slot.comes_back = False
        slot.evicted_for = None
        slot.stop_reason = StopReason.AUTOTUNE_SWAP
        slot.reload_orders.append(order.order_id)
        self.drain_slot(slot, now + self._state.policy.drain_seconds, now, "other settings replace it")

    def unload_wanted(self, order: e.UnloadWanted, now: float) -> None:
        """Drain a slot, or refuse when there is none."""
        slot = self._state.slots.get(order.model_id)
        if slot is None:
            text = f"Model '{order.model_id}' is not loaded."
            self._state.emit(OrderRefused(order.order_id, ErrorCode.MODEL_NOT_FOUND, text))
            return
        slot.unload_orders.append(order.order_id)
        slot.wanted = slot.comes_back = False
        slot.evicted_for = slot.demanded_at = None
        slot.stop_reason = order.reason
        slot.unloaded = True
        self._cancel_loads(slot, slot.reload_orders)
        self.drain_slot(slot, now + self._state.policy.drain_seconds, now, "an unload was asked for")

    def restart_wanted(self, order: e.RestartWanted, now: float) -> None:
        """Drain a serving model and load it again, as one order."""
        slot = self._state.slots.get(order.model_id)
        if slot is None or slot.state not in SERVING:
            text = f"Model '{order.model_id}' is not served; load it instead."
            self._state.emit(OrderRefused(order.order_id, ErrorCode.MODEL_NOT_FOUND, text))
            return
        slot.reload_orders.append(order.order_id)
        self.drain_slot(slot, now + self._state.policy.drain_seconds, now, "a restart was asked for")

    # --- starting ---------------------------------------------------------------------------------------------------------

    def begin(self, slot: Slot, now: float, why: str, *, may_evict: bool = True) -> None:
        """Claim a slot's memory and give it a process: the warm spare if there is one, else a new one."""
        may_evict = may_evict and self._state.policy.auto_evict_lru and slot.trial is None
        claimed = admission.claim(self._state, slot, may_evict=may_evict)
        if isinstance(claimed, admission.Denied):
            self._does_not_fit(slot, claimed.text, now)
            return
        self._start(slot, claimed.evict, now, why, cause="load")

    def begin_on_demand(self, slot: Slot, evict: Iterable[Candidate], now: float) -> None:
        """The same for a model that requests wait for: it is known to fit when these have left."""
        admission.reserve(self._state, slot)
        slot.on_demand = True
        names = [victim.model_id for victim in evict]
        self._state.tell("model_demanded", model_id=slot.model_id, requests_waiting=len(slot.waiting), evicts=names)
        self._start(slot, evict, now, f"{len(slot.waiting)} requests wait for it", cause="on_demand")

    def _start(self, slot: Slot, evict: Iterable[Candidate], now: float, why: str, *, cause: str) -> None:
        for victim in evict:
            self._evict(self._state.slots[victim.model_id], slot, victim.bytes, now, cause)
        slot.evicted_for, slot.comes_back, slot.stop_reason = None, False, StopReason.MANUAL
        slot.demanded_at, slot.room_at, slot.waits_because = None, 0.0, ""
        slot.move(WorkerState.SPAWNING, now, why)
        slot.loading_since = now
        slot.unloaded = False
        slot.facts = None
        slot.load_progress = None
        slot.ready_at = None
        slot.served_since_ready = 0
        spare = self._roster.take_spare(slot.backend)
        if spare is None:
            slot.incarnation = self._roster.hire(slot.backend, slot.model_id, now).name
            return
        spare.model_id = slot.model_id
        slot.incarnation = spare.name
        slot.note(now, f"took the warm spare {spare.name}, pid {spare.pid}")
        self.send_load(slot, spare, now)

    def _evict(self, victim: Slot, beneficiary: Slot, freed_bytes: int, now: float, cause: str) -> None:
        victim.evicted_for, victim.stop_reason = beneficiary.model_id, StopReason.LRU
        idle_seconds = now - victim.last_used_at if victim.last_used_at is not None else None
        self._state.tell(
            "model_evicted",
            model_id=victim.model_id,
            for_model_id=beneficiary.model_id,
            reason=victim.stop_reason,
            cause=cause,
            idle_seconds=idle_seconds,
            memory_bytes=freed_bytes,
        )
        if victim.waiting:
            # It yielded: whoever waits for it now has it loaded again in its turn.
            victim.demanded_at = now
        until = now + self._state.policy.drain_seconds
        self.drain_slot(victim, until, now, f"it was idle, and '{beneficiary.model_id}' needs its memory")

    def _does_not_fit(self, slot: Slot, text: str, now: float) -> None:
        """Its claim was denied. A wanted model that is down tries again; any other is not loaded."""
        self._state.tell("load_refused", model_id=slot.model_id, reason="insufficient_memory", text=text, alarming=True)
        self.refuse_loads(slot, ErrorCode.INSUFFICIENT_MEMORY, text)
        slot.note(now, text)
        if slot.state is WorkerState.BACKOFF:
            slot.restart_at = now + self._state.policy.restart_max_seconds
            return
        slot.wanted = False
        if slot.state is WorkerState.STOPPED and not slot.keeps_its_line:
            if self._state.is_wanted_back(slot):
                slot.demanded_at = now
                return
            self._serving.refuse_waiting(slot, ErrorCode.OVERLOADED, text)
            del self._state.slots[slot.model_id]

    def send_load(self, slot: Slot, incarnation: Incarnation, now: float) -> None:
        """The worker is there: tell it what to load, once the memory of the dead is known to be back."""
        if self._memory_return.is_being_verified:
            slot.note(now, "waits until a dead worker's memory is back")
            return
        problem = self._memory_return.problem(slot)
        if problem is not None:
            incarnation.load_refusal, incarnation.load_refusal_code = problem, ErrorCode.INSUFFICIENT_MEMORY
            self._roster.end(incarnation, KillCause.MEMORY_LOST, now)
            return
        go_on = admission.may_go_on(self._state, slot)
        if isinstance(go_on, admission.Denied):
            incarnation.load_refusal, incarnation.load_refusal_code = go_on.text, ErrorCode.INSUFFICIENT_MEMORY
            self._roster.end(incarnation, KillCause.NO_ROOM, now)
            return
        if not go_on:
            return
        slot.move(WorkerState.LOADING, now, "the worker reported for duty")
        incarnation.load_sent_at = now
        incarnation.last_progress_at = now
        self._state.emit(Send(incarnation.name, Load(model=slot.spec, digest=slot.digest)))

    def memory_checked(self, event: e.MemoryChecked, now: float) -> None:
        """A check of a dead worker's memory ended: loads that waited for it may go on, or are refused."""
        self._memory_return.checked(event)
        self.send_waiting_loads(now)

    def send_waiting_loads(self, now: float) -> None:
        """Memory may have come back: let the loads go on that waited for it."""
        if self._memory_return.is_being_verified:
            return
        for slot in list(self._state.slots.values()):
            incarnation = self._state.incarnation_of(slot)
            at_duty = incarnation is not None and incarnation.hello_at is not None and incarnation.ladder is None
            if incarnation is not None and at_duty and slot.state is WorkerState.SPAWNING:
                self.send_load(slot, incarnation, now)

    def loaded(self, slot: Slot, incarnation: Incarnation, message: Loaded, now: float) -> str | None:
        """The weights are in memory; the canary decides. Returns what is wrong when this was not due."""
        if incarnation.ladder is not None or slot.state is WorkerState.DRAINING:
            return None
        if slot.state is not WorkerState.LOADING:
            return f"Loaded while {slot.state}"
        slot.facts = message.facts
        incarnation.note_footprint(message.footprint_bytes)
        slot.move(WorkerState.WARMING, now, f"loaded in {message.seconds:.2f} s")
        canary = canary_for(message.facts, f"canary-{slot.incarnation}", slot.model_id)
        self._state.tell("model_canary_started", model_id=slot.model_id, backend=slot.backend)
        self._serving.start_canary(slot, canary, now)
        return None

    def files_changed(self, event: e.FilesChanged, now: float) -> None:
        """What the worker has loaded may be of two models: it must not serve."""
        incarnation = self._state.incarnations.get(event.incarnation)
        slot = self._state.slot_of(incarnation) if incarnation is not None else None
        if incarnation is None or slot is None or incarnation.ladder is not None:
            return
        slot.note(now, event.detail)
        text = f"{event.detail} while it was loaded; load it again when nothing writes to it"
        incarnation.load_refusal, incarnation.load_refusal_code = text, ErrorCode.MODEL_PROBE_FAILED
        self._roster.end(incarnation, KillCause.FILES_CHANGED, now)

    def canary_ended(self, slot: Slot, incarnation: Incarnation, end: AnyRequestEvent, now: float) -> None:
        """The canary's end makes a model ready, or ends its worker."""
        if slot.state is not WorkerState.WARMING or incarnation.ladder is not None:
            return
        assert slot.facts is not None
        if canary_passed(slot.facts, end):
            self._state.tell(
                "model_canary_passed",
                model_id=slot.model_id,
                backend=slot.backend,
                backend_version=incarnation.backend_version,
                duration_seconds=now - slot.state_since,
            )
            self._ready(slot, incarnation, now)
            return
        why = getattr(end, "message", "it ended without a token")
        slot.note(now, f"canary failed: {why}")
        self._state.tell("model_canary_failed", model_id=slot.model_id, backend=slot.backend, error=why, alarming=True)
        incarnation.load_refusal, incarnation.load_refusal_code = f"the canary failed: {why}", ErrorCode.MODEL_CANARY_FAILED
        self._roster.end(incarnation, KillCause.CANARY_FAILED, now)

    def _ready(self, slot: Slot, incarnation: Incarnation, now: float) -> None:
        slot.move(WorkerState.READY, now, "the canary passed")
        slot.ready_at = slot.last_used_at = now
        slot.served_since_ready = 0
        slot.load_seconds = now - slot.loading_since
        slot.wanted = slot.trial is None
        self._state.tell(
            "model_loaded",
            model_id=slot.model_id,
            backend=slot.backend,
            format=slot.spec.format,
            memory_bytes=incarnation.footprint_bytes,
            duration_seconds=slot.load_seconds,
        )
        if slot.prefetched:
            self._state.tell("model_prefetched", model_id=slot.model_id, memory_bytes=incarnation.footprint_bytes)
        for order_id in slot.load_orders:
            settled = LoadSettled(order_id, slot.model_id, False, incarnation.footprint_bytes, slot.load_seconds)
            self._state.emit(settled)
        slot.load_orders.clear()
        self._roster.spare_worked(slot.backend)
        self._serving.dispatch(now)

    # --- stopping ---------------------------------------------------------------------------------------------------------

    def drain_slot(self, slot: Slot, until: float, now: float, why: str) -> None:
        """Let running requests end until `until`, then stop the worker; a slot without a process is done at once."""
        code = ErrorCode.SHUTTING_DOWN if self._state.draining else ErrorCode.MODEL_NOT_FOUND
        if not slot.reload_orders and slot.demanded_at is None:
            self._serving.refuse_waiting(slot, code, f"Model '{slot.model_id}' is being unloaded: {why}.")
        if slot.state in STARTING | SERVING:
            interrupted = slot.state in STARTING
            slot.move(WorkerState.DRAINING, now, why)
            slot.drain_until = until
            if interrupted or not slot.running:
                self.stop_process(slot, now)
        elif slot.state is WorkerState.DRAINING:
            slot.drain_until = min(slot.drain_until, until)
        elif slot.state is WorkerState.QUARANTINED:
            self._settle_unloads(slot, None)
        elif slot.state is WorkerState.STOPPED:
            # Evicted and gone already: there is only its return to give up.
            self._settle_unloads(slot, None)
            del self._state.slots[slot.model_id]
        else:
            slot.move(WorkerState.STOPPED, now, why)
            self.stopped(slot, None, now)

    def cut_drain(self, slot: Slot, now: float) -> None:
        """The drain's time is over: end what still runs."""
        incarnation = self._state.incarnation_of(slot)
        assert incarnation is not None
        text = "The server ended this answer because it had to stop; send the request again."
        self._serving.cut_running(slot, incarnation, text)
        self._roster.end(incarnation, KillCause.STOP, now)

    def stop_process(self, slot: Slot, now: float) -> None:
        """Ask a slot's worker to leave."""
        incarnation = self._state.incarnation_of(slot)
        assert incarnation is not None, slot
        self._roster.end(incarnation, KillCause.STOP, now)

    def stopped(self, slot: Slot, freed_bytes: int | None, now: float) -> None:
        """A slot has come to rest on purpose: tell who waited, start again if somebody asked meanwhile, else forget it."""
        self._cancel_loads(slot, slot.load_orders)
        self._settle_unloads(slot, freed_bytes)
        self._state.tell("model_unloaded", model_id=slot.model_id, memory_freed_bytes=freed_bytes, reason=slot.stop_reason)
        slot.load_orders, slot.reload_orders = slot.reload_orders, []
        if not self._state.draining:
            if slot.load_orders:
                self.begin(slot, now, "a load was asked for while it was stopping")
                return
            if slot.returns:
                self.bring_back(slot, now)
                return
            if slot.keeps_its_line:
                return
        self.refuse_loads(slot, ErrorCode.SHUTTING_DOWN, "The server is shutting down.")
        self._serving.refuse_waiting(slot, ErrorCode.SHUTTING_DOWN, "The server is shutting down.")
        if slot.quarantine_reason is not None:
            slot.move(WorkerState.QUARANTINED, now, "it was forced and has not served")
            return
        del self._state.slots[slot.model_id]

    def bring_back(self, slot: Slot, now: float) -> None:
        """Start a model again that the service itself had unloaded."""
        undone = slot.stop_reason is StopReason.LRU
        why = "the load it made room for failed" if undone else "a request came while it was unloaded for idleness"
        slot.wanted = True
        self._state.tell("model_brought_back", model_id=slot.model_id, reason=slot.stop_reason, text=why)
        self.begin(slot, now, why, may_evict=not undone)

    def _cancel_loads(self, slot: Slot, order_ids: list[str]) -> None:
        text = f"The load of model '{slot.model_id}' was cancelled by an unload."
        for order_id in order_ids:
            self._state.emit(OrderRefused(order_id, ErrorCode.MODEL_LOAD_CANCELLED, text))
        order_ids.clear()

    def refuse_loads(self, slot: Slot, code: ErrorCode, text: str) -> None:
        """Answer every load order that waits for this slot."""
        for order_id in slot.load_orders:
            self._state.emit(OrderRefused(order_id, code, text))
        slot.load_orders.clear()

    def _settle_unloads(self, slot: Slot, freed_bytes: int | None) -> None:
        for order_id in slot.unload_orders:
            self._state.emit(UnloadSettled(order_id, slot.model_id, freed_bytes))
        slot.unload_orders.clear()

    def _forget_old_terminal_slots(self) -> None:
        failed = [slot for slot in self._state.slots.values() if slot.state is WorkerState.FAILED]
        for slot in sorted(failed, key=lambda slot: slot.state_since)[: max(0, len(failed) - _TERMINAL_SLOTS_MAX)]:
            del self._state.slots[slot.model_id]


def take_order(slot: Slot, order: e.LoadWanted) -> None:
    """The slot is to be loaded as this order says."""
    slot.spec, slot.backend, slot.digest = order.spec, order.backend, order.digest
    slot.profile, slot.performance = order.profile, order.profile.merge()
    slot.trial, slot.on_demand = order.trial, False
    slot.size_bytes, slot.need = order.size_bytes, order.need
    slot.gpu_ooms, slot.stepped_down = 0, False
