"""Requests from acceptance to their one end, without threads."""

import msgspec
import pytest

from lmx_protocol.errors import ErrorCode, ProtocolViolation
from lmx_protocol.limits import FAILURE_MESSAGE_CHARACTERS_MAX, QUEUE_TOTAL, STALLED_FRAMES_MAX
from lmx_protocol.messages import (
    Begin,
    Cancelled,
    CountRequest,
    Credit,
    EmbedRequest,
    Failed,
    Finished,
    GenerateRequest,
    Text,
    Timing,
    Usage,
    Vectors,
)
from lmx_protocol.states import FinishReason
from lmx_worker.backends.base import ErrorDelta, FinishDelta, Prepared, PreparedInputs, RequestError, ResultDelta, TextDelta
from lmx_worker.batch import Batch
from lmx_worker.inbox import Counted
from tests.support.fake_backend import FakeBackend


def generate(request_id: str, *, frames: int = 64) -> Begin:
    """A request with some credit."""
    request = GenerateRequest(request_id=request_id, model_id="m", prompt="p")
    return Begin(request=request, credit_frames=frames, credit_bytes=10_000)


def accepted(batch: Batch, *request_ids: str, frames: int = 64) -> None:
    """Accept and prepare requests."""
    for request_id in request_ids:
        message = generate(request_id, frames=frames)
        assert batch.accept(message)
        batch.enqueue(Prepared(request=message.request, tokens=[1], max_tokens=10))


def finish(request_id: str) -> FinishDelta:
    """The backend's word that a request ended."""
    return FinishDelta(request_id, FinishReason.STOP, Usage(completion_tokens=1), timing=Timing())


def test_admits_only_what_there_is_room_for() -> None:
    """A third request waits until one of two slots is free."""
    backend = FakeBackend(slots=2)
    batch = Batch(backend)
    accepted(batch, "a", "b", "c")
    batch.step()

    assert (2, 1) == (batch.active, batch.waiting)

    backend.inserted.discard("a")
    batch.apply([finish("a")], 0.0)
    batch.step()

    assert {"b", "c"} == backend.inserted


def test_finished_request_is_forgotten() -> None:
    """After its end a request is gone, and its id may be cancelled or granted without effect."""
    batch = Batch(FakeBackend())
    accepted(batch, "a")
    batch.step()
    batch.apply([TextDelta("a", "hi", 1), finish("a")], 0.0)

    assert ["Text", "Finished"] == [type(event).__name__ for event in batch.collect(0.0)]

    batch.cancel("a")
    batch.grant(Credit(request_id="a", frames=1, bytes=1))

    assert [] == batch.collect(1.0)
    assert (0, 0, False) == (batch.active, batch.waiting, batch.computing)


def test_same_id_twice_is_a_violation() -> None:
    """A supervisor that reuses a live request id is broken."""
    batch = Batch(FakeBackend())
    accepted(batch, "a")

    with pytest.raises(ProtocolViolation, match="sent twice"):
        batch.accept(generate("a"))


def test_too_many_requests_are_refused() -> None:
    """Beyond the bound a request fails with `overloaded` and takes no place."""
    batch = Batch(FakeBackend())
    for index in range(QUEUE_TOTAL):
        batch.accept(generate(str(index)))

    assert not batch.accept(generate("more"))

    (failed,) = batch.collect(0.0)

    assert isinstance(failed, Failed)
    assert ("more", ErrorCode.OVERLOADED) == (failed.request_id, failed.code)


@pytest.mark.parametrize("state", ["preparing", "waiting", "running"])
def test_cancel_ends_a_request_in_every_state(state: str) -> None:
    """A cancelled request ends once as cancelled, and what was still being prepared for it is ignored."""
    backend = FakeBackend()
    batch = Batch(backend)
    message = generate("a")
    batch.accept(message)
    prepared = Prepared(request=message.request, tokens=[1], max_tokens=1)
    if state != "preparing":
        batch.enqueue(prepared)
    if state == "running":
        batch.step()
    batch.cancel("a")
    (event,) = batch.collect(0.0)
    batch.enqueue(prepared)
    batch.step()

    assert isinstance(event, Cancelled)
    assert (2 if state == "running" else 0) == event.usage.completion_tokens
    assert [] == batch.collect(0.0)
    assert set() == backend.inserted


def test_a_count_ends_without_a_place() -> None:
    """With the batch full, a count ends with the number of the prompt's tokens and nothing is asked of the backend."""
    backend = FakeBackend(slots=1)
    batch = Batch(backend)
    accepted(batch, "a")
    batch.step()
    asked = GenerateRequest(request_id="c", model_id="m", prompt="p")
    assert batch.accept(Begin(request=CountRequest(request_id="c", model_id="m", of=asked), credit_frames=1, credit_bytes=1))
    assert batch.computing
    batch.counted(Counted("c", 7))
    (event,) = batch.collect(0.0)

    assert Finished(request_id="c", reason=FinishReason.STOP, usage=Usage(prompt_tokens=7)) == event
    assert [("insert", "a")] == backend.calls
    batch.counted(Counted("c", 7))
    assert [] == batch.collect(0.0)


def test_a_cancelled_count_ends_once() -> None:
    """The number that arrives after the cancel is nobody's."""
    batch = Batch(FakeBackend())
    accepted(batch, "c")
    batch.cancel("c")
    batch.counted(Counted("c", 7))

    assert [Cancelled] == [type(event) for event in batch.collect(0.0)]


def test_insert_may_refuse_one_request() -> None:
    """A request the backend refuses fails with its code and parameter; the next one is served."""
    backend = FakeBackend()
    batch = Batch(backend)
    accepted(batch, "a")
    backend.insert_error = RequestError(ErrorCode.CONTEXT_LENGTH_EXCEEDED, "too long", "messages")
    batch.step()
    (failed,) = batch.collect(0.0)

    assert isinstance(failed, Failed)
    assert (ErrorCode.CONTEXT_LENGTH_EXCEEDED, "messages") == (failed.code, failed.param)

    backend.insert_error = None
    accepted(batch, "b")
    batch.step()

    assert {"b"} == backend.inserted


def test_insert_that_breaks_fails_that_request_too() -> None:
    """An insert that raises anything else leaves no request behind that never ends."""
    backend = FakeBackend()
    batch = Batch(backend)
    accepted(batch, "a")
    backend.insert_error = RuntimeError("boom")
    with pytest.raises(RuntimeError):
        batch.step()
    batch.fail_running("boom")

    assert [Failed] == [type(event) for event in batch.collect(0.0)]


def test_failed_step_takes_only_the_running_requests() -> None:
    """What waits survives a step that failed; what ran ends once with a clipped message."""
    batch = Batch(FakeBackend(slots=1))
    accepted(batch, "a", "b")
    batch.step()
    batch.fail_running("x" * (FAILURE_MESSAGE_CHARACTERS_MAX + 1))
    (failed,) = batch.collect(0.0)

    assert isinstance(failed, Failed)
    assert ("a", ErrorCode.GENERATION_ERROR) == (failed.request_id, failed.code)
    assert FAILURE_MESSAGE_CHARACTERS_MAX == len(failed.message)
    assert (0, 1) == (batch.active, batch.waiting)


def test_error_delta_fails_one_request() -> None:
    """A request can fail alone while another runs on."""
    batch = Batch(FakeBackend())
    accepted(batch, "a", "b")
    batch.step()
    batch.apply([ErrorDelta("a", ErrorCode.GENERATION_ERROR, "no"), TextDelta("b", "x", 1)], 0.0)

    assert [("a", Failed), ("b", Text)] == [(event.request_id, type(event)) for event in batch.collect(0.0)]
    assert 1 == batch.active


def test_slow_reader_pauses_its_request_only() -> None:
    """Out of credit and over the bound, the backend is told to pause that request; a grant resumes it."""
    backend = FakeBackend()
    batch = Batch(backend)
    accepted(batch, "slow", frames=0)
    batch.step()
    for index in range(STALLED_FRAMES_MAX):
        batch.apply([TextDelta("slow", "x", 1)], float(index))
        batch.collect(float(index))

    assert ("pause", "slow") == backend.calls[-1]
    assert not batch.can_step and not batch.computing

    accepted(batch, "fast")

    assert batch.can_step

    batch.grant(Credit(request_id="slow", frames=1, bytes=0))
    batch.collect(100.0)

    assert ("resume", "slow") == backend.calls[-1]


def test_preparing_counts_as_computing() -> None:
    """While a prompt is prepared progress is due, although the engine has nothing to step."""
    batch = Batch(FakeBackend())
    batch.accept(generate("a"))

    assert batch.computing and not batch.can_step


def test_cancel_all_ends_everything() -> None:
    """Stopping leaves no request without its end."""
    batch = Batch(FakeBackend(slots=1))
    accepted(batch, "a", "b")
    batch.accept(generate("c"))
    batch.step()
    batch.cancel_all()

    assert ["a", "b", "c"] == sorted(event.request_id for event in batch.collect(0.0))
    assert (0, 0) == (batch.active, batch.waiting)


def test_results_leave_in_order_before_the_end() -> None:
    """Vectors of a request go through the same stream as text would."""
    batch = Batch(FakeBackend())
    request = EmbedRequest(request_id="e", model_id="m", inputs=("a", "b"))
    assert batch.accept(Begin(request=request, credit_frames=64, credit_bytes=10_000))
    batch.enqueue(PreparedInputs(request=request, inputs=[[1], [2]]))
    batch.step()
    vectors = [Vectors(request_id="e", first_index=index, dimensions=1, data=bytes(4)) for index in range(2)]
    batch.apply([*(ResultDelta("e", event) for event in vectors), finish("e")], 0.0)

    first, second, end = batch.collect(0.0)
    assert [vectors[0], msgspec.structs.replace(vectors[1], seq=1)] == [first, second]
    assert isinstance(end, Finished)
