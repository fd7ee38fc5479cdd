"""A dead worker's memory is spent again only after it is back."""

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Shutdown
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from tests.support.stage import Stage, spec

LARGE = limits.MEMORY_RETURN_MIN_BYTES


def _die_large(stage: Stage) -> str:
    """A ready model's large worker is killed; returns the incarnation whose memory is to be verified."""
    stage.do(e.LoadWanted("load", spec(), "llamacpp", size_bytes=2 * LARGE))
    stage.come_up()
    stage.beat(footprint_bytes=LARGE)
    stage.die()
    (verify,) = stage.of(a.VerifyMemory)
    assert verify.owed_bytes == LARGE
    return verify.incarnation


def test_a_restart_waits_for_the_memory_and_then_loads(stage: Stage) -> None:
    """The new worker is there at once, but it is told what to load only when the old one's memory is back."""
    dead = _die_large(stage)
    stage.hello()
    assert (stage.state(), stage.loads()) == (WorkerState.SPAWNING, 1)
    stage.do(e.MemoryChecked(dead, missing_bytes=0, available_bytes=10 * LARGE))

    assert (stage.state(), stage.loads()) == (WorkerState.LOADING, 2)


def test_memory_that_does_not_come_back_refuses_what_no_longer_fits(stage: Stage) -> None:
    """The model is not started over and over; the alarm is told once, with the numbers in the refusal."""
    dead = _die_large(stage)
    stage.hello()
    for _ in range(2):
        stage.do(e.MemoryChecked(dead, missing_bytes=LARGE, available_bytes=LARGE))
    assert stage.sent(Shutdown)
    stage.die(code=0)
    spawned = len(stage.of(a.Spawn))
    stage.tick(60)

    assert stage.state() is WorkerState.FAILED
    assert len(stage.told("memory_not_reclaimed")) == 1
    assert len(stage.of(a.Spawn)) == spawned
    assert stage.slot().failures.consecutive == 1


def test_what_still_fits_is_loaded_despite_lost_memory(stage: Stage) -> None:
    """Only loads that do not fit into what is available are refused."""
    dead = _die_large(stage)
    stage.hello()
    stage.do(e.MemoryChecked(dead, missing_bytes=LARGE, available_bytes=2 * LARGE))

    assert stage.state() is WorkerState.LOADING


def test_memory_that_comes_back_late_allows_loads_again(stage: Stage) -> None:
    """A later check ends the refusals."""
    dead = _die_large(stage)
    stage.hello()
    stage.do(e.MemoryChecked(dead, missing_bytes=LARGE, available_bytes=LARGE))
    stage.die(code=0)
    stage.do(e.LoadWanted("refused", spec(), "llamacpp", size_bytes=2 * LARGE))
    stage.hello()
    stage.die(code=0)
    refused = stage.refusal("refused")
    stage.do(e.MemoryChecked(dead, missing_bytes=0, available_bytes=10 * LARGE))
    stage.do(e.LoadWanted("granted", spec(), "llamacpp", size_bytes=2 * LARGE))
    stage.come_up()

    assert (refused.code, "memory_not_reclaimed" in refused.message) == (ErrorCode.INSUFFICIENT_MEMORY, True)
    assert stage.told("memory_reclaimed")
    assert [settled.order_id for settled in stage.of(a.LoadSettled)][-1] == "granted"


def test_small_workers_are_not_waited_for(stage: Stage) -> None:
    """What a process without a model costs is not worth a wait."""
    stage.ready()
    stage.beat(footprint_bytes=LARGE - 1)
    stage.die()

    assert stage.of(a.VerifyMemory) == []
