"""Update logs: one numbered page for each thing that changed what the service serves, or how. Pure; bounded."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from lmx_protocol import limits
from lmx_supervisor.core.event_log import LoggedEvent
from lmx_supervisor.observe.journal.event_words import ROUTINE, in_words, subject_of
from lmx_supervisor.observe.journal.markdown import front_matter, plain, section, table
from lmx_supervisor.observe.journal.session_log import Session


@dataclass(frozen=True, slots=True)
class _Kind:
    """What an event that is worth a page was about."""

    title: str
    category: str
    inputs: tuple[str, ...] = ()
    """Fields that somebody asked for; the others are what came of it."""


_WORTH_A_PAGE: Mapping[str, _Kind] = {
    "config_reloaded": _Kind("reload", "config"),
    "download_cancelled": _Kind("cancel-download", "download", ("repo_id", "revision")),
    "download_completed": _Kind("download", "download", ("repo_id", "revision")),
    "download_failed": _Kind("download-failed", "download", ("repo_id", "revision")),
    "load_refused": _Kind("load-refused", "model", ("model_id",)),
    "model_deleted": _Kind("delete", "model", ("model_id",)),
    "model_loaded": _Kind("load", "model", ("model_id", "backend", "format")),
    "model_quarantined": _Kind("quarantine", "model", ("model_id", "backend")),
    "model_unloaded": _Kind("unload", "model", ("model_id", "reason")),
    "quarantine_cleared": _Kind("clear-quarantine", "model", ("model_id", "by")),
    "safe_mode": _Kind("safe-mode", "service"),
    "service_stopped": _Kind("stop", "service"),
}


@dataclass(frozen=True, slots=True)
class UpdateLog:
    """One page; its file gets the next number."""

    title: str
    at: datetime
    category: str
    summary: str
    inputs: tuple[tuple[str, object], ...]
    steps: tuple[tuple[str, str, str], ...]
    """Time, result, what happened."""

    def text(self, number: int, session: Session, version_before: str) -> str:
        """The page under its number."""
        matter = {
            "id": number,
            "date": f"{self.at:%Y-%m-%d}",
            "time": f"{self.at:%H:%M:%S}",
            "author": session.user,
            "version_before": version_before,
            "version_after": session.version,
            "commit": None,
            "promoted": None,
            "category": self.category,
        }
        lines = [
            *front_matter(matter),
            *section("Summary", [self.summary]),
            *section("Command Inputs", [f"- {name}: {plain(value)}" for name, value in self.inputs]),
            *section("Step Results", _steps_table(self.steps)),
        ]
        return "\n".join(lines)


class UpdateLogs:
    """Takes every event, gives a page when one is due."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._steps: dict[str, deque[LoggedEvent]] = {}
        """Model → what has happened to it since its last page."""

    def start(self) -> UpdateLog:
        """The page of the start itself."""
        session = self._session
        summary = f"LMX {plain(session.version)} was started on {plain(session.device)}."
        inputs = tuple((str(name), value) for name, value in session.metadata.items())
        return UpdateLog("start", session.local(session.started_at_unix_seconds), "service", summary, inputs, ())

    def take(self, event: LoggedEvent) -> UpdateLog | None:
        """Note an event; returns the page it is worth, or None."""
        subject = subject_of(event.fields)
        kind = _WORTH_A_PAGE.get(event.kind)
        steps = self._steps.pop(subject, deque(maxlen=limits.JOURNAL_STEPS_MAX)) if subject is not None else deque()
        if event.kind not in ROUTINE or event.kind in ("worker_spawned", "model_canary_started"):
            steps.append(event)
        if kind is None:
            self._keep(subject, steps)
            return None
        title = kind.title if subject is None else f"{kind.title}-{subject}"
        at = self._session.local(event.at_unix_seconds)
        inputs = tuple((name, event.fields[name]) for name in kind.inputs if event.fields.get(name) is not None)
        return UpdateLog(title, at, kind.category, in_words(event), inputs, tuple(self._step(step) for step in steps))

    def _keep(self, subject: str | None, steps: deque[LoggedEvent]) -> None:
        if subject is None or not steps:
            return
        self._steps[subject] = steps
        if len(self._steps) > limits.JOURNAL_MODELS_MAX:
            del self._steps[next(iter(self._steps))]

    def _step(self, event: LoggedEvent) -> tuple[str, str, str]:
        at = self._session.local(event.at_unix_seconds)
        return f"{at:%H:%M:%S}", "failed" if event.alarming else "ok", in_words(event)


def _steps_table(steps: tuple[tuple[str, str, str], ...]) -> list[str]:
    # The words are Markdown already; a second escape would show the first.
    rows = [f"| {number} | {at} | {result} | {words} |" for number, (at, result, words) in enumerate(steps, start=1)]
    return [*table(("Step", "Time", "Result", "What"), [("", "", "", "")])[:2], *rows] if rows else []
