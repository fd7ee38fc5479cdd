"""What follows a worker's death: why it died, who is told, and whether the model starts again, steps down or is quarantined."""

from dataclasses import replace

import msgspec

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import AnyRequest, CountRequest, EmbedRequest, GenerateRequest, RankRequest, Sampling
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import events as e
from lmx_supervisor.core.actions import Autopsy, RequestTrace
from lmx_supervisor.core.exit_reason import (
    BLAMES_REQUESTS,
    NEVER_RESTART,
    ExitObservation,
    ExitReason,
    KillCause,
    Verdict,
    classify,
)
from lmx_supervisor.core.incarnation import Incarnation
from lmx_supervisor.core.ledger import Entry
from lmx_supervisor.core.loading import Loading
from lmx_supervisor.core.memory_return import MemoryReturn
from lmx_supervisor.core.restart_policy import Quarantine, RestartAfter, decide
from lmx_supervisor.core.roster import Roster
from lmx_supervisor.core.serving import Serving
from lmx_supervisor.core.slot import Slot
from lmx_supervisor.core.state import FleetState
from lmx_supervisor.core.why_not import lost_its_files, quarantine_text, refusal_of_absent

_LOAD_REFUSALS: dict[ExitReason, ErrorCode] = {
    ExitReason.BAD_MODEL: ErrorCode.MODEL_PROBE_FAILED,
    ExitReason.WILL_NOT_FIT: ErrorCode.INSUFFICIENT_MEMORY,
    ExitReason.CONFIG: ErrorCode.MODEL_UNSUPPORTED_BACKEND,
    ExitReason.LOAD_TIMEOUT: ErrorCode.MODEL_LOAD_TIMEOUT,
    ExitReason.CANARY_FAILED: ErrorCode.MODEL_CANARY_FAILED,
    ExitReason.MODEL_TRUNCATED: ErrorCode.MODEL_TRUNCATED,
}


class Dying:
    """The aftermath of exits."""

    def __init__(
        self, state: FleetState, roster: Roster, serving: Serving, loading: Loading, memory_return: MemoryReturn
    ) -> None:
        self._state = state
        self._roster = roster
        self._serving = serving
        self._loading = loading
        self._memory_return = memory_return

    def exited(self, event: e.Exited, now: float) -> None:
        """A process is gone; the kernel said so."""
        incarnation = self._state.incarnations.get(event.incarnation)
        if incarnation is None:
            return
        slot = self._state.slot_of(incarnation)
        ladder = incarnation.ladder
        cause = ladder.cause if ladder is not None else None
        # Before its Hello it could not even be asked, even if the Hello came before the blow fell.
        outstayed = ladder is not None and ladder.killed and ladder.asked
        state_at_death = slot.state if slot is not None else WorkerState.SPAWNING
        verdict = classify(event.observation, state=state_at_death, cause=cause, outstayed=outstayed)
        if incarnation.load_refusal is not None and verdict.reason in NEVER_RESTART:
            verdict = Verdict(verdict.reason, incarnation.load_refusal)
        if verdict.reason is not ExitReason.STOPPED:
            verdict = replace(verdict, crash_id=incarnation.name)
            self._state.emit(self._autopsy(incarnation, slot, state_at_death, verdict, event.observation, now))
        del self._state.incarnations[event.incarnation]
        self._memory_return.died(incarnation)
        self._tell_exit(incarnation, slot, state_at_death, verdict, event.observation)
        if slot is not None:
            slot.last_exit, slot.last_exit_at, slot.incarnation = verdict, now, None
            slot.note(now, f"the worker {incarnation.name} ended: {verdict.text}")
            self._slot_lost_its_worker(slot, incarnation, verdict, now)
        elif cause is not KillCause.STOP:
            self._roster.spare_died(incarnation, verdict, now)
        self._loading.send_waiting_loads(now)
        # The places of its requests may be what others lacked, on other models.
        self._serving.dispatch_if_due(now)

    def _slot_lost_its_worker(self, slot: Slot, incarnation: Incarnation, verdict: Verdict, now: float) -> None:
        self._forgive_after_sustained_service(slot, now)
        if slot.state is WorkerState.DRAINING:
            self._serving.worker_lost(slot, incarnation, will_return=False, text=verdict.text, now=now)
            slot.move(WorkerState.STOPPED, now, verdict.text)
            self._loading.stopped(slot, incarnation.footprint_bytes, now)
            return
        slot.move(WorkerState.CRASHED, now, verdict.text)
        if slot.trial is not None:
            self._end_trial(slot, incarnation, verdict, now)
            return
        if verdict.reason not in NEVER_RESTART:
            slot.failures.record(now, self._state.policy)
        if verdict.reason in BLAMES_REQUESTS:
            self._serving.accuse(slot, incarnation, now)
        decision = decide(
            slot.failures, verdict.reason, self._state.policy, jitter_key=f"{self._state.boot_id}:{slot.model_id}"
        )
        will_return = isinstance(decision, RestartAfter) and slot.wanted
        self._serving.worker_lost(slot, incarnation, will_return=will_return, text=verdict.text, now=now)
        if isinstance(decision, Quarantine):
            self._quarantine(slot, incarnation, decision, verdict, now)
        elif isinstance(decision, RestartAfter) and slot.wanted:
            self._step_down_after_gpu_oom(slot, verdict, now)
            self._restart_after(slot, decision.seconds, verdict, now)
        else:
            ended = WorkerState.FAILED if slot.quarantine_reason is None else WorkerState.QUARANTINED
            slot.move(ended, now, "starting it again would not help, or nobody relies on it")
            self._refuse_everyone(slot, incarnation, verdict, now)

    def _end_trial(self, slot: Slot, incarnation: Incarnation, verdict: Verdict, now: float) -> None:
        """Its settings are to blame: neither the model as it is usually loaded, nor the requests that it served."""
        self._serving.worker_lost(slot, incarnation, will_return=False, text=verdict.text, now=now)
        ended = WorkerState.FAILED if slot.quarantine_reason is None else WorkerState.QUARANTINED
        slot.move(ended, now, "it was loaded only to try its settings")
        self._refuse_everyone(slot, incarnation, verdict, now)

    def _restart_after(self, slot: Slot, delay_seconds: float, verdict: Verdict, now: float) -> None:
        slot.restarts += 1
        slot.restart_at = now + delay_seconds
        slot.move(WorkerState.BACKOFF, now, f"restart in {delay_seconds:.1f} s")
        self._state.tell(
            "worker_restarting", model_id=slot.model_id, reason=verdict.reason, delay_seconds=delay_seconds, alarming=True
        )
        if delay_seconds == 0:
            self._loading.begin(slot, now, "restart at once")

    def _step_down_after_gpu_oom(self, slot: Slot, verdict: Verdict, now: float) -> None:
        if verdict.reason is not ExitReason.GPU_OOM:
            return
        slot.gpu_ooms += 1
        tokens = (slot.facts.context_length if slot.facts is not None else slot.spec.context_length) // 2
        due = slot.gpu_ooms >= limits.GPU_OOM_STEP_DOWN_AFTER and not slot.stepped_down
        if due and tokens >= limits.STEP_DOWN_CONTEXT_MIN_TOKENS:
            slot.stepped_down = True
            slot.spec = msgspec.structs.replace(slot.spec, context_length=tokens)
            slot.note(now, f"the GPU ran out of memory twice: stepping down to a context of {tokens} tokens")
            self._state.tell("model_stepped_down", model_id=slot.model_id, context_length=tokens, alarming=True)

    def _quarantine(self, slot: Slot, incarnation: Incarnation, decision: Quarantine, verdict: Verdict, now: float) -> None:
        slot.quarantine_reason = decision.reason
        slot.move(WorkerState.QUARANTINED, now, decision.reason)
        self._state.tell(
            "model_quarantined",
            model_id=slot.model_id,
            backend=slot.backend,
            backend_version=incarnation.backend_version,
            reason=decision.reason,
            text=verdict.text,
            crash_id=verdict.crash_id,
            while_serving=slot.ready_at is not None,
            alarming=True,
        )
        self._refuse_everyone(slot, incarnation, verdict, now)

    def _refuse_everyone(self, slot: Slot, incarnation: Incarnation, verdict: Verdict, now: float) -> None:
        slot.wanted = False
        code = incarnation.load_refusal_code or _LOAD_REFUSALS.get(verdict.reason, ErrorCode.MODEL_LOADER_CRASHED)
        text = incarnation.load_refusal or f"its worker died: {verdict.text}"
        self._loading.refuse_loads(slot, ErrorCode(code), f"Loading model '{slot.model_id}' failed: {text}")
        if slot.state is WorkerState.QUARANTINED:
            self._serving.refuse_waiting(slot, ErrorCode.MODEL_UNSTABLE, quarantine_text(slot))
        elif slot.on_demand and slot.ready_at is None:
            # As those are told who ask right after them.
            absent = refusal_of_absent(self._state, slot.model_id, slot, now)
            self._serving.refuse_waiting(slot, absent.code, absent.text, absent.retry_after_seconds)
        else:
            down_code = ErrorCode.MODEL_TRUNCATED if lost_its_files(slot) else ErrorCode.WORKER_LOST
            self._serving.refuse_waiting(slot, down_code, f"Model '{slot.model_id}' is gone: {verdict.text}.")

    def _forgive_after_sustained_service(self, slot: Slot, now: float) -> None:
        served = slot.served_since_ready > 0 and slot.ready_at is not None
        if served and slot.ready_at is not None and now - slot.ready_at >= self._state.policy.restart_stable_seconds:
            slot.failures.forgive()

    def _autopsy(
        self,
        incarnation: Incarnation,
        slot: Slot | None,
        state_at_death: WorkerState,
        verdict: Verdict,
        observation: ExitObservation,
        now: float,
    ) -> Autopsy:
        in_flight = self._state.ledger.of_incarnation(incarnation.name)
        return Autopsy(
            crash_id=incarnation.name,
            model_id=incarnation.model_id,
            backend=incarnation.backend,
            backend_version=incarnation.backend_version,
            pid=incarnation.pid,
            state=state_at_death,
            verdict=verdict,
            observation=observation,
            uptime_seconds=now - incarnation.spawned_at,
            spec=slot.spec if slot is not None else None,
            facts=slot.facts if slot is not None else None,
            story=tuple((now - line.at_seconds, line.text) for line in slot.story) if slot is not None else (),
            memory_curve=tuple((now - at, size_bytes) for at, size_bytes in incarnation.memory_curve),
            requests=tuple(_trace(entry) for entry in in_flight),
        )

    def _tell_exit(
        self, incarnation: Incarnation, slot: Slot | None, state_at_death: WorkerState, verdict: Verdict, seen: ExitObservation
    ) -> None:
        self._state.tell(
            "worker_exited",
            model_id=incarnation.model_id,
            backend=incarnation.backend,
            backend_version=incarnation.backend_version,
            incarnation=incarnation.name,
            pid=incarnation.pid,
            state=state_at_death,
            reason=verdict.reason,
            text=verdict.text,
            crash_id=verdict.crash_id,
            code=seen.code,
            signal=seen.signal_number,
            requests_running=len(slot.running) if slot is not None else 0,
            trial=slot is not None and slot.trial is not None,
            alarming=verdict.reason is not ExitReason.STOPPED,
        )


def _trace(entry: Entry) -> RequestTrace:
    request = entry.request
    return RequestTrace(
        request_id=request.request_id,
        prompt_characters=_prompt_characters(request),
        max_tokens=request.max_tokens if isinstance(request, GenerateRequest) else None,
        tokens_delivered=entry.tokens,
        replays=entry.replays,
        on_trial=entry.on_trial,
        sampling=request.sampling if isinstance(request, GenerateRequest) else Sampling(),
    )


def _prompt_characters(request: AnyRequest) -> int:
    match request:
        case GenerateRequest():
            return len(request.prompt or "") + sum(len(message.content) for message in request.messages)
        case EmbedRequest():
            return sum(len(given) for given in request.inputs)
        case RankRequest():
            return len(request.query) + sum(len(document) for document in request.documents)
        case CountRequest():
            return _prompt_characters(request.of)
