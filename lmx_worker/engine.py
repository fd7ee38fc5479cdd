"""The engine thread: every model call happens here. Import, wait for a model, load it, then step until told to stop."""

import sys
import time
import traceback

from lmx_protocol.errors import ErrorCode, ExitCode, ProtocolViolation
from lmx_protocol.limits import FLUSH_MILLISECONDS, LOAD_PROGRESS_SECONDS, STEP_FAILURES_MAX
from lmx_protocol.messages import (
    AnyRequestEvent,
    Begin,
    Cancel,
    Credit,
    Goodbye,
    Grant,
    Imported,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    Shutdown,
    StepEvents,
)
from lmx_protocol.states import WorkerPhase
from lmx_worker.backends.base import Backend, LoadError, Prepared, PreparedInputs
from lmx_worker.batch import Batch
from lmx_worker.inbox import Command, Counted, Inbox, PrepareFailed
from lmx_worker.memory import footprint_bytes
from lmx_worker.outbox import Outbox
from lmx_worker.pacing import PrefillPacing
from lmx_worker.prefixes.keeping import fill_shelf, open_shelf
from lmx_worker.prefixes.shelf import Shelf
from lmx_worker.prepare import Preparer
from lmx_worker.vitals import Vitals

_BACKLOG_POLL_SECONDS = FLUSH_MILLISECONDS / 1000


class Engine:
    """The life of one backend, driven by the inbox, told through the outbox."""

    def __init__(
        self, *, name: str, backend: Backend, inbox: Inbox, outbox: Outbox, preparer: Preparer, vitals: Vitals
    ) -> None:
        self._name = name
        self._backend = backend
        self._inbox = inbox
        self._outbox = outbox
        self._preparer = preparer
        self._vitals = vitals
        self._batch = Batch(backend)
        self._pacing = PrefillPacing()
        self._order: Load | None = None
        self._shelf: Shelf | None = None
        self._stop_order: Shutdown | None = None
        self._step_failures = 0
        self._has_failed = False

    def run(self) -> None:
        """The thread's body. Leaves through `Outbox.depart`; an exception that escapes is a bug and ends the worker."""
        if not self._import():
            return
        while self._order is None and self._stop_order is None:
            self._apply(self._inbox.take(None))
        if self._order is not None and self._stop_order is None and not self._load(self._order):
            return
        while self._stop_order is None:
            self._turn()
        self._stop(self._stop_order)

    def _import(self) -> bool:
        started_at = time.monotonic()
        try:
            version = self._backend.import_libraries()
        # Native packages that do not work here raise what their loader felt like: all three of these were seen.
        except (ImportError, OSError, RuntimeError) as error:
            traceback.print_exc(file=sys.stderr)
            reason = f"the {self._name} backend does not work on this machine: {error}"
            advice = f"install it with: pip install 'lmx[{self._name}]'"
            self._give_up(ErrorCode.MODEL_UNSUPPORTED_BACKEND, f"{reason}; {advice}", ExitCode.CONFIG)
            return False
        self._vitals.phase = WorkerPhase.IDLE
        self._outbox.post(Imported(backend_version=version, seconds=time.monotonic() - started_at))
        return True

    def _load(self, order: Load) -> bool:
        self._vitals.phase = WorkerPhase.LOADING
        started_at = time.monotonic()
        try:
            facts = self._backend.load(order.model, _ProgressReport(self._outbox, self._vitals).tell)
        except LoadError as error:
            fits = error.code != ErrorCode.INSUFFICIENT_MEMORY
            self._give_up(error.code, str(error), ExitCode.BAD_MODEL if fits else ExitCode.WILL_NOT_FIT)
            return False
        except MemoryError:
            message = f"there is not enough memory to load {order.model.model_id}"
            self._give_up(ErrorCode.INSUFFICIENT_MEMORY, message, ExitCode.WILL_NOT_FIT)
            return False
        self._vitals.phase = WorkerPhase.IDLE
        self._vitals.loaded = True
        self._outbox.post(Loaded(facts=facts, seconds=time.monotonic() - started_at, footprint_bytes=footprint_bytes()))
        self._shelf = open_shelf(order, facts, self._backend, self._outbox.post)
        self._preparer.open()
        return True

    def _give_up(self, code: ErrorCode, message: str, status: ExitCode) -> None:
        self._outbox.post(LoadFailed(code=code, message=message))
        self._outbox.post(Goodbye(reason=code))
        self._outbox.depart(status)

    def _turn(self) -> None:
        """Commands, then one step; waits for commands when there is nothing to compute."""
        commands = self._inbox.take(self._wait_seconds())
        if commands:
            self._apply(commands)
            # Ends and refusals do not wait for a step, which may be a long prefill chunk.
            self._send(self._batch.collect(time.monotonic()))
        if self._batch.can_step and not self._outbox.backlogged and not self._rest_seconds():
            self._vitals.phase = WorkerPhase.GENERATING
            self._step()
        self._send(self._batch.collect(time.monotonic()))
        self._vitals.active = self._batch.active
        self._vitals.waiting = self._batch.waiting
        self._vitals.phase = WorkerPhase.GENERATING if self._batch.computing else WorkerPhase.IDLE

    def _step(self) -> None:
        started_at = time.monotonic()
        prefilled_tokens = self._backend.stats().tokens_prefilled
        self._backend.limit_prefill(self._pacing.tokens_allowed(started_at))
        try:
            deltas = self._batch.step()
            stepped_at = time.monotonic()
            self._batch.apply(deltas, stepped_at)
            self._pacing.stepped(self._backend.stats().tokens_prefilled - prefilled_tokens, started_at, stepped_at)
        except Exception as error:
            self._has_failed = True
            self._step_failures += 1
            if self._step_failures >= STEP_FAILURES_MAX:
                raise
            traceback.print_exc(file=sys.stderr)
            self._batch.fail_running(f"the model failed while generating: {error}")
        else:
            self._step_failures = 0
            if self._shelf is not None:
                self._shelf.proved()
        self._vitals.steps += 1

    def _wait_seconds(self) -> float | None:
        """How long the next look into the inbox may block: not at all while there is something to compute."""
        if self._outbox.backlogged:
            return _BACKLOG_POLL_SECONDS
        flush_at = self._batch.flush_at
        flush_seconds = None if flush_at is None else max(0.0, flush_at - time.monotonic())
        if self._batch.can_step:
            rest_seconds = self._rest_seconds()
            return rest_seconds if flush_seconds is None else min(rest_seconds, flush_seconds)
        return flush_seconds

    def _rest_seconds(self) -> float:
        """How long to leave the host to others, because there is nothing to do but prompts."""
        return 0.0 if self._batch.decodes else self._pacing.rest_seconds(time.monotonic())

    def _apply(self, commands: list[Command]) -> None:
        for command in commands:
            match command:
                case Begin():
                    if not self._batch.accept(command):
                        self._preparer.discard(command.request.request_id)
                case Prepared() | PreparedInputs():
                    self._batch.enqueue(command)
                case Counted():
                    self._batch.counted(command)
                case PrepareFailed():
                    self._batch.refuse(command.request_id, command.error)
                case Cancel():
                    self._preparer.discard(command.request_id)
                    self._batch.cancel(command.request_id)
                case Credit():
                    self._batch.grant(command)
                case Grant():
                    self._pacing.ratio = command.prefill_ratio
                    self._backend.use_threads(command.threads)
                case Load():
                    self._order = command
                case Shutdown():
                    self._stop_order = command

    def _send(self, events: list[AnyRequestEvent]) -> None:
        """One frame for all, or as few as the frame limit allows. A single event is bounded far below it by construction."""
        if not events:
            return
        try:
            self._outbox.post(StepEvents(events=tuple(events)))
        except ProtocolViolation:
            if len(events) == 1:
                raise
            half = len(events) // 2
            self._send(events[:half])
            self._send(events[half:])

    def _stop(self, order: Shutdown) -> None:
        self._vitals.phase = WorkerPhase.STOPPING
        self._batch.cancel_all()
        self._send(self._batch.collect(time.monotonic()))
        # What a model computed that has failed once is not handed on to its next life.
        if self._shelf is not None and order.prefix_bytes_max and not self._has_failed:
            fill_shelf(self._shelf, self._backend, order)
        self._backend.close()
        self._outbox.post(Goodbye(reason="shutdown"))
        self._outbox.depart(ExitCode.OK)


class _ProgressReport:
    """Every load callback counts as progress; a few a second, each new phase and each phase's end are told."""

    def __init__(self, outbox: Outbox, vitals: Vitals) -> None:
        self._outbox = outbox
        self._vitals = vitals
        self._phase = ""
        self._told_at = 0.0

    def tell(self, phase: str, done_bytes: int, total_bytes: int) -> None:
        """A `LoadProgressCallback`."""
        self._vitals.steps += 1
        now = time.monotonic()
        if phase == self._phase and done_bytes < total_bytes and now - self._told_at < LOAD_PROGRESS_SECONDS:
            return
        self._phase = phase
        self._told_at = now
        self._outbox.post(LoadProgress(phase=phase, done=done_bytes, total=total_bytes))
