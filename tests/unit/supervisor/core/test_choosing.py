"""Who is next: clients take turns, lanes go first but not for ever, and a full line does not belong to who filled it."""

import pytest

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_supervisor.core.policy import Policy
from tests.support.stage import Stage


def served_in_order(stage: Stage, model: str = "m") -> list[str]:
    """End what runs, one after the other; who came to run in which order."""
    order: list[str] = []
    while stage.slot(model).running:
        (request_id,) = stage.slot(model).running
        order.append(request_id)
        stage.finish(request_id, model, seq=0)
    return order


@pytest.fixture
def single() -> Stage:
    """A model with one slot."""
    stage = Stage(Policy(warm_spare=False))
    stage.ready(slots=1)
    return stage


def test_clients_take_turns(single: Stage) -> None:
    """One that sent three requests first gets every second turn once others are there."""
    for request_id in ("a1", "a2", "a3"):
        single.ask(request_id, client="a")
    for request_id in ("b1", "b2"):
        single.ask(request_id, client="b")

    assert served_in_order(single) == ["a1", "b1", "a2", "b2", "a3"]


def test_a_key_is_one_client_whatever_its_users_call_themselves(single: Stage) -> None:
    """New names under one key bring no further turns."""
    for number in range(3):
        single.ask(f"k{number}", client=f"name {number}", key="k")
    single.ask("b", client="b")

    assert served_in_order(single) == ["k0", "b", "k1", "k2"]


def test_who_holds_fewer_places_goes_first() -> None:
    """A client whose long answers hold two of three places waits for the next one behind a client that holds none."""
    stage = Stage(Policy(warm_spare=False))
    stage.ready(slots=3)
    for request_id, client in (("a1", "a"), ("a2", "a"), ("c", "c"), ("a3", "a"), ("b1", "b"), ("b2", "b")):
        stage.ask(request_id, client=client)
    stage.finish("c", seq=0)
    assert stage.slot().running == {"a1", "a2", "b1"}
    stage.finish("b1", seq=0)

    assert stage.slot().running == {"a1", "a2", "b2"}


def test_newcomers_cannot_overtake_for_ever(single: Stage) -> None:
    """A client that had a turn gets its next one, although with every turn somebody new comes."""
    for request_id in ("a1", "a2"):
        single.ask(request_id, client="a")
    order: list[str] = []
    for number in range(5):
        single.ask(f"new{number}", client=f"new {number}")
        (request_id,) = single.slot().running
        order.append(request_id)
        single.finish(request_id, seq=0)

    assert order.index("a2") <= 3


def test_a_newcomer_need_not_wait_for_turns_that_others_had_elsewhere() -> None:
    """Turns are counted for each model: much use of one does not make others late on another."""
    stage = Stage(Policy(warm_spare=False))
    stage.ready("m", slots=1)
    stage.ready("n", slots=1)
    stage.ask("long", "m", client="a")
    stage.ask("a2", "m", client="a")
    for number in range(10):
        stage.ask(f"n{number}", "n", client="c")
        stage.finish(f"n{number}", "n", seq=0)
    stage.ask("b", "m", client="b")

    assert served_in_order(stage) == ["long", "b", "a2"]


def test_lanes_order_those_who_wait(single: Stage) -> None:
    """Interactive before what says nothing, that before throughput; the order of arrival within."""
    single.ask("runs")
    for request_id, lane in (
        ("t1", "throughput"),
        ("n1", "normal"),
        ("i1", "interactive"),
        ("t2", "throughput"),
        ("i2", "interactive"),
    ):
        single.ask(request_id, lane=lane)

    assert served_in_order(single) == ["runs", "i1", "i2", "n1", "t1", "t2"]


def test_a_lane_gives_no_place_beyond_a_limit(single: Stage) -> None:
    """Interactive requests wait like others while the one place is taken."""
    single.ask("runs", lane="throughput")
    single.ask("waits", lane="interactive")

    assert (single.slot().running, list(single.slot().waiting)) == ({"runs"}, ["waits"])


def test_throughput_is_not_starved(single: Stage) -> None:
    """While interactive requests never stop coming, one of throughput has its turn after two ages of waiting."""
    single.ask("runs", lane="interactive", client="i")
    single.ask("t", lane="throughput", client="t")
    waited_seconds = 0.0
    for number in range(100):
        single.ask(f"i{number}", lane="interactive", client="i")
        (request_id,) = single.slot().running
        if request_id == "t":
            break
        single.now += 1.0
        waited_seconds += 1.0
        single.finish(request_id, seq=0)

    assert 2 * limits.LANE_AGEING_SECONDS <= waited_seconds <= 2 * limits.LANE_AGEING_SECONDS + 2


def test_old_requests_of_one_client_do_not_go_before_a_new_one_of_another(single: Stage) -> None:
    """A lane is lifted as a whole: who waits in it for long gains nothing over who comes to it."""
    for number in range(30):
        single.ask(f"a{number}", client="a")
    single.now += 3 * limits.LANE_AGEING_SECONDS
    single.ask("b", client="b")
    single.finish("a0", seq=0)

    assert single.slot().running == {"b"}


def test_among_models_the_limit_for_all_is_shared_by_clients() -> None:
    """With one place for two models, a client that floods both alternates with one that asks one of them."""
    stage = Stage(Policy(warm_spare=False, max_concurrent_requests=1))
    for model in ("m", "n"):
        stage.ready(model, slots=2)
    for number in range(4):
        stage.ask(f"a{number}", "mn"[number % 2], client="a")
    for number in range(2):
        stage.ask(f"b{number}", "n", client="b")
    order: list[str] = []
    while running := [(slot.model_id, *slot.running) for slot in stage.fleet.state.slots.values() if slot.running]:
        [(model, request_id)] = running
        order.append(request_id)
        stage.finish(request_id, model, seq=0)

    assert order == ["a0", "b0", "a1", "b1", "a2", "a3"]


def test_who_fills_a_line_gives_way_to_who_comes_anew() -> None:
    """The last comer of the client with the most waiting is told to come back; the newcomer waits in its stead."""
    stage = Stage(Policy(warm_spare=False, queue_per_model=3))
    stage.ready(slots=1)
    for number in range(4):
        stage.ask(f"a{number}", client="a")
    stage.ask("b1", client="b")
    (end,) = stage.ends("a3")
    assert end.code is ErrorCode.RATE_LIMIT_EXCEEDED
    assert list(stage.slot().waiting) == ["a1", "a2", "b1"]
    stage.ask("b2", client="b")
    stage.ask("a4", client="a")

    assert [end.code for name in ("b2", "a4") for end in stage.ends(name)] == [ErrorCode.RATE_LIMIT_EXCEEDED] * 2
    assert list(stage.slot().waiting) == ["a1", "a2", "b1"]


def test_the_line_of_all_models_is_shared_too() -> None:
    """Where too many wait altogether, it is a request of the client with the most waiting that goes, on whatever model."""
    stage = Stage(Policy(warm_spare=False, queue_per_model=3, queue_total=3))
    for model in ("m", "n"):
        stage.ready(model, slots=1)
        stage.ask(f"runs on {model}", model)
    for number in range(3):
        stage.ask(f"a{number}", "m", client="a")
    stage.ask("b", "n", client="b")

    assert len(stage.ends("a2")) == 1
    assert (list(stage.slot("m").waiting), list(stage.slot("n").waiting)) == (["a0", "a1"], ["b"])


def test_of_a_client_that_gives_way_the_least_urgent_goes() -> None:
    """Its throughput request goes before a later one that is interactive."""
    stage = Stage(Policy(warm_spare=False, queue_per_model=2))
    stage.ready(slots=1)
    stage.ask("runs", client="a")
    stage.ask("t", client="a", lane="throughput")
    stage.ask("i", client="a", lane="interactive")
    stage.ask("b", client="b")

    assert len(stage.ends("t")) == 1
    assert list(stage.slot().waiting) == ["i", "b"]


def test_one_a_second_waits_at_most_two_service_times_behind_a_hundred() -> None:
    """Client A sends a hundred requests at once, B one a second; an answer takes 0.4 s. On a clock of our own."""
    service_seconds = 0.4
    stage = Stage(Policy(warm_spare=False, queue_per_model=200, queue_total=200))
    stage.ready(slots=1)
    for number in range(100):
        stage.ask(f"a{number}", client="a")
    began, asked, waits = stage.now, {}, []
    for _ in range(100):
        (request_id,) = stage.slot().running
        ends_at = stage.now + service_seconds
        while began + len(asked) < ends_at and len(asked) < 25:
            stage.now = began + len(asked)
            asked[f"b{len(asked)}"] = stage.now
            stage.ask(f"b{len(asked) - 1}", client="b")
        stage.now = ends_at
        stage.finish(request_id, seq=0)
        waits += [stage.now - asked[started] for started in stage.slot().running if started in asked]

    assert len(waits) == 25
    assert max(waits) <= 2 * service_seconds
