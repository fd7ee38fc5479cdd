"""A hundred thousand hostile inputs (FUZZ_INPUTS sets the number): to the decoders, to the core, and over a real socket."""

import asyncio
import os
import random

import msgspec
import pytest
import zmq
import zmq.asyncio

from lmx_protocol.codec import decode_from_worker, decode_to_worker
from lmx_protocol.errors import ProtocolViolation
from lmx_protocol.messages import FromWorker, Goodbye
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.snapshot import fleet_view
from lmx_supervisor.runtime.link import KeyPair, Link
from tests.fuzz.hostile import FROM_WORKER, TO_WORKER, frames
from tests.support.stage import Stage

INPUTS = int(os.environ.get("FUZZ_INPUTS", "100000"))
SEED = int(os.environ.get("FUZZ_SEED", "1"))
FRAMES_OVER_THE_SOCKET = INPUTS // 50
LOOK_EVERY = 50
SECONDS_TO_HEAR_THEM = 60.0


@pytest.mark.parametrize(("decode", "samples"), [(decode_from_worker, FROM_WORKER), (decode_to_worker, TO_WORKER)])
def test_nothing_but_a_violation_escapes_the_decoders(decode, samples) -> None:  # type: ignore[no-untyped-def]
    """Whatever the bytes are, they are a message of that direction or a `ProtocolViolation`."""
    rng = random.Random(SEED)
    decoded = 0
    for frame in frames(rng, INPUTS // 2, samples):
        try:
            decode(frame)
        except ProtocolViolation:
            continue
        decoded += 1

    # If everything were refused, the values behind the types would not have been tried.
    assert INPUTS // 20 < decoded < INPUTS // 2


def test_a_hostile_worker_hurts_only_itself() -> None:
    """In every state of its life it may say anything: the core raises nothing, ends it, and the other model streams on."""
    rng = random.Random(SEED)
    patient = Policy(
        warm_spare=False,
        quarantine_threshold=10**9,
        restart_max_in_window=10**9,
        restart_factor=1.0,
        restart_initial_seconds=0.1,
    )
    stage = Stage(patient)
    victim = _Neighbour(stage)
    stage.ready("m", at_start=True)
    ended = 0
    for count, frame in enumerate(frames(rng, INPUTS // 4, FROM_WORKER)):
        if stage.slot().incarnation is None or rng.random() < 0.02:
            _start_anew(stage, rng)
        name = stage.incarnation()
        event = _heard(name, frame)
        stage.do(event)
        doomed = stage.fleet.state.incarnations[name].ladder is not None
        assert doomed or not isinstance(event, e.Misbehaved)
        if count % LOOK_EVERY == 0:
            msgspec.json.encode(fleet_view(stage.fleet.state, stage.now, 0.0))
            victim.stream_on()
        if doomed:
            ended += 1
            _start_anew(stage, rng)
        stage.actions.clear()

    assert ended > INPUTS // 100
    assert stage.state("neighbour") is WorkerState.BUSY


async def test_a_hostile_worker_does_not_break_its_link() -> None:
    """Each frame over a real socket becomes a message or a violation, in order, and the reader lives to hear the next."""
    rng = random.Random(SEED)
    ours, theirs = KeyPair.fresh(), KeyPair.fresh()
    context = zmq.asyncio.Context()
    worker = context.socket(zmq.DEALER)
    worker.linger = 0
    worker.curve_server = True
    worker.curve_secretkey = theirs.secret
    port = worker.bind_to_random_port("tcp://127.0.0.1")
    heard: list[FromWorker | str] = []
    done = asyncio.Event()

    def hear(message: FromWorker) -> None:
        heard.append(message)
        if message == Goodbye(reason="that was all"):
            done.set()

    link = Link(
        context,
        f"tcp://127.0.0.1:{port}",
        own_keys=ours,
        worker_public_key=theirs.public,
        on_message=hear,
        on_violation=heard.append,
    )
    try:
        for frame in frames(rng, FRAMES_OVER_THE_SOCKET, FROM_WORKER):
            await worker.send(frame)
        await worker.send(msgspec.msgpack.encode(Goodbye(reason="that was all")))
        await asyncio.wait_for(done.wait(), SECONDS_TO_HEAR_THEM)
    finally:
        await link.close()
        worker.close()
        context.destroy(linger=0)

    assert len(heard) == FRAMES_OVER_THE_SOCKET + 1


class _Neighbour:
    """Another model with one long answer."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._seq = 0
        stage.ready("neighbour")
        stage.ask("long", "neighbour")

    def stream_on(self) -> None:
        """The next piece of its answer arrives whole."""
        delivered = self._stage.text("long", self._seq, "neighbour", text=f"{self._seq}")
        self._seq += 1
        assert [x.event.text for x in delivered if isinstance(x, a.Deliver)] == [f"{self._seq - 1}"]


def _heard(name: str, frame: bytes) -> e.Said | e.Misbehaved:
    try:
        return e.Said(name, decode_from_worker(frame))
    except ProtocolViolation as violation:
        return e.Misbehaved(name, str(violation))


def _start_anew(stage: Stage, rng: random.Random) -> None:
    """The hostile worker is dead; its successor gets to a random point of a worker's life, sometimes with a request."""
    stage.die(signal=9)
    for check in stage.of(a.VerifyMemory):
        stage.do(e.MemoryChecked(check.incarnation, 0, check.owed_bytes))
    if "m" not in stage.fleet.state.slots or stage.state() is WorkerState.FAILED:
        stage.load("m", at_start=True)
    stage.beat("neighbour")
    stage.tick(1.0)
    point = rng.randrange(5)
    if point > 0:
        stage.hello()
    if point > 1:
        stage.loaded()
    if point > 2:
        stage.canary()
    if point > 3:
        stage.do(e.RequestCancelled("r"))
        if "r" not in stage.fleet.state.ledger:
            stage.ask("r")
