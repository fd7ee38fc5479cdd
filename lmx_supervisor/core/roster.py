"""Worker processes: hiring them, keeping one warm spare per backend in use, and ending them rung by rung."""

from dataclasses import dataclass

from lmx_protocol import limits
from lmx_supervisor.core.actions import Send, Signal, Spawn, WorkerSignal
from lmx_supervisor.core.exit_reason import KillCause, Verdict
from lmx_supervisor.core.health import overdue
from lmx_supervisor.core.incarnation import Incarnation, Ladder
from lmx_supervisor.core.prefixes import shutdown_order
from lmx_supervisor.core.slot import SERVING, STARTING
from lmx_supervisor.core.state import FleetState

_POLITE = frozenset({KillCause.STOP, KillCause.CANARY_FAILED, KillCause.MEMORY_HIGH, KillCause.MEMORY_LOST, KillCause.NO_ROOM})
_AT_ONCE = frozenset(
    {KillCause.VIOLATION, KillCause.VERSION, KillCause.NO_HELLO, KillCause.FILES_CHANGED, KillCause.MEMORY_LIMIT}
)


@dataclass(slots=True)
class _SpareTrouble:
    """Spares of one backend that died: they are restarted with the workers' own patience, then left alone."""

    failures: int = 0
    retry_at: float = 0.0


class Roster:
    """The processes of the fleet."""

    def __init__(self, state: FleetState) -> None:
        self._state = state
        self._hired = 0
        self._trouble: dict[str, _SpareTrouble] = {}

    def hire(self, backend: str, model_id: str | None, now: float) -> Incarnation:
        """Start a process, for a model or as a spare."""
        self._hired += 1
        name = f"{self._state.boot_id}-{self._hired}"
        incarnation = Incarnation(name, backend, spawned_at=now, model_id=model_id, last_progress_at=now)
        self._state.incarnations[name] = incarnation
        self._state.emit(Spawn(name, backend))
        return incarnation

    def take_spare(self, backend: str) -> Incarnation | None:
        """A warm spare of the backend, if there is one; it is nobody's spare from here on."""
        for incarnation in self._state.incarnations.values():
            if incarnation.model_id is None and incarnation.backend == backend and self._is_warm(incarnation):
                return incarnation
        return None

    def keep_spares(self, now: float) -> None:
        """Have one spare per backend in use, once no load competes for the processor."""
        state = self._state
        slots = state.slots.values()
        in_use = {slot.backend for slot in slots if slot.state in SERVING and slot.wanted}
        if state.draining or not state.policy.warm_spare or any(slot.state in STARTING for slot in slots):
            return
        for backend in sorted(in_use - {spare.backend for spare in self.spares()}):
            trouble = self._trouble.setdefault(backend, _SpareTrouble())
            if trouble.failures < state.policy.quarantine_threshold and now >= trouble.retry_at:
                self.hire(backend, None, now)

    def spares(self) -> list[Incarnation]:
        """The processes that work for no model."""
        return [incarnation for incarnation in self._state.incarnations.values() if incarnation.model_id is None]

    def dismiss_unused_spares(self, now: float) -> None:
        """End the spares of backends no slot uses; all of them when the service stops or they are not wanted any more."""
        in_use = {slot.backend for slot in self._state.slots.values() if slot.state in SERVING | STARTING or slot.wanted}
        for spare in self.spares():
            unwanted = self._state.draining or not self._state.policy.warm_spare
            if spare.ladder is None and (unwanted or spare.backend not in in_use):
                self.end(spare, KillCause.STOP, now)

    def spare_died(self, incarnation: Incarnation, verdict: Verdict, now: float) -> None:
        """A spare is gone without having been asked to go."""
        trouble = self._trouble.setdefault(incarnation.backend, _SpareTrouble())
        trouble.failures += 1
        trouble.retry_at = now + self._state.policy.restart_initial_seconds * 2**trouble.failures
        self._state.tell("spare_died", backend=incarnation.backend, reason=verdict.reason, text=verdict.text, alarming=True)

    def spare_worked(self, backend: str) -> None:
        """A worker of this backend became ready: spares are worth trying again."""
        self._trouble.pop(backend, None)

    def end(self, incarnation: Incarnation, cause: KillCause, now: float) -> None:
        """Put a process on the ladder that fits the cause. Idempotent: a process on a ladder stays on it."""
        if incarnation.ladder is not None:
            return
        policy, emit = self._state.policy, self._state.emit
        if cause in _POLITE:
            large = (incarnation.footprint_bytes or 0) > limits.LARGE_FOOTPRINT_BYTES
            grace_seconds = limits.STOP_GRACE_LARGE_SECONDS if large else policy.stop_grace_seconds
            incarnation.ladder = Ladder(cause, kill_at=now + grace_seconds)
            incarnation.ladder.asked = incarnation.hello_at is not None
            if incarnation.ladder.asked:
                emit(Send(incarnation.name, shutdown_order(self._state, incarnation, cause, grace_seconds, now)))
                emit(Signal(incarnation.name, WorkerSignal.TERMINATE))
            else:
                self._kill(incarnation, now)
        elif cause in _AT_ONCE:
            incarnation.ladder = Ladder(cause, kill_at=now)
            self._kill(incarnation, now)
        else:
            incarnation.ladder = Ladder(cause, kill_at=now + policy.hang_abort_grace_seconds)
            emit(Signal(incarnation.name, WorkerSignal.ABORT))
        alarming = cause is not KillCause.STOP
        self._state.tell("worker_ending", model_id=incarnation.model_id, pid=incarnation.pid, cause=cause, alarming=alarming)

    def climb(self, now: float) -> None:
        """Act on every due rung, and put every overdue process on its ladder."""
        state = self._state
        for incarnation in list(state.incarnations.values()):
            ladder = incarnation.ladder
            if ladder is None:
                cause = overdue(incarnation, state.slot_of(incarnation), now, state.policy)
                if cause is not None:
                    self.end(incarnation, cause, now)
            elif not ladder.killed and now >= ladder.kill_at:
                self._kill(incarnation, now)
            elif ladder.killed and now >= ladder.unkillable_at:
                ladder.unkillable_at = float("inf")
                state.tell("worker_unkillable", model_id=incarnation.model_id, pid=incarnation.pid, alarming=True)

    def _kill(self, incarnation: Incarnation, now: float) -> None:
        assert incarnation.ladder is not None
        incarnation.ladder.killed = True
        incarnation.ladder.unkillable_at = now + self._state.policy.kill_wait_seconds
        self._state.emit(Signal(incarnation.name, WorkerSignal.KILL))

    @staticmethod
    def _is_warm(incarnation: Incarnation) -> bool:
        return incarnation.hello_at is not None and incarnation.ladder is None
