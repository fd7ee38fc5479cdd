"""Which events a journal tells in words, under which heading, and the words. Pure."""

from collections.abc import Mapping

from lmx_supervisor.core.event_log import LoggedEvent
from lmx_supervisor.observe.event_names import REQUEST_COMPLETED
from lmx_supervisor.observe.journal.markdown import plain

ROUTINE = frozenset(
    {
        REQUEST_COMPLETED,
        "download_progress",
        "model_canary_started",
        "model_compatibility_recorded",
        "model_readiness_changed",
        "worker_spawned",
    }
)
"""Counted, and in the event log; in words they would hide the rest."""

DECISIONS = frozenset(
    {
        "auto_load_skipped_safe_mode",
        "crash_loop_detected",
        "load_refused",
        "model_brought_back",
        "model_evicted",
        "model_quarantined",
        "model_stepped_down",
        "model_ttl_evicted",
        "request_replayed",
        "safe_mode",
        "worker_ending",
        "worker_restarting",
    }
)
"""What the service did without having been told to."""

FILES = frozenset({"download_cancelled", "download_completed", "file_set_aside", "model_deleted"})
"""Files that came, went or were moved."""

_SUBJECTS = ("model_id", "repo_id")


def subject_of(fields: Mapping[str, object]) -> str | None:
    """The model that an event is about."""
    return next((str(value) for name in _SUBJECTS if (value := fields.get(name)) is not None), None)


def in_words(event: LoggedEvent) -> str:
    """`kind` model: field value, field value. One line, safe in Markdown."""
    said = [
        f"{plain(name)} {plain(value)}" for name, value in event.fields.items() if name not in _SUBJECTS and value is not None
    ]
    subject = subject_of(event.fields)
    head = f"`{event.kind}`" + (f" {plain(subject)}" if subject else "")
    return f"{head}: {', '.join(said)}" if said else head
