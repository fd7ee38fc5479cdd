"""Who asks on a simulated day: clients by name, keys with limits, lanes, and how long each is willing to wait."""

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lmx_protocol.messages import ModelSpec
from lmx_supervisor.core.claims import NO_CLAIM, Claim, Lane
from lmx_supervisor.core.policy import Policy

_GREED = 8
"""How many times as often as any other a greedy client asks."""
_TIME_LIMITS_SECONDS = (0.3, 2.0, 6.0, 30.0)


@dataclass(frozen=True)
class Callers:
    """The people of one day."""

    who: tuple[Claim, ...] = (NO_CLAIM,)
    """Each as often as its share of the requests is."""
    lanes: tuple[Lane, ...] = (Lane.NORMAL,)
    hurried_share: float = 0.0
    """Of the requests, those that come with a time limit."""

    def next_claim(self, dice: random.Random) -> Claim:
        """What the next request says about itself."""
        hurried = dice.random() < self.hurried_share
        seconds = dice.choice(_TIME_LIMITS_SECONDS) if hurried else None
        return replace(dice.choice(self.who), lane=dice.choice(self.lanes), time_limit_seconds=seconds)


ANONYMOUS = Callers()
"""Nobody says anything about itself."""


def draw_callers(dice: random.Random) -> Callers:
    """Named and unnamed ones, some of them behind one key; on some days one of them asks far more often than the others."""
    team = Claim(key="team", key_limit=dice.choice((None, 1, 2)))
    everybody = (
        Claim(client="anna"),
        Claim(client="ben"),
        replace(team, client="cleo"),
        replace(team, client="dora"),
        Claim(client="anna", key="lone", key_limit=dice.choice((None, 1))),
    )
    greedy = (dice.choice(everybody),) * dice.choice((0, _GREED))
    lanes = dice.choice(((Lane.NORMAL,), tuple(Lane), (*Lane, Lane.INTERACTIVE, Lane.INTERACTIVE)))
    return Callers((*everybody, *greedy), lanes, hurried_share=dice.choice((0.0, 0.2, 0.5)))


def with_limits(policy: Policy, models: Sequence[ModelSpec], dice: random.Random) -> Policy:
    """The policy with limits that are reached, lines that hold some more, and waits that are long enough for lanes to rise."""
    roomy = dice.random() < 0.5
    return replace(
        policy,
        queue_per_model=12 if roomy else policy.queue_per_model,
        queue_total=30 if roomy else policy.queue_total,
        queue_wait_seconds=dice.choice((policy.queue_wait_seconds, 40.0)),
        answer_seconds=dice.choice((policy.answer_seconds, 3.0)),
        max_concurrent_requests=dice.choice((policy.max_concurrent_requests, 3, 2)),
        per_model_concurrency_limits={models[0].model_id: 1} if dice.random() < 0.3 else {},
        per_client_default_concurrency=dice.choice((None, None, 1, 2)),
        per_client_concurrency_overrides={"anna": 3, "ben": 1} if dice.random() < 0.3 else {},
        adaptive_latency_target_seconds=dice.choice((policy.adaptive_latency_target_seconds, 0.5)),
        adaptive_latency_window=dice.choice((policy.adaptive_latency_window, 8)),
    )
