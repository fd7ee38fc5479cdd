"""Which idle models make room for a load, and what becomes of them."""

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Failed, Finished
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.eviction import Candidate, choose
from lmx_supervisor.core.policy import Policy
from tests.support.stage import Stage

GIB = 1024**3


def candidates(*sizes: int) -> list[Candidate]:
    """Models of these sizes, the least recently used first."""
    return [Candidate(f"m{number}", size, last_used_at=float(number)) for number, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "short", "chosen"),
    [
        ((5, 5, 5), 4, ["m0"]),
        ((5, 5, 5), 5, ["m0"]),
        ((5, 5, 5), 6, ["m0", "m1"]),
        ((5, 5, 5), 15, ["m0", "m1", "m2"]),
        ((5, 5, 5), 16, []),
        ((), 1, []),
        ((1, 9), 9, ["m1"]),
        ((1, 2, 9), 10, ["m0", "m2"]),
        ((2, 1, 9), 10, ["m0", "m2"]),
        ((3, 3, 3, 9), 12, ["m0", "m3"]),
    ],
)
def test_the_least_recently_used_that_suffice_are_chosen_and_none_for_nothing(
    sizes: tuple[int, ...], short: int, chosen: list[str]
) -> None:
    """Never one too few, never one that the others make unnecessary, none at all when all are not enough."""
    assert [candidate.model_id for candidate in choose(candidates(*sizes), short)] == chosen


def full(**policy: object) -> Stage:
    """A host of 100 GiB with three idle models of 30 GiB each: a was used first, c last."""
    stage = Stage(Policy(**{"warm_spare": False, **policy}))  # type: ignore[arg-type]
    stage.host(100 * GIB)
    for model_id in "abc":
        stage.ready(model_id, needs_bytes=30 * GIB)
        stage.tick(1)
    return stage


def test_the_least_recently_used_makes_room_and_is_told_for_whom() -> None:
    """It drains and stops before the new model loads; then it is gone, and an operator can see why."""
    stage = full()
    order = stage.load("d", needs_bytes=30 * GIB)
    stage.hello("d")
    assert [stage.state(model_id) for model_id in "abcd"] == [
        WorkerState.DRAINING,
        WorkerState.READY,
        WorkerState.READY,
        WorkerState.SPAWNING,
    ]
    stage.die("a", code=0)
    stage.come_up("d")

    assert set(stage.fleet.state.slots) == set("bcd")
    (evicted,) = stage.told("model_evicted")
    assert (evicted["model_id"], evicted["for_model_id"], evicted["reason"]) == ("a", "d", "lru")
    assert [event["reason"] for event in stage.told("model_unloaded")] == ["lru"]
    assert order in {settled.order_id for settled in stage.of(a.LoadSettled)}


def test_only_idle_models_go_never_one_that_is_busy_loading_waited_for_or_pinned() -> None:
    """a is busy, b is pinned, d is loading: c, the last used, is the only one left to go."""
    stage = full()
    stage.ask("r", "a")
    stage.load("b", keep_alive_seconds=0)
    stage.unload("c")
    stage.die("c", code=0)
    stage.load("d", needs_bytes=10 * GIB)
    stage.ready("c", needs_bytes=20 * GIB)
    stage.load("e", needs_bytes=20 * GIB)

    assert [event["model_id"] for event in stage.told("model_evicted")] == ["c"]


def test_nobody_is_evicted_when_all_of_them_would_not_be_enough() -> None:
    """The refusal says so, and everybody goes on serving."""
    stage = full()
    stage.ask("r", "a")
    refused = stage.load("d", needs_bytes=80 * GIB)

    assert "unloading every idle model would not be enough (b 30.00 GB, c 30.00 GB)" in stage.refusal(refused).message
    assert not stage.told("model_evicted")
    assert stage.refusal(refused).code is ErrorCode.INSUFFICIENT_MEMORY


def test_eviction_can_be_switched_off() -> None:
    """Then a full host refuses, and a reload of the configuration changes that."""
    stage = full(auto_evict_lru=False)
    refused = stage.load("d", needs_bytes=30 * GIB)
    assert stage.refusal(refused).code is ErrorCode.INSUFFICIENT_MEMORY
    stage.fleet.policy = Policy(warm_spare=False)
    stage.load("d", needs_bytes=30 * GIB)

    assert [event["model_id"] for event in stage.told("model_evicted")] == ["a"]


@pytest.mark.parametrize("failure", ["crash", "bad model", "unload", "canary"])
def test_the_evicted_comes_back_when_the_load_it_made_room_for_fails(failure: str) -> None:
    """However it fails: the one that was there before is served again, without anybody asking."""
    stage = full()
    stage.load("d", needs_bytes=30 * GIB)
    stage.die("a", code=0)
    stage.hello("d")
    if failure == "unload":
        stage.unload("d")
        stage.die("d", code=0)
    elif failure == "canary":
        stage.loaded("d")
        stage.canary("d", tokens=0)
        stage.die("d", code=0)
    else:
        stage.die("d", code=70 if failure == "bad model" else 3)
    stage.come_up("a")

    assert [event["model_id"] for event in stage.told("model_brought_back")] == ["a"]
    assert (stage.state("a"), stage.slot("a").wanted) == (WorkerState.READY, True)


def test_a_request_for_an_evicted_model_waits_for_the_outcome_and_is_served_when_the_load_fails() -> None:
    """It came while the model was leaving: it is neither lost nor left to wait for ever."""
    stage = full()
    stage.load("d", needs_bytes=30 * GIB)
    stage.ask("while leaving", "a")
    stage.die("a", code=0)
    stage.ask("after it left", "a")
    stage.hello("d")
    assert not stage.ends("while leaving") + stage.ends("after it left")
    stage.die("d", code=70)
    stage.come_up("a")
    for request_id in ("while leaving", "after it left"):
        stage.finish(request_id, "a", seq=0)

    assert [type(end) for request_id in ("while leaving", "after it left") for end in stage.ends(request_id)] == [Finished] * 2


def test_a_request_for_an_evicted_model_is_refused_when_the_load_succeeds() -> None:
    """404, with the name of the model that has its memory now."""
    stage = full()
    stage.load("d", needs_bytes=30 * GIB)
    stage.ask("r", "a")
    stage.die("a", code=0)
    stage.come_up("d")

    (end,) = stage.ends("r")
    assert isinstance(end, Failed)
    assert (end.code, "to make room for 'd'" in end.message) == (ErrorCode.MODEL_NOT_FOUND, True)


def test_a_load_that_fails_while_the_evicted_still_drains_brings_it_back_too() -> None:
    """Its worker has been asked to go and cannot be called back; a fresh one starts when it has left."""
    stage = full()
    stage.load("d", needs_bytes=30 * GIB)
    stage.do(e.SpawnFailed(stage.incarnation("d"), "no more processes"))
    assert stage.state("a") is WorkerState.DRAINING
    stage.die("a", code=0)
    stage.come_up("a")

    assert stage.state("a") is WorkerState.READY


def test_an_operator_may_load_or_unload_what_was_evicted_meanwhile() -> None:
    """An unload is obeyed and ends its return; a load of it stands in line for memory like any other."""
    stage = full()
    stage.load("d", needs_bytes=30 * GIB)
    stage.die("a", code=0)
    order = stage.load("a", needs_bytes=30 * GIB)
    assert stage.state("a") is WorkerState.SPAWNING, "b makes room for it"
    assert not [refused for refused in stage.of(a.OrderRefused) if refused.order_id == order]
    stage.load("e", needs_bytes=30 * GIB)
    stage.die("c", code=0)
    unload = stage.unload("c")

    assert "c" not in stage.fleet.state.slots
    assert unload in {settled.order_id for settled in stage.of(a.UnloadSettled)}
