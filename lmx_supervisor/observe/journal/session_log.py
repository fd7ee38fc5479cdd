"""The session log: what one run of the service came to, as a page to read. Pure; bounded, however long the run is."""

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, tzinfo

from lmx_protocol import limits
from lmx_supervisor.core.event_log import LoggedEvent
from lmx_supervisor.observe.event_names import REQUEST_COMPLETED
from lmx_supervisor.observe.journal.event_words import DECISIONS, FILES, ROUTINE, in_words
from lmx_supervisor.observe.journal.markdown import front_matter, plain, section, table


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What is known of a run when it begins. `metadata` is shown as it is: no secrets."""

    device: str
    user: str
    version: str
    started_at_unix_seconds: float
    zone: tzinfo
    metadata: Mapping[str, object]

    def local(self, unix_seconds: float) -> datetime:
        """A moment in the journal's time zone."""
        return datetime.fromtimestamp(unix_seconds, self.zone)


class _Lines:
    """The newest lines of one section."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=limits.JOURNAL_LINES_MAX)
        self._count = 0

    def add(self, line: str) -> None:
        self._lines.append(line)
        self._count += 1

    def shown(self) -> list[str]:
        earlier = self._count - len(self._lines)
        note = [f"- … {earlier} earlier ones are in the event log"] if earlier else []
        return [*note, *self._lines]


class SessionLog:
    """Takes every event, gives the page as it is at a moment."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._counts: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._models: dict[str, None] = {}
        self._files, self._changes, self._decisions, self._issues = _Lines(), _Lines(), _Lines(), _Lines()
        self._next_steps: dict[str, None] = {}
        self._deaths = self._lost = 0

    def take(self, event: LoggedEvent) -> bool:
        """Note an event; returns whether the page should be written soon."""
        self._count(event)
        if event.kind in ROUTINE and not event.alarming:
            return False
        line = f"- {self._session.local(event.at_unix_seconds):%H:%M:%S} {in_words(event)}"
        if event.alarming:
            self._issues.add(line)
        if event.kind in DECISIONS:
            self._decisions.add(line)
        elif event.kind in FILES:
            self._files.add(line)
        elif not event.alarming:
            self._changes.add(line)
        self._note_next_step(event)
        return True

    def note_lost(self, count: int) -> None:
        """So many events could not be written down one by one."""
        self._lost += count

    def text(self, now_unix_seconds: float, ended: str | None) -> str:
        """The page. `ended` says how the run ended; None while it goes on, which is also what a crash leaves."""
        session = self._session
        began = session.local(session.started_at_unix_seconds)
        duration_seconds = max(0, round(now_unix_seconds - session.started_at_unix_seconds))
        matter = {
            "date": f"{began:%Y-%m-%d}",
            "time": f"{began:%H:%M}",
            "device": session.device,
            "user": session.user,
            "model": ", ".join(self._models) or None,
            "duration": _duration(duration_seconds),
        }
        notes = [
            *section("Event Summary", table(("Event", "Count"), self._counts.most_common()), level=3),
            *section("Startup Metadata", table(("Name", "Value"), list(session.metadata.items())), level=3),
        ]
        lines = [
            *front_matter(matter),
            *section("Summary", self._summary(ended)),
            *section("Files Changed", self._files.shown()),
            *section("Status Changes", self._changes.shown()),
            *section("Decisions Made", self._decisions.shown()),
            *section("Issues Encountered", self._issues.shown()),
            *section("Next Steps", [f"- {step}" for step in self._next_steps]),
            "## Notes",
            "",
            *notes,
        ]
        return "\n".join(lines)

    def _count(self, event: LoggedEvent) -> None:
        if event.kind in self._counts or len(self._counts) < limits.JOURNAL_KINDS_MAX:
            self._counts[event.kind] += 1
        if event.kind == REQUEST_COMPLETED:
            self._outcomes[str(event.fields.get("outcome"))] += 1
        self._deaths += event.kind == "worker_exited" and event.alarming
        model_id = event.fields.get("model_id")
        if event.kind == "model_loaded" and isinstance(model_id, str) and len(self._models) < limits.JOURNAL_MODELS_MAX:
            self._models[model_id] = None

    def _note_next_step(self, event: LoggedEvent) -> None:
        step = _next_step(event)
        if step is not None:
            # The newest of its kind at the end, however often it comes.
            self._next_steps.pop(step, None)
            self._next_steps[step] = None
            if len(self._next_steps) > limits.JOURNAL_STEPS_MAX:
                del self._next_steps[next(iter(self._next_steps))]

    def _summary(self, ended: str | None) -> list[str]:
        requests = ", ".join(f"{count} {outcome}" for outcome, count in sorted(self._outcomes.items())) or "none"
        how = ended or "it runs, or was cut off: nothing below is later than the last time this page was written"
        lost = [f"- Events that are missing in the event log: {self._lost}"] if self._lost else []
        return [
            f"- LMX {plain(self._session.version)} on {plain(self._session.device)}; {how}.",
            f"- Models loaded: {', '.join(map(plain, self._models)) or 'none'}",
            f"- Requests ended: {requests}",
            f"- Workers that died: {self._deaths}",
            *lost,
        ]


def _next_step(event: LoggedEvent) -> str | None:
    model = plain(event.fields.get("model_id") or "")
    if event.kind == "model_quarantined":
        return f"{model} is quarantined: see why with `lmx crashes`, then `lmx quarantine clear`"
    if event.kind == "worker_exited" and event.fields.get("crash_id"):
        return f"A worker of {model} died: `lmx crashes show {plain(event.fields['crash_id'])}`"
    if event.kind == "file_set_aside":
        return "A file could not be used and was set aside; look at it, then delete it"
    return None


def _duration(seconds: int) -> str:
    return f"{seconds // 3600}h {seconds % 3600 // 60:02d}m {seconds % 60:02d}s"
