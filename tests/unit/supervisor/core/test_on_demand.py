"""Models that are loaded because requests ask for them: when, for whom others leave, and who is told to come back when."""

import dataclasses
from typing import Any

import pytest

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Cancelled, Failed, Finished, Load
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import events as e
from lmx_supervisor.core.lasting import lasting
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.snapshot import fleet_view
from tests.support.stage import Stage, spec

GIB = 1024**3
RESIDENCY = 20.0
"""Shorter than the silence after which a worker is taken for dead: those of the stage have no heartbeat of their own."""
SETTINGS: dict[str, Any] = {"warm_spare": False, "load_on_demand": True, "least_residency_seconds": RESIDENCY}


def host(**policy: object) -> Stage:
    """A host of 100 GiB, of which 90 may be used."""
    stage = Stage(Policy(**{**SETTINGS, **policy}))  # type: ignore[arg-type]  # names and types are the tests' own
    stage.host(100 * GIB)
    return stage


def wish(stage: Stage, request_id: str, model_id: str, gib: int = 60, **claim: Any) -> None:
    """A request for a model that has first been looked up."""
    stage.demand(model_id, needs_bytes=gib * GIB)
    stage.ask(request_id, model_id, **claim)


def failure(stage: Stage, request_id: str) -> Failed:
    """How a request was refused."""
    (end,) = stage.ends(request_id)
    assert isinstance(end, Failed), end
    return end


def leave(stage: Stage, model_id: str) -> None:
    """A worker that was asked to go is gone."""
    assert stage.state(model_id) is WorkerState.DRAINING
    stage.die(model_id, code=0)


def test_a_request_has_its_model_loaded_once_for_all_who_ask() -> None:
    """Two requests, one load, two answers; the model is wanted from then on, as if an operator had loaded it."""
    stage = host()
    wish(stage, "first", "a")
    wish(stage, "second", "a")
    stage.come_up("a")
    for request_id in ("first", "second"):
        stage.finish(request_id, "a", seq=0)

    assert [type(stage.ends(request_id)[0]) for request_id in ("first", "second")] == [Finished, Finished]
    assert ["a"] == [load.model.model_id for load in stage.sent(Load)]
    assert [{"model_id": "a", "requests_waiting": 1, "evicts": []}] == stage.told("model_demanded")
    assert ["a"] == [model.spec.model_id for model in lasting(stage.fleet.state).wanted]


def test_nothing_is_loaded_before_the_request_has_come_and_what_never_comes_is_forgotten() -> None:
    """A client that leaves between the look-up and the request costs nothing."""
    stage = host()
    stage.demand("a", needs_bytes=60 * GIB)
    stage.tick(limits.DEMAND_GRACE_SECONDS - 1)
    assert (WorkerState.STOPPED, 0) == (stage.state("a"), stage.loads())
    assert not fleet_view(stage.fleet.state, stage.now, 0.0).workers[0].keeps_its_line
    stage.tick(2)

    assert "a" not in stage.fleet.state.slots


@pytest.mark.parametrize(
    ("policy", "safe_mode", "words"),
    [
        ({"load_on_demand": False}, False, "Load it with `lmx load a`"),
        ({"on_demand_models": ("b", "org/*")}, False, "models.on_demand_models does not have it"),
        ({"on_demand_models": ()}, False, "models.on_demand_models does not have it"),
        ({}, True, "In safe mode no request loads a model"),
    ],
    ids=["off", "not in the list", "empty list", "safe mode"],
)  # fmt: skip
def test_what_no_request_may_load_is_refused_as_not_loaded(policy: dict[str, Any], safe_mode: bool, words: str) -> None:
    """404 that says why, and how the model is loaded all the same."""
    stage = host(**policy)
    if safe_mode:
        stage.do(e.SafeModeKnown())
    wish(stage, "r", "a")

    assert (ErrorCode.MODEL_NOT_FOUND, True) == (failure(stage, "r").code, words in failure(stage, "r").message)
    assert not stage.fleet.state.slots


def test_an_idle_model_that_served_for_long_enough_makes_room_and_the_event_says_for_whom_and_why() -> None:
    """The least recently used one, as for an operator's load, but only after its residency."""
    stage = host()
    stage.ready("old", needs_bytes=40 * GIB)
    stage.ready("older", needs_bytes=40 * GIB)
    stage.tick(1)
    stage.ask("used", "old")
    stage.finish("used", "old", seq=0)
    stage.tick(RESIDENCY)
    wish(stage, "r", "a", gib=40)
    leave(stage, "older")
    stage.come_up("a")
    stage.finish("r", "a", seq=0)

    (evicted,) = stage.told("model_evicted")
    assert ("older", "a", "lru", "on_demand") == tuple(evicted[key] for key in ("model_id", "for_model_id", "reason", "cause"))
    assert isinstance(stage.ends("r")[0], Finished)


def test_an_eviction_for_an_operators_load_says_so() -> None:
    """That one regards no residency: who orders a load gets it."""
    stage = host()
    stage.ready("a", needs_bytes=60 * GIB)
    stage.load("b", needs_bytes=60 * GIB)

    assert [("a", "load")] == [(event["model_id"], event["cause"]) for event in stage.told("model_evicted")]


def test_a_young_model_stays_and_the_request_waits_until_it_may_go() -> None:
    """Two models that take turns are not reloaded for every request: each stays for its time, used or not."""
    stage = host()
    stage.ready("a", needs_bytes=60 * GIB)
    wish(stage, "r", "b")
    (waiting,) = (worker for worker in fleet_view(stage.fleet.state, stage.now, 0.0).workers if worker.model_id == "b")
    stage.tick(RESIDENCY - 1)
    assert (WorkerState.READY, WorkerState.STOPPED) == (stage.state("a"), stage.state("b"))
    stage.tick(1)

    assert (WorkerState.DRAINING, WorkerState.SPAWNING) == (stage.state("a"), stage.state("b"))
    assert (True, "'a' has served for less than 20 s") == (waiting.on_demand, waiting.waits_because)


def test_a_wait_that_would_be_in_vain_is_refused_at_once_with_the_time_to_come_back() -> None:
    """503 with the seconds until the young model may go; one that can wait for so long does."""
    stage = host(queue_wait_seconds=100.0)
    stage.ready("a", needs_bytes=60 * GIB)
    stage.tick(5)
    wish(stage, "hasty", "b", time_limit_seconds=14.0)
    wish(stage, "patient", "b")

    refusal = failure(stage, "hasty")
    assert (ErrorCode.MODEL_LOADING, 15) == (refusal.code, refusal.retry_after_seconds)
    assert "because 'a' has served for less than 20 s" in refusal.message
    assert not stage.ends("patient")


def test_a_model_in_use_takes_turns_with_the_one_that_is_waited_for() -> None:
    """Under constant traffic for both: running requests end, new ones wait, and each model gets its turn in bounded time."""
    stage = host(queue_wait_seconds=1000.0)
    stage.ready("a", needs_bytes=60 * GIB)
    stage.tick(RESIDENCY)
    stage.ask("a1", "a")
    wish(stage, "b1", "b")
    stage.ask("a2", "a")
    assert ("b", {"a1"}, ["a2"]) == (stage.slot("a").yields_to, stage.slot("a").running, list(stage.slot("a").waiting))
    stage.finish("a1", "a", seq=0)
    leave(stage, "a")
    stage.ask("a3", "a")
    stage.come_up("b")
    stage.ask("b2", "b")
    stage.tick(RESIDENCY)
    stage.finish("b1", "b", seq=0)
    stage.ask("b3", "b")
    assert ("a", {"b2"}, ["b3"]) == (stage.slot("b").yields_to, stage.slot("b").running, list(stage.slot("b").waiting))
    stage.finish("b2", "b", seq=0)
    leave(stage, "b")
    stage.come_up("a")
    for request_id in ("a2", "a3"):
        stage.finish(request_id, "a", seq=0)

    ended = {name: type(stage.ends(name)[0]) for name in ("a1", "a2", "a3", "b1", "b2")}
    assert set(ended.values()) == {Finished}
    assert not stage.ends("b3"), "it waits for the next turn of its model"
    assert [("a", "b"), ("b", "a")] == [(event["model_id"], event["for_model_id"]) for event in stage.told("model_yields")]


def test_of_two_that_wait_for_the_same_memory_the_first_gets_it() -> None:
    """The second does not take away what was promised to the first, whoever else waits."""
    stage = host()
    stage.ready("a", needs_bytes=60 * GIB)
    stage.tick(RESIDENCY)
    stage.ask("a1", "a")
    wish(stage, "b1", "b")
    wish(stage, "c1", "c")
    stage.ask("a2", "a")
    assert ("b", "'a' makes room for another one first") == (stage.slot("a").yields_to, stage.slot("c").waits_because)
    stage.finish("a1", "a", seq=0)

    assert [("a", "b")] == [(event["model_id"], event["for_model_id"]) for event in stage.told("model_evicted")]
    assert [("a", "b")] == [(event["model_id"], event["for_model_id"]) for event in stage.told("model_yields")]


def test_a_model_that_no_request_could_bring_back_is_not_kept_from_its_requests() -> None:
    """One in use that is not in the list goes on as it pleases; it leaves when it is idle by itself."""
    stage = host(on_demand_models=("b",))
    stage.ready("a", needs_bytes=60 * GIB)
    stage.tick(RESIDENCY)
    stage.ask("a1", "a")
    wish(stage, "b1", "b")
    stage.ask("a2", "a")
    assert (None, {"a1", "a2"}) == (stage.slot("a").yields_to, stage.slot("a").running)
    for request_id in ("a1", "a2"):
        stage.finish(request_id, "a", seq=0)

    assert WorkerState.DRAINING is stage.state("a")


def test_when_nobody_waits_any_more_the_one_that_was_to_make_room_goes_on() -> None:
    """Its own requests run again at once, and the model nobody waits for is not loaded."""
    stage = host()
    stage.ready("a", needs_bytes=60 * GIB)
    stage.tick(RESIDENCY)
    stage.ask("a1", "a")
    wish(stage, "b1", "b")
    stage.ask("a2", "a")
    stage.do(e.RequestCancelled("b1"))

    assert isinstance(stage.ends("b1")[0], Cancelled)
    assert (None, {"a1", "a2"}) == (stage.slot("a").yields_to, stage.slot("a").running)
    stage.tick(limits.DEMAND_GRACE_SECONDS)
    assert (["a"], []) == (list(stage.fleet.state.slots), stage.told("model_evicted"))


def test_a_client_that_leaves_does_not_end_a_load_that_has_begun() -> None:
    """The load is the service's: it comes to its end, for the others, and for the one that comes again."""
    stage = host()
    wish(stage, "gone", "a")
    stage.do(e.RequestCancelled("gone"))
    stage.come_up("a")
    stage.ask("again", "a")
    stage.finish("again", "a", seq=0)

    assert (1, True) == (stage.loads(), isinstance(stage.ends("again")[0], Finished))


@pytest.mark.parametrize(
    ("keep_alive_seconds", "policy", "words"),
    [
        (0.0, {}, "the models that may leave would not make enough room"),
        (None, {"auto_evict_lru": False}, "no other model is unloaded for it"),
    ],
    ids=["pinned", "evictions are off"],
)
def test_what_can_never_fit_is_refused_at_once_with_the_sum(
    keep_alive_seconds: float | None, policy: dict[str, Any], words: str
) -> None:
    """503, not a wait in vain; nobody leaves for it."""
    stage = host(**policy)
    stage.ready("a", needs_bytes=60 * GIB, keep_alive_seconds=keep_alive_seconds)
    stage.tick(RESIDENCY)
    wish(stage, "r", "b")

    refusal = failure(stage, "r")
    assert ErrorCode.OVERLOADED is refusal.code
    assert "needs 60.00 GB" in refusal.message and "(a 60.00 GB)" in refusal.message and words in refusal.message
    assert (["a"], []) == (list(stage.fleet.state.slots), stage.told("model_evicted"))


@pytest.mark.parametrize("comes_back", [True, False])
def test_memory_that_may_come_back_is_waited_for(comes_back: bool) -> None:
    """While a worker leaves, what it holds can look like somebody else's: nobody is refused for that before it has left."""
    stage = host()
    stage.ready("a", needs_bytes=10 * GIB)
    stage.unload("a")
    stage.host(100 * GIB, used_bytes=50 * GIB)
    wish(stage, "r", "b")
    assert not stage.ends("r")
    if comes_back:
        stage.host(100 * GIB)
    leave(stage, "a")

    if comes_back:
        assert WorkerState.SPAWNING is stage.state("b")
    else:
        assert ErrorCode.OVERLOADED is failure(stage, "r").code


def test_a_small_model_passes_a_large_one_only_where_it_takes_nothing_of_what_that_needs() -> None:
    """No model holds up another for nothing, and none is overtaken for ever by smaller ones."""
    stage = host()
    stage.ready("a", needs_bytes=40 * GIB)
    stage.ready("b", needs_bytes=20 * GIB)
    wish(stage, "large", "c", gib=60)
    wish(stage, "small", "d", gib=10)
    wish(stage, "middling", "f", gib=15)

    assert WorkerState.STOPPED is stage.state("c"), "a must go for it, and takes 10 of the 30 that are free"
    assert WorkerState.SPAWNING is stage.state("d")
    assert WorkerState.STOPPED is stage.state("f")
    assert "waited for longer" in stage.slot("f").waits_because


def test_a_failed_load_is_not_repeated_for_every_request() -> None:
    """503 with the time after which a request may have it tried again; three failures are a quarantine, as ever."""
    stage = host()
    codes = []
    for attempt in range(3):
        wish(stage, f"r{attempt}", "a")
        stage.hello("a")
        stage.die("a", signal=11)
        wish(stage, f"at once {attempt}", "a")
        codes += [failure(stage, f"r{attempt}").code, failure(stage, f"at once {attempt}").code]
        stage.tick(limits.RESTART_MAX_SECONDS)

    for request_id in ("r0", "at once 0"):
        refusal = failure(stage, request_id)
        assert (limits.RESTART_MAX_SECONDS, True) == (refusal.retry_after_seconds, "SIGSEGV" in refusal.message)
    assert [ErrorCode.MODEL_LOADING] * 4 + [ErrorCode.MODEL_UNSTABLE] * 2 == codes
    assert 3 == stage.loads()


def test_a_load_that_fails_for_good_is_told_with_its_reason() -> None:
    """404, not an invitation to come again, to who waited and to who asks next; after a while it is looked at again."""
    stage = host()
    wish(stage, "first", "a")
    stage.hello("a")
    stage.die("a", code=70)
    wish(stage, "next", "a")
    stage.tick(limits.RESTART_MAX_SECONDS)
    wish(stage, "later", "a")

    for request_id in ("first", "next"):
        refusal = failure(stage, request_id)
        assert (ErrorCode.MODEL_NOT_FOUND, True) == (refusal.code, "the model cannot be loaded" in refusal.message)
    assert (WorkerState.SPAWNING, []) == (stage.state("a"), stage.ends("later"))


def test_a_request_for_a_model_that_was_evicted_has_it_loaded_again_in_its_turn() -> None:
    """It came while the model was leaving for another; when that one serves, it is not told 404 but waits for its turn."""
    stage = host()
    stage.ready("a", needs_bytes=60 * GIB)
    stage.load("b", needs_bytes=60 * GIB)
    stage.ask("r", "a")
    leave(stage, "a")
    stage.come_up("b")
    assert not stage.ends("r")
    stage.tick(RESIDENCY)
    leave(stage, "b")
    stage.come_up("a")
    stage.finish("r", "a", seq=0)

    assert isinstance(stage.ends("r")[0], Finished)


def test_a_load_on_demand_that_fails_brings_back_who_made_room_with_its_line() -> None:
    """Those who waited for the one that yielded are served by it."""
    stage = host()
    stage.ready("a", needs_bytes=60 * GIB)
    stage.tick(RESIDENCY)
    stage.ask("a1", "a")
    wish(stage, "b1", "b")
    stage.ask("a2", "a")
    stage.finish("a1", "a", seq=0)
    leave(stage, "a")
    stage.hello("b")
    stage.die("b", code=70)
    stage.come_up("a")
    stage.finish("a2", "a", seq=0)

    assert (ErrorCode.MODEL_NOT_FOUND, Finished) == (failure(stage, "b1").code, type(stage.ends("a2")[0]))
    assert ["a"] == [event["model_id"] for event in stage.told("model_brought_back")]


def test_a_request_that_comes_while_its_model_is_unloaded_has_it_loaded_anew() -> None:
    """It is neither lost nor served by a worker that was asked to go."""
    stage = host()
    stage.ready("a", needs_bytes=60 * GIB)
    stage.unload("a")
    wish(stage, "r", "a")
    assert 1 == stage.loads()
    leave(stage, "a")
    stage.come_up("a")
    stage.finish("r", "a", seq=0)

    assert (2, True) == (stage.loads(), isinstance(stage.ends("r")[0], Finished))


@pytest.mark.parametrize("load_on_demand", [True, False])
def test_a_request_for_a_model_that_was_idle_for_too_long_when_its_memory_is_taken(load_on_demand: bool) -> None:
    """Its fresh start does not fit any more: it waits for its turn, or is told 503 with the sum where it may not."""
    stage = host(load_on_demand=load_on_demand)
    stage.ready("a", needs_bytes=60 * GIB, keep_alive_seconds=5)
    stage.tick(6)
    stage.load("b", needs_bytes=60 * GIB)
    stage.ask("r", "a")
    leave(stage, "a")

    if load_on_demand:
        assert (WorkerState.STOPPED, ["r"]) == (stage.state("a"), list(stage.slot("a").waiting))
    else:
        assert (ErrorCode.OVERLOADED, True) == (failure(stage, "r").code, "(b 60.00 GB)" in failure(stage, "r").message)


@pytest.mark.parametrize("end", ["unload", "shutdown", "switched off", "taken from the list"])
def test_who_waits_for_room_is_told_when_there_will_be_none(end: str) -> None:
    """An operator's unload, a shutdown, and a reload that takes the permission back, leave nobody waiting."""
    stage = host()
    stage.ready("a", needs_bytes=60 * GIB)
    wish(stage, "r", "b")
    if end == "unload":
        stage.unload("b")
    elif end == "shutdown":
        stage.do(e.DrainWanted(10.0))
    else:
        change = {"load_on_demand": False} if end == "switched off" else {"on_demand_models": ("x",)}
        stage.fleet.policy = dataclasses.replace(stage.fleet.policy, **change)  # type: ignore[arg-type]  # as in `host`
        stage.tick()

    code = ErrorCode.SHUTTING_DOWN if end == "shutdown" else ErrorCode.MODEL_NOT_FOUND
    assert (code, False) == (failure(stage, "r").code, "b" in stage.fleet.state.slots)


@pytest.mark.parametrize("time_limit_seconds", [None, 1.0], ids=["waits", "was refused"])
def test_a_shorter_residency_is_in_force_at_once(time_limit_seconds: float | None) -> None:
    """A reload is heard by those who wait already, and by the next one when nobody does."""
    stage = host()
    stage.ready("a", needs_bytes=60 * GIB)
    wish(stage, "r", "b", time_limit_seconds=time_limit_seconds)
    stage.fleet.policy = dataclasses.replace(stage.fleet.policy, least_residency_seconds=0.0)
    if time_limit_seconds is None:
        stage.tick()
    else:
        wish(stage, "again", "b", time_limit_seconds=time_limit_seconds)

    assert WorkerState.SPAWNING is stage.state("b")


def test_a_quarantined_model_is_not_loaded_for_a_request() -> None:
    """409 with the reason; a look-up changes nothing."""
    stage = host()
    stage.do(e.QuarantineKnown(spec("a"), "llamacpp", "1", "crash_loop:3", 3, None))
    stage.demand("a", digest="2")
    stage.ask("r", "a")

    assert ErrorCode.MODEL_UNSTABLE is failure(stage, "r").code
    assert (WorkerState.QUARANTINED, "1") == (stage.state("a"), stage.slot("a").digest)
