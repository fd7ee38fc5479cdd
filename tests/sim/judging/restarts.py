"""Promises about models whose worker died: restarted after the policy's delay, or quarantined for the right count, or left.

The judge keeps its own count. What ends a quarantine is the list in the contract and nothing else.
"""

from dataclasses import dataclass, field

from lmx_protocol.messages import Finished, StepEvents
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.exit_reason import NEVER_RESTART, ExitReason
from lmx_supervisor.core.fleet import Fleet
from lmx_supervisor.core.slot import STARTING
from tests.sim.judging.promise import EPSILON_SECONDS, AwakeClock, promise

_NO_STATE = WorkerState.STOPPED


@dataclass(slots=True)
class Record:
    """One model's failures, as the judge counts them."""

    in_a_row: int = 0
    at: list[float] = field(default_factory=list)
    ready_since: float | None = None
    served: int = 0
    restart_due_at: float = 0.0
    quarantined_as: tuple[str, str] | None = None
    """Backend and digest of what is quarantined."""

    def forget(self) -> None:
        """Somebody acted: the count starts anew."""
        self.in_a_row = 0
        self.at = []
        self.quarantined_as = None


class RestartsJudge:
    """Counts failures and compares."""

    def __init__(self, fleet: Fleet, clock: AwakeClock) -> None:
        self._fleet = fleet
        self._clock = clock
        self._records: dict[str, Record] = {}
        self._before: dict[str, tuple[WorkerState, bool, str | None]] = {}

    def before(self, event: e.Event) -> None:
        """How the slots stand before the event."""
        self._before = {slot.model_id: (slot.state, slot.wanted, slot.incarnation) for slot in self._fleet.state.slots.values()}
        if isinstance(event, e.QuarantineKnown):
            record = self._record(event.spec.model_id)
            record.in_a_row = event.consecutive_failures
            record.quarantined_as = (event.backend, event.digest)

    def after(self, event: e.Event, actions: list[a.Action], reason: ExitReason | None, now: float) -> None:
        """Judge what became of a model."""
        if isinstance(event, e.Exited | e.SpawnFailed) and reason is not None:
            model_id = next((m for m, (_, _, name) in self._before.items() if name == event.incarnation), None)
            if model_id is not None:
                self._judge_death(model_id, actions, reason, now)
        if isinstance(event, e.LoadWanted):
            self._judge_load(event, actions)
        if isinstance(event, e.Said) and isinstance(event.message, StepEvents):
            self._note_served(event.incarnation, actions)
        for action in actions:
            if isinstance(action, a.Tell) and action.kind == "quarantine_cleared":
                record = self._record(str(action.fields["model_id"]))
                served = record.served or not isinstance(event, e.Said)
                promise(bool(served), f"a quarantine was cleared for serving before it served: {action}")
                record.forget()
        self._note_moves(event)

    def _judge_death(self, model_id: str, actions: list[a.Action], reason: ExitReason, now: float) -> None:
        before, wanted, _ = self._before[model_id]
        record, policy = self._record(model_id), self._fleet.policy
        slot = self._fleet.state.slots.get(model_id)
        state = slot.state if slot is not None else _NO_STATE
        quarantines = [x for x in actions if isinstance(x, a.Tell) and x.kind == "model_quarantined"]
        ready_seconds = self._clock.now - record.ready_since if record.ready_since is not None else 0.0
        if record.served and ready_seconds >= policy.restart_stable_seconds - EPSILON_SECONDS:
            record.in_a_row = 0
        record.ready_since, record.served = None, 0
        if before is WorkerState.DRAINING:
            promise(state is not WorkerState.BACKOFF and not quarantines, f"{model_id} died while it stopped, and is {state}")
            return
        left = WorkerState.FAILED if record.quarantined_as is None else WorkerState.QUARANTINED
        if reason in NEVER_RESTART:
            promise(state is left and not quarantines, f"{model_id} is {state} after {reason}")
            return
        record.in_a_row += 1
        record.at = [at for at in record.at if now - at < policy.restart_window_seconds] + [now]
        if record.in_a_row >= policy.quarantine_threshold or len(record.at) > policy.restart_max_in_window:
            in_a_row = record.in_a_row >= policy.quarantine_threshold
            due = f"crash_loop:{record.in_a_row}" if in_a_row else f"crash_rate:{len(record.at)}"
            told = [x.fields["reason"] for x in quarantines]
            promise(state is WorkerState.QUARANTINED and told == [due], f"{model_id} is {state} ({told}), due was {due}")
            assert slot is not None
            record.quarantined_as = (slot.backend, slot.digest)
        elif wanted:
            promise(not quarantines, f"{model_id} was quarantined after {record.in_a_row} failures in a row, {record.at}")
            self._judge_delay(model_id, record, now)
        else:
            promise(state is left, f"{model_id} is {state} though nobody relies on it")

    def _judge_delay(self, model_id: str, record: Record, now: float) -> None:
        policy, slot = self._fleet.policy, self._fleet.state.slots[model_id]
        if record.in_a_row == 1:
            promise(slot.state in STARTING, f"{model_id} is {slot.state} after its first failure; it was to start at once")
            return
        doubled = policy.restart_initial_seconds * policy.restart_factor ** (record.in_a_row - 2)
        delay_seconds = min(doubled, policy.restart_max_seconds)
        promise(slot.state is WorkerState.BACKOFF, f"{model_id} is {slot.state} after {record.in_a_row} failures")
        off = abs(slot.restart_at - now - delay_seconds)
        promise(off <= delay_seconds * policy.restart_jitter_ratio + EPSILON_SECONDS, f"{model_id} waits not {delay_seconds} s")
        record.restart_due_at = self._clock.now + slot.restart_at - now

    def _judge_load(self, order: e.LoadWanted, actions: list[a.Action]) -> None:
        model_id = order.spec.model_id
        quarantined_as = self._record(model_id).quarantined_as
        before, _, _ = self._before.get(model_id, (_NO_STATE, False, None))
        if quarantined_as is None or before in (*STARTING, WorkerState.READY, WorkerState.BUSY, WorkerState.BACKOFF):
            return
        barred = not order.force and quarantined_as == (order.backend, order.digest)
        refused = any(isinstance(x, a.OrderRefused) and x.order_id == order.order_id for x in actions)
        promise(refused or not barred, f"{model_id} is quarantined, and {order.order_id} loads it all the same")

    def _note_moves(self, event: e.Event) -> None:
        slots = self._fleet.state.slots
        for model_id, (before, _, _) in self._before.items():
            slot, record = slots.get(model_id), self._record(model_id)
            if slot is None:
                promise(
                    record.quarantined_as is None or self._fleet.state.draining,
                    f"the quarantine of {model_id} was forgotten when it was {before}",
                )
                record.forget()
                record.ready_since, record.served = None, 0
                continue
            if before is WorkerState.BACKOFF and slot.state in STARTING:
                promise(
                    self._clock.now >= record.restart_due_at - EPSILON_SECONDS, f"{model_id} was restarted before its delay"
                )
            if before is WorkerState.WARMING and slot.state in (WorkerState.READY, WorkerState.BUSY):
                record.ready_since, record.served = self._clock.now, 0
            if before in STARTING and slot.state is WorkerState.DRAINING:
                record.ready_since = None
            if isinstance(event, e.Tick) and slot.state is WorkerState.BACKOFF:
                promise(self._clock.now < record.restart_due_at + EPSILON_SECONDS, f"{model_id} was not restarted in time")

    def _note_served(self, incarnation: str, actions: list[a.Action]) -> None:
        """Only what reached a client counts: not the end of a request that had ended already, for a lie of its worker."""
        model_id = next((m for m, (_, _, name) in self._before.items() if name == incarnation), None)
        if model_id is not None:
            self._record(model_id).served += sum(isinstance(x, a.Deliver) and isinstance(x.event, Finished) for x in actions)

    def _record(self, model_id: str) -> Record:
        return self._records.setdefault(model_id, Record())
