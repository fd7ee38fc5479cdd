"""What is asked of a probe and what is told of it: the vocabulary that gateway and runtime share, and the verdict. Pure."""

from collections.abc import Sequence
from typing import Literal

import msgspec

Outcome = Literal["pass", "fail", "unknown"]


class ProbeOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A wish to know which backends can open a model."""

    model_id: str
    timeout_seconds: float
    """Of each backend's process."""
    allow_failed: bool = False
    """Probe even with a backend that failed the last time."""


class ProbeCandidate(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one backend. `reason` is `CODE:text`; null when it passed."""

    backend: str
    outcome: Outcome
    """`unknown`: nothing was learned about the model."""
    reason: str | None = None
    backend_version: str | None = None
    architecture: str | None = None
    duration_sec: float | None = None


class ProbeReport(msgspec.Struct, frozen=True, kw_only=True):
    """What came of all of them, in order of preference."""

    model_id: str
    recommended_backend: str | None
    candidates: tuple[ProbeCandidate, ...]


def report(model_id: str, tried: Sequence[ProbeCandidate]) -> ProbeReport:
    """The first that passed is recommended."""
    passed = next((candidate.backend for candidate in tried if candidate.outcome == "pass"), None)
    return ProbeReport(model_id=model_id, recommended_backend=passed, candidates=tuple(tried))
