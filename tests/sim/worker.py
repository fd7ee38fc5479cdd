"""A simulated worker: it lives by the protocol until its fate says otherwise, and keeps the truth about what it said.

Batching with slots, prefill in chunks, one text a step, cancels at the next step, beats of its own clock, shutdown with a
grace. What it emitted for a request is what the judge compares the client's answer with.
"""

import random
import zlib
from collections.abc import Callable

from lmx_protocol.errors import ErrorCode, ExitCode
from lmx_protocol.messages import (
    AnyRequestEvent,
    Beat,
    Begin,
    Cancel,
    Cancelled,
    Failed,
    Finished,
    FromWorker,
    Goodbye,
    Hello,
    Imported,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    ModelFacts,
    ModelSpec,
    Prefill,
    Shutdown,
    StepEvents,
    Text,
    ToWorker,
    Usage,
)
from lmx_protocol.states import FinishReason, WorkerPhase
from lmx_protocol.version import PROTOCOL_VERSION
from lmx_supervisor.core.actions import WorkerSignal
from lmx_supervisor.core.exit_reason import ExitObservation
from tests.sim.agenda import Agenda
from tests.sim.fates import GOOD_FOOTPRINT_BYTES, POISON_DEATH, Deed, Fate, Lie, Moment
from tests.sim.job import CANARY, REFUSED, Job, Testimony, job_of
from tests.sim.lies import false_words

_CHUNK_TOKENS = 64
_LOAD_FRAMES = 3
_SIGNALLED = {WorkerSignal.ABORT: ExitObservation(signal_number=6), WorkerSignal.KILL: ExitObservation(signal_number=9)}


class SimWorker:
    """One process. `tell` carries messages to the supervisor in order; `report_exit` is the kernel's word."""

    def __init__(
        self,
        name: str,
        backend: str,
        *,
        agenda: Agenda,
        rng: random.Random,
        fate: Fate,
        step_seconds: float,
        watchdog_seconds: float,
        tell: Callable[["SimWorker", FromWorker], None],
        tell_garbage: Callable[["SimWorker"], None],
        report_exit: Callable[["SimWorker", ExitObservation], None],
    ) -> None:
        self.name = name
        self.backend = backend
        self.fate = fate
        self.alive = True
        self.lies: list[FromWorker] = []
        """The messages that no worker may say; the judge watches what follows them."""
        self.told_garbage = False
        self.spec: ModelSpec | None = None
        self.testimony: dict[str, Testimony] = {}
        self._agenda = agenda
        self._rng = rng
        self._step_seconds = step_seconds
        self._watchdog_seconds = watchdog_seconds
        self._tell = tell
        self._tell_garbage = tell_garbage
        self._report_exit = report_exit
        self._deaf = False
        self._frozen = False
        self._beating = True
        self._engine_stuck = False
        self._stepping = False
        self._beats = 0
        self._steps = 0
        self._imported = False
        self._said_loaded = False
        self._stopping = False
        self._waiting: list[Job] = []
        self._running: dict[str, Job] = {}
        self._last_ended: Finished | None = None
        agenda.after(rng.uniform(0.05, 0.6), self._hello)

    # --- commands and signals -----------------------------------------------------------------------------------------------

    def receive(self, message: ToWorker) -> None:
        """A message from the supervisor arrives."""
        if not self.alive or self._deaf:
            return
        if isinstance(message, Load):
            self.spec = message.model
            self._load_when_imported()
        elif isinstance(message, Begin):
            self._accept(message)
        elif isinstance(message, Cancel):
            for job in [*self._running.values(), *self._waiting]:
                if job.request_id == message.request_id:
                    job.cancelled = True
            self._wake()
        elif isinstance(message, Shutdown):
            self._shut_down()

    def receive_signal(self, which: WorkerSignal) -> None:
        """A signal arrives. SIGTERM is left to the supervisor; a stopped process feels nothing but SIGKILL."""
        if not self.alive or which is WorkerSignal.TERMINATE or (which is WorkerSignal.ABORT and self._frozen):
            return
        seen = _SIGNALLED[which]
        if which is WorkerSignal.KILL and self.fate.unkillable_seconds:
            self._agenda.after(self.fate.unkillable_seconds, lambda: self._die(seen))
        else:
            self._die(seen)

    def calm(self) -> None:
        """Faults stop: what was still to go wrong with it does not; what already did remains."""
        self.fate.countdown = max(self.fate.countdown, 1 << 30)
        self.fate.ignores_shutdown = False
        self.fate.footprint_bytes = GOOD_FOOTPRINT_BYTES
        self.fate.leaked_bytes_per_beat = 0

    # --- starting -----------------------------------------------------------------------------------------------------------

    def _hello(self) -> None:
        if self._struck(Moment.HELLO):
            return
        protocol = PROTOCOL_VERSION + (self.fate.deed is Deed.OTHER_VERSION)
        self._say(Hello(protocol=protocol, incarnation=self.name, pid=1, backend=self.backend))
        self._agenda.after(self._rng.uniform(0.1, 1.0), self._import)
        self._agenda.after(1.0, self._beat)

    def _import(self) -> None:
        if self._struck(Moment.IMPORTED):
            return
        self._say(Imported(backend_version="1", seconds=0.5))
        self._imported = True
        if self.spec is not None:
            self._load_some(0)

    def _load_when_imported(self) -> None:
        if self._imported:
            self._load_some(0)

    def _load_some(self, frames: int) -> None:
        if self._struck(Moment.LOADING):
            return
        if self.fate.deed is Deed.REFUSE_LOAD and self.fate.countdown < 0:
            self._say(LoadFailed(code=ErrorCode.MODEL_PROBE_FAILED, message="no weights in it"))
            self._say(Goodbye(reason="no"))
            self._die(ExitObservation(code=ExitCode.BAD_MODEL))
            return
        self._say(LoadProgress(phase="weights", done=frames, total=_LOAD_FRAMES))
        self._steps += 1
        for_ever = self.fate.deed is Deed.LOAD_FOREVER and self.fate.countdown < 0
        pause = self._rng.uniform(0.1, 0.5) * self.fate.load_slowness
        done = frames >= _LOAD_FRAMES and not for_ever
        self._agenda.after(pause, self._loaded if done else lambda: self._load_some(frames + 1))

    def _loaded(self) -> None:
        if not self._struck(Moment.LOADED):
            self._said_loaded = True
            self._say(self._loaded_message())

    def _loaded_message(self) -> Loaded:
        assert self.spec is not None
        facts = ModelFacts(
            backend=self.backend,
            backend_version="1",
            architecture="sim",
            context_length=self.spec.context_length or 4096,
            train_context_length=4096,
            vocabulary_size=100,
            parameters=1,
            weights_bytes=1,
            slots=self.spec.slots,
            has_chat_template=True,
        )
        return Loaded(facts=facts, seconds=1.0, footprint_bytes=self.fate.footprint_bytes)

    def _beat(self) -> None:
        if not self.alive or not self._beating or self._struck(Moment.BEAT, engine=False):
            return
        self._beats += 1
        self.fate.footprint_bytes += self.fate.leaked_bytes_per_beat
        busy = bool(self._running)
        self._say(
            Beat(
                seq=self._beats,
                phase=WorkerPhase.GENERATING if busy else WorkerPhase.IDLE,
                steps=self._steps,
                tokens_prefilled=0,
                tokens_decoded=self._steps,
                active=len(self._running),
                waiting=len(self._waiting),
                footprint_bytes=self.fate.footprint_bytes,
            )
        )
        self._agenda.after(1.0, self._beat)

    # --- the engine ---------------------------------------------------------------------------------------------------------

    def _accept(self, message: Begin) -> None:
        request = message.request
        job = job_of(request)
        assert job.request_id not in self.testimony, f"{job.request_id} was sent twice to {self.name}"
        self.testimony[job.request_id] = Testimony()
        self._waiting.append(job)
        self._wake()

    def _wake(self) -> None:
        if not self._stepping and (self._waiting or self._running):
            self._stepping = True
            self._agenda.after(self._step_seconds * self._rng.uniform(0.5, 1.5), self._step)

    def _step(self) -> None:
        self._stepping = False
        if not self.alive or self._deaf or self._engine_stuck:
            return
        self._steps += 1
        assert self.spec is not None
        while self._waiting and len(self._running) < self.spec.slots:
            job = self._waiting.pop(0)
            self._running[job.request_id] = job
        events: list[AnyRequestEvent] = []
        for job in [*self._running.values(), *(job for job in self._waiting if job.cancelled)]:
            event = self._advance(job)
            if event is None:
                # What a step did is said at its end: a worker that does not get there never says it.
                return
            job.seq += 1
            events.append(event)
        self._flush(events)
        self._wake()

    def _advance(self, job: Job) -> AnyRequestEvent | None:
        """The job's next event; None when the worker did not survive it."""
        identity = {"request_id": job.request_id, "seq": job.seq}
        if job.cancelled:
            return self._end(job, Cancelled(**identity))
        if job.prefilled < job.prompt_tokens:
            if self._struck(Moment.PREFILL):
                return None
            job.prefilled = min(job.prompt_tokens, job.prefilled + _CHUNK_TOKENS)
            return Prefill(**identity, done_tokens=job.prefilled, prompt_tokens=job.prompt_tokens)
        if job.prompt.startswith(REFUSED):
            return self._end(job, Failed(**identity, code=ErrorCode.CONTEXT_LENGTH_EXCEEDED, message="too long"))
        if job.prompt == CANARY:
            return self._answer_canary(job)
        if job.dies_at_text == len(job.emitted):
            self._die(POISON_DEATH)
            return None
        if len(job.emitted) < job.texts:
            if self._struck(Moment.TEXT):
                return None
            # Every third text is empty: a token whose bytes are not yet a character.
            text = "" if zlib.crc32(f"{job.prompt}{len(job.emitted)}".encode()) % 3 == 0 else f"{self.name}:{len(job.emitted)} "
            job.emitted.append(text)
            return Text(**identity, text=text)
        if self._struck(Moment.FINISHED):
            return None
        return self._end(job, Finished(**identity, reason=FinishReason.STOP, usage=Usage(completion_tokens=job.texts)))

    def _answer_canary(self, job: Job) -> AnyRequestEvent | None:
        if self._struck(Moment.CANARY):
            return None
        due = self.fate.countdown < 0
        if due and self.fate.deed is Deed.CANARY_FAILED:
            return self._end(
                job, Failed(request_id=job.request_id, seq=job.seq, code=ErrorCode.GENERATION_ERROR, message="nan")
            )
        tokens = 0 if due and self.fate.deed is Deed.CANARY_EMPTY else 1
        usage = Usage(completion_tokens=tokens)
        return self._end(job, Finished(request_id=job.request_id, seq=job.seq, reason=FinishReason.STOP, usage=usage))

    def _end(self, job: Job, end: AnyRequestEvent) -> AnyRequestEvent:
        self._running.pop(job.request_id, None)
        if job in self._waiting:
            self._waiting.remove(job)
        if isinstance(end, Finished):
            self._last_ended = end
        return end

    def _flush(self, events: list[AnyRequestEvent]) -> None:
        if not events:
            return
        for event in events:
            testimony = self.testimony[event.request_id]
            if isinstance(event, Text):
                testimony.texts.append(event.text)
            elif isinstance(event, Finished | Failed | Cancelled):
                testimony.end = event
        self._say(StepEvents(events=tuple(events)))

    # --- the end ------------------------------------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        if self._struck(Moment.STOPPING) or self.fate.ignores_shutdown or self._engine_stuck or self._stopping:
            return
        self._stopping = True
        self._engine_stuck = True
        for job in [*self._running.values(), *self._waiting]:
            self._flush([self._end(job, Cancelled(request_id=job.request_id, seq=job.seq))])
        self._say(Goodbye(reason="shutdown"))
        self._agenda.after(self._rng.uniform(0.05, 0.5), lambda: self._die(ExitObservation(code=0)))

    def _die(self, seen: ExitObservation) -> None:
        if self.alive:
            self.alive = False
            self._report_exit(self, seen)

    def _say(self, message: FromWorker) -> None:
        if self.alive:
            self._tell(self, message)

    # --- fate ---------------------------------------------------------------------------------------------------------------

    def _struck(self, moment: Moment, *, engine: bool = True) -> bool:
        """Let fate have its way; whether the worker does not go on from here."""
        if not self.alive or self._deaf or (engine and self._engine_stuck):
            return True
        if not self.fate.strikes(moment):
            return False
        deed = self.fate.deed
        if deed in (Deed.DIE, Deed.DIE_UNHEARD):
            self._die(self.fate.death)
        elif deed is Deed.FREEZE:
            self._deaf, self._beating, self._frozen = True, False, True
        elif deed is Deed.HOLD_GIL:
            self._deaf, self._beating = True, False
            watchdog = ExitObservation(code=1, crash_head="Timeout (0:01:00)!")
            self._agenda.after(self._watchdog_seconds, lambda: self._die(watchdog))
        elif deed is Deed.STICK:
            self._engine_stuck = True
        elif deed is Deed.LIE:
            # Between two steps, so that the truth about what it has said is settled.
            self._agenda.after(0.0, self._lie)
            return False
        else:
            return False
        return True

    def _lie(self) -> None:
        if not self.alive:
            return
        if self.fate.lie is Lie.GARBAGE:
            self.told_garbage = True
            self._tell_garbage(self)
            return
        job = next(iter(self._running.values()), None)
        loaded = self._loaded_message() if self._said_loaded else None
        lie = false_words(self.fate.lie, self.name, job=job, loaded=loaded, last_ended=self._last_ended)
        self.lies.append(lie)
        self._say(lie)
