"""One budget: claims before loads, refusals that show the sum, and loads that wait for memory that is still leaving."""

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Shutdown
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core.budget import sums
from lmx_supervisor.core.policy import Policy
from tests.support.stage import Stage

GIB = 1024**3
POLICY = Policy(warm_spare=False, memory_max_percent=90)


def stage_of(total_gib: int = 100, used_gib: int = 0, **policy: object) -> Stage:
    """A host of that size; 90 % of it may be used."""
    stage = Stage(Policy(**{"warm_spare": False, "memory_max_percent": 90, **policy}))  # type: ignore[arg-type]
    stage.host(total_gib * GIB, used_gib * GIB)
    return stage


def test_two_loads_in_flight_cannot_have_the_same_gigabytes() -> None:
    """The second is refused while the first has not taken a byte yet; a third that fits beside it is not."""
    stage = stage_of()
    stage.load("a", needs_bytes=60 * GIB)
    refused = stage.load("b", needs_bytes=60 * GIB)
    stage.load("c", needs_bytes=30 * GIB)

    assert stage.refusal(refused).code is ErrorCode.INSUFFICIENT_MEMORY
    assert set(stage.fleet.state.slots) == {"a", "c"}
    assert len(stage.of(a.Spawn)) == 2


def test_a_refusal_shows_its_arithmetic() -> None:
    """What is needed and of what, what is free and who has the rest, and what to do."""
    stage = stage_of(used_gib=20)
    stage.load("a", needs_bytes=60 * GIB)
    text = stage.refusal(stage.load("b", needs_bytes=30 * GIB)).message

    assert text == (
        "Model 'b' needs 30.00 GB (weights 30.00 GB + key/value cache 0.00 GB + working memory 0.00 GB), and 10.00 GB are "
        "free: of the 90.00 GB that may be used (90 % of 100.00 GB), 60.00 GB are promised to models (a 60.00 GB) and 20.00 GB "
        "are used by everything else; no idle model could make room. Unload a model, load this one with a shorter context or "
        "fewer slots, or raise memory.max_memory_percent."
    )
    (told,) = stage.told("load_refused")
    assert (told["model_id"], told["reason"]) == ("b", "insufficient_memory")


def test_memory_in_use_by_a_worker_is_not_counted_twice() -> None:
    """A worker counts with its claim; what the host's reading says of it is not everybody else's."""
    stage = stage_of()
    stage.ready("a", needs_bytes=60 * GIB)
    stage.beat("a", footprint_bytes=55 * GIB)
    stage.host(100 * GIB, 75 * GIB, a=55 * GIB)
    budget = sums(stage.fleet.state)

    assert budget is not None
    assert (budget.others, budget.workers, budget.free) == (20 * GIB, {"a": 60 * GIB}, 10 * GIB)


def test_a_worker_that_outgrew_its_claim_counts_with_what_it_costs() -> None:
    """The truth, once it is larger than the estimate."""
    stage = stage_of()
    stage.ready("a", needs_bytes=60 * GIB)
    stage.ask("r", "a")
    stage.beat("a", footprint_bytes=70 * GIB)
    stage.host(100 * GIB, 70 * GIB, a=70 * GIB)
    refused = stage.load("b", needs_bytes=25 * GIB)

    assert stage.refusal(refused).code is ErrorCode.INSUFFICIENT_MEMORY


def test_a_peak_that_was_seen_is_what_the_next_load_reserves() -> None:
    """The model was said to need 10 and cost 30 once: from then on it is the 30 that have to be free."""
    stage = stage_of()
    stage.ready("a", needs_bytes=10 * GIB, digest="a-as-it-is")
    stage.beat("a", footprint_bytes=30 * GIB)
    stage.unload("a")
    stage.die("a", code=0)
    stage.load("a", needs_bytes=10 * GIB, digest="a-as-it-is")

    assert stage.slot("a").claimed_bytes == 30 * GIB


def test_what_a_leaking_worker_cost_is_not_learned() -> None:
    """Above the mark at which it gets no more work, its size says nothing about the model."""
    stage = stage_of(worker_memory_bytes_max=20 * GIB)
    stage.ready("a", needs_bytes=10 * GIB)
    stage.beat("a", footprint_bytes=19 * GIB)

    assert stage.fleet.state.peaks.of("1") is None


def test_a_claim_ends_with_its_model() -> None:
    """Unloaded, refused by its worker or never spawned: what was reserved is free again."""
    stage = stage_of()
    stage.ready("a", needs_bytes=80 * GIB)
    stage.unload("a")
    stage.die("a", code=0)
    stage.load("b", needs_bytes=80 * GIB)
    stage.hello("b")
    stage.die("b", code=70)
    stage.load("c", needs_bytes=80 * GIB)

    assert stage.state("c") is WorkerState.SPAWNING


def test_a_model_that_waits_for_its_restart_keeps_its_claim() -> None:
    """It is to be there again, so nobody else gets its memory meanwhile."""
    stage = stage_of()
    stage.ready("a", needs_bytes=80 * GIB)
    stage.die("a")
    stage.hello("a")
    stage.die("a")
    assert stage.state("a") is WorkerState.BACKOFF
    refused = stage.load("b", needs_bytes=80 * GIB)

    assert stage.refusal(refused).code is ErrorCode.INSUFFICIENT_MEMORY


def test_a_restart_that_no_longer_fits_is_tried_again_and_refuses_nobody_who_waits() -> None:
    """Others took the memory: the wanted model is not given up, and is back when they have gone."""
    stage = stage_of()
    stage.ready("a", needs_bytes=80 * GIB)
    stage.ask("r1", "a")
    stage.host(100 * GIB, 50 * GIB)
    stage.die("a")
    assert stage.state("a") is WorkerState.BACKOFF
    assert not stage.ends("r1")
    stage.host(100 * GIB, 5 * GIB)
    stage.tick(stage.fleet.policy.restart_max_seconds + 1)
    stage.come_up("a")
    stage.finish("r1", "a", seq=0)

    assert len(stage.ends("r1")) == 1


def test_a_load_waits_at_the_gate_until_the_memory_it_was_promised_is_free() -> None:
    """While the model it replaces is still draining nothing is loaded on top of it; the worker's libraries are, meanwhile."""
    stage = stage_of()
    stage.ready("a", needs_bytes=60 * GIB)
    stage.ask("long", "a")
    stage.unload("a")
    stage.load("b", needs_bytes=60 * GIB)
    stage.hello("b")
    stage.tick(1)
    assert (stage.state("a"), stage.state("b")) == (WorkerState.DRAINING, WorkerState.SPAWNING)
    stage.finish("long", "a", seq=0)
    stage.die("a", code=0)

    assert stage.state("b") is WorkerState.LOADING


def test_a_load_whose_memory_others_took_is_refused_at_the_gate() -> None:
    """Nobody is leaving any more and it does not fit: its worker is sent home, and the order says why."""
    stage = stage_of()
    order = stage.load("b", needs_bytes=60 * GIB)
    stage.host(100 * GIB, 50 * GIB)
    stage.hello("b")
    assert stage.sent(Shutdown)
    stage.die("b", code=0)

    assert stage.refusal(order).code is ErrorCode.INSUFFICIENT_MEMORY
    assert "taken by others" in stage.refusal(order).message
    assert stage.state("b") is WorkerState.FAILED


def test_without_a_reading_or_an_estimate_nothing_is_refused() -> None:
    """What is not known is no reason to refuse."""
    blind = Stage(POLICY)
    blind.load("a", needs_bytes=10**18)
    unknown = stage_of()
    unknown.load("a")

    assert blind.state("a") is unknown.state("a") is WorkerState.SPAWNING


def test_shedding_starts_above_its_mark_and_ends_below_it() -> None:
    """Operators are told once each way; a changed mark counts with the next reading."""
    stage = stage_of(load_shedding_percent=95.0)
    for used in (94, 95, 96, 97, 95, 94):
        stage.host(100 * GIB, used * GIB)
    told = [(event["active"], event["used_percent"]) for event in stage.told("load_shedding")]

    assert told == [(True, 96.0), (False, 95.0)]
