"""How long an answer may take: as long as its client said it waits, and no longer than the service lets any take. Pure.

The client's time runs from the arrival of its request, the service's from when a worker gets it: what a request waits before
that is bounded elsewhere, and is not the answer's fault.
"""

from dataclasses import dataclass

from lmx_supervisor.core.ledger import Entry


@dataclass(frozen=True, slots=True)
class TimeLimit:
    """What ends an answer that is not whole by then."""

    ends_by: float
    """Monotonic second."""
    text: str
    """What its client is told, and what it can do."""


def time_limit_of(entry: Entry, answer_seconds: float | None) -> TimeLimit | None:
    """The limit of a leased request that is over first; None while nothing bounds it.

    `answer_seconds`: what the service allows; None: it does not say. The canary, which is ours, has a bound of its own.
    """
    limits: list[TimeLimit] = []
    if entry.ends_by is not None:
        text = f"The answer was not ready within the {entry.claim.time_limit_seconds:g} s that its request allowed"
        limits.append(TimeLimit(entry.ends_by, f"{text}; ask for less, or allow more (Request-Timeout-Ms)."))
    if answer_seconds is not None and not entry.internal:
        text = f"The answer was not ready within {answer_seconds:g} s, which is all that the server allows one"
        advice = "ask for less, or have models.inference_timeout_sec raised"
        limits.append(TimeLimit(entry.leased_at + answer_seconds, f"{text}; {advice}."))
    return min(limits, key=lambda limit: limit.ends_by, default=None)
