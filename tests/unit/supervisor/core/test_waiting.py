"""How long requests wait, what their clients' own limits change, and what they are told."""

import dataclasses

import pytest

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Cancel, Cancelled, StepEvents
from lmx_supervisor.core.policy import Policy
from tests.support.stage import Stage


def cancelled(stage: Stage, request_id: str, seq: int) -> None:
    """The worker has stopped a request."""
    stage.say(StepEvents(events=(Cancelled(request_id=request_id, seq=seq),)))


@pytest.fixture
def busy() -> Stage:
    """A model with one slot, and one request that runs."""
    stage = Stage(Policy(warm_spare=False))
    stage.ready(slots=1)
    stage.ask("runs")
    return stage


def test_a_changed_patience_holds_for_those_who_wait_already(busy: Stage) -> None:
    """The wait limit is live: a shorter one ends a wait that the longer one would have let go on."""
    busy.ask("waits")
    busy.beat()
    busy.tick(1.0)
    busy.fleet.policy = dataclasses.replace(busy.fleet.policy, queue_wait_seconds=2.0)
    assert not busy.ends("waits")
    busy.beat()
    busy.tick(1.0)
    (end,) = busy.ends("waits")

    assert end.code is ErrorCode.OVERLOADED
    assert end.retry_after_seconds is not None


def test_a_client_that_waits_no_longer_than_it_said_is_told_in_time(busy: Stage) -> None:
    """Its own limit ends the wait before the service's does, and the message names it."""
    busy.ask("hurried", time_limit_seconds=1.5)
    busy.tick(1.0)
    assert not busy.ends("hurried")
    busy.tick(0.5)
    (end,) = busy.ends("hurried")

    assert end.code is ErrorCode.OVERLOADED
    assert "its own limit is 1.5 s" in end.message


def test_an_answer_that_takes_too_long_for_its_client_is_ended(busy: Stage) -> None:
    """The worker is told to stop; its place is free when it has stopped, and the client is told why."""
    busy.ask("hurried", time_limit_seconds=3.0)
    busy.ask("next")
    busy.tick(1.0)
    busy.finish("runs", seq=0)
    busy.text("hurried", 0)
    busy.tick(2.0)
    assert [message.request_id for message in busy.sent(Cancel)] == ["hurried"]
    assert busy.slot().running == {"hurried"}
    cancelled(busy, "hurried", 1)

    assert [end.code for end in busy.ends("hurried")] == [ErrorCode.DEADLINE_EXCEEDED]
    assert busy.slot().running == {"next"}


def test_an_answer_that_is_whole_before_its_worker_hears_of_the_limit_counts(busy: Stage) -> None:
    """Whichever comes first wins; nothing follows."""
    busy.ask("hurried", time_limit_seconds=3.0)
    busy.finish("runs", seq=0)
    busy.tick(3.0)
    busy.finish("hurried", seq=0)

    assert [type(end).__name__ for end in busy.ends("hurried")] == ["Finished"]


def test_a_worker_that_dies_while_it_stops_an_answer_that_is_too_late(busy: Stage) -> None:
    """The client is told of its limit all the same, and nothing is replayed."""
    busy.ask("hurried", time_limit_seconds=3.0)
    busy.finish("runs", seq=0)
    busy.tick(3.0)
    busy.die()

    assert [end.code for end in busy.ends("hurried")] == [ErrorCode.DEADLINE_EXCEEDED]


def test_an_answer_that_takes_longer_than_any_may_is_ended() -> None:
    """The service's limit runs from when a worker got the request, whatever it waited; its place is free for the next."""
    stage = Stage(Policy(warm_spare=False, answer_seconds=5.0))
    stage.ready(slots=1)
    for request_id in ("first", "second"):
        stage.ask(request_id)
    stage.tick(4.0)
    stage.finish("first", seq=0)
    stage.text("second", 0)
    stage.tick(4.0)
    assert not stage.sent(Cancel)
    stage.tick(1.0)
    assert [message.request_id for message in stage.sent(Cancel)] == ["second"]
    stage.ask("third")
    cancelled(stage, "second", 1)
    (end,) = stage.ends("second")

    assert (end.code, "models.inference_timeout_sec" in end.message) == (ErrorCode.DEADLINE_EXCEEDED, True)
    assert stage.slot().running == {"third"}
    assert stage.slot().failures.consecutive == 0


def test_the_canary_has_a_bound_of_its_own() -> None:
    """A model whose first answer takes long is not ended by the limit for clients' answers."""
    stage = Stage(Policy(warm_spare=False, answer_seconds=5.0))
    stage.load()
    stage.hello()
    stage.loaded()
    for _ in range(10):
        stage.beat()
        stage.tick(1.0)
    assert not stage.sent(Cancel)
    stage.canary()

    assert stage.state() == "ready"


def test_what_cannot_begin_in_time_is_refused_at_once(busy: Stage) -> None:
    """No answer of this model began in less than two seconds: one that is to be whole in less is not even queued."""
    busy.now += 2.0
    busy.text("runs", 0)
    busy.ask("hopeless", time_limit_seconds=1.9)
    busy.ask("hopeful", time_limit_seconds=2.1)
    (end,) = busy.ends("hopeless")

    assert end.code is ErrorCode.OVERLOADED
    assert list(busy.slot().waiting) == ["hopeful"]


def test_what_cannot_begin_in_time_any_more_is_never_started(busy: Stage) -> None:
    """When its turn comes there is less time left than any answer took to begin: the place goes to the next."""
    busy.now += 2.0
    busy.text("runs", 0)
    busy.ask("late", time_limit_seconds=2.1)
    busy.ask("next")
    busy.now += 0.2
    busy.finish("runs", seq=1)

    assert [end.code for end in busy.ends("late")] == [ErrorCode.OVERLOADED]
    assert busy.slot().running == {"next"}


def test_a_model_that_comes_back_too_late_refuses_at_once() -> None:
    """Its restart is due after the request's time is over: waiting would be in vain."""
    stage = Stage(Policy(warm_spare=False, restart_jitter_ratio=0.0, restart_initial_seconds=10.0))
    stage.ready()
    for _ in range(2):
        stage.die()
        if stage.slot().incarnation is not None:
            stage.come_up()
    assert stage.slot().state == "backoff"
    stage.ask("hurried", time_limit_seconds=5.0)
    stage.ask("patient")

    assert [end.code for end in stage.ends("hurried")] == [ErrorCode.MODEL_LOADING]
    assert not stage.ends("patient")


def test_who_is_refused_is_told_when_the_line_will_be_served() -> None:
    """Retry-After is made from what answers took: three before it, two places, answers of four seconds."""
    stage = Stage(Policy(warm_spare=False, queue_per_model=2))
    stage.ready(slots=2)
    stage.ask("first")
    stage.now += 4.0
    stage.finish("first", seq=0)
    for name in ("r1", "r2", "w1", "w2", "refused"):
        stage.ask(name)
    (end,) = stage.ends("refused")

    assert (end.code, end.retry_after_seconds) == (ErrorCode.RATE_LIMIT_EXCEEDED, 6)


def test_retry_after_stays_within_bounds() -> None:
    """Whatever answers took, nobody is sent away for longer than a minute."""
    stage = Stage(Policy(warm_spare=False, queue_per_model=0))
    stage.ready(slots=1)
    stage.ask("first")
    stage.now += 1e6
    stage.finish("first", seq=0)
    stage.ask("runs")
    stage.ask("refused")
    (end,) = stage.ends("refused")

    assert end.retry_after_seconds == limits.RETRY_AFTER_MAX_SECONDS
