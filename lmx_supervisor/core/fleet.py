"""The one mutator: `Fleet.handle(event, now) -> actions`. Slots, processes and requests change here and nowhere else.

Covers: which part an event goes to, what a worker may say when, and time. The parts: `loading` for operators' orders,
`serving` for clients' requests, `roster` for processes, `dying` for what follows an exit. Does not cover: anything that
touches the world; the runtime performs the actions and reports back.
"""

from collections.abc import Callable
from typing import Any

from lmx_protocol import limits
from lmx_protocol.messages import (
    Beat,
    FromWorker,
    Goodbye,
    Hello,
    Imported,
    Loaded,
    LoadFailed,
    LoadProgress,
    PrefixNews,
    StepEvents,
)
from lmx_protocol.states import WorkerState
from lmx_protocol.version import PROTOCOL_VERSION, is_compatible
from lmx_supervisor.core import events as e
from lmx_supervisor.core import quarantine
from lmx_supervisor.core.actions import Action, AllStopped
from lmx_supervisor.core.arbiter import Arbiter
from lmx_supervisor.core.containment import Containment
from lmx_supervisor.core.dying import Dying
from lmx_supervisor.core.exit_reason import ExitObservation, KillCause
from lmx_supervisor.core.host_watch import HostWatch
from lmx_supervisor.core.incarnation import Incarnation
from lmx_supervisor.core.loading import Loading
from lmx_supervisor.core.memory_return import MemoryReturn
from lmx_supervisor.core.memory_watch import MemoryMark, MemoryWatch, memory_mark
from lmx_supervisor.core.on_demand import OnDemand
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.prefixes import told
from lmx_supervisor.core.readiness import ReadinessWatch
from lmx_supervisor.core.roster import Roster
from lmx_supervisor.core.serving import ForeignEventError, Serving
from lmx_supervisor.core.slot import SERVING, Slot
from lmx_supervisor.core.state import FleetState
from lmx_supervisor.core.unloading import Unloading
from lmx_supervisor.core.warm_pool import WarmPool


class Fleet:
    """All models of one supervisor. Not thread-safe: one loop calls it."""

    def __init__(self, boot_id: str, policy: Policy) -> None:
        self._state = FleetState(boot_id, policy)
        self._roster = Roster(self._state)
        self._serving = Serving(self._state)
        memory_return = MemoryReturn(self._state)
        self._loading = Loading(self._state, self._roster, self._serving, memory_return)
        self._dying = Dying(self._state, self._roster, self._serving, self._loading, memory_return)
        self._memory = MemoryWatch(self._state, self._roster, self._serving)
        self._unloading = Unloading(self._state, self._loading, self._serving)
        self._host = HostWatch(self._state)
        self._arbiter = Arbiter(self._state)
        self._warm_pool = WarmPool(self._state, self._loading)
        self._on_demand = OnDemand(self._state, self._loading, self._serving, memory_return)
        self._containment = Containment(self._state)
        self._readiness = ReadinessWatch()
        self._drain_until = 0.0
        self._all_stopped_told = False
        self._last_tick: float | None = None
        self._handlers: dict[type[Any], Callable[[Any, float], None]] = {
            e.LoadWanted: self._loading.load_wanted,
            e.PrefetchWanted: self._warm_pool.wanted,
            e.Demanded: self._on_demand.demanded,
            e.UnloadWanted: self._loading.unload_wanted,
            e.RestartWanted: self._loading.restart_wanted,
            e.QuarantineClearWanted: lambda event, _: quarantine.clear_wanted(self._state, event),
            e.QuarantineKnown: lambda event, now: quarantine.known(self._state, event, now),
            e.DrainWanted: self._drain_wanted,
            e.RequestArrived: lambda event, now: self._serving.arrive(event.request, event.claim, now),
            e.RequestCancelled: self._request_cancelled,
            e.Spawned: self._spawned,
            e.SpawnFailed: self._spawn_failed,
            e.Said: self._said,
            e.Misbehaved: self._misbehaved,
            e.FilesChanged: self._loading.files_changed,
            e.Exited: self._dying.exited,
            e.MemoryChecked: self._loading.memory_checked,
            e.HostMemoryRead: lambda event, _: self._host.read(event),
            e.ProcessorsCounted: self._processors_counted,
            e.PeakKnown: lambda event, _: self._state.peaks.note(event.digest, event.peak_bytes),
            e.AccessesKnown: lambda event, _: self._state.predictor.remember(event.history, event.total),
            e.SafeModeKnown: self._safe_mode_known,
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
        self._forgive_gap(now)
        self._handlers[type(event)](event, now)
        self._unloading.settle_evictions(now)
        self._on_demand.look(now)
        self._arbiter.settle()
        for change in self._readiness.changes(self._state.slots):
            self._state.emit(change)
        self._tell_if_all_stopped()
        return self._state.take_actions()

    def _drain_wanted(self, order: e.DrainWanted, now: float) -> None:
        state = self._state
        self._drain_until = now + order.seconds
        if not state.draining:
            state.draining = True
            state.tell("draining", seconds=order.seconds, requests=len(state.ledger))
        for slot in list(state.slots.values()):
            slot.wanted, slot.demanded_at = False, None
            if slot.state is WorkerState.DRAINING:
                slot.drain_until = min(slot.drain_until, self._drain_until)
            else:
                self._loading.drain_slot(slot, self._drain_until, now, "the service is shutting down")
        self._roster.dismiss_unused_spares(now)

    def _processors_counted(self, event: e.ProcessorsCounted, now: float) -> None:
        self._state.processors = event.processors

    def _safe_mode_known(self, _: e.SafeModeKnown, now: float) -> None:
        self._state.safe_mode = True

    def contain(self, event: e.Event) -> tuple[list[Action], list[str]]:
        """`handle` raised on this event: end what it was about. Returns what is to be done, and the story that led to it."""
        story = self._containment.story(event)
        self._containment.contain(event)
        return self._state.take_actions(), story

    # --- processes ----------------------------------------------------------------------------------------------------------

    def _spawned(self, event: e.Spawned, now: float) -> None:
        incarnation = self._state.incarnations.get(event.incarnation)
        if incarnation is None:
            return
        incarnation.pid = event.pid
        self._state.tell("worker_spawned", model_id=incarnation.model_id, backend=incarnation.backend, pid=event.pid)

    def _spawn_failed(self, event: e.SpawnFailed, now: float) -> None:
        self._dying.exited(e.Exited(event.incarnation, ExitObservation(spawn_error=event.detail)), now)

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
            self._learn_peak(slot, incarnation)
            if slot is not None:
                # At once: between two ticks a fast leak gets from one mark to the next.
                self._memory.look(slot, now)
        elif isinstance(message, Imported):
            incarnation.imported_at = incarnation.last_progress_at = now
            incarnation.backend_version = message.backend_version
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
        elif isinstance(message, PrefixNews):
            self._state.emit(told(slot.model_id, message))
        elif isinstance(message, Loaded):
            return self._loading.loaded(slot, incarnation, message, now)
        else:
            assert isinstance(message, StepEvents)
            return self._hear_step(slot, incarnation, message, now)
        return None

    def _learn_peak(self, slot: Slot | None, incarnation: Incarnation) -> None:
        """What a serving worker costs at its peak; not what one costs that leaks and is about to be replaced."""
        mark = memory_mark(incarnation.footprint_bytes, self._state.policy)
        if slot is not None and slot.state in SERVING and mark is MemoryMark.NONE:
            self._state.peaks.note(slot.digest, incarnation.peak_footprint_bytes or 0)

    def _hear_hello(self, slot: Slot | None, incarnation: Incarnation, message: Hello, now: float) -> str | None:
        if not is_compatible(message.protocol):
            incarnation.load_refusal = (
                f"the worker speaks protocol {message.protocol}, the supervisor protocol {PROTOCOL_VERSION}; reinstall LMX"
            )
            self._roster.end(incarnation, KillCause.VERSION, now)
            return None
        if incarnation.hello_at is not None or message.incarnation != incarnation.name:
            return "a second or foreign Hello"
        incarnation.hello_at = incarnation.last_beat_at = incarnation.last_progress_at = now
        if slot is not None and slot.state is WorkerState.SPAWNING and incarnation.ladder is None:
            self._loading.send_load(slot, incarnation, now)
        return None

    def _hear_step(self, slot: Slot, incarnation: Incarnation, message: StepEvents, now: float) -> str | None:
        try:
            ended_internal = self._serving.step(slot, incarnation, message, now)
        except ForeignEventError as error:
            return str(error)
        for end in ended_internal:
            self._loading.canary_ended(slot, incarnation, end, now)
        if slot.quarantine_reason is not None and slot.served_since_ready:
            quarantine.release(self._state, slot, "it was forced and served")
        self._settle_after_requests(slot, now)
        return None

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
        slot = self._serving.cancel(event.request_id, now)
        if slot is not None:
            self._settle_after_requests(slot, now)

    def _settle_after_requests(self, slot: Slot, now: float) -> None:
        self._serving.dispatch_if_due(now)
        if slot.state is WorkerState.BUSY and not slot.running:
            slot.move(WorkerState.READY, now, "no request is left")
        if slot.state is WorkerState.DRAINING and not slot.running:
            self._loading.stop_process(slot, now)

    # --- time ---------------------------------------------------------------------------------------------------------------

    def _tick(self, _: e.Tick, now: float) -> None:
        self._last_tick = now
        for slot in list(self._state.slots.values()):
            self._serving.expire_waiting(slot, now)
            self._serving.cancel_too_late(slot, now)
            slot.adaptive.recover(self._state.policy, now)
            self._memory.look(slot, now)
            incarnation = self._state.incarnation_of(slot)
            if incarnation is not None and self._serving.ignores_a_cancel(slot, incarnation, now):
                self._roster.end(incarnation, KillCause.NO_PROGRESS, now)
            if slot.state is WorkerState.BACKOFF and now >= slot.restart_at:
                self._loading.begin(slot, now, "the backoff is over")
            elif slot.state is WorkerState.DRAINING and slot.running and now >= slot.drain_until:
                self._loading.cut_drain(slot, now)
        if not self._state.draining:
            self._unloading.unload_idle(now)
        self._serving.dispatch(now)
        self._loading.send_waiting_loads(now)
        self._roster.climb(now)
        self._roster.dismiss_unused_spares(now)
        self._roster.keep_spares(now)
        self._warm_pool.look(now)

    def _forgive_gap(self, now: float) -> None:
        """Shift the deadlines when ticks were missing, before anything else: what is decided from now on is not late."""
        gap_seconds = now - self._last_tick if self._last_tick is not None else 0.0
        if gap_seconds > limits.CLOCK_GAP_SECONDS:
            self._last_tick = now
            self._state.postpone(gap_seconds)
            self._drain_until += gap_seconds
            self._state.tell("clock_gap", seconds=gap_seconds, alarming=True)

    def _tell_if_all_stopped(self) -> None:
        state = self._state
        if state.draining and not state.incarnations and not len(state.ledger) and not self._all_stopped_told:
            self._all_stopped_told = True
            state.tell("service_stopped")
            state.emit(AllStopped())
