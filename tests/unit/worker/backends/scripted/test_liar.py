"""What the scripted backend makes of the worker's messages."""

import pytest

from lmx_protocol.codec import decode_from_worker
from lmx_protocol.errors import ProtocolViolation
from lmx_protocol.limits import FRAME_BYTES_MAX_UP
from lmx_protocol.messages import (
    Beat,
    Begin,
    Finished,
    FromWorker,
    GenerateRequest,
    Hello,
    Shutdown,
    StepEvents,
    Text,
    Usage,
)
from lmx_protocol.states import FinishReason, WorkerPhase
from lmx_protocol.version import PROTOCOL_VERSION
from lmx_worker.backends.scripted.liar import Liar

HELLO = Hello(protocol=PROTOCOL_VERSION, incarnation="i", pid=1, backend="scripted")
STEP = StepEvents(
    events=(
        Text(request_id="r", seq=0, text="a"),
        Text(request_id="r", seq=1, text="b"),
        Finished(request_id="r", seq=2, reason=FinishReason.STOP, usage=Usage()),
    )
)
BEAT = Beat(
    seq=0,
    phase=WorkerPhase.IDLE,
    steps=0,
    tokens_prefilled=0,
    tokens_decoded=0,
    active=0,
    waiting=0,
    footprint_bytes=0,
)


def liar(*lies: str) -> Liar:
    """A liar with these lies armed."""
    made = Liar(lambda _: None)
    for lie in lies:
        made.arm(lie)
    return made


def seqs(message: FromWorker | bytes) -> list[int]:
    """The numbers of a step's events."""
    assert isinstance(message, StepEvents)
    return [event.seq for event in message.events]


def test_honest_until_armed() -> None:
    """Nothing is changed in either direction."""
    assert [STEP] == list(liar().outgoing(STEP))
    assert Shutdown(grace_seconds=1) == liar().incoming(Shutdown(grace_seconds=1))


@pytest.mark.parametrize(("lie", "numbers"), [("seq_gap", [1, 1, 2]), ("double_finished", [0, 1, 2, 3])])
def test_twisted_events(lie: str, numbers: list[int]) -> None:
    """A hole in the numbers, or one end too many, once."""
    made = liar(lie)

    assert [numbers, [0, 1, 2]] == [seqs(message) for _ in range(2) for message in made.outgoing(STEP)]


@pytest.mark.parametrize("lie", ["garbage", "oversized", "second_hello", "foreign_request"])
def test_extra_frames(lie: str) -> None:
    """Something that must not be there comes before the real message, once."""
    made = liar(lie)
    extra, real = made.outgoing(STEP)

    assert STEP == real
    assert [STEP] == list(made.outgoing(STEP))
    match lie:
        case "garbage":
            assert isinstance(extra, bytes)
            with pytest.raises(ProtocolViolation):
                decode_from_worker(extra)
        case "oversized":
            assert isinstance(extra, bytes) and len(extra) > FRAME_BYTES_MAX_UP
        case "second_hello":
            assert isinstance(extra, Hello)
        case "foreign_request":
            assert isinstance(extra, StepEvents) and extra.events[0].request_id != "r"


def test_wrong_version_and_mute() -> None:
    """Hello in another version, or never, nor anything else."""
    (wrong,) = liar("wrong_version").outgoing(HELLO)

    assert isinstance(wrong, Hello) and wrong.protocol != PROTOCOL_VERSION
    assert [] == list(liar("mute").outgoing(HELLO))


def test_deaf_and_greedy() -> None:
    """A Shutdown that is never heard, and credit without end."""
    request = GenerateRequest(request_id="r", model_id="m", prompt="p")
    generate = Begin(request=request, credit_frames=1, credit_bytes=1)

    assert liar("ignore_shutdown").incoming(Shutdown(grace_seconds=1)) is None
    greedy = liar("ignore_credit").incoming(generate)
    assert isinstance(greedy, Begin) and greedy.credit_frames > 10**9


def test_triggers_on_the_wire() -> None:
    """Hello and Shutdown are triggers; `ready` is the first beat after the load."""
    reached: list[str] = []
    made = Liar(reached.append)
    made.outgoing(HELLO)
    made.outgoing(BEAT)
    made.loaded()
    made.outgoing(BEAT)
    made.outgoing(BEAT)
    made.incoming(Shutdown(grace_seconds=1))

    assert ["hello", "ready", "shutdown"] == reached
