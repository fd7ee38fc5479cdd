"""Models that are idle for too long are unloaded, and no request is lost over it."""

import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Failed, Finished
from lmx_protocol.states import WorkerState
from lmx_supervisor.core import events as e
from lmx_supervisor.core.policy import Policy
from tests.support.stage import Stage

TTL = Policy(warm_spare=False, ttl_enabled=True, ttl_seconds=100.0, ttl_check_interval_seconds=10.0)


@pytest.fixture
def idle() -> Stage:
    """A READY model under a time to live of 100 s, looked at every 10."""
    stage = Stage(TTL)
    stage.tick()
    stage.ready()
    return stage


def beat_for(stage: Stage, seconds: int) -> None:
    """Time passes with heartbeats."""
    for _ in range(seconds):
        if stage.slot().incarnation is not None:
            stage.beat()
        stage.tick(1)


def test_a_model_that_was_idle_for_its_time_is_unloaded(idle: Stage) -> None:
    """Not before, and an operator is told how long it had been idle."""
    beat_for(idle, 99)
    assert idle.state() is WorkerState.READY
    beat_for(idle, 11)
    assert idle.state() is WorkerState.DRAINING
    idle.die(code=0)

    assert not idle.fleet.state.slots
    assert [event["model_id"] for event in idle.told("model_ttl_evicted")] == ["m"]
    assert idle.told("model_ttl_evicted")[0]["idle_seconds"] >= 100  # type: ignore[operator]
    assert [event["reason"] for event in idle.told("model_unloaded")] == ["ttl"]


def test_the_time_counts_from_the_end_of_the_last_request(idle: Stage) -> None:
    """A long generation is no idleness, and neither is the time before its end."""
    idle.ask("long")
    for seq in range(150):
        idle.text("long", seq)
        beat_for(idle, 1)
    assert idle.state() is WorkerState.BUSY
    idle.finish("long", seq=150)
    beat_for(idle, 95)
    assert idle.state() is WorkerState.READY
    beat_for(idle, 15)

    assert idle.state() is WorkerState.DRAINING


@pytest.mark.parametrize(("keep_alive_seconds", "gone_after"), [(0, None), (20, 25), (1000, None), (None, 115)])
def test_a_loads_own_keep_alive_goes_before_the_configuration(keep_alive_seconds: float | None, gone_after: int | None) -> None:
    """0 pins it, a shorter or longer time is its own, none leaves it to the configuration."""
    stage = Stage(TTL)
    stage.tick()
    stage.ready(keep_alive_seconds=keep_alive_seconds)
    beat_for(stage, gone_after or 500)

    assert (stage.state() is WorkerState.DRAINING) == (gone_after is not None)


def test_a_keep_alive_counts_although_the_configuration_keeps_models_for_ever() -> None:
    """Who asks for a time gets it; a second load of the served model changes it."""
    stage = Stage(Policy(warm_spare=False))
    stage.ready(keep_alive_seconds=20)
    beat_for(stage, 15)
    stage.load(keep_alive_seconds=60)
    beat_for(stage, 40)
    assert stage.state() is WorkerState.READY
    beat_for(stage, 10)

    assert stage.state() is WorkerState.DRAINING


def test_a_request_that_comes_while_it_is_unloaded_is_served_by_a_fresh_start(idle: Stage) -> None:
    """The worker has been asked to go and cannot be called back: the request waits, and the model is wanted again."""
    beat_for(idle, 115)
    idle.ask("just in time")
    assert not idle.ends("just in time")
    idle.die(code=0)
    idle.come_up()
    idle.finish("just in time", seq=0)

    assert [type(end) for end in idle.ends("just in time")] == [Finished]
    assert (idle.state(), idle.slot().wanted) == (WorkerState.READY, True)
    assert len(idle.told("model_brought_back")) == 1


def test_a_request_that_leaves_again_starts_nothing(idle: Stage) -> None:
    """No model is loaded for nobody."""
    beat_for(idle, 115)
    idle.ask("impatient")
    idle.do(e.RequestCancelled("impatient"))
    idle.die(code=0)

    assert not idle.fleet.state.slots
    assert len(idle.ends("impatient")) == 1


def test_an_unload_by_an_operator_overtakes_the_one_for_idleness(idle: Stage) -> None:
    """Who waits is told, and the model stays away."""
    beat_for(idle, 115)
    idle.ask("waiting")
    idle.unload()
    idle.die(code=0)

    (end,) = idle.ends("waiting")
    assert isinstance(end, Failed)
    assert end.code is ErrorCode.MODEL_NOT_FOUND
    assert not idle.fleet.state.slots
