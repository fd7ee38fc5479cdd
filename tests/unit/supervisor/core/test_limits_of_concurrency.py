"""Limits: of all models, of one, of a client, of a key; nobody holds a place while waiting for another, and all are live."""

import dataclasses
from typing import Any

import pytest

from lmx_supervisor.core import events as e
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.snapshot import fleet_view
from tests.support.stage import Stage


def stage_with(**policy: Any) -> Stage:
    """Two models of four slots each."""
    stage = Stage(Policy(warm_spare=False, **policy))
    for model in ("m", "n"):
        stage.ready(model, slots=4)
    return stage


def change(stage: Stage, **policy: Any) -> None:
    """The configuration is read again; time goes on."""
    stage.fleet.policy = dataclasses.replace(stage.fleet.policy, **policy)
    stage.tick(0.25)


def running(stage: Stage) -> list[str]:
    """The ids of what runs, on any model."""
    return sorted(request_id for slot in stage.fleet.state.slots.values() for request_id in slot.running)


def test_the_limit_for_all_models_holds_over_all_models() -> None:
    """With two places altogether a third request waits, though its own model has nothing to do."""
    stage = stage_with(max_concurrent_requests=2)
    stage.ask("1", "m")
    stage.ask("2", "m")
    stage.ask("3", "n")
    assert running(stage) == ["1", "2"]
    stage.finish("1", "m", seq=0)

    assert running(stage) == ["2", "3"]


def test_a_worker_that_dies_gives_its_places_to_other_models_at_once() -> None:
    """The request that it had waits for the restart; the one of another model need not wait for the next tick."""
    stage = stage_with(max_concurrent_requests=1)
    stage.ask("1", "m")
    stage.ask("2", "n")
    stage.die("m")

    assert running(stage) == ["2"]


def test_a_model_at_its_limit_holds_up_no_other_model() -> None:
    """What waits for a busy model holds no place of those for all models: another model's request passes it."""
    stage = stage_with(max_concurrent_requests=2, per_model_concurrency_limits={"m": 1})
    for request_id in ("1", "2", "3"):
        stage.ask(request_id, "m")
    stage.ask("4", "n")

    assert running(stage) == ["1", "4"]


@pytest.mark.parametrize(
    ("policy", "limit"),
    [
        ({"per_client_default_concurrency": 1}, 1),
        ({"per_client_concurrency_overrides": {"a": 2}}, 2),
        ({"per_client_default_concurrency": 1, "per_client_concurrency_overrides": {"a": 3}}, 3),
    ],
)
def test_a_client_at_its_limit_holds_up_no_other_client(policy: dict[str, Any], limit: int) -> None:
    """A client gets as many places as it may have, over all models; the next in line goes past its others."""
    stage = stage_with(**policy)
    for number in range(6):
        stage.ask(f"a{number}", "mn"[number % 2], client="a")
    stage.ask("b", "m", client="b")

    assert running(stage) == [*(f"a{number}" for number in range(limit)), "b"]


def test_a_keys_limit_is_over_all_who_use_it() -> None:
    """Clients that share a key share its places, whatever they call themselves; other keys have their own."""
    stage = stage_with()
    for client in ("a", "b", "c"):
        stage.ask(client, client=client, key="team", key_limit=2)
    stage.ask("d", client="a", key="other", key_limit=2)

    assert running(stage) == ["a", "b", "d"]


def test_counts_of_tokens_take_no_place_of_any_limit() -> None:
    """They are answered where every place is taken."""
    stage = stage_with(max_concurrent_requests=1)
    stage.ask("1")
    stage.ask_for_count("count")

    assert running(stage) == ["1", "count"]


@pytest.mark.parametrize(
    "wider",
    [
        {"max_concurrent_requests": 3},
        {"per_model_concurrency_limits": {}},
        {"per_client_default_concurrency": None},
        {"per_client_concurrency_overrides": {"a": 3}},
    ],
)
def test_a_wider_limit_lets_those_in_who_wait(wider: dict[str, Any]) -> None:
    """Each limit is live: what waited because of it runs after the reload."""
    narrow = {
        "max_concurrent_requests": {"max_concurrent_requests": 1},
        "per_model_concurrency_limits": {"per_model_concurrency_limits": {"m": 1}},
        "per_client_default_concurrency": {"per_client_default_concurrency": 1},
        "per_client_concurrency_overrides": {"per_client_concurrency_overrides": {"a": 1}},
    }[next(iter(wider))]
    stage = stage_with(**narrow)
    for request_id in ("1", "2", "3"):
        stage.ask(request_id, client="a")
    assert running(stage) == ["1"]
    change(stage, **wider)

    assert running(stage) == ["1", "2", "3"]


def test_a_narrower_limit_lets_what_runs_go_on() -> None:
    """Nobody is thrown out; the next one starts when fewer run than the new limit."""
    stage = stage_with()
    for request_id in ("1", "2", "3", "4", "5"):
        stage.ask(request_id)
    change(stage, max_concurrent_requests=2)
    assert running(stage) == ["1", "2", "3", "4"]
    for request_id in ("1", "2"):
        stage.finish(request_id, seq=0)
    assert running(stage) == ["3", "4"]
    stage.finish("3", seq=0)

    assert running(stage) == ["4", "5"]


def test_the_limit_in_force_is_shown() -> None:
    """It is what can really run: what the served models take, up to the limit for all of them."""
    stage = stage_with(per_model_concurrency_limits={"m": 3})
    view = fleet_view(stage.fleet.state, stage.now, 0.0)
    assert ([worker.concurrent_limit for worker in view.workers], view.concurrent_limit) == ([3, 4], 7)
    change(stage, max_concurrent_requests=5)
    stage.do(e.UnloadWanted("u", "n"))

    assert fleet_view(stage.fleet.state, stage.now, 0.0).concurrent_limit == 3


def test_lanes_are_counted_in_the_view() -> None:
    """What runs and what waits, by lane, of a model and of the whole service."""
    stage = stage_with(max_concurrent_requests=1)
    stage.ask("1", lane="interactive")
    stage.ask("2", lane="throughput")
    view = fleet_view(stage.fleet.state, stage.now, 0.0)
    counted = {lane: (count.running, count.waiting) for lane, count in view.lanes.items()}

    assert counted == {"interactive": (1, 0), "normal": (0, 0), "throughput": (0, 1)}
    assert view.worker("m").lanes == view.lanes
