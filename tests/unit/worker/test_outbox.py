"""What is said from any thread, on its way to the socket's thread."""

import select
from collections.abc import Iterator

import pytest

from lmx_protocol.codec import decode_from_worker
from lmx_protocol.errors import ProtocolViolation
from lmx_protocol.limits import FRAME_BYTES_MAX_UP, ZMQ_HIGH_WATER_MESSAGES
from lmx_protocol.messages import FromWorker, Goodbye, ToWorker
from lmx_worker.outbox import Outbox


@pytest.fixture
def outbox() -> Iterator[Outbox]:
    """An outbox that is closed afterwards."""
    box = Outbox()
    yield box
    box.close()


def is_awake(outbox: Outbox) -> bool:
    """Whether the reader would be woken."""
    return bool(select.select([outbox.wake_descriptor], [], [], 0)[0])


def test_posting_wakes_the_reader(outbox: Outbox) -> None:
    """The descriptor is readable from a post until it is cleared, and messages come out in order."""
    assert not is_awake(outbox)

    outbox.post(Goodbye(reason="one"))
    outbox.post(Goodbye(reason="two"))

    assert is_awake(outbox)

    outbox.clear_wake()

    assert not is_awake(outbox)
    assert Goodbye(reason="one") == decode_from_worker(outbox.peek())

    outbox.pop()

    assert Goodbye(reason="two") == decode_from_worker(outbox.peek())


def test_oversized_message_is_refused_before_it_is_sent(outbox: Outbox) -> None:
    """libzmq would drop the connection without a word; the poster is told instead, and nothing is queued."""
    with pytest.raises(ProtocolViolation, match="over the limit"):
        outbox.post(Goodbye(reason="x" * FRAME_BYTES_MAX_UP))

    assert 0 == len(outbox)


def test_first_departure_decides(outbox: Outbox) -> None:
    """Two reasons to leave: the exit status is the first one's."""
    assert outbox.departure is None

    outbox.depart(72)
    outbox.depart(0)

    assert 72 == outbox.departure
    assert is_awake(outbox)


def test_backlog_is_visible_and_a_full_wake_pipe_is_harmless(outbox: Outbox) -> None:
    """A supervisor that does not read is noticed, and however many posts there are, none of them blocks."""
    for _ in range(ZMQ_HIGH_WATER_MESSAGES):
        assert not outbox.backlogged
        outbox.post(Goodbye(reason=""))

    assert outbox.backlogged

    for _ in range(100_000):
        outbox.depart(0)

    assert is_awake(outbox)


def test_sabotage_decides_what_goes_out() -> None:
    """The hook may replace a message by others and by raw bytes."""

    class Doubling:
        def outgoing(self, message: FromWorker) -> list[FromWorker | bytes]:
            return [b"raw", message]

        def incoming(self, message: ToWorker) -> ToWorker | None:
            return message

    outbox = Outbox(Doubling())
    outbox.post(Goodbye(reason="x"))
    first = outbox.peek()
    outbox.pop()

    assert (b"raw", Goodbye(reason="x")) == (first, decode_from_worker(outbox.peek()))

    outbox.close()
