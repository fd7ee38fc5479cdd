"""One simulated day: people come, things go wrong; the faults stop and everything comes to rest; the service stops."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from math import inf

from lmx_protocol import limits
from lmx_supervisor.core import events as e
from lmx_supervisor.core.policy import Policy
from tests.sim.judging.promise import BrokenPromiseError, promise
from tests.sim.people import People
from tests.sim.scenario import Scenario, draw_scenario
from tests.sim.world import START_AT, World

_DRAIN_AT_ONCE_SHARE = 0.3


class DayFailedError(AssertionError):
    """A promise was broken, or the core raised; says how to see it again."""


@dataclass(frozen=True)
class Diary:
    """What a day was like; equal for equal seeds."""

    seed: int
    simulated_seconds: float
    events: int
    workers: int
    requests: int
    ended: tuple[tuple[str, int], ...]
    quarantines: int


def run_day(
    seed: int, *, anonymous: bool = False, steps_max: int | None = None, trace: Callable[[str], None] | None = None
) -> Diary:
    """Live through the day of a seed; `anonymous`: nobody says who it is. Raises `DayFailedError`."""
    rng = random.Random(seed)
    scenario = draw_scenario(seed, rng, anonymous=anonymous)
    world = World(scenario, rng, trace)
    try:
        _live(world, scenario, rng, steps_max)
    except Exception as error:
        what = str(error) if isinstance(error, BrokenPromiseError) else f"{type(error).__name__}: {error}"
        which = "--anonymous " if anonymous else ""
        replay = f"python -m tests.sim --seed {seed} {which}--steps {world.events_handled} --verbose"
        raise DayFailedError(f"seed {seed}, event {world.events_handled}: {what}\nreplay: {replay}") from error
    return Diary(
        seed=seed,
        simulated_seconds=world.agenda.now - START_AT,
        events=world.events_handled,
        workers=len(world.workers),
        requests=world.judge.requests_asked,
        ended=tuple(sorted(world.judge.requests_ended().items())),
        quarantines=world.judge.quarantines,
    )


def _live(world: World, scenario: Scenario, rng: random.Random, steps_max: int | None) -> None:
    agenda = world.agenda

    def until(when: float, done: Callable[[], bool] = lambda: False) -> None:
        while not done() and (steps_max is None or world.events_handled < steps_max):
            if not agenda.step(when):
                return

    people = People(world)
    people.begin()
    until(inf, lambda: people.at_home)
    if scenario.lone_poison:
        promise(not world.judge.quarantines, "one prompt that crashes its model cost the model")
    if rng.random() >= _DRAIN_AT_ONCE_SHARE:
        world.calm_down()
        until(agenda.now + rest_bound_seconds(scenario.policy), world.judge.at_rest)
        if steps_max is None:
            promise(world.judge.at_rest(), f"no rest: {list(world.fleet.state.slots.values())}")
        if steps_max is None:
            world.judge.judge_rest()
    world.post_when_awake(e.DrainWanted(scenario.policy.drain_seconds))
    until(agenda.now + drain_bound_seconds(scenario.policy), lambda: world.stopped)
    if steps_max is None:
        world.judge.judge_end_of_day()


def rest_bound_seconds(policy: Policy) -> float:
    """How long it may take until everything that was wrong has been found, ended and replaced, one after another."""
    found = policy.hello_seconds + policy.load_total_seconds + policy.canary_seconds + policy.progress_stall_seconds
    ended = policy.drain_seconds + limits.STOP_GRACE_LARGE_SECONDS + policy.hang_abort_grace_seconds + _OTHER_SECONDS
    replaced = policy.restart_max_seconds * (1 + policy.restart_jitter_ratio) * policy.quarantine_threshold
    return found + ended + replaced + policy.queue_wait_seconds + policy.beat_dead_seconds


def drain_bound_seconds(policy: Policy) -> float:
    """How long a shutdown may take at most."""
    return policy.drain_seconds + limits.STOP_GRACE_LARGE_SECONDS + policy.hang_abort_grace_seconds + _OTHER_SECONDS


_OTHER_SECONDS = 60.0 + 10.0 + 10.0
"""A supervisor stopped at the moment the bound begins, an unkillable process, and a few ticks."""
