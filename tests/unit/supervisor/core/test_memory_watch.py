"""Workers that cost more memory than they may: the marks, and what follows each."""

import pytest

from lmx_protocol.messages import Begin, Failed, Shutdown
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core.memory_watch import MemoryMark, memory_mark
from lmx_supervisor.core.policy import Policy
from tests.support.stage import Stage

LIMIT_BYTES = 1000
BOUNDED = Policy(warm_spare=False, worker_memory_bytes_max=LIMIT_BYTES, drain_seconds=30.0)
NORMAL, SOFT, HARD = 500, 850, 950


@pytest.fixture
def small() -> Stage:
    """A READY model whose workers may cost 1000 bytes, and cost half of that."""
    stage = Stage(BOUNDED)
    stage.load()
    stage.hello()
    stage.beat(footprint_bytes=NORMAL)
    stage.loaded(footprint_bytes=NORMAL)
    stage.canary()
    return stage


def costs(stage: Stage, footprint_bytes: int) -> None:
    """The worker's next heartbeat says so, and a tick passes."""
    stage.beat(footprint_bytes=footprint_bytes)
    stage.tick()


@pytest.mark.parametrize(
    ("footprint_bytes", "mark"),
    [
        (None, MemoryMark.NONE),
        (849, MemoryMark.NONE),
        (850, MemoryMark.SOFT),
        (949, MemoryMark.SOFT),
        (950, MemoryMark.HARD),
        (999, MemoryMark.HARD),
        (1000, MemoryMark.LIMIT),
        (10**12, MemoryMark.LIMIT),
    ],
)
def test_the_marks_are_shares_of_the_limit(footprint_bytes: int | None, mark: MemoryMark) -> None:
    """85 %, 95 % and all of it; without a limit nothing is too much."""
    assert memory_mark(footprint_bytes, BOUNDED) is mark
    assert memory_mark(footprint_bytes, Policy()) is MemoryMark.NONE


@pytest.mark.parametrize(
    ("before_bytes", "footprint_bytes", "mark"),
    [
        (860, 907, MemoryMark.HARD),
        (860, 906, MemoryMark.SOFT),
        (849, 940, MemoryMark.SOFT),
        (940, 900, MemoryMark.SOFT),
        (None, 940, MemoryMark.SOFT),
        (860, 849, MemoryMark.NONE),
        (900, 1000, MemoryMark.LIMIT),
    ],
)
def test_a_worker_that_would_pass_the_limit_within_two_beats_is_at_the_hard_mark(
    before_bytes: int | None, footprint_bytes: int, mark: MemoryMark
) -> None:
    """Two beats above the soft mark make a trend; a first leap, a fall and a slow climb do not."""
    assert memory_mark(footprint_bytes, BOUNDED, at_last_beat_bytes=before_bytes) is mark


def test_a_fast_leak_in_an_idle_worker_ends_in_order(small: Stage) -> None:
    """Each step is larger than the way from the hard mark to the limit, and still the worker is asked to leave, not killed."""
    for footprint_bytes in (860, 920):
        small.beat(footprint_bytes=footprint_bytes)

    assert small.signals() == [a.WorkerSignal.TERMINATE]
    assert [told["mark"] for told in small.told("worker_memory")] == ["soft", "hard"]


def test_at_the_soft_mark_requests_run_on_and_new_ones_wait_until_the_memory_is_back(small: Stage) -> None:
    """The running request is left alone, operators are told, and the waiting one is leased when the mark is left."""
    small.ask("running")
    costs(small, SOFT)
    small.ask("waiting")
    small.tick(3)

    assert [lease.request.request_id for lease in small.sent(Begin)][1:] == ["running"]
    assert [told["mark"] for told in small.told("worker_memory")] == ["soft"]
    costs(small, NORMAL)
    assert [lease.request.request_id for lease in small.sent(Begin)][1:] == ["running", "waiting"]
    assert small.signals() == []


def test_at_the_hard_mark_the_worker_is_replaced_when_its_requests_have_ended(small: Stage) -> None:
    """The running request finishes, then the worker is asked to leave; the waiting one is served by the next worker."""
    small.ask("running")
    costs(small, HARD)
    small.ask("waiting")
    assert small.sent(Shutdown) == []
    small.finish("running", seq=0)
    small.tick()

    assert len(small.sent(Shutdown)) == 1
    assert small.signals() == [a.WorkerSignal.TERMINATE]
    small.die(code=0)
    assert small.of(a.Autopsy)[-1].verdict.reason == "memory_exceeded"
    small.come_up()
    assert small.sent(Begin)[-1].request.request_id == "waiting"


def test_a_worker_that_falls_back_below_the_hard_mark_is_replaced_all_the_same(small: Stage) -> None:
    """The decision stands: otherwise memory that swings around the mark would starve those who wait."""
    small.ask("running")
    costs(small, HARD)
    costs(small, NORMAL)
    small.ask("waiting")
    small.finish("running", seq=0)
    small.tick()

    assert len(small.sent(Shutdown)) == 1


def test_a_request_that_outlasts_the_drain_is_told_and_the_worker_killed(small: Stage) -> None:
    """A stream of an hour does not keep a worker over the hard mark for an hour."""
    small.ask("endless")
    small.text("endless", seq=0)
    costs(small, HARD)
    small.tick(BOUNDED.drain_seconds - 1)
    assert small.signals() == []
    small.tick(2)

    assert small.signals() == [a.WorkerSignal.KILL]
    small.die(signal=9)
    [end] = small.ends("endless")
    assert isinstance(end, Failed)
    assert "memory" in end.message


def test_at_the_limit_the_worker_is_killed_at_once(small: Stage) -> None:
    """No grace: every further second would be paid by the machine."""
    small.ask("running")
    costs(small, LIMIT_BYTES)

    assert small.signals() == [a.WorkerSignal.KILL]
    small.die(signal=9)
    assert small.of(a.Autopsy)[-1].verdict.reason == "memory_exceeded"
    assert small.ends("running") == []
    small.come_up()
    assert small.sent(Begin)[-1].request.request_id == "running"


def test_an_idle_worker_at_the_soft_mark_is_replaced_as_soon_as_somebody_waits(small: Stage) -> None:
    """It would give nothing back by itself, and the request would wait in vain."""
    costs(small, SOFT)
    small.tick(20)
    assert small.sent(Shutdown) == []
    small.ask("waiting")
    small.tick()

    assert len(small.sent(Shutdown)) == 1


def test_a_model_that_outgrows_every_worker_is_quarantined(small: Stage) -> None:
    """The third replacement in a row is the last: a loop of loads helps nobody."""
    for _ in range(3):
        costs(small, LIMIT_BYTES)
        small.die(signal=9)
        if small.state() is not WorkerState.QUARANTINED:
            small.tick(3)
            small.come_up()

    assert small.state() is WorkerState.QUARANTINED


def test_a_load_is_not_judged_before_it_is_over() -> None:
    """Weights that pass through memory twice while they are read are no leak."""
    stage = Stage(BOUNDED)
    stage.load()
    stage.hello()
    costs(stage, 10 * LIMIT_BYTES)

    assert stage.state() is WorkerState.LOADING
    assert stage.signals() == []
