"""What happens at once when the supervisor speaks."""

from collections.abc import Callable, Iterator

import pytest

from lmx_protocol.codec import decode_from_worker
from lmx_protocol.errors import ErrorCode, ProtocolViolation
from lmx_protocol.limits import QUEUE_TOTAL, SHUTDOWN_WORK_RATIO
from lmx_protocol.messages import Begin, Cancel, Failed, GenerateRequest, Goodbye, Load, ModelSpec, Shutdown, StepEvents
from lmx_protocol.states import ModelFormat, WorkerPhase
from lmx_worker.dispatch import Dispatcher
from lmx_worker.inbox import Inbox
from lmx_worker.outbox import Outbox
from lmx_worker.prepare import Preparer
from lmx_worker.vitals import Vitals
from tests.support.fake_backend import FakeBackend

LOAD = Load(model=ModelSpec(model_id="m", path="p", format=ModelFormat.SCRIPT))


class Desk:
    """A dispatcher and everything around it."""

    def __init__(self) -> None:
        self.inbox = Inbox()
        self.outbox = Outbox()
        self.vitals = Vitals()
        self.titles: list[str] = []
        self.fuses: list[tuple[float, Callable[[], None]]] = []
        self.dispatcher = Dispatcher(
            inbox=self.inbox,
            outbox=self.outbox,
            preparer=Preparer(FakeBackend(), self.inbox),
            vitals=self.vitals,
            show_title=self.titles.append,
            after=lambda seconds, act: self.fuses.append((seconds, act)),
        )

    def refusal(self) -> Failed:
        message = decode_from_worker(self.outbox.peek())
        assert isinstance(message, StepEvents)
        (event,) = message.events
        assert isinstance(event, Failed)
        return event


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A dispatcher whose pipes are closed afterwards."""
    made = Desk()
    yield made
    made.outbox.close()


def generate(request_id: str) -> Begin:
    """A request with little credit."""
    request = GenerateRequest(request_id=request_id, model_id="m", prompt="p")
    return Begin(request=request, credit_frames=1, credit_bytes=1)


def test_a_model_is_given_once(desk: Desk) -> None:
    """The first Load names the process after its model, the second is a violation."""
    desk.dispatcher.handle(LOAD)

    assert (["m"], [LOAD]) == (desk.titles, desk.inbox.take(0))
    with pytest.raises(ProtocolViolation, match="once"):
        desk.dispatcher.handle(LOAD)


def test_control_goes_to_the_engine(desk: Desk) -> None:
    """Cancels and requests reach the engine in the order they came."""
    desk.dispatcher.handle(generate("a"))
    desk.dispatcher.handle(Cancel(request_id="a"))

    assert [generate("a"), Cancel(request_id="a")] == desk.inbox.take(0)


def test_stopping_worker_refuses_new_work(desk: Desk) -> None:
    """After Shutdown a request fails at once with `shutting_down`."""
    desk.vitals.phase = WorkerPhase.IDLE
    desk.dispatcher.handle(Shutdown(grace_seconds=60))
    desk.dispatcher.handle(generate("late"))

    assert ("late", ErrorCode.SHUTTING_DOWN, 0) == (desk.refusal().request_id, desk.refusal().code, desk.refusal().seq)
    assert desk.outbox.departure is None


def test_a_worker_that_cannot_stop_in_order_leaves_without_its_engine(desk: Desk) -> None:
    """A step gets most of the grace to end; then the main thread leaves by itself, with a goodbye."""
    desk.vitals.phase = WorkerPhase.GENERATING
    desk.dispatcher.handle(Shutdown(grace_seconds=60))
    ((seconds, leave),) = desk.fuses

    assert 60 * SHUTDOWN_WORK_RATIO == seconds
    leave()
    assert (Goodbye(reason="shutdown"), 0) == (decode_from_worker(desk.outbox.peek()), desk.outbox.departure)


def test_a_load_is_not_waited_for(desk: Desk) -> None:
    """A load cannot be interrupted, and there is no answer to finish: a worker that loads leaves at once."""
    desk.vitals.phase = WorkerPhase.LOADING
    desk.dispatcher.handle(Shutdown(grace_seconds=60))

    assert [0.0] == [seconds for seconds, _ in desk.fuses]


def test_too_many_unprepared_requests_are_refused(desk: Desk) -> None:
    """The preparation queue is bounded, and what does not fit fails at once."""
    for index in range(QUEUE_TOTAL):
        desk.dispatcher.handle(generate(str(index)))
    desk.dispatcher.handle(generate("more"))

    assert ("more", ErrorCode.OVERLOADED) == (desk.refusal().request_id, desk.refusal().code)
