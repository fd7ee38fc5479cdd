"""The adaptive limit: it follows lateness and memory, does not mind long answers or prompts, and comes back under load."""

import pytest

from lmx_protocol import limits
from lmx_protocol.messages import Prefill, StepEvents
from lmx_supervisor.core import events as e
from lmx_supervisor.core.adaptive import AdaptiveLimit, latency_of, memory_ceiling
from lmx_supervisor.core.places import most_of_model
from lmx_supervisor.core.policy import Policy
from lmx_supervisor.core.snapshot import fleet_view
from tests.support.stage import Stage

POLICY = Policy(adaptive_latency_target_seconds=1.0, adaptive_latency_window=8)
CEILING = 16


def hear(limit: AdaptiveLimit, latency_seconds: float, *, times: int = 8, now: float = 0.0, policy: Policy = POLICY) -> int:
    """So many answers began after so long; the limit afterwards."""
    for _ in range(times):
        limit.heard(latency_seconds, CEILING, policy, now)
    return limit.limit(CEILING)


def test_what_begins_in_time_is_not_held_back() -> None:
    """At the target, and a little above it, everything may run."""
    assert hear(AdaptiveLimit(), 1.0, times=100) == CEILING
    assert hear(AdaptiveLimit(), 1.2, times=100) == CEILING


def test_late_answers_lower_the_limit_step_by_step() -> None:
    """Each window of late ones holds back an eighth, at least one; a single late one among many does nothing."""
    limit = AdaptiveLimit()
    assert hear(limit, 2.0, times=7) == CEILING
    assert hear(limit, 2.0, times=1) == 14
    assert hear(limit, 2.0, times=8) == 13
    calm = AdaptiveLimit()
    policy = Policy(adaptive_latency_target_seconds=1.0, adaptive_latency_window=128)
    hear(calm, 0.1, times=40, policy=policy)
    assert hear(calm, 50.0, times=1, policy=policy) == CEILING


def test_it_never_goes_below_its_least() -> None:
    """However late, so many may run; that they begin sooner with fewer is what keeps it down."""
    limit, policy = (
        AdaptiveLimit(),
        Policy(adaptive_latency_target_seconds=1.0, adaptive_latency_window=8, adaptive_min_concurrent_requests=3),
    )
    latency = 10.0
    for _ in range(30):
        hear(limit, latency, policy=policy)
        latency *= 0.95

    assert limit.limit(CEILING) == 3


def test_it_comes_back_while_requests_run() -> None:
    """No idle moment is needed: a place comes back every few seconds in which answers begin in time."""
    limit = AdaptiveLimit()
    lowered = hear(limit, 2.0)
    now = 0.0
    for _ in range(CEILING - lowered):
        now += limits.ADAPTIVE_RECOVERY_SECONDS
        hear(limit, 0.5, times=3, now=now)
        limit.recover(POLICY, now)

    assert limit.limit(CEILING) == CEILING


def test_it_does_not_come_back_while_answers_begin_late() -> None:
    """Late, though not late enough to lower it further: it stays."""
    limit = AdaptiveLimit()
    lowered = hear(limit, 2.0)
    hear(limit, 1.2, times=3)
    limit.recover(POLICY, limits.ADAPTIVE_RECOVERY_SECONDS)

    assert limit.limit(CEILING) == lowered


def test_it_comes_back_when_nobody_asks_any_more() -> None:
    """A quiet model is at its full limit again."""
    limit = AdaptiveLimit()
    hear(limit, 2.0)
    for second in range(20):
        limit.recover(POLICY, second * limits.ADAPTIVE_RECOVERY_SECONDS)

    assert limit.limit(CEILING) == CEILING


def test_a_model_that_is_slow_by_itself_is_not_slowed_down_further() -> None:
    """Where half as many at once begin as late as before, their number is not the reason: all may run again, for a while."""
    limit = AdaptiveLimit()
    seen = [hear(limit, 10.0) for _ in range(12)]
    assert min(seen) == CEILING // 2
    assert seen[-1] == CEILING
    assert hear(limit, 10.0, now=limits.ADAPTIVE_IN_VAIN_SECONDS - 1) == CEILING

    assert hear(limit, 10.0, now=limits.ADAPTIVE_IN_VAIN_SECONDS + 1) < CEILING


@pytest.mark.parametrize(
    ("seconds", "tokens", "latency"), [(2.0, 10, 2.0), (2.0, 512, 2.0), (60.0, 512 * 40, 1.5), (2.0, 0, 2.0)]
)
def test_long_prompts_are_not_late(seconds: float, tokens: int, latency: float) -> None:
    """The time to the first text counts per 512 tokens of prompt that had to be computed."""
    assert latency_of(seconds, tokens) == latency


def test_neither_waiting_nor_talking_long_is_late() -> None:
    """What is measured begins with the lease and ends with the first text."""
    stage = Stage(Policy(warm_spare=False, adaptive_latency_target_seconds=1.0, adaptive_latency_window=8))
    stage.ready(slots=2)
    for number in range(40):
        stage.ask(f"r{number}")
    for number in range(40):
        stage.text(f"r{number}", 0)
        if number % 2:
            stage.now += 30.0
            for one in (number - 1, number):
                stage.finish(f"r{one}", seq=1)

    assert most_of_model(stage.fleet.state, stage.slot()) == 2


def test_a_late_model_gets_fewer_and_another_one_keeps_its_own() -> None:
    """Limits adapt for each model: a slow one takes nothing from others."""
    stage = Stage(Policy(warm_spare=False, adaptive_latency_target_seconds=1.0, adaptive_latency_window=8))
    for model in ("m", "n"):
        stage.ready(model, slots=4)
    for number in range(8):
        stage.ask(f"r{number}")
        stage.say(StepEvents(events=(Prefill(request_id=f"r{number}", seq=0, done_tokens=5, prompt_tokens=5),)))
        stage.now += 2.0
        stage.text(f"r{number}", 1)
        stage.finish(f"r{number}", seq=2)

    assert [most_of_model(stage.fleet.state, stage.slot(model)) for model in ("m", "n")] == [3, 4]
    view = fleet_view(stage.fleet.state, stage.now, 0.0)
    assert [(worker.concurrent_limit, worker.places_held_back) for worker in view.workers] == [(3, 1), (4, 0)]
    stage.fleet.policy = Policy(warm_spare=False, adaptive_concurrency_enabled=False)
    assert most_of_model(stage.fleet.state, stage.slot("m")) == 4


@pytest.mark.parametrize(("used_percent", "most"), [(50, 16), (90, 16), (92.5, 8), (94, 3), (95, 2), (99, 2)])
def test_short_memory_lowers_the_limit(used_percent: float, most: int) -> None:
    """From the mark of loads to that of shedding fewer and fewer may run, never less than the least."""
    host = e.HostMemoryRead(1000, 1000 - int(used_percent * 10))

    assert memory_ceiling(CEILING, 2, host, Policy()) == most
    assert memory_ceiling(CEILING, 2, None, Policy()) == CEILING


def test_memory_that_is_free_again_lets_all_run_at_once() -> None:
    """There is nothing to recover from: the limit follows the reading."""
    stage = Stage(Policy(warm_spare=False))
    stage.ready(slots=4)
    stage.host(1000, 940)
    for number in range(4):
        stage.ask(f"r{number}")
    assert len(stage.slot().running) == 1
    stage.host(1000, 500)
    stage.tick(0.25)

    assert len(stage.slot().running) == 4


def test_what_it_judges_by_is_told_anew_with_every_answer() -> None:
    """Also when somebody has looked before; and nothing is told of the time before the limit changed."""
    limit = AdaptiveLimit()
    assert limit.latency_p95_seconds is None
    hear(limit, 0.1, times=1)
    assert limit.latency_p95_seconds == 0.1
    hear(limit, 0.2, times=1)
    assert limit.latency_p95_seconds == 0.2
    hear(limit, 2.0, times=6)
    assert limit.latency_p95_seconds is None
