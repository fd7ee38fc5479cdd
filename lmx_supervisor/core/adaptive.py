"""How many requests at once are good for a model: a limit that gives way when answers begin late or memory runs short. Pure.

What is measured is neither how long answers are nor how long prompts are: the time from when a worker got a request until its
first text, for every `LATENCY_PROMPT_TOKENS` tokens of the prompt that had to be computed. Waiting in line is not part of it.
See docs/adr/0019.
"""

import math
from collections import deque

from lmx_protocol import limits
from lmx_supervisor.core.events import HostMemoryRead
from lmx_supervisor.core.policy import Policy

_SLOW_RATIO = 1.25
"""More than this many times the target is too slow."""
_HELPED_RATIO = 0.8
"""Half as many at once have to bring the latency below this share of what it was; else their number is not why it is slow."""


def latency_of(first_text_seconds: float, computed_tokens: int) -> float:
    """What one request says about the load of its model, in seconds."""
    return first_text_seconds / max(1.0, computed_tokens / limits.LATENCY_PROMPT_TOKENS)


def memory_ceiling(ceiling: int, least: int, host: HostMemoryRead | None, policy: Policy) -> int:
    """How many may run for the memory's sake: all up to the mark for loads, `least` from the mark of shedding on."""
    if host is None or host.used_percent <= policy.memory_max_percent:
        return ceiling
    marks = policy.load_shedding_percent - policy.memory_max_percent
    share = (policy.load_shedding_percent - host.used_percent) / marks if marks > 0 else 0.0
    return max(least, math.floor(ceiling * max(0.0, share)))


class AdaptiveLimit:
    """The limit of one model, as the number of places that are held back."""

    def __init__(self) -> None:
        self._held_back = 0
        self._latencies: deque[float] = deque()
        """Since the limit changed last."""
        self._p95: float | None = None
        """Of these; None: not computed yet, or there are none."""
        self._changed_at = 0.0
        self._before: float | None = None
        """The latency when places began to be held back."""
        self._in_vain_until = 0.0

    @property
    def held_back(self) -> int:
        """How many places are held back."""
        return self._held_back

    @property
    def latency_p95_seconds(self) -> float | None:
        """How late 95 % of the answers since the last change began; None: there were none."""
        if self._p95 is None and self._latencies:
            self._p95 = percentile_95(self._latencies)
        return self._p95

    def limit(self, ceiling: int) -> int:
        """How many may run for the latency's sake."""
        return max(1, ceiling - self._held_back)

    def heard(self, latency_seconds: float, ceiling: int, policy: Policy, now: float) -> None:
        """A request had its first text."""
        self._latencies.append(latency_seconds)
        while len(self._latencies) > policy.adaptive_latency_window:
            self._latencies.popleft()
        enough = max(limits.ADAPTIVE_SAMPLES_MIN, policy.adaptive_latency_window // 4)
        p95 = self._p95 = percentile_95(self._latencies)
        if len(self._latencies) < enough or p95 <= _SLOW_RATIO * policy.adaptive_latency_target_seconds:
            return
        if now < self._in_vain_until:
            return
        self._before = self._before if self._before is not None else p95
        if self.limit(ceiling) * 2 <= ceiling and p95 > _HELPED_RATIO * self._before:
            self._in_vain_until = now + limits.ADAPTIVE_IN_VAIN_SECONDS
            self._hold_back(0, now)
            return
        least = min(policy.adaptive_min_concurrent_requests, ceiling)
        held_back = min(ceiling - least, self._held_back + max(1, self.limit(ceiling) // 8))
        if held_back != self._held_back:
            self._hold_back(held_back, now)

    def recover(self, policy: Policy, now: float) -> None:
        """Time passed: give a place back when nothing that was heard since the last change speaks against it."""
        if not self._held_back or now - self._changed_at < limits.ADAPTIVE_RECOVERY_SECONDS:
            return
        if (self.latency_p95_seconds or 0.0) <= policy.adaptive_latency_target_seconds:
            self._hold_back(self._held_back - 1, now)

    def postpone(self, seconds: float) -> None:
        """Forget that time passed."""
        self._changed_at += seconds
        self._in_vain_until += seconds

    def _hold_back(self, places: int, now: float) -> None:
        self._held_back = places
        self._changed_at = now
        self._latencies.clear()
        self._p95 = None
        if not places:
            self._before = None


def percentile_95(values: deque[float]) -> float:
    """The smallest of the values that 95 % of them do not exceed; 0 of none."""
    if not values:
        return 0.0
    return sorted(values)[math.ceil(0.95 * len(values)) - 1]
