"""The one mutator: `Fleet.handle(event, now) -> actions`. Slots, processes and requests change here and nowhere else.

Covers: loading, unloading, restarting, quarantine, draining; `serving` has the requests, `roster` the processes. Does not
cover: anything that touches the world; the runtime performs the actions and reports back.
"""

from collections.abc import Callable
from typing import Any

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import (
    AnyRequestEvent,
    Beat,
    Finished,
    FromWorker,
    GenerateRequest,
    Goodbye,
    Hello,
    Imported,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    Message,
    Sampling,
    StepEvents,
)
from lmx_protocol.states import WorkerState
from lmx_protocol.version import is_compatible
from lmx_supervisor.core import events as e
from lmx_supervisor.core.actions import Action, AllStopped, LoadSettled, OrderRefused, Send, UnloadSettled
from lmx_supervisor.core.exit_reason import NEVER_RESTART, ExitObservation, ExitReason, KillCause, Verdict, classify
from lmx_supervisor.core.incarnation import Incarnation
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.restart_policy import Quarantine, RestartAfter, decide
from lmx_supervisor.core.roster import Roster
from lmx_supervisor.core.serving import ForeignEventError, Serving, quarantine_text
from lmx_supervisor.core.slot import SERVING, STARTING, Slot
from lmx_supervisor.core.state import FleetState

_TERMINAL_SLOTS_MAX = 64
_CANARY_MAX_TOKENS = 8
_LOAD_REFUSALS: dict[ExitReason, ErrorCode] = {
    ExitReason.BAD_MODEL: ErrorCode.MODEL_PROBE_FAILED,
    ExitReason.WILL_NOT_FIT: ErrorCode.INSUFFICIENT_MEMORY,
    ExitReason.CONFIG: ErrorCode.MODEL_UNSUPPORTED_BACKEND,
    ExitReason.LOAD_TIMEOUT: ErrorCode.MODEL_LOAD_TIMEOUT,
    ExitReason.CANARY_FAILED: ErrorCode.MODEL_CANARY_FAILED,
}


class Fleet:
    """All models of one supervisor. Not thread-safe: one loop calls it."""

    def __init__(self, boot_id: str, policy: Policy) -> None:
        self._state = FleetState(boot_id, policy)
        self._roster = Roster(self._state)
        self._serving = Serving(self._state)
        self._drain_until = 0.0
        self._all_stopped_told = False
        self._last_tick: float | None = None
        self._handlers: dict[type[Any], Callable[[Any, float], None]] = {
            e.LoadWanted: self._load_wanted,
            e.UnloadWanted: self._unload_wanted,
            e.DrainWanted: self._drain_wanted,
            e.RequestArrived: lambda event, now: self._serving.arrive(event.request, now),
            e.RequestCancelled: self._request_cancelled,
            e.Spawned: self._spawned,
            e.SpawnFailed: self._spawn_failed,
            e.Said: self._said,
            e.Misbehaved: self._misbehaved,
            e.Exited: self._exited,
            e.Tick: self._tick,
        }

    @property
    def state(self) -> FleetState:
        """For snapshots and tests; never to be changed from outside."""
        return self._state

    @property
    def policy(self) -> Policy:
        """The numbers in force."""
        return self._state.policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        self._state.policy = policy

    def handle(self, event: e.Event, now: float) -> list[Action]:
        """Take in one event at monotonic second `now` and say what is to be done about it, in order."""
        self._handlers[type(event)](event, now)
        self._tell_if_all_stopped()
        return self._state.take_actions()

    # --- orders -----------------------------------------------------------------------------------------------------------

    def _load_wanted(self, order: e.LoadWanted, now: float) -> None:
        state = self._state
        if state.draining:
            state.emit(OrderRefused(order.order_id, ErrorCode.SHUTTING_DOWN, "The server is shutting down.", 5))
            return
        slot = state.slots.get(order.spec.model_id)
        if slot is None:
            slot = state.slots[order.spec.model_id] = Slot(order.spec, order.backend, state_since=now)
            self._forget_old_terminal_slots()
        if slot.state in SERVING:
            state.emit(LoadSettled(order.order_id, slot.model_id, True, None, None))
        elif slot.state is WorkerState.QUARANTINED:
            state.emit(OrderRefused(order.order_id, ErrorCode.MODEL_UNSTABLE, quarantine_text(slot)))
        elif slot.state is WorkerState.DRAINING:
            slot.spec, slot.backend = order.spec, order.backend
            slot.reload_orders.append(order.order_id)
        else:
            slot.load_orders.append(order.order_id)
            if slot.state in (WorkerState.STOPPED, WorkerState.FAILED):
                slot.spec, slot.backend = order.spec, order.backend
                slot.wanted = order.at_start
                self._begin(slot, now, "a load was asked for")

    def _unload_wanted(self, order: e.UnloadWanted, now: float) -> None:
        slot = self._state.slots.get(order.model_id)
        if slot is None or slot.state is WorkerState.STOPPED:
            text = f"Model '{order.model_id}' is not loaded."
            self._state.emit(OrderRefused(order.order_id, ErrorCode.MODEL_NOT_FOUND, text))
            return
        slot.unload_orders.append(order.order_id)
        slot.wanted = False
        self._drain_slot(slot, now + self._state.policy.drain_seconds, now, "an unload was asked for")

    def _drain_wanted(self, order: e.DrainWanted, now: float) -> None:
        state = self._state
        self._drain_until = now + order.seconds
        if not state.draining:
            state.draining = True
            state.tell("draining", seconds=order.seconds, requests=len(state.ledger))
        for slot in list(state.slots.values()):
            slot.wanted = False
            if slot.state is WorkerState.DRAINING:
                slot.drain_until = min(slot.drain_until, self._drain_until)
            else:
                self._drain_slot(slot, self._drain_until, now, "the service is shutting down")
        self._roster.dismiss_unused_spares(now)

    # --- starting ---------------------------------------------------------------------------------------------------------

    def _begin(self, slot: Slot, now: float, why: str) -> None:
        slot.move(WorkerState.SPAWNING, now, why)
        slot.loading_since = now
        slot.facts = None
        slot.load_progress = None
        slot.ready_at = None
        spare = self._roster.take_spare(slot.backend)
        if spare is None:
            slot.incarnation = self._roster.hire(slot.backend, slot.model_id, now).name
            return
        spare.model_id = slot.model_id
        slot.incarnation = spare.name
        slot.note(now, f"took the warm spare {spare.name}, pid {spare.pid}")
        self._send_load(slot, spare, now)

    def _send_load(self, slot: Slot, incarnation: Incarnation, now: float) -> None:
        slot.move(WorkerState.LOADING, now, "the worker reported for duty")
        incarnation.load_sent_at = now
        incarnation.last_progress_at = now
        self._state.emit(Send(incarnation.name, Load(model=slot.spec)))

    def _spawned(self, event: e.Spawned, now: float) -> None:
        incarnation = self._state.incarnations[event.incarnation]
        incarnation.pid = event.pid
        self._state.tell("worker_spawned", model_id=incarnation.model_id, backend=incarnation.backend, pid=event.pid)

    def _spawn_failed(self, event: e.SpawnFailed, now: float) -> None:
        self._exited(e.Exited(event.incarnation, ExitObservation(spawn_error=event.detail)), now)

    # --- hearing from workers -------------------------------------------------------------------------------------------

    def _said(self, event: e.Said, now: float) -> None:
        incarnation = self._state.incarnations.get(event.incarnation)
        if incarnation is None:
            return
        slot = self._state.slot_of(incarnation)
        problem = self._hear(slot, incarnation, event.message, now)
        if problem is not None:
            self._misbehaved(e.Misbehaved(event.incarnation, problem), now)

    def _hear(self, slot: Slot | None, incarnation: Incarnation, message: FromWorker, now: float) -> str | None:
        """Act on a message; a text when the worker must not have said it now."""
        if isinstance(message, Hello):
            return self._hear_hello(slot, incarnation, message, now)
        if incarnation.hello_at is None:
            return f"{type(message).__name__} before Hello"
        if isinstance(message, Beat):
            incarnation.note_beat(message, now)
        elif isinstance(message, Imported):
            incarnation.imported_at = incarnation.last_progress_at = now
        elif isinstance(message, LoadFailed):
            incarnation.load_refusal, incarnation.load_refusal_code = message.message, message.code
        elif isinstance(message, Goodbye):
            if slot is not None:
                slot.note(now, f"the worker says goodbye: {message.reason}")
        elif slot is None:
            return f"{type(message).__name__} from a worker without a model"
        elif isinstance(message, LoadProgress):
            slot.load_progress = message
            incarnation.last_progress_at = now
        elif isinstance(message, Loaded):
            return self._hear_loaded(slot, incarnation, message, now)
        else:
            assert isinstance(message, StepEvents)
            return self._hear_step(slot, incarnation, message, now)
        return None

    def _hear_hello(self, slot: Slot | None, incarnation: Incarnation, message: Hello, now: float) -> str | None:
        if not is_compatible(message.protocol):
            self._roster.end(incarnation, KillCause.VERSION, now)
            return None
        if incarnation.hello_at is not None or message.incarnation != incarnation.name:
            return "a second or foreign Hello"
        incarnation.hello_at = incarnation.last_beat_at = incarnation.last_progress_at = now
        if slot is not None and slot.state is WorkerState.SPAWNING:
            self._send_load(slot, incarnation, now)
        return None

    def _hear_loaded(self, slot: Slot, incarnation: Incarnation, message: Loaded, now: float) -> str | None:
        if slot.state is WorkerState.DRAINING:
            return None
        if slot.state is not WorkerState.LOADING:
            return f"Loaded while {slot.state}"
        slot.facts = message.facts
        incarnation.note_footprint(message.footprint_bytes)
        slot.move(WorkerState.WARMING, now, f"loaded in {message.seconds:.2f} s")
        canary = GenerateRequest(
            request_id=f"canary-{slot.incarnation}",
            model_id=slot.model_id,
            messages=(Message(role="user", content="Reply with exactly: OK"),),
            max_tokens=_CANARY_MAX_TOKENS,
            sampling=Sampling(temperature=0.0),
        )
        self._serving.start_canary(slot, canary, now)
        return None

    def _hear_step(self, slot: Slot, incarnation: Incarnation, message: StepEvents, now: float) -> str | None:
        try:
            ended_internal = self._serving.step(slot, incarnation, message, now)
        except ForeignEventError as error:
            return str(error)
        for end in ended_internal:
            self._canary_ended(slot, incarnation, end, now)
        self._settle_after_requests(slot, now)
        return None

    def _canary_ended(self, slot: Slot, incarnation: Incarnation, end: AnyRequestEvent, now: float) -> None:
        if slot.state is not WorkerState.WARMING:
            return
        if isinstance(end, Finished) and end.usage.completion_tokens > 0:
            self._ready(slot, incarnation, now)
            return
        why = getattr(end, "message", "it ended without a token")
        slot.note(now, f"canary failed: {why}")
        incarnation.load_refusal, incarnation.load_refusal_code = f"the canary failed: {why}", ErrorCode.MODEL_CANARY_FAILED
        self._roster.end(incarnation, KillCause.CANARY_FAILED, now)

    def _ready(self, slot: Slot, incarnation: Incarnation, now: float) -> None:
        slot.move(WorkerState.READY, now, "the canary passed")
        slot.ready_at = slot.last_used_at = now
        slot.served_since_ready = 0
        slot.load_seconds = now - slot.loading_since
        slot.wanted = True
        self._state.tell("model_loaded", model_id=slot.model_id, backend=slot.backend, duration_seconds=slot.load_seconds)
        for order_id in slot.load_orders:
            settled = LoadSettled(order_id, slot.model_id, False, incarnation.footprint_bytes, slot.load_seconds)
            self._state.emit(settled)
        slot.load_orders.clear()
        self._roster.spare_worked(slot.backend)
        self._serving.dispatch(slot, now)

    def _misbehaved(self, event: e.Misbehaved, now: float) -> None:
        incarnation = self._state.incarnations.get(event.incarnation)
        if incarnation is None:
            return
        slot = self._state.slot_of(incarnation)
        if slot is not None:
            slot.note(now, f"protocol violation: {event.detail}")
        self._state.tell("protocol_violation", model_id=incarnation.model_id, detail=event.detail, alarming=True)
        self._roster.end(incarnation, KillCause.VIOLATION, now)
        if slot is not None:
            self._settle_after_requests(slot, now)

    # --- requests -----------------------------------------------------------------------------------------------------------

    def _request_cancelled(self, event: e.RequestCancelled, now: float) -> None:
        slot = self._serving.cancel(event.request_id)
        if slot is not None:
            self._settle_after_requests(slot, now)

    def _settle_after_requests(self, slot: Slot, now: float) -> None:
        self._serving.dispatch(slot, now)
        if slot.state is WorkerState.BUSY and not slot.running:
            slot.move(WorkerState.READY, now, "no request is left")
        if slot.state is WorkerState.DRAINING and not slot.running:
            self._stop_process(slot, now)

    # --- stopping -----------------------------------------------------------------------------------------------------------

    def _drain_slot(self, slot: Slot, until: float, now: float, why: str) -> None:
        code = ErrorCode.SHUTTING_DOWN if self._state.draining else ErrorCode.MODEL_NOT_FOUND
        self._serving.refuse_waiting(slot, code, f"Model '{slot.model_id}' is being unloaded: {why}.")
        if slot.state in STARTING | SERVING:
            interrupted = slot.state in STARTING
            slot.move(WorkerState.DRAINING, now, why)
            slot.drain_until = until
            if interrupted or not slot.running:
                self._stop_process(slot, now)
        elif slot.state is WorkerState.DRAINING:
            slot.drain_until = min(slot.drain_until, until)
        elif slot.state is WorkerState.QUARANTINED:
            self._settle_unloads(slot, None)
        else:
            slot.move(WorkerState.STOPPED, now, why)
            self._stopped(slot, None, now)

    def _stop_process(self, slot: Slot, now: float) -> None:
        incarnation = self._state.incarnation_of(slot)
        assert incarnation is not None, slot
        self._roster.end(incarnation, KillCause.STOP, now)

    def _stopped(self, slot: Slot, freed_bytes: int | None, now: float) -> None:
        """A slot has come to rest on purpose: tell who waited, start again if somebody asked meanwhile, else forget it."""
        text = f"The load of model '{slot.model_id}' was cancelled by an unload."
        self._refuse_loads(slot, ErrorCode.MODEL_LOAD_CANCELLED, text)
        self._settle_unloads(slot, freed_bytes)
        self._state.tell("model_unloaded", model_id=slot.model_id)
        slot.load_orders, slot.reload_orders = slot.reload_orders, []
        if slot.load_orders and not self._state.draining:
            self._begin(slot, now, "a load was asked for while it was stopping")
            return
        self._refuse_loads(slot, ErrorCode.SHUTTING_DOWN, "The server is shutting down.")
        del self._state.slots[slot.model_id]

    def _settle_unloads(self, slot: Slot, freed_bytes: int | None) -> None:
        for order_id in slot.unload_orders:
            self._state.emit(UnloadSettled(order_id, slot.model_id, freed_bytes))
        slot.unload_orders.clear()

    def _refuse_loads(self, slot: Slot, code: ErrorCode, text: str) -> None:
        for order_id in slot.load_orders:
            self._state.emit(OrderRefused(order_id, code, text))
        slot.load_orders.clear()

    # --- dying --------------------------------------------------------------------------------------------------------------

    def _exited(self, event: e.Exited, now: float) -> None:
        incarnation = self._state.incarnations.get(event.incarnation)
        if incarnation is None:
            return
        slot = self._state.slot_of(incarnation)
        cause = incarnation.ladder.cause if incarnation.ladder is not None else None
        state_at_death = slot.state if slot is not None else WorkerState.SPAWNING
        verdict = classify(event.observation, state=state_at_death, cause=cause)
        if incarnation.load_refusal is not None and verdict.reason in NEVER_RESTART:
            verdict = Verdict(verdict.reason, incarnation.load_refusal)
        del self._state.incarnations[event.incarnation]
        self._tell_exit(incarnation, slot, verdict, event.observation)
        if slot is not None:
            slot.last_exit, slot.last_exit_at, slot.incarnation = verdict, now, None
            slot.note(now, f"the worker {incarnation.name} ended: {verdict.text}")
            self._slot_lost_its_worker(slot, incarnation, verdict, now)
        elif cause is not KillCause.STOP:
            self._roster.spare_died(incarnation, verdict, now)

    def _slot_lost_its_worker(self, slot: Slot, incarnation: Incarnation, verdict: Verdict, now: float) -> None:
        if slot.state is WorkerState.DRAINING:
            self._serving.worker_lost(slot, incarnation, will_return=False, text=verdict.text)
            slot.move(WorkerState.STOPPED, now, verdict.text)
            self._stopped(slot, incarnation.footprint_bytes, now)
            return
        slot.move(WorkerState.CRASHED, now, verdict.text)
        self._forgive_after_sustained_service(slot, now)
        if verdict.reason not in NEVER_RESTART:
            slot.failures.record(now, self._state.policy)
        decision = decide(
            slot.failures, verdict.reason, self._state.policy, jitter_key=f"{self._state.boot_id}:{slot.model_id}"
        )
        will_return = isinstance(decision, RestartAfter) and slot.wanted
        self._serving.worker_lost(slot, incarnation, will_return=will_return, text=verdict.text)
        if isinstance(decision, Quarantine):
            self._quarantine(slot, incarnation, decision, verdict, now)
        elif isinstance(decision, RestartAfter) and slot.wanted:
            self._restart_after(slot, decision.seconds, verdict, now)
        else:
            slot.move(WorkerState.FAILED, now, "starting it again would not help, or nobody relies on it")
            self._refuse_everyone(slot, incarnation, verdict)

    def _restart_after(self, slot: Slot, delay_seconds: float, verdict: Verdict, now: float) -> None:
        slot.restarts += 1
        slot.restart_at = now + delay_seconds
        slot.move(WorkerState.BACKOFF, now, f"restart in {delay_seconds:.1f} s")
        self._state.tell(
            "worker_restarting", model_id=slot.model_id, reason=verdict.reason, delay_seconds=delay_seconds, alarming=True
        )
        if delay_seconds == 0:
            self._begin(slot, now, "restart at once")

    def _quarantine(self, slot: Slot, incarnation: Incarnation, decision: Quarantine, verdict: Verdict, now: float) -> None:
        slot.quarantine_reason = decision.reason
        slot.move(WorkerState.QUARANTINED, now, decision.reason)
        self._state.tell("model_quarantined", model_id=slot.model_id, reason=decision.reason, text=verdict.text, alarming=True)
        self._refuse_everyone(slot, incarnation, verdict)

    def _refuse_everyone(self, slot: Slot, incarnation: Incarnation, verdict: Verdict) -> None:
        slot.wanted = False
        code = incarnation.load_refusal_code or _LOAD_REFUSALS.get(verdict.reason, ErrorCode.MODEL_LOADER_CRASHED)
        text = incarnation.load_refusal or f"its worker died: {verdict.text}"
        self._refuse_loads(slot, ErrorCode(code), f"Loading model '{slot.model_id}' failed: {text}")
        quarantined = slot.state is WorkerState.QUARANTINED
        request_code = ErrorCode.MODEL_UNSTABLE if quarantined else ErrorCode.WORKER_LOST
        request_text = quarantine_text(slot) if quarantined else f"Model '{slot.model_id}' is gone: {verdict.text}."
        self._serving.refuse_waiting(slot, request_code, request_text)

    def _forgive_after_sustained_service(self, slot: Slot, now: float) -> None:
        served = slot.served_since_ready > 0 and slot.ready_at is not None
        if served and slot.ready_at is not None and now - slot.ready_at >= self._state.policy.restart_stable_seconds:
            slot.failures.forgive()

    def _tell_exit(self, incarnation: Incarnation, slot: Slot | None, verdict: Verdict, seen: ExitObservation) -> None:
        self._state.tell(
            "worker_exited",
            model_id=incarnation.model_id,
            backend=incarnation.backend,
            pid=incarnation.pid,
            reason=verdict.reason,
            text=verdict.text,
            code=seen.code,
            signal=seen.signal_number,
            requests_running=len(slot.running) if slot is not None else 0,
            alarming=verdict.reason is not ExitReason.STOPPED,
        )

    # --- time ---------------------------------------------------------------------------------------------------------------

    def _tick(self, _: e.Tick, now: float) -> None:
        gap_seconds = now - self._last_tick if self._last_tick is not None else 0.0
        self._last_tick = now
        if gap_seconds > limits.CLOCK_GAP_SECONDS:
            self._state.postpone(gap_seconds)
            self._drain_until += gap_seconds
            self._state.tell("clock_gap", seconds=gap_seconds, alarming=True)
        for slot in list(self._state.slots.values()):
            self._serving.expire_waiting(slot, now)
            if slot.state is WorkerState.BACKOFF and now >= slot.restart_at:
                self._begin(slot, now, "the backoff is over")
            elif slot.state is WorkerState.DRAINING and slot.running and now >= slot.drain_until:
                self._cut_drain(slot, now)
        self._roster.climb(now)
        self._roster.dismiss_unused_spares(now)
        self._roster.keep_spares(now)

    def _cut_drain(self, slot: Slot, now: float) -> None:
        incarnation = self._state.incarnation_of(slot)
        assert incarnation is not None
        self._serving.cut_running(
            slot, incarnation, "The server ended this answer because it had to stop; send the request again."
        )
        self._roster.end(incarnation, KillCause.STOP, now)

    # --- keeping tidy -------------------------------------------------------------------------------------------------------

    def _forget_old_terminal_slots(self) -> None:
        failed = [slot for slot in self._state.slots.values() if slot.state is WorkerState.FAILED]
        for slot in sorted(failed, key=lambda slot: slot.state_since)[: max(0, len(failed) - _TERMINAL_SLOTS_MAX)]:
            del self._state.slots[slot.model_id]

    def _tell_if_all_stopped(self) -> None:
        state = self._state
        if state.draining and not state.incarnations and not len(state.ledger) and not self._all_stopped_told:
            self._all_stopped_told = True
            state.emit(AllStopped())
