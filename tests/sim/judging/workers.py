"""Promises about processes: deadlines act at the tick that finds them due and never earlier, liars and the late are ended.

Rung by rung; the doomed get no work, and no model has two workers, or more requests with its worker than that has slots.
"""

from dataclasses import dataclass, field
from math import inf

from lmx_protocol import limits
from lmx_protocol.messages import (
    Beat,
    Begin,
    FromWorker,
    Hello,
    Imported,
    Load,
    Loaded,
    LoadProgress,
    Shutdown,
    StepEvents,
)
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.exit_reason import KillCause
from lmx_supervisor.core.fleet import Fleet
from lmx_supervisor.core.ledger import is_terminal
from lmx_supervisor.core.slot import SERVING
from tests.sim.fates import Deed
from tests.sim.judging.promise import EPSILON_SECONDS, AwakeClock, promise
from tests.sim.judging.requests import CANARY
from tests.sim.worker import SimWorker

_CANARY_DEEDS = (Deed.CANARY_EMPTY, Deed.CANARY_FAILED)


@dataclass(slots=True)
class Watched:
    """One process as its words show it. Times are awake seconds."""

    spawned_at: float
    last_progress_at: float
    hello_at: float | None = None
    last_beat_at: float = 0.0
    imported: bool = False
    steps: int = -1
    footprint_bytes: int = 0
    peak_bytes: int = 0
    too_big_at_tick: bool = False
    model_id: str | None = None
    loading_since: float = 0.0
    loaded_at: float | None = None
    slots: int = 0
    leases: set[str] = field(default_factory=set)
    doomed_at: float | None = None
    kill_due_at: float = 0.0
    killed: bool = False


class WorkersJudge:
    """Watches every process from its spawn to its exit."""

    def __init__(self, fleet: Fleet, workers: dict[str, SimWorker], clock: AwakeClock) -> None:
        self._fleet = fleet
        self._workers = workers
        self._clock = clock
        self._state_since: dict[str, tuple[WorkerState, str | None, float]] = {}
        self._memory_was_missing = False
        self.watched: dict[str, Watched] = {}

    def before(self, event: e.Event) -> None:
        """Note what a worker said or that it is gone."""
        if isinstance(event, e.Said) and event.incarnation in self.watched:
            self._hear(self.watched[event.incarnation], event.incarnation, event.message)
        elif isinstance(event, e.MemoryChecked):
            self._memory_was_missing = self._memory_was_missing or event.missing_bytes > 0

    def after(self, event: e.Event, actions: list[a.Action]) -> None:
        """Judge what the core did about it."""
        if isinstance(event, e.Exited | e.SpawnFailed):
            self.watched.pop(event.incarnation, None)
        elif isinstance(event, e.Said | e.Misbehaved) and event.incarnation not in self.watched:
            promise(not actions, f"a dead worker's words had consequences: {actions}")
        for action in actions:
            self._note_action(action)
        for slot in self._fleet.state.slots.values():
            state, name, _ = self._state_since.get(slot.model_id, (None, None, 0.0))
            if state is not slot.state or name != slot.incarnation:
                self._state_since[slot.model_id] = (slot.state, slot.incarnation, self._clock.now)
        if isinstance(event, e.Said | e.Misbehaved):
            self._judge_lie(event)
        self._judge_slots()
        if isinstance(event, e.Tick):
            self._judge_deadlines()

    def _hear(self, watched: Watched, name: str, message: FromWorker) -> None:
        now = self._clock.now
        if isinstance(message, Hello):
            if watched.hello_at is None and message.incarnation == name:
                watched.hello_at = watched.last_beat_at = watched.last_progress_at = now
        elif isinstance(message, Beat):
            watched.last_beat_at = now
            watched.footprint_bytes = message.footprint_bytes
            if message.steps != watched.steps:
                watched.steps, watched.last_progress_at = message.steps, now
        elif isinstance(message, Loaded):
            watched.footprint_bytes = message.footprint_bytes
            if watched.loaded_at is None:
                watched.loaded_at, watched.slots = now, message.facts.slots
        elif isinstance(message, Imported | LoadProgress | StepEvents):
            watched.imported = True
            watched.last_progress_at = now
        watched.peak_bytes = max(watched.peak_bytes, watched.footprint_bytes)

    # --- actions ------------------------------------------------------------------------------------------------------------

    def _note_action(self, action: a.Action) -> None:
        if isinstance(action, a.Spawn):
            promise(action.incarnation not in self._workers, f"{action.incarnation} was spawned twice")
            now = self._clock.now
            self.watched[action.incarnation] = Watched(now, now, loading_since=now)
        elif isinstance(action, a.Send):
            self._sent(action)
        elif isinstance(action, a.Signal):
            self._signalled(action)
        elif isinstance(action, a.Deliver) and is_terminal(action.event):
            for watched in self.watched.values():
                watched.leases.discard(action.event.request_id)

    def _sent(self, action: a.Send) -> None:
        watched, message = self.watched.get(action.incarnation), action.message
        promise(watched is not None, f"{type(message).__name__} was sent to {action.incarnation}, which is gone")
        assert watched is not None
        if isinstance(message, Load):
            model_id = message.model.model_id
            others = [name for name, other in self.watched.items() if other.model_id == model_id]
            promise(not others, f"{model_id} was given to {action.incarnation} while {others} live")
            promise(watched.doomed_at is None, f"{model_id} was given to {action.incarnation}, which is being ended")
            promise(watched.hello_at is not None, f"{model_id} was given to {action.incarnation} before its hello")
            watched.model_id, watched.last_progress_at = model_id, self._clock.now
            state, name, since = self._state_since.get(model_id, (None, None, 0.0))
            began_before = state is WorkerState.SPAWNING and name == action.incarnation
            watched.loading_since = since if began_before else self._clock.now
        elif isinstance(message, Begin):
            promise(
                watched.doomed_at is None, f"{message.request.request_id} was leased to {action.incarnation}, which is doomed"
            )
            promise(not watched.too_big_at_tick, f"{action.incarnation} was given work at {watched.footprint_bytes} bytes")
            promise(watched.loaded_at is not None, f"{action.incarnation} was given work before it was loaded")
            if not message.request.request_id.startswith(CANARY):
                watched.leases.add(message.request.request_id)
                promise(len(watched.leases) <= watched.slots, f"{action.incarnation} was given more than {watched.slots}")
        elif isinstance(message, Shutdown):
            self._doom(action.incarnation, watched, message.grace_seconds)

    def _signalled(self, action: a.Signal) -> None:
        watched = self.watched.get(action.incarnation)
        promise(watched is not None, f"{action.signal} was sent to {action.incarnation}, which is gone")
        assert watched is not None
        policy = self._fleet.policy
        if action.signal is a.WorkerSignal.ABORT:
            self._doom(action.incarnation, watched, policy.hang_abort_grace_seconds)
        elif action.signal is a.WorkerSignal.KILL:
            promise(not watched.killed, f"{action.incarnation} was killed twice")
            if watched.doomed_at is None:
                self._doom(action.incarnation, watched, 0.0)
            promise(
                self._clock.now >= watched.kill_due_at - EPSILON_SECONDS, f"{action.incarnation} was killed within its grace"
            )
            watched.killed = True

    def _doom(self, name: str, watched: Watched, grace_seconds: float) -> None:
        promise(watched.doomed_at is None, f"{name} was put on two ladders")
        watched.doomed_at = self._clock.now
        watched.kill_due_at = self._clock.now + grace_seconds
        ladder = self._fleet.state.incarnations[name].ladder
        assert ladder is not None
        promise(self._is_just(name, watched, ladder.cause), f"{name} is being ended for {ladder.cause} without a reason")

    def _is_just(self, name: str, watched: Watched, cause: KillCause) -> bool:
        policy, worker = self._fleet.policy, self._workers.get(name)
        if cause is KillCause.VIOLATION:
            return worker is not None and (bool(worker.lies) or worker.told_garbage)
        if cause is KillCause.VERSION:
            return worker is not None and worker.fate.deed is Deed.OTHER_VERSION
        if cause is KillCause.CANARY_FAILED:
            return worker is not None and worker.fate.deed in _CANARY_DEEDS
        if cause in (KillCause.MEMORY_HIGH, KillCause.MEMORY_LIMIT):
            return watched.peak_bytes >= limits.MEMORY_SOFT_RATIO * (policy.worker_memory_bytes_max or inf)
        if cause is KillCause.MEMORY_LOST:
            return self._memory_was_missing
        if cause is KillCause.STOP:
            slot = self._fleet.state.slots.get(watched.model_id or "")
            return watched.model_id is None or slot is None or slot.state is WorkerState.DRAINING
        bounds = {
            KillCause.NO_HELLO: (watched.spawned_at, policy.hello_seconds),
            KillCause.LOAD_STALL: (watched.last_progress_at, policy.load_stall_seconds),
            KillCause.LOAD_TOTAL: (watched.loading_since, policy.load_total_seconds),
            KillCause.CANARY_TIMEOUT: (watched.loaded_at or 0.0, policy.canary_seconds),
            KillCause.NO_BEAT: (watched.last_beat_at, policy.beat_dead_seconds),
            KillCause.NO_PROGRESS: (watched.last_progress_at, policy.progress_stall_seconds),
        }
        since, bound_seconds = bounds[cause]
        return self._clock.now - since > bound_seconds - EPSILON_SECONDS

    # --- at any moment ------------------------------------------------------------------------------------------------------

    def _judge_lie(self, event: e.Said | e.Misbehaved) -> None:
        watched = self.watched.get(event.incarnation)
        if watched is None or watched.doomed_at is not None:
            return
        slot = self._fleet.state.slots.get(watched.model_id or "")
        if isinstance(event, e.Said) and isinstance(event.message, Loaded) and slot and slot.state is WorkerState.DRAINING:
            return  # nobody looks at a load that an unload has overtaken
        lied = isinstance(event, e.Misbehaved) or any(event.message is lie for lie in self._workers[event.incarnation].lies)
        promise(not lied, f"{event.incarnation} lied and goes on: {event}")

    def _judge_slots(self) -> None:
        state, policy = self._fleet.state, self._fleet.policy
        for slot in state.slots.values():
            has_process = slot.incarnation is not None
            promise(has_process == (slot.state in _WITH_PROCESS), "{} and its process do not fit", slot)
            promise(not has_process or slot.incarnation in state.incarnations, "{} works with a dead process", slot)
            serving = slot.state is WorkerState.READY or slot.state is WorkerState.BUSY
            is_right = not serving or (slot.state is WorkerState.BUSY) == bool(slot.running)
            promise(is_right, "{} does not know if it is busy", slot)
            promise(len(slot.story) <= limits.STORY_EVENTS_MAX, "a story is not bounded")
            waiting_max = policy.queue_per_model + slot.capacity() + 1
            promise(len(slot.waiting) <= waiting_max, "the line of {} is not bounded", slot)
        promise(len(state.incarnations) <= 2 * len(state.slots) + 2, "processes are not bounded")
        promise(state.incarnations.keys() == self.watched.keys(), "the core and the kernel do not know the same processes")

    def _judge_deadlines(self) -> None:
        now, policy = self._clock.now, self._fleet.policy
        for name, watched in self.watched.items():
            if watched.doomed_at is not None:
                promise(watched.killed or now < watched.kill_due_at + EPSILON_SECONDS, f"{name} was not killed after its grace")
                continue
            cause = self._overdue(name, watched, now - EPSILON_SECONDS)
            promise(cause is None, "{} is overdue and lives: {}; {}", name, cause, watched)
            allowed_bytes = policy.worker_memory_bytes_max or inf
            slot = self._fleet.state.slots.get(watched.model_id or "")
            serves = slot is not None and slot.state in SERVING
            watched.too_big_at_tick = serves and watched.footprint_bytes >= limits.MEMORY_SOFT_RATIO * allowed_bytes
            size = len(self._fleet.state.incarnations[name].ended_requests)
            promise(size <= policy.queue_total + 1024, f"{name} remembers {size} ended requests")

    def _overdue(self, name: str, watched: Watched, now: float) -> str | None:
        policy = self._fleet.policy
        if watched.hello_at is None:
            return "no hello" if now - watched.spawned_at > policy.hello_seconds else None
        if watched.model_id is None and any(slot.incarnation == name for slot in self._fleet.state.slots.values()):
            return "its heartbeat" if now - watched.last_beat_at > policy.beat_dead_seconds else None
        if watched.model_id is None:
            stalled = not watched.imported and now - watched.last_progress_at > policy.load_stall_seconds
            silent = watched.imported and now - watched.last_beat_at > policy.beat_dead_seconds
            return "a spare that stands still" if stalled or silent else None
        state, _, since = self._state_since[watched.model_id]
        if state is WorkerState.LOADING:
            stalled = now - watched.last_progress_at > policy.load_stall_seconds
            return "its load" if stalled or now - watched.loading_since > policy.load_total_seconds else None
        if state is WorkerState.WARMING:
            return "its canary" if now - since > policy.canary_seconds else None
        if now - watched.last_beat_at > policy.beat_dead_seconds:
            return "its heartbeat"
        if state in SERVING and watched.footprint_bytes >= (policy.worker_memory_bytes_max or inf):
            return "its memory"
        idle = not watched.leases
        stuck = not idle and now - max(watched.last_progress_at, since) > policy.progress_stall_seconds
        return "its engine" if stuck else None


_WITH_PROCESS = frozenset(
    {
        WorkerState.SPAWNING,
        WorkerState.LOADING,
        WorkerState.WARMING,
        WorkerState.READY,
        WorkerState.BUSY,
        WorkerState.DRAINING,
    }
)
