"""Promises to clients: each accepted request ends once, in an allowed way and in time, and its text is what its worker said."""

from collections import deque
from math import inf

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import (
    AnyRequestEvent,
    Begin,
    Cancel,
    Cancelled,
    Failed,
    Finished,
    GenerateRequest,
    StepEvents,
    Text,
)
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.fleet import Fleet
from lmx_supervisor.core.ledger import is_terminal
from lmx_supervisor.core.poison import is_poison
from lmx_supervisor.core.slot import Slot
from tests.sim.judging.asked import Asked
from tests.sim.judging.poison import CrashRecord
from tests.sim.judging.promise import EPSILON_SECONDS, AwakeClock, promise
from tests.sim.judging.turns import TurnsJudge
from tests.sim.worker import SimWorker

CANARY = "canary-"


class RequestsJudge:
    """Watches every request from its arrival to its end."""

    def __init__(self, fleet: Fleet, workers: dict[str, SimWorker], clock: AwakeClock, crashes: CrashRecord) -> None:
        self._fleet = fleet
        self._workers = workers
        self._clock = clock
        self._crashes = crashes
        self._states: dict[str, WorkerState] = {}
        self._waiting_before: dict[str, int] = {}
        self._is_unload = False
        self._now = 0.0
        self._newcomer: Asked | None = None
        self._beginnings: dict[str, tuple[Slot, deque[float]]] = {}
        """By model: how long its last answers took to begin, for as long as its slot is the same."""
        self.asked: dict[str, Asked] = {}
        self.open: dict[str, Asked] = {}
        """The oldest first."""
        self._turns = TurnsJudge(fleet, self.open, clock)

    def before(self, event: e.Event) -> None:
        """Note what a client did."""
        self._states = {slot.model_id: slot.state for slot in self._fleet.state.slots.values()}
        if isinstance(event, e.RequestArrived):
            self._waiting_before = {slot.model_id: len(slot.waiting) for slot in self._fleet.state.slots.values()}
            self._newcomer = asked = Asked(len(self.asked), event.request, event.claim, self._clock.now)
            self.asked[event.request.request_id] = self.open[event.request.request_id] = asked
        elif isinstance(event, e.RequestCancelled) and event.request_id in self.open:
            self.open[event.request_id].cancelled = True
        elif isinstance(event, e.Exited | e.SpawnFailed):
            for asked in self.open.values():
                if asked.leases and asked.leases[-1] == event.incarnation:
                    asked.waiting_since_death = True

    def after(self, event: e.Event, actions: list[a.Action], now: float) -> None:
        """Judge what the core did about it."""
        self._is_unload = isinstance(event, e.UnloadWanted)
        self._now = now
        said = event if isinstance(event, e.Said) and isinstance(event.message, StepEvents) else None
        from_worker = {id(one): said.incarnation for one in said.message.events} if said is not None else {}
        for action in actions:
            if isinstance(action, a.Deliver):
                self._delivered(action.event, from_worker.get(id(action.event)))
            elif isinstance(action, a.Send) and isinstance(action.message, Begin):
                self._leased(action.incarnation, action.message.request, now)
            elif isinstance(action, a.Send) and isinstance(action.message, Cancel) and action.message.request_id in self.open:
                self.open[action.message.request_id].told_to_stop = True
        if isinstance(event, e.RequestCancelled):
            asked = self.open.get(event.request_id)
            promise(asked is None or not asked.waiting_since_death, f"{event.request_id} was waiting and outlived its cancel")
        self._judge_ledger()
        if isinstance(event, e.Tick):
            self._judge_waiting()
            self._judge_time_limits()
            self._turns.judge_places()

    def judge_end_of_day(self) -> None:
        """Nobody is left without an answer."""
        promise(not self.open, f"requests without an end: {sorted(self.open)}")

    # --- leases -------------------------------------------------------------------------------------------------------------

    def _leased(self, incarnation: str, request: GenerateRequest, now: float) -> None:
        if request.request_id.startswith(CANARY):
            return
        asked = self.open.get(request.request_id)
        promise(asked is not None, f"{request.request_id} was leased after its end")
        assert asked is not None
        promise(asked.waiting_since_death, f"{request.request_id} was leased while it is with {asked.leases[-1:]}")
        promise(len(asked.leases) <= limits.REPLAYS_MAX, f"{request.request_id} was leased {len(asked.leases) + 1} times")
        promise(not asked.has_text, f"{request.request_id} was replayed after its first text")
        promise(not asked.cancelled, f"{request.request_id} was leased after its cancel")
        held = self._fleet.state.suspects.of(request, now)
        promise(not is_poison(held), f"{request.request_id} was leased though it is known to crash its model")
        begins_at = self._clock.now + self._quickest_seconds(asked.model_id)
        in_time = asked.ends_by is None or begins_at < asked.ends_by + EPSILON_SECONDS
        promise(in_time, f"{request.request_id} was leased though its time limit cannot be kept")
        self._turns.leased(asked)
        asked.leases.append(incarnation)
        asked.leased_at = self._clock.now
        asked.waiting_since_death = asked.told_to_stop = False
        asked.texts_heard = 0

    # --- deliveries -----------------------------------------------------------------------------------------------------------

    def _delivered(self, event: AnyRequestEvent, speaker: str | None) -> None:
        asked = self.open.get(event.request_id)
        promise(asked is not None, f"{event.request_id} was told {event} after its end")
        assert asked is not None
        if speaker is None:
            promise(isinstance(event, Failed | Cancelled), f"the core made up {event}")
        else:
            promise(bool(asked.leases) and asked.leases[-1] == speaker, f"{speaker} spoke for {event.request_id}")
            self._judge_words(asked, event, speaker)
        if isinstance(event, Cancelled):
            promise(asked.cancelled, f"{event.request_id} was cancelled by nobody")
        elif isinstance(event, Failed) and speaker is None:
            self._judge_failure(asked, event)
        if is_terminal(event):
            asked.end = event
            del self.open[event.request_id]

    def _judge_words(self, asked: Asked, event: AnyRequestEvent, speaker: str) -> None:
        testimony = self._workers[speaker].testimony[asked.request.request_id]
        if isinstance(event, Text):
            due = testimony.texts[asked.texts_heard] if asked.texts_heard < len(testimony.texts) else None
            promise(event.text == due, f"{asked.request.request_id} was told {event.text!r} where {due!r} was due")
            if not asked.texts_heard:
                self._note_beginning(asked)
            asked.texts_heard += 1
            asked.has_text = asked.has_text or bool(event.text)
        elif is_terminal(event):
            promise(event == testimony.end, f"{event} is not how {speaker} ended it: {testimony.end}")
            whole = asked.texts_heard == len(testimony.texts)
            promise(whole or not isinstance(event, Finished), f"{asked.request.request_id} ended with a hole")

    def _judge_failure(self, asked: Asked, event: Failed) -> None:
        model_id = asked.request.model_id
        slot = self._fleet.state.slots.get(model_id)
        state, before = slot.state if slot is not None else None, self._states.get(model_id)
        policy = self._fleet.policy
        gone = (None, WorkerState.STOPPED, WorkerState.FAILED, WorkerState.DRAINING)
        if event.code is ErrorCode.WORKER_LOST:
            allowed = state is WorkerState.FAILED or (bool(asked.leases) and not self._lives(asked.leases[-1]))
        elif event.code is ErrorCode.MODEL_NOT_FOUND:
            allowed = before in gone or state in gone or self._is_unload
        elif event.code is ErrorCode.MODEL_UNSTABLE:
            allowed = state is WorkerState.QUARANTINED
        elif event.code is ErrorCode.REQUEST_CRASHES_MODEL:
            allowed = self._crashes.is_poison(asked.request, self._clock.now)
        elif event.code is ErrorCode.RATE_LIMIT_EXCEEDED:
            waiting = self._waiting_before
            allowed = waiting.get(model_id, 0) >= policy.queue_per_model or sum(waiting.values()) >= policy.queue_total
            assert self._newcomer is not None
            self._turns.crowded_out(asked, self._newcomer)
        elif event.code in (ErrorCode.MODEL_LOADING, ErrorCode.OVERLOADED):
            allowed = asked.waiting_since_death and self._waits_in_vain(asked, slot)
        elif event.code is ErrorCode.DEADLINE_EXCEEDED:
            allowed = asked.told_to_stop and self._clock.now >= self._over_at(asked) - EPSILON_SECONDS
        elif event.code is ErrorCode.STREAM_GAP:
            allowed = bool(asked.leases) and bool(self._workers[asked.leases[-1]].lies)
        else:
            allowed = event.code is ErrorCode.SHUTTING_DOWN and (
                self._fleet.state.draining or WorkerState.DRAINING in (before, state)
            )
        promise(allowed, f"{asked.request.request_id} failed with {event.code} while its model was {before} → {state}")

    def _waits_in_vain(self, asked: Asked, slot: Slot | None) -> bool:
        """Whether its wait is over, or no worker will be there before it is, or no answer would begin in time."""
        now, patience_ends_at = self._clock.now, asked.at + self._fleet.policy.queue_wait_seconds
        until = patience_ends_at if asked.ends_by is None else min(patience_ends_at, asked.ends_by)
        left_seconds = until - now - EPSILON_SECONDS
        is_in_backoff = slot is not None and slot.state is WorkerState.BACKOFF
        returns_late = is_in_backoff and slot.restart_at - self._now >= left_seconds
        begins_late = (
            asked.ends_by is not None and now + self._quickest_seconds(asked.model_id) >= asked.ends_by - EPSILON_SECONDS
        )
        return left_seconds <= 0 or returns_late or begins_late

    def _lives(self, incarnation: str) -> bool:
        worker = self._workers.get(incarnation)
        return worker is not None and worker.alive

    # --- at any moment ------------------------------------------------------------------------------------------------------

    def _judge_ledger(self) -> None:
        state = self._fleet.state
        internal = sum(len(slot.running) + len(slot.waiting) for slot in state.slots.values())
        promise(len(state.ledger) == internal, "the ledger and the slots do not hold the same requests")
        held = sum(1 for request_id in self.open if request_id in state.ledger)
        promise(held == len(self.open), "a request without an end is in no ledger")
        promise(len(state.ledger) - held <= len(state.slots), "the ledger holds requests that have ended")

    def _judge_waiting(self) -> None:
        patience_seconds = self._fleet.policy.queue_wait_seconds
        for request_id, asked in self.open.items():
            if asked.waiting_since_death:
                late = self._clock.now - asked.at > patience_seconds + EPSILON_SECONDS
                promise(not late, f"{request_id} has waited for {self._clock.now - asked.at:.1f} s")

    def _judge_time_limits(self) -> None:
        """After a tick nobody waits or runs whose time is over, but for those that are told to stop."""
        for asked in self.open.values():
            is_over = self._clock.now > self._over_at(asked) + EPSILON_SECONDS
            promise(not is_over or asked.told_to_stop, "{} goes on though its time is over", asked)

    def _over_at(self, asked: Asked) -> float:
        """When its client wants the answer no more, or the worker that it has or had last has taken all the time it may."""
        answer_seconds = self._fleet.policy.answer_seconds
        bounded = answer_seconds is not None and (asked.runs or asked.told_to_stop)
        return min(asked.ends_by or inf, asked.leased_at + answer_seconds if bounded else inf)

    # --- how fast models are --------------------------------------------------------------------------------------------------

    def _note_beginning(self, asked: Asked) -> None:
        slot = self._fleet.state.slots[asked.model_id]
        known, beginnings = self._beginnings.get(asked.model_id, (None, None))
        if known is not slot or beginnings is None:
            beginnings = deque[float](maxlen=limits.PACE_SAMPLES_MAX)
            self._beginnings[asked.model_id] = slot, beginnings
        beginnings.append(self._clock.now - asked.leased_at)

    def _quickest_seconds(self, model_id: str) -> float:
        """No answer of late began in less."""
        known, beginnings = self._beginnings.get(model_id, (None, ()))
        is_the_same = known is not None and known is self._fleet.state.slots.get(model_id)
        return min(beginnings, default=0.0) if is_the_same else 0.0
