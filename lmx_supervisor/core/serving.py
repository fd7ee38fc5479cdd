"""Requests: queueing, leasing, delivering, cancelling, and ending each exactly once whatever its worker does."""

import math
from collections.abc import Iterable, Iterator

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import (
    AnyRequest,
    AnyRequestEvent,
    Begin,
    Cancel,
    Cancelled,
    Failed,
    Finished,
    Prefill,
    Reasoning,
    StepEvents,
    Text,
    ToolCallPart,
    Usage,
)
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.actions import Deliver, Send
from lmx_supervisor.core.adaptive import latency_of
from lmx_supervisor.core.choosing import next_in_line, who_gives_way
from lmx_supervisor.core.claims import Claim
from lmx_supervisor.core.incarnation import Incarnation
from lmx_supervisor.core.ledger import Entry, is_terminal
from lmx_supervisor.core.places import Places, ceiling_of_model, most_of_model
from lmx_supervisor.core.poison import fingerprint, is_poison
from lmx_supervisor.core.results import fits
from lmx_supervisor.core.slot import COMING, SERVING, Slot
from lmx_supervisor.core.state import FleetState
from lmx_supervisor.core.time_limits import time_limit_of
from lmx_supervisor.core.why_not import poison_text, quarantine_text, refusal_of_absent, why_it_waits

_ENDED_REMEMBERED_MAX = 1024
_LOADING_RETRY_SECONDS = 30
_GONE = frozenset({WorkerState.STOPPED, WorkerState.FAILED, WorkerState.DRAINING})


class ForeignEventError(Exception):
    """A worker spoke of a request that is not its own, or out of order: it cannot be trusted any further."""


class Serving:
    """The clients' side of the fleet."""

    def __init__(self, state: FleetState) -> None:
        self._state = state
        self._is_due = False
        """A place may have become free, or a trial ended, since the last dispatch."""

    # --- arriving -----------------------------------------------------------------------------------------------------

    def arrive(self, request: AnyRequest, claim: Claim, now: float) -> None:
        """Lease, queue or refuse a request, in the same step that looks at the slot."""
        slot = self._state.slots.get(request.model_id)
        held = self._state.suspects.of(request, now)
        refusal = self._refusal(request, slot, now, poisoned=is_poison(held))
        if refusal is not None or slot is None:
            assert refusal is not None
            self._state.emit(Deliver(refusal))
            return
        entry = Entry(request, request.model_id, arrived_at=now, claim=claim)
        if held is not None:
            entry.trial_until_tokens = held.tokens_at_crash + 1
        entry.turn, entry.turn_anywhere = slot.turns.of_newcomer(), self._state.turns.of_newcomer()
        self._state.ledger.add(entry)
        slot.requests_total += 1
        slot.prefetched = False
        self._state.predictor.note(slot.model_id)
        slot.last_used_at = now
        slot.waiting.add(entry)
        if self._comes_too_late(slot, entry, now):
            self._give_up_waiting(slot, entry, now)
            return
        self.dispatch(now)
        self._keep_lines_short(slot, entry)

    def _refusal(self, request: AnyRequest, slot: Slot | None, now: float, *, poisoned: bool) -> Failed | None:
        def failed(code: ErrorCode, message: str, retry_after_seconds: int | None = None) -> Failed:
            return Failed(request_id=request.request_id, code=code, message=message, retry_after_seconds=retry_after_seconds)

        model, state = request.model_id, self._state
        if state.draining:
            return failed(ErrorCode.SHUTTING_DOWN, "The server is shutting down; try again in a moment.", 5)
        if slot is None or (slot.state in _GONE and not slot.keeps_its_line):
            absent = refusal_of_absent(state, model, slot, now)
            return failed(absent.code, absent.text, absent.retry_after_seconds)
        if slot.state is WorkerState.QUARANTINED:
            return failed(ErrorCode.MODEL_UNSTABLE, quarantine_text(slot))
        if poisoned:
            return failed(ErrorCode.REQUEST_CRASHES_MODEL, poison_text(model))
        return None

    def _keep_lines_short(self, slot: Slot, newcomer: Entry) -> None:
        """Somebody came: when now too many wait, for this model or altogether, one of them is told to come back."""
        if newcomer.request_id not in slot.waiting:
            return
        state = self._state
        lines = [each.waiting for each in state.slots.values()]
        if len(slot.waiting) > state.policy.queue_per_model:
            lines = [slot.waiting]
        elif sum(len(line) for line in lines) <= state.policy.queue_total:
            return
        entry = who_gives_way(lines, newcomer)
        its_slot = state.slots[entry.model_id]
        its_slot.waiting.remove(entry.request_id)
        waiting = len(its_slot.waiting)
        state.ledger.end(entry.request_id)
        text = f"Model '{entry.model_id}' is busy: {len(its_slot.running)} requests run and {waiting} wait. Try again shortly."
        self._deliver_failed(entry.request_id, ErrorCode.RATE_LIMIT_EXCEEDED, text, self._retry_after_seconds(its_slot))

    def start_canary(self, slot: Slot, request: AnyRequest, now: float) -> None:
        """Send the canary to a freshly loaded worker; its end decides over READY."""
        entry = Entry(request, slot.model_id, arrived_at=now, internal=True)
        self._state.ledger.add(entry)
        self._lease(slot, entry, now)

    # --- leasing ------------------------------------------------------------------------------------------------------

    def dispatch(self, now: float) -> None:
        """Lease whatever may run now, on every model: a place that one model's request gives up may be what another's lacks."""
        self._is_due = False
        state = self._state
        if not any(slot.waiting and slot.state in SERVING for slot in state.slots.values()):
            return
        places = Places(state.ledger.entries)
        while (entry := next_in_line(state, places, now)) is not None:
            slot = state.slots[entry.model_id]
            if self._comes_too_late(slot, entry, now):
                self._give_up_waiting(slot, entry, now)
                continue
            slot.waiting.remove(entry.request_id)
            slot.turns.took(entry.claim.share)
            state.turns.took(entry.claim.share)
            self._lease(slot, entry, now)
            places.take(entry)
            if slot.state is WorkerState.READY:
                slot.move(WorkerState.BUSY, now, "leased a request")

    def dispatch_if_due(self, now: float) -> None:
        """The same, where something has happened to requests that may let others run; what else there is, a tick notices."""
        if self._is_due:
            self.dispatch(now)

    def _entries(self, request_ids: Iterable[str]) -> Iterator[Entry]:
        for request_id in request_ids:
            entry = self._state.ledger.get(request_id)
            assert entry is not None
            yield entry

    def _lease(self, slot: Slot, entry: Entry, now: float) -> None:
        assert slot.incarnation is not None
        entry.incarnation = slot.incarnation
        entry.leased_at = now
        entry.next_seq = 0
        slot.running.add(entry.request_id)
        self._state.compute_changed = True
        message = Begin(request=entry.request, credit_frames=limits.CREDIT_FRAMES, credit_bytes=limits.CREDIT_BYTES)
        self._state.emit(Send(slot.incarnation, message))

    # --- hearing from the worker ----------------------------------------------------------------------------------------

    def step(self, slot: Slot, incarnation: Incarnation, message: StepEvents, now: float) -> list[AnyRequestEvent]:
        """Take in one engine step. Returns the ends of internal requests. Raises `ForeignEventError`."""
        incarnation.last_progress_at = now
        ended_internal: list[AnyRequestEvent] = []
        for event in message.events:
            entry = self._state.ledger.get(event.request_id)
            if entry is None or entry.incarnation != incarnation.name:
                if event.request_id in incarnation.ended_requests:
                    continue
                raise ForeignEventError(f"{type(event).__name__} for request {event.request_id[:64]!r}, which is not its own")
            if event.seq != entry.next_seq:
                self._end_early(slot, entry, incarnation, ErrorCode.STREAM_GAP, "A part of the answer got lost in the server.")
                raise ForeignEventError(f"event {event.seq} of request {entry.request_id} where {entry.next_seq} was due")
            entry.next_seq += 1
            if not fits(entry.request, event):
                self._end_early(slot, entry, incarnation, ErrorCode.GENERATION_ERROR, "The model's answer made no sense.")
                raise ForeignEventError(f"{type(event).__name__} that request {entry.request_id} cannot have asked for")
            if entry.internal:
                if is_terminal(event):
                    self._close(slot, entry)
                    ended_internal.append(event)
                continue
            self._pass_on(slot, entry, event, now)
        return ended_internal

    def _pass_on(self, slot: Slot, entry: Entry, event: AnyRequestEvent, now: float) -> None:
        if isinstance(event, Prefill):
            entry.computed_tokens = max(0, event.prompt_tokens - event.cached_tokens)
        elif isinstance(event, Text | Reasoning | ToolCallPart):
            if not entry.has_begun:
                self._begun(slot, entry, now)
            says_something = not isinstance(event, Text) or bool(event.text) or bool(event.logprobs)
            entry.delivered_output = entry.delivered_output or says_something
            slot.tokens_total += event.tokens
            was_on_trial = entry.on_trial
            entry.tokens += event.tokens
            if was_on_trial and not entry.on_trial:
                self._state.suspects.acquit(entry.request)
                self._is_due = True
        elif is_terminal(event):
            self._close(slot, entry)
            slot.last_used_at = now
            if isinstance(event, Finished):
                # A count says nothing about whether the model can generate.
                slot.served_since_ready += entry.takes_a_place
                if entry.takes_a_place:
                    slot.pace.answered(now - entry.leased_at)
                if entry.on_trial:
                    self._state.suspects.acquit(entry.request)
            elif isinstance(event, Cancelled):
                event = _end_of_cancelled(entry, event)
        self._state.emit(Deliver(event))

    def _begun(self, slot: Slot, entry: Entry, now: float) -> None:
        """The first text is there: what it took says how loaded the model is."""
        entry.has_begun = self._state.compute_changed = True
        seconds = now - entry.leased_at
        slot.pace.first_text(seconds)
        latency_seconds = latency_of(seconds, entry.computed_tokens)
        slot.adaptive.heard(latency_seconds, ceiling_of_model(self._state.policy, slot), self._state.policy, now)

    def _close(self, slot: Slot, entry: Entry) -> None:
        self._state.ledger.end(entry.request_id)
        slot.running.discard(entry.request_id)
        self._is_due = self._state.compute_changed = True

    # --- ending early -------------------------------------------------------------------------------------------------

    def ignores_a_cancel(self, slot: Slot, incarnation: Incarnation, now: float) -> bool:
        """Whether the worker stepped on long after a cancel without ending the request: its slot would be lost for ever."""
        return any(
            entry.cancelled
            and now - entry.cancelled_at > limits.CANCEL_IGNORED_SECONDS
            and incarnation.last_progress_at - entry.cancelled_at > limits.CANCEL_IGNORED_SECONDS
            for entry in self._entries(slot.running)
        )

    def cancel(self, request_id: str, now: float) -> Slot | None:
        """A client is gone. Returns the slot whose queue it left, if it was waiting. Unknown ids: nothing to do."""
        entry = self._state.ledger.get(request_id)
        if entry is None or entry.cancelled:
            return None
        slot = self._state.slots[entry.model_id]
        if entry.incarnation is not None:
            self._cancel_running(entry, now)
            return None
        slot.waiting.remove(request_id)
        self._state.ledger.end(request_id)
        self._state.emit(Deliver(Cancelled(request_id=request_id, usage=Usage())))
        return slot

    def _cancel_running(self, entry: Entry, now: float) -> None:
        assert entry.incarnation is not None
        entry.cancelled, entry.cancelled_at = True, now
        self._state.emit(Send(entry.incarnation, Cancel(request_id=entry.request_id)))

    def cancel_too_late(self, slot: Slot, now: float) -> None:
        """End what runs although its time is over."""
        for entry in self._entries(slot.running):
            limit = time_limit_of(entry, self._state.policy.answer_seconds)
            if limit is not None and now >= limit.ends_by and not entry.cancelled:
                entry.too_late = limit.text
                self._cancel_running(entry, now)

    def _end_early(self, slot: Slot, entry: Entry, incarnation: Incarnation, code: ErrorCode, message: str) -> None:
        self._close(slot, entry)
        incarnation.ended_requests[entry.request_id] = None
        while len(incarnation.ended_requests) > _ENDED_REMEMBERED_MAX:
            incarnation.ended_requests.pop(next(iter(incarnation.ended_requests)))
        if not entry.internal:
            self._deliver_failed(entry.request_id, code, message)

    def cut_running(self, slot: Slot, incarnation: Incarnation, message: str) -> None:
        """End the requests that outlasted a drain."""
        for entry in self._state.ledger.of_incarnation(incarnation.name):
            self._state.emit(Send(incarnation.name, Cancel(request_id=entry.request_id)))
            self._end_early(slot, entry, incarnation, ErrorCode.SHUTTING_DOWN, message)

    def refuse_waiting(self, slot: Slot, code: ErrorCode, message: str, retry_after_seconds: int | None = None) -> None:
        """End every request that waits for this slot."""
        for request_id in slot.waiting:
            self._state.ledger.end(request_id)
            self._deliver_failed(request_id, code, message, retry_after_seconds)
        slot.waiting.clear()

    def accuse(self, slot: Slot, incarnation: Incarnation, now: float) -> None:
        """A worker died of what a request may have caused: hold it against the one on trial, else against all in flight.

        Equal requests are one suspect: one death is held against them once, and those that still wait share the suspicion.
        """
        in_flight = [entry for entry in self._state.ledger.of_incarnation(incarnation.name) if not entry.internal]
        accused = [entry for entry in in_flight if entry.on_trial] or in_flight
        furthest = {fingerprint(entry.request): entry for entry in sorted(accused, key=lambda entry: entry.tokens)}
        for entry in furthest.values():
            self._state.suspects.accuse(entry.request, entry.tokens, now)
        for entry in list(slot.waiting.entries):
            held = self._state.suspects.of(entry.request, now)
            if is_poison(held):
                slot.waiting.remove(entry.request_id)
                self._state.ledger.end(entry.request_id)
                self._deliver_failed(entry.request_id, ErrorCode.REQUEST_CRASHES_MODEL, poison_text(slot.model_id))
            elif held is not None:
                entry.trial_until_tokens = held.tokens_at_crash + 1

    def worker_lost(self, slot: Slot, incarnation: Incarnation, *, will_return: bool, text: str, now: float) -> None:
        """A worker died with requests: each is told, cancelled or replayed once, the oldest first in line again."""
        self._is_due = self._state.compute_changed = True
        replayed: list[Entry] = []
        for entry in self._state.ledger.of_incarnation(incarnation.name):
            slot.running.discard(entry.request_id)
            held = self._state.suspects.of(entry.request, now)
            may_replay = (
                will_return and not entry.delivered_output and entry.replays < limits.REPLAYS_MAX and not is_poison(held)
            )
            if entry.internal:
                self._state.ledger.end(entry.request_id)
            elif entry.cancelled:
                self._state.ledger.end(entry.request_id)
                self._state.emit(Deliver(_end_of_cancelled(entry, Cancelled(request_id=entry.request_id))))
            elif may_replay:
                entry.replays += 1
                entry.incarnation = None
                entry.tokens = 0
                entry.trial_until_tokens = held.tokens_at_crash + 1 if held is not None else 0
                entry.has_begun = False
                replayed.append(entry)
                self._state.tell("request_replayed", request_id=entry.request_id, model_id=slot.model_id)
            else:
                self._state.ledger.end(entry.request_id)
                message = f"The worker serving model '{slot.model_id}' died while it answered: {text}. Send the request again."
                self._deliver_failed(entry.request_id, ErrorCode.WORKER_LOST, message, 5)
        slot.waiting.add_first(replayed)

    def expire_waiting(self, slot: Slot, now: float) -> None:
        """End the requests that waited too long for a worker, and those that cannot get one in time any more."""
        for entry in list(slot.waiting.entries):
            if self._comes_too_late(slot, entry, now):
                self._give_up_waiting(slot, entry, now)

    def _waits_until(self, entry: Entry) -> float:
        until = entry.arrived_at + self._state.policy.queue_wait_seconds
        return until if entry.ends_by is None else min(until, entry.ends_by)

    def _comes_too_late(self, slot: Slot, entry: Entry, now: float) -> bool:
        """Whether a request cannot succeed any more: no answer of this model begins that soon, or none at all until then."""
        until = self._waits_until(entry)
        if now >= until or (slot.state is WorkerState.BACKOFF and slot.restart_at >= until):
            return True
        if slot.is_demanded and slot.room_at >= until:
            return True
        quickest_seconds = slot.pace.quickest_seconds if entry.takes_a_place else 0.0
        return entry.ends_by is not None and now + quickest_seconds >= entry.ends_by

    def _give_up_waiting(self, slot: Slot, entry: Entry, now: float) -> None:
        """Tell one that waits that it waits in vain."""
        slot.waiting.remove(entry.request_id)
        self._state.ledger.end(entry.request_id)
        loading = slot.state in COMING or slot.state in _GONE
        code = ErrorCode.MODEL_LOADING if loading else ErrorCode.OVERLOADED
        why = why_it_waits(slot)
        waited_seconds = now - entry.arrived_at
        is_own_limit = entry.ends_by is not None and self._waits_until(entry) == entry.ends_by
        limit = f", and its own limit is {entry.claim.time_limit_seconds:g} s" if is_own_limit else ""
        text = f"Model '{slot.model_id}' {why}; the request waited {waited_seconds:.0f} s{limit}. Try again later."
        retry_after_seconds = _loading_retry_seconds(slot, now) if loading else self._retry_after_seconds(slot)
        self._deliver_failed(entry.request_id, code, text, retry_after_seconds)

    def _retry_after_seconds(self, slot: Slot) -> int:
        return slot.pace.retry_after_seconds(len(slot.waiting), most_of_model(self._state, slot))

    def _deliver_failed(self, request_id: str, code: ErrorCode, message: str, retry_after_seconds: int | None = None) -> None:
        failed = Failed(request_id=request_id, code=code, message=message, retry_after_seconds=retry_after_seconds)
        self._state.emit(Deliver(failed))


def _loading_retry_seconds(slot: Slot, now: float) -> int:
    return math.ceil(slot.room_at - now) if slot.is_demanded and slot.room_at > now else _LOADING_RETRY_SECONDS


def _end_of_cancelled(entry: Entry, event: Cancelled) -> Cancelled | Failed:
    """What the client is told: that it cancelled, or that its time was over."""
    if entry.too_late is None:
        return event
    return Failed(request_id=entry.request_id, code=ErrorCode.DEADLINE_EXCEEDED, message=entry.too_late)
