"""What a seed decides before the day begins: the policy, the models, and how much goes wrong how often."""

import random
from dataclasses import dataclass, replace

from lmx_protocol.messages import ModelSpec
from lmx_protocol.states import ModelFormat
from lmx_supervisor.core.policy import Policy
from tests.sim.callers import ANONYMOUS, Callers, draw_callers, with_limits

LONG_DAY_EVERY = 100
"""One seed in so many is a long day under the policy that ships."""
_ANONYMOUS_SHARE = 0.25
"""Of the days, those on which nobody says who it is."""


@dataclass(frozen=True)
class Scenario:
    """One day's conditions. Times in seconds; shares are probabilities."""

    seed: int
    busy_seconds: float
    policy: Policy
    models: tuple[ModelSpec, ...]
    backends: tuple[str, ...]
    tick_seconds: float
    ask_every_seconds: float
    order_every_seconds: float
    sleep_every_seconds: float
    misfortune: float
    """Share of workers that something is wrong with."""
    poison_share: float
    cancel_share: float
    burst_share: float
    lone_poison: bool
    """Nothing goes wrong but one prompt that crashes its model: the model must stay."""
    quarantined_before: bool
    step_seconds: float
    callers: Callers = ANONYMOUS


def brisk_policy(rng: random.Random) -> Policy:
    """The shipped policy with every delay shortened, so that a short day sees many of them pass."""
    return Policy(
        hello_seconds=3.0,
        load_stall_seconds=4.0,
        load_total_seconds=12.0,
        canary_seconds=4.0,
        beat_suspect_seconds=2.0,
        beat_dead_seconds=4.0,
        progress_stall_seconds=6.0,
        hang_abort_grace_seconds=1.0,
        stop_grace_seconds=2.0,
        kill_wait_seconds=2.0,
        drain_seconds=rng.choice((2.0, 6.0)),
        restart_initial_seconds=0.5,
        restart_max_seconds=4.0,
        restart_stable_seconds=6.0,
        restart_window_seconds=40.0,
        restart_max_in_window=rng.choice((3, 5)),
        quarantine_threshold=rng.choice((2, 3, 5)),
        queue_per_model=rng.choice((1, 3, 6)),
        queue_total=rng.choice((4, 8)),
        queue_wait_seconds=8.0,
        warm_spare=rng.random() < 0.7,
        worker_memory_bytes_max=8 << 30 if rng.random() < 0.3 else None,
    )


def draw_scenario(seed: int, rng: random.Random, *, anonymous: bool = False) -> Scenario:
    """The conditions of a seed's day. `anonymous`: nobody says who it is, which changes nothing else about the day."""
    long_day = seed % LONG_DAY_EVERY == LONG_DAY_EVERY - 1
    lone_poison = not long_day and rng.random() < 0.05
    models = tuple(
        ModelSpec(
            model_id=name,
            path=f"/models/{name}.gguf",
            format=ModelFormat.GGUF,
            slots=rng.choice((1, 2, 4)),
            context_length=rng.choice((0, 700, 4096)),
        )
        for name in "abcd"[: rng.choice((1, 2, 2, 3))]
    )
    scenario = Scenario(
        seed=seed,
        busy_seconds=1500.0 if long_day else rng.choice((30.0, 45.0, 60.0)),
        policy=Policy() if long_day or lone_poison else brisk_policy(rng),
        models=models,
        backends=("llamacpp", "mlx"),
        tick_seconds=0.25 if rng.random() < 0.2 and not long_day else 1.0,
        ask_every_seconds=5.0 if long_day else rng.choice((0.3, 0.6, 1.2)),
        order_every_seconds=40.0 if long_day else rng.choice((1.0, 3.0, 8.0)),
        # A suspicion is forgotten with time, slept or not: over a sleep a second try is a first one.
        sleep_every_seconds=1e9 if lone_poison else 200.0 if long_day else rng.choice((15.0, 60.0, 600.0)),
        misfortune=0.0 if lone_poison else rng.choice((0.0, 0.1, 0.2, 0.4, 0.8)),
        poison_share=rng.choice((0.1, 0.5)) if lone_poison else rng.choice((0.0, 0.0, 0.1, 0.3)),
        cancel_share=rng.choice((0.0, 0.1, 0.4)),
        burst_share=rng.choice((0.0, 0.1, 0.3)),
        lone_poison=lone_poison,
        quarantined_before=rng.random() < 0.1,
        step_seconds=1.0 if long_day else rng.choice((0.1, 0.2, 0.5)),
    )
    dice = dice_of_callers(seed)
    if anonymous or lone_poison or dice.random() < _ANONYMOUS_SHARE:
        return scenario
    return replace(scenario, callers=draw_callers(dice), policy=with_limits(scenario.policy, models, dice))


def dice_of_callers(seed: int) -> random.Random:
    """Dice of their own for who asks: a day without names is what it was before people had any."""
    return random.Random(f"callers of {seed}")
