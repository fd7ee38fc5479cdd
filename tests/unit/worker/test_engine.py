"""The engine's whole life on the test's own thread: every command is in the inbox before it starts."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lmx_protocol import limits
from lmx_protocol.codec import decode_from_worker
from lmx_protocol.errors import ErrorCode, ExitCode
from lmx_protocol.messages import (
    Begin,
    Cancelled,
    CountRequest,
    Failed,
    Finished,
    FromWorker,
    GenerateRequest,
    Goodbye,
    Grant,
    Imported,
    Load,
    Loaded,
    LoadFailed,
    LoadProgress,
    ModelFacts,
    ModelSpec,
    PrefixesSaved,
    Shutdown,
    StepEvents,
    Text,
)
from lmx_protocol.states import ModelFormat, WorkerPhase
from lmx_worker.backends.base import BackendStats, LoadError, LoadProgressCallback, Prepared, TextDelta
from lmx_worker.engine import Engine
from lmx_worker.inbox import Command, Counted, Inbox
from lmx_worker.outbox import Outbox
from lmx_worker.prefixes.shelf import Prefix, Shelf
from lmx_worker.prepare import Preparer
from lmx_worker.vitals import Vitals
from tests.support.fake_backend import FACTS, FakeBackend

LOAD = Load(model=ModelSpec(model_id="m", path="p", format=ModelFormat.SCRIPT))
SHUTDOWN = Shutdown(grace_seconds=1)


class Stage:
    """An engine with its queues."""

    def __init__(self) -> None:
        self.backend = FakeBackend()
        self.inbox = Inbox()
        self.outbox = Outbox()
        self.vitals = Vitals()

    def engine(self) -> Engine:
        return Engine(
            name="fake",
            backend=self.backend,
            inbox=self.inbox,
            outbox=self.outbox,
            preparer=Preparer(self.backend, self.inbox),
            vitals=self.vitals,
        )

    def run(self, *commands: Command) -> list[FromWorker]:
        for command in commands:
            self.inbox.put(command)
        self.engine().run()
        return self.said()

    def said(self) -> list[FromWorker]:
        messages = []
        while len(self.outbox):
            messages.append(decode_from_worker(self.outbox.peek()))
            self.outbox.pop()
        return messages


@pytest.fixture
def stage() -> Iterator[Stage]:
    """An engine's surroundings, closed afterwards."""
    made = Stage()
    yield made
    made.outbox.close()


def request(request_id: str) -> tuple[Begin, Prepared]:
    """A request and its prepared form."""
    asked = GenerateRequest(request_id=request_id, model_id="m", prompt="p")
    return Begin(request=asked, credit_frames=9, credit_bytes=999), Prepared(request=asked, tokens=[1], max_tokens=9)


class StopWhenIdle(FakeBackend):
    """Asks the engine to stop once it has no outcome left."""

    stop_order = SHUTDOWN

    def __init__(self, inbox: Inbox) -> None:
        super().__init__()
        self.inbox = inbox

    def step(self) -> list:
        if not self.outcomes:
            self.inbox.put(self.stop_order)
        return super().step()


def test_life_without_a_model(stage: Stage) -> None:
    """A spare that is told to stop imports, says goodbye and leaves with 0."""
    imported, goodbye = stage.run(SHUTDOWN)

    assert isinstance(imported, Imported)
    assert Goodbye(reason="shutdown") == goodbye
    assert ExitCode.OK == stage.outbox.departure


def test_backend_that_cannot_be_imported(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason and the remedy are told at once, with an exit status that means: do not restart."""

    def fail() -> str:
        raise ImportError("no such library")

    monkeypatch.setattr(stage.backend, "import_libraries", fail)
    failed, goodbye = stage.run()

    assert isinstance(failed, LoadFailed)
    assert ErrorCode.MODEL_UNSUPPORTED_BACKEND == failed.code
    assert "no such library" in failed.message and "pip install" in failed.message
    assert isinstance(goodbye, Goodbye)
    assert ExitCode.CONFIG == stage.outbox.departure


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (LoadError(ErrorCode.MODEL_INCOMPLETE, "cut off"), ErrorCode.MODEL_INCOMPLETE, ExitCode.BAD_MODEL),
        (LoadError(ErrorCode.INSUFFICIENT_MEMORY, "big"), ErrorCode.INSUFFICIENT_MEMORY, ExitCode.WILL_NOT_FIT),
        (MemoryError(), ErrorCode.INSUFFICIENT_MEMORY, ExitCode.WILL_NOT_FIT),
    ],
)
def test_load_that_fails(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, error: Exception, code: ErrorCode, status: ExitCode
) -> None:
    """A failed load says why, and leaves with the status that decides about a restart."""

    def fail(spec: ModelSpec, progress: LoadProgressCallback) -> ModelFacts:
        raise error

    monkeypatch.setattr(stage.backend, "load", fail)
    _, failed, _ = stage.run(LOAD)

    assert isinstance(failed, LoadFailed)
    assert (code, status) == (failed.code, stage.outbox.departure)


def test_load_progress_is_told_but_not_every_callback(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each callback counts as progress in the beat; messages are few, and the last one is always among them."""

    def load(spec: ModelSpec, progress: LoadProgressCallback) -> ModelFacts:
        for done in range(1001):
            progress("weights", done, 1000)
        stage.inbox.put(SHUTDOWN)
        return FACTS

    monkeypatch.setattr(stage.backend, "load", load)
    told = [message for message in stage.run(LOAD) if isinstance(message, LoadProgress)]

    assert 1001 == stage.vitals.steps
    assert 0 == told[0].done and 1000 == told[-1].done
    assert len(told) < 10


def test_one_frame_per_step_for_all_requests(stage: Stage) -> None:
    """Two requests that move in one step share a message; what still runs at shutdown is cancelled with its usage."""
    stage.backend = StopWhenIdle(stage.inbox)
    stage.backend.outcomes.append([TextDelta("a", "x", 1), TextDelta("b", "y", 1)])
    said = stage.run(LOAD, *request("a"), *request("b"))
    frames = [message for message in said if isinstance(message, StepEvents)]

    assert [["Text", "Text"], ["Cancelled", "Cancelled"]] == [[type(e).__name__ for e in f.events] for f in frames]
    assert all(event.usage.completion_tokens == 2 for event in frames[1].events if isinstance(event, Cancelled))
    assert [Loaded, Goodbye] == [type(message) for message in said if isinstance(message, Loaded | Goodbye)]
    assert ("close", "") == stage.backend.calls[-1]
    assert WorkerPhase.STOPPING == stage.vitals.phase


class CountedDuringAStep(StopWhenIdle):
    """A token count arrives while a step is under way."""

    def step(self) -> list:
        if len(self.outcomes) == 2:
            self.inbox.put(Counted("c", 5))
        return super().step()


def test_a_count_is_told_before_the_next_step(stage: Stage) -> None:
    """It waits for the step under way and for nothing else: it leaves ahead of what the next one computes."""
    stage.backend = CountedDuringAStep(stage.inbox)
    stage.backend.outcomes += [[], [TextDelta("a", "x", 1)]]
    count = CountRequest(request_id="c", model_id="m", of=GenerateRequest(request_id="c", model_id="m", prompt="p"))
    said = stage.run(LOAD, *request("a"), Begin(request=count, credit_frames=1, credit_bytes=1))
    events = [event for message in said if isinstance(message, StepEvents) for event in message.events]

    assert [("c", Finished), ("a", Text), ("a", Cancelled)] == [(event.request_id, type(event)) for event in events]


def test_failed_step_fails_its_requests_and_the_worker_lives(stage: Stage, capfd: pytest.CaptureFixture[str]) -> None:
    """An exception in a step ends what ran; a request that comes after it is served."""
    stage.backend = StopWhenIdle(stage.inbox)
    stage.backend.slots = 1
    stage.backend.outcomes += [RuntimeError("boom"), [TextDelta("b", "x", 1)]]
    said = stage.run(LOAD, *request("a"), *request("b"))
    events = [event for message in said if isinstance(message, StepEvents) for event in message.events]

    assert [("a", Failed), ("b", Text), ("b", Cancelled)] == [(event.request_id, type(event)) for event in events]
    assert "boom" in capfd.readouterr().err
    assert ExitCode.OK == stage.outbox.departure


def test_steps_that_keep_failing_end_the_worker(stage: Stage) -> None:
    """A backend that fails several steps in a row is broken: the exception leaves the engine."""
    stage.backend.slots = 1
    stage.backend.outcomes += [RuntimeError(f"boom {index}") for index in range(limits.STEP_FAILURES_MAX)]
    with pytest.raises(RuntimeError, match=f"boom {limits.STEP_FAILURES_MAX - 1}"):
        stage.run(LOAD, *request("a"), *request("b"), *request("c"))


def test_frames_over_the_limit_are_split(stage: Stage) -> None:
    """The events of one step go out in several frames when one would be too large; none is lost or reordered."""
    texts = [Text(request_id=str(index), text="x" * limits.CREDIT_BYTES) for index in range(70)]
    stage.engine()._send(list(texts))
    said = stage.said()

    assert len(said) > 1
    assert texts == [event for message in said if isinstance(message, StepEvents) for event in message.events]


KEEPING_SHUTDOWN = Shutdown(grace_seconds=60, prefix_bytes_max=10_000, prefix_seconds=30)


class KeepingBackend(StopWhenIdle):
    """Has computed one prefix that could outlive it, and remembers what it was given."""

    stop_order = KEEPING_SHUTDOWN

    def __init__(self, inbox: Inbox) -> None:
        super().__init__(inbox)
        self.shelf: Shelf | None = None

    def use_shelf(self, shelf: Shelf) -> None:
        self.shelf = shelf

    def prefixes(self) -> list[Prefix]:
        return [Prefix(tokens=list(range(100)), nbytes=1000, can_cut=True, dump=lambda _: memoryview(b"state"))]


class BriefBackend(KeepingBackend):
    """One whose engine is told to stop as soon as the model is loaded."""

    def load(self, spec: ModelSpec, progress: LoadProgressCallback) -> ModelFacts:
        self.inbox.put(self.stop_order)
        return super().load(spec, progress)


def shelved(directory: Path) -> Load:
    """A load with a place for prefixes."""
    return Load(model=LOAD.model, digest="d", prefix_directory=str(directory / "m"))


def test_a_stop_that_leaves_the_time_keeps_the_prefixes(stage: Stage, tmp_path: Path) -> None:
    """They are saved before the model is closed, and the next worker has them from its load on."""
    stage.backend = BriefBackend(stage.inbox)
    said = stage.run(shelved(tmp_path))
    assert [type(message) for message in said[-2:]] == [PrefixesSaved, Goodbye]
    assert stage.backend.calls == [("close", "")]
    stage.backend = backend = BriefBackend(stage.inbox)
    stage.run(shelved(tmp_path))
    assert backend.shelf is not None and len(backend.shelf) == 1


@pytest.mark.parametrize(("has_place", "order"), [(True, SHUTDOWN), (False, KEEPING_SHUTDOWN)], ids=["no leave", "no place"])
def test_nothing_is_kept_without_leave_or_place(stage: Stage, tmp_path: Path, has_place: bool, order: Shutdown) -> None:
    """A stop in a hurry, and a load without a directory, touch no disk."""
    stage.backend = BriefBackend(stage.inbox)
    stage.backend.stop_order = order
    said = stage.run(shelved(tmp_path) if has_place else LOAD)
    assert not [message for message in said if isinstance(message, PrefixesSaved)]
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_failed_a_step_hands_nothing_on(stage: Stage, tmp_path: Path) -> None:
    """What it computed before may be as wrong as what it failed to compute."""
    stage.backend = KeepingBackend(stage.inbox)
    stage.backend.slots = 1
    stage.backend.outcomes += [RuntimeError("boom"), [TextDelta("b", "x", 1)]]
    said = stage.run(shelved(tmp_path), *request("a"), *request("b"))
    assert [message for message in said if isinstance(message, Goodbye)]
    assert not [message for message in said if isinstance(message, PrefixesSaved)]


def test_saving_that_fails_is_still_a_stop_in_order(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whatever the backend raises is on stderr, and the worker says goodbye and leaves with 0."""

    def fail() -> list[Prefix]:
        raise RuntimeError("no state for you")

    stage.backend = BriefBackend(stage.inbox)
    monkeypatch.setattr(stage.backend, "prefixes", fail)
    assert stage.run(shelved(tmp_path))[-1] == Goodbye(reason="shutdown")
    assert stage.outbox.departure == ExitCode.OK
    assert "no state for you" in capfd.readouterr().err


def test_a_shelf_that_cannot_be_opened_is_no_failed_load(
    stage: Stage, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The model is served without it."""
    (tmp_path / "m").write_text("in the way")
    stage.backend = backend = BriefBackend(stage.inbox)
    said = stage.run(shelved(tmp_path))
    assert [message for message in said if isinstance(message, Loaded)]
    assert backend.shelf is None
    assert "no directory of ours" in capfd.readouterr().err


class Prefilling(FakeBackend):
    """Reads a prompt, piece by piece, and asks the engine to stop as the test says."""

    def __init__(self, inbox: Inbox, *, decodes: bool) -> None:
        super().__init__()
        self.inbox = inbox
        self.decodes = decodes
        self.allowed: list[int | None] = []
        self.tokens = 0

    def limit_prefill(self, tokens: int | None) -> None:
        self.allowed.append(tokens)

    def step(self) -> list:
        self.tokens += self.allowed[-1] != 0
        if self.allowed[-1] == 0 or self.tokens == 4:
            self.inbox.put(SHUTDOWN)
        return [TextDelta("a", "x", 1)] if self.decodes else []

    def stats(self) -> BackendStats:
        return BackendStats(active=1, tokens_prefilled=self.tokens, tokens_decoded=0, kv_used_ratio=0.0)


def test_a_grant_of_threads_goes_to_the_backend(stage: Stage) -> None:
    """What the supervisor shares out is what the backend computes with."""
    stage.backend = StopWhenIdle(stage.inbox)
    stage.run(LOAD, Grant(threads=3), *request("a"))

    assert ("use_threads", "3") in stage.backend.calls


def test_who_only_reads_prompts_rests_between_two_pieces(stage: Stage) -> None:
    """Told to leave half of the time to others, the backend is not asked for a step before the last piece is paid for."""
    stage.backend = backend = Prefilling(stage.inbox, decodes=False)
    stage.run(LOAD, Grant(threads=1, prefill_ratio=0.5), *request("a"))

    assert None not in backend.allowed and 0 not in backend.allowed


def test_who_decodes_as_well_does_not_rest(stage: Stage) -> None:
    """Its own streams go on: until the last piece is paid for, its steps take nothing of the prompt."""
    stage.backend = backend = Prefilling(stage.inbox, decodes=True)
    stage.run(LOAD, Grant(threads=1, prefill_ratio=0.0001), *request("a"))

    assert 0 in backend.allowed
