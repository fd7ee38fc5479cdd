"""Whether and when a model whose worker died is started again.

Rule: the first failure after sustained service restarts at once, so that clients wait for the load only; each further one
without sustained service in between waits, doubling (docs/adr/0004). As many failures in a row as the quarantine threshold, or
too many in the window, end in quarantine: a model that keeps crashing must not keep eating the machine.
"""

import zlib
from dataclasses import dataclass, field

from lmx_supervisor.core.exit_reason import NEVER_RESTART, ExitReason
from lmx_supervisor.core.policy import Policy


@dataclass(slots=True)
class FailureHistory:
    """The failures of one model."""

    consecutive: int = 0
    at_seconds: list[float] = field(default_factory=list)
    """Monotonic times of the failures inside the window."""

    def record(self, now: float, policy: Policy) -> None:
        """Count a failure."""
        self.consecutive += 1
        self.at_seconds = [at for at in self.at_seconds if now - at < policy.restart_window_seconds]
        self.at_seconds.append(now)

    def forgive(self) -> None:
        """Sustained service: the row of failures is broken. The window forgets by itself."""
        self.consecutive = 0


@dataclass(frozen=True, slots=True)
class RestartAfter:
    """Start again after this delay."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Do not start again until an operator acts."""

    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Starting again cannot help: the cause is the model or the installation."""


Decision = RestartAfter | Quarantine | GiveUp


def decide(history: FailureHistory, reason: ExitReason, policy: Policy, jitter_key: str) -> Decision:
    """What follows a failure that was just recorded. `jitter_key` spreads the delays of several models, reproducibly."""
    if reason in NEVER_RESTART:
        return GiveUp()
    if history.consecutive >= policy.quarantine_threshold:
        return Quarantine(f"crash_loop:{history.consecutive}")
    if len(history.at_seconds) > policy.restart_max_in_window:
        return Quarantine(f"crash_rate:{len(history.at_seconds)}")
    return RestartAfter(_delay_seconds(history.consecutive, policy, jitter_key))


def _delay_seconds(consecutive: int, policy: Policy, jitter_key: str) -> float:
    if consecutive <= 1:
        return 0.0
    delay = min(policy.restart_initial_seconds * policy.restart_factor ** (consecutive - 2), policy.restart_max_seconds)
    spread = zlib.crc32(f"{jitter_key}:{consecutive}".encode()) / 0xFFFFFFFF * 2 - 1
    return delay * (1 + policy.restart_jitter_ratio * spread)
