"""Prefetching: when a model is loaded that nobody asked for, all the times it is not, and that it is the first to go."""

from collections.abc import Callable

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import actions as a
from lmx_supervisor.core import events as e
from lmx_supervisor.core.lasting import lasting
from lmx_supervisor.core.policy import Policy
from tests.support.stage import Stage, spec

TOTAL = 100_000
"""Of which 90 000 may be used."""


def foreseeing(**policy: object) -> Stage:
    """A fleet that serves `a` and has seen `b` follow it again and again."""
    settings = {"warm_spare": False, "warm_pool_enabled": True, "prefetch_interval_seconds": 60.0, "warm_pool_size": 1}
    stage = Stage(Policy(**{**settings, **policy}))  # type: ignore[arg-type]  # names and types are the tests' own
    stage.host(TOTAL)
    stage.do(e.AccessesKnown(("a", "b", "a", "b"), 4))
    stage.tick()
    stage.ready("a", needs_bytes=30_000)
    return stage


def test_the_likely_next_model_is_there_before_it_is_asked_for() -> None:
    """After the interval it is looked for, loaded, and told of; a request finds it ready, and it is used from then on."""
    stage = foreseeing()
    assert [] == [action for action in stage.tick(59.0) if isinstance(action, a.Prefetch)]
    stage.tick(2.0)
    assert [a.Prefetch("b")] == stage.of(a.Prefetch)

    stage.prefetch("b", 30_000)
    stage.come_up("b")
    assert (WorkerState.READY, True) == (stage.state("b"), stage.slot("b").prefetched)
    assert ["b"] == [told["model_id"] for told in stage.told("model_prefetched")]
    stage.ask("r", "b")
    assert not stage.slot("b").prefetched


def shed(stage: Stage) -> None:
    """The host is full."""
    stage.host(TOTAL, used_bytes=99_000)


@pytest.mark.parametrize(
    ("hinder", "policy"),
    [
        (lambda stage: None, {"warm_pool_enabled": False}),
        (shed, {}),
        (lambda stage: stage.do(e.SafeModeKnown()), {}),
        (lambda stage: stage.do(e.DrainWanted(100.0)), {}),
        (lambda stage: stage.load("c"), {}),
        (lambda stage: stage.load("b"), {}),
        (lambda stage: stage.do(e.QuarantineKnown(spec("b"), "llamacpp", "1", "crash_loop:3", 3, None)), {}),
    ],
    ids=["off", "shedding", "safe mode", "draining", "another load", "loaded already", "quarantined"],
)  # fmt: skip
def test_times_at_which_nothing_is_prefetched(hinder: Callable[[Stage], object], policy: dict[str, object]) -> None:
    """Neither is a model looked for, nor is one loaded that was found just before."""
    stage = foreseeing(**policy)
    hinder(stage)
    stage.tick(120.0)
    assert [] == stage.of(a.Prefetch)

    before = set(stage.fleet.state.slots)
    order_id = stage.prefetch("b", 30_000)
    assert (ErrorCode.OVERLOADED, before) == (stage.refusal(order_id).code, set(stage.fleet.state.slots))
    assert [] == stage.told("load_refused")


@pytest.mark.parametrize(
    ("needs_bytes", "code"), [(70_000, ErrorCode.INSUFFICIENT_MEMORY), (None, ErrorCode.OVERLOADED), (60_000, None)]
)
def test_only_what_fits_beside_everybody_else(needs_bytes: int | None, code: ErrorCode | None) -> None:
    """Nobody leaves for it, and nobody is alarmed; of a model whose need is not known nobody can say that it fits."""
    stage = foreseeing()
    order_id = stage.prefetch("b", needs_bytes)

    refused = [refusal.code for refusal in stage.of(a.OrderRefused) if refusal.order_id == order_id]
    assert ([] if code is None else [code], code is None) == (refused, "b" in stage.fleet.state.slots)
    assert WorkerState.READY is stage.state("a")
    assert [] == stage.told("load_refused") + stage.told("model_evicted")


def test_the_pool_has_a_size() -> None:
    """While as many as it may hold have not been used, no other comes; one that was used is not counted."""
    stage = foreseeing()
    stage.prefetch("b", 30_000)
    stage.come_up("b")
    order_id = stage.prefetch("c", 30_000)
    stage.ask("r", "b")
    stage.prefetch("d", 10_000)

    assert "full" in stage.refusal(order_id).message
    assert {"a", "b", "d"} == set(stage.fleet.state.slots)


def test_what_nobody_used_is_the_first_to_go() -> None:
    """Although another model was idle for longer."""
    stage = foreseeing()
    stage.tick(30.0)
    stage.prefetch("b", 30_000)
    stage.come_up("b")
    stage.load("c", needs_bytes=60_000)

    assert ["b"] == [told["model_id"] for told in stage.told("model_evicted")]


def test_what_nobody_used_is_not_brought_back_by_the_next_start() -> None:
    """It is no model that anybody wanted."""
    stage = foreseeing()
    stage.prefetch("b", 30_000)
    stage.come_up("b")
    before = [model.spec.model_id for model in lasting(stage.fleet.state).wanted]
    stage.ask("r", "b")

    assert ["a"] == before
    assert ["a", "b"] == [model.spec.model_id for model in lasting(stage.fleet.state).wanted]


def test_an_operators_load_joins_a_prefetch() -> None:
    """The one load answers, and the model belongs to whom ordered it."""
    stage = foreseeing()
    stage.prefetch("b", 30_000)
    order_id = stage.load("b")
    stage.come_up("b")

    assert order_id in [settled.order_id for settled in stage.of(a.LoadSettled)]
    assert not stage.slot("b").prefetched
    assert [] == stage.told("model_prefetched")


def test_a_prefetch_that_fails_is_not_tried_again_and_again() -> None:
    """The model stays where operators see why; what was loaded for nobody is restarted for nobody."""
    stage = foreseeing()
    stage.tick(61.0)
    stage.prefetch("b", 30_000)
    stage.hello("b")
    stage.die("b")
    stage.tick(300.0)

    assert WorkerState.FAILED is stage.state("b")
    assert 1 == len(stage.of(a.Prefetch))


def test_new_settings_hold_at_once() -> None:
    """Switched on, the pool looks at once; then after the interval of the configuration in force."""
    stage = foreseeing(warm_pool_enabled=False)

    def looks() -> int:
        return len(stage.of(a.Prefetch))

    stage.tick(100.0)
    assert 0 == looks()
    stage.fleet.policy = Policy(warm_spare=False, warm_pool_enabled=True, prefetch_interval_seconds=1000.0)
    stage.tick(900.0)
    assert 1 == looks()
    stage.fleet.policy = Policy(warm_spare=False, warm_pool_enabled=True, prefetch_interval_seconds=50.0)
    stage.tick()
    assert 2 == looks()


def test_requests_and_loads_are_what_is_remembered() -> None:
    """Not the models of a start, nor requests that were refused."""
    stage = Stage()
    stage.load("s", at_start=True)
    stage.ask("r0", "unheard-of")
    stage.ready("a")
    stage.ask("r1", "a")

    assert ("a", "a") == stage.fleet.state.predictor.view(()).history
