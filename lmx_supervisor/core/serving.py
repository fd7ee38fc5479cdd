"""Requests: queueing, leasing, delivering, cancelling, and ending each exactly once whatever its worker does."""

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
    Reasoning,
    StepEvents,
    Text,
    ToolCallPart,
    Usage,
)
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.actions import Deliver, Send
from lmx_supervisor.core.exit_reason import ExitReason
from lmx_supervisor.core.incarnation import Incarnation
from lmx_supervisor.core.ledger import Entry, is_terminal, takes_a_place
from lmx_supervisor.core.poison import fingerprint, is_poison
from lmx_supervisor.core.results import fits
from lmx_supervisor.core.slot import COMING, SERVING, Slot
from lmx_supervisor.core.state import FleetState

_ENDED_REMEMBERED_MAX = 1024
_GONE = frozenset({WorkerState.STOPPED, WorkerState.FAILED, WorkerState.DRAINING})


class ForeignEventError(Exception):
    """A worker spoke of a request that is not its own, or out of order: it cannot be trusted any further."""


class Serving:
    """The clients' side of the fleet."""

    def __init__(self, state: FleetState) -> None:
        self._state = state

    # --- arriving -----------------------------------------------------------------------------------------------------

    def arrive(self, request: AnyRequest, now: float) -> None:
        """Lease, queue or refuse a request, in the same step that looks at the slot."""
        slot = self._state.slots.get(request.model_id)
        held = self._state.suspects.of(request, now)
        refusal = self._refusal(request, slot, poisoned=is_poison(held))
        if refusal is not None or slot is None:
            assert refusal is not None
            self._state.emit(Deliver(refusal))
            return
        entry = Entry(request, request.model_id, deadline=now + self._state.policy.queue_wait_seconds)
        if held is not None:
            entry.trial_until_tokens = held.tokens_at_crash + 1
        self._state.ledger.add(entry)
        slot.requests_total += 1
        slot.prefetched = False
        self._state.predictor.note(slot.model_id)
        slot.last_used_at = now
        slot.waiting.append(entry.request_id)
        self.dispatch(slot, now)

    def _refusal(self, request: AnyRequest, slot: Slot | None, *, poisoned: bool) -> Failed | None:
        def failed(code: ErrorCode, message: str, retry_after_seconds: int | None = None) -> Failed:
            return Failed(request_id=request.request_id, code=code, message=message, retry_after_seconds=retry_after_seconds)

        model, state = request.model_id, self._state
        if state.draining:
            return failed(ErrorCode.SHUTTING_DOWN, "The server is shutting down; try again in a moment.", 5)
        if slot is None or (slot.state in _GONE and not slot.keeps_its_line):
            code = ErrorCode.MODEL_TRUNCATED if slot is not None and lost_its_files(slot) else ErrorCode.MODEL_NOT_FOUND
            return failed(code, _not_loaded_text(model, slot))
        if slot.state is WorkerState.QUARANTINED:
            return failed(ErrorCode.MODEL_UNSTABLE, quarantine_text(slot))
        if poisoned:
            return failed(ErrorCode.REQUEST_CRASHES_MODEL, _poison_text(model))
        _, waiting = state.ledger.counts()
        needs_place = takes_a_place(request)
        is_next = all(entry.takes_a_place != needs_place for entry in self._entries(slot.waiting))
        has_room = slot.state in SERVING and is_next and self._has_room(slot, needs_place=needs_place)
        if not has_room and (len(slot.waiting) >= state.policy.queue_per_model or waiting >= state.policy.queue_total):
            text = f"Model '{model}' is busy: {len(slot.running)} requests run and {len(slot.waiting)} wait. Try again shortly."
            return failed(ErrorCode.RATE_LIMIT_EXCEEDED, text, 5)
        return None

    def start_canary(self, slot: Slot, request: AnyRequest, now: float) -> None:
        """Send the canary to a freshly loaded worker; its end decides over READY."""
        entry = Entry(request, slot.model_id, deadline=now + self._state.policy.canary_seconds, internal=True)
        self._state.ledger.add(entry)
        self._lease(slot, entry)

    # --- leasing ------------------------------------------------------------------------------------------------------

    def dispatch(self, slot: Slot, now: float) -> None:
        """Lease waiting requests while the worker has room; one that is to be replaced gets no more: they wait for the next."""
        incarnation = self._state.incarnation_of(slot)
        if incarnation is None or not incarnation.takes_work:
            return
        while slot.state in SERVING:
            entry = self._next_in_line(slot)
            if entry is None:
                return
            slot.waiting.remove(entry.request_id)
            self._lease(slot, entry)
            if slot.state is WorkerState.READY:
                slot.move(WorkerState.BUSY, now, "leased a request")

    def _has_room(self, slot: Slot, *, needs_place: bool) -> bool:
        """Whether the worker takes one more of this kind: as many as it has slots, and beside them as many that need none.

        So a count of tokens never waits for generations to end, and a flood of counts is bounded by itself.
        """
        alike = sum(1 for entry in self._entries(slot.running) if entry.takes_a_place == needs_place)
        return alike < slot.capacity()

    def _next_in_line(self, slot: Slot) -> Entry | None:
        """The first that may go now: one trial at a time, and trials hold up nobody else."""
        trial_is_on = any(entry.on_trial for entry in self._entries(slot.running))
        has_room = {needs_place: self._has_room(slot, needs_place=needs_place) for needs_place in (True, False)}
        candidates = (entry for entry in self._entries(slot.waiting) if has_room[entry.takes_a_place])
        return next((entry for entry in candidates if not (trial_is_on and entry.on_trial)), None)

    def _entries(self, request_ids: Iterable[str]) -> Iterator[Entry]:
        for request_id in request_ids:
            entry = self._state.ledger.get(request_id)
            assert entry is not None
            yield entry

    def _lease(self, slot: Slot, entry: Entry) -> None:
        assert slot.incarnation is not None
        entry.incarnation = slot.incarnation
        entry.next_seq = 0
        slot.running.add(entry.request_id)
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
        if isinstance(event, Text | Reasoning | ToolCallPart):
            says_something = not isinstance(event, Text) or bool(event.text) or bool(event.logprobs)
            entry.delivered_output = entry.delivered_output or says_something
            slot.tokens_total += event.tokens
            was_on_trial = entry.on_trial
            entry.tokens += event.tokens
            if was_on_trial and not entry.on_trial:
                self._state.suspects.acquit(entry.request)
        elif is_terminal(event):
            self._close(slot, entry)
            slot.last_used_at = now
            if isinstance(event, Finished):
                # A count says nothing about whether the model can generate.
                slot.served_since_ready += entry.takes_a_place
                if entry.on_trial:
                    self._state.suspects.acquit(entry.request)
        self._state.emit(Deliver(event))

    def _close(self, slot: Slot, entry: Entry) -> None:
        self._state.ledger.end(entry.request_id)
        slot.running.discard(entry.request_id)

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
        entry.cancelled, entry.cancelled_at = True, now
        slot = self._state.slots[entry.model_id]
        if entry.incarnation is not None:
            self._state.emit(Send(entry.incarnation, Cancel(request_id=request_id)))
            return None
        slot.waiting.remove(request_id)
        self._state.ledger.end(request_id)
        self._state.emit(Deliver(Cancelled(request_id=request_id, usage=Usage())))
        return slot

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
        for entry in list(self._entries(slot.waiting)):
            held = self._state.suspects.of(entry.request, now)
            if is_poison(held):
                slot.waiting.remove(entry.request_id)
                self._state.ledger.end(entry.request_id)
                self._deliver_failed(entry.request_id, ErrorCode.REQUEST_CRASHES_MODEL, _poison_text(slot.model_id))
            elif held is not None:
                entry.trial_until_tokens = held.tokens_at_crash + 1

    def worker_lost(self, slot: Slot, incarnation: Incarnation, *, will_return: bool, text: str, now: float) -> None:
        """A worker died with requests: each is told, cancelled or replayed once, the oldest first in line again."""
        replayed: list[str] = []
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
                self._state.emit(Deliver(Cancelled(request_id=entry.request_id)))
            elif may_replay:
                entry.replays += 1
                entry.incarnation = None
                entry.tokens = 0
                entry.trial_until_tokens = held.tokens_at_crash + 1 if held is not None else 0
                replayed.append(entry.request_id)
                self._state.tell("request_replayed", request_id=entry.request_id, model_id=slot.model_id)
            else:
                self._state.ledger.end(entry.request_id)
                message = f"The worker serving model '{slot.model_id}' died while it answered: {text}. Send the request again."
                self._deliver_failed(entry.request_id, ErrorCode.WORKER_LOST, message, 5)
        slot.waiting.extendleft(reversed(replayed))

    def expire_waiting(self, slot: Slot, now: float) -> None:
        """End the requests that waited too long for a worker."""
        for request_id in list(slot.waiting):
            entry = self._state.ledger.get(request_id)
            assert entry is not None
            if now < entry.deadline:
                continue
            slot.waiting.remove(request_id)
            self._state.ledger.end(request_id)
            loading = slot.state in COMING or slot.state in _GONE
            code = ErrorCode.MODEL_LOADING if loading else ErrorCode.OVERLOADED
            why = "is still loading" if loading else "is busy"
            waited_seconds = self._state.policy.queue_wait_seconds
            text = f"Model '{slot.model_id}' {why}; the request waited {waited_seconds:.0f} s. Try again later."
            self._deliver_failed(request_id, code, text, 30)

    def _deliver_failed(self, request_id: str, code: ErrorCode, message: str, retry_after_seconds: int | None = None) -> None:
        failed = Failed(request_id=request_id, code=code, message=message, retry_after_seconds=retry_after_seconds)
        self._state.emit(Deliver(failed))


def lost_its_files(slot: Slot) -> bool:
    """Whether a slot is down because its model's files were cut short: no load can help before they are whole again."""
    truncated = slot.last_exit is not None and slot.last_exit.reason is ExitReason.MODEL_TRUNCATED
    return truncated and slot.state is WorkerState.FAILED


def _not_loaded_text(model: str, slot: Slot | None) -> str:
    if slot is not None and slot.state is WorkerState.FAILED and slot.last_exit is not None:
        return f"Model '{model}' is not loaded: {slot.last_exit.text}."
    how = f"Load it with `lmx load {model}` or POST /admin/models/load; `lmx ls` lists what is here."
    return f"Model '{model}' is not loaded. {how}"


def _poison_text(model: str) -> str:
    return f"This request crashed model '{model}' each time it was tried; it is refused for a while. Change it."


def quarantine_text(slot: Slot) -> str:
    """Why a quarantined model is not served, in the runbook's words."""
    text = f"Model '{slot.model_id}' is quarantined after instability ({slot.quarantine_reason})"
    if slot.last_exit is not None:
        text += f": {slot.last_exit.text} (crash {slot.last_exit.crash_id})"
    return f"{text}. See `lmx crashes`; release it with `lmx quarantine clear {slot.model_id}`."
