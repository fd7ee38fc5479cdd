"""What is kept of a worker's death, as `summary.json`, the admin routes and `lmx crashes` share it.

Never the text of a prompt or an answer: requests are ids and numbers.
"""

from typing import Any

import msgspec


class CrashHeadline(msgspec.Struct, frozen=True, kw_only=True):
    """One line about a death. Times are UTC."""

    crash_id: str
    at: str
    """ISO 8601."""
    at_unix_seconds: float
    model_id: str | None
    """None: a spare, which had no model yet."""
    backend: str
    incarnation: str
    pid: int | None
    state: str
    """Of the model's slot when its worker died."""
    reason: str
    text: str
    """What died, the likely cause, and what to do."""
    exit_code: int | None
    signal: str | None
    """For example SIGSEGV."""
    uptime_seconds: float
    """From the start of the process to its death."""


class TimelineEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened to the model."""

    seconds_before: float
    """The death."""
    text: str


class MemorySample(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker cost the machine."""

    seconds_before: float
    """The death."""
    footprint_bytes: int


class CrashedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was in flight."""

    request_id: str
    prompt_characters: int
    max_tokens: int | None
    tokens_delivered: int
    replays: int
    on_trial: bool
    """It had been in flight at a crash before."""
    sampling: dict[str, Any]


class CrashSummary(CrashHeadline, frozen=True, kw_only=True):
    """Everything the supervisor knows of a death."""

    schema: int = 1
    timeline: tuple[TimelineEntry, ...] = ()
    memory_curve: tuple[MemorySample, ...] = ()
    requests: tuple[CrashedRequest, ...] = ()
    spec: dict[str, Any] | None = None
    """What was to be loaded, and how."""
    facts: dict[str, Any] | None = None
    """What its worker learned while loading."""
    versions: dict[str, str | None] = {}
    """Of LMX, Python, the platform and the backend."""


class CrashReport(msgspec.Struct, frozen=True, kw_only=True):
    """A whole crash bundle; None where there was nothing to keep."""

    summary: CrashSummary
    stack: str | None
    """The stacks of all threads, as faulthandler wrote them."""
    stderr: str | None
    """The end of what the worker printed."""
    native: str | None
    """The operating system's own report."""
