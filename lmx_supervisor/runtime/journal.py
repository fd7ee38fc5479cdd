"""The journals, written as things happen: events come in on the loop and are written in a thread of their own.

What a crash leaves: every event that was told more than a moment ago as a whole line, the session log at most a second older
than its last news, and every update log. A disk that takes nothing costs what could not be written, counted and told once;
it never holds up the loop, a request or a stop.
"""

import asyncio
import contextlib
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import tzinfo
from pathlib import Path

from lmx_protocol import limits
from lmx_supervisor.core.event_log import LoggedEvent
from lmx_supervisor.observe.journal.event_lines import event_line, lost_line
from lmx_supervisor.observe.journal.session_log import Session, SessionLog
from lmx_supervisor.observe.journal.update_log import UpdateLog, UpdateLogs
from lmx_supervisor.runtime import journal_files as files
from lmx_supervisor.runtime.atomic_file import FileWriteError, remove_leftovers, write_atomically


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalSettings:
    """Where the journals are kept, which, and for how long."""

    session_logs: Path
    update_logs: Path
    event_lines: bool
    zone: tzinfo
    retention_days: int
    session_logs_max: int


@dataclass(frozen=True, slots=True)
class _End:
    """The last thing that is written."""

    how: str


class Journal:
    """Takes events from its creation, on a running loop, to `close`."""

    def __init__(self, settings: JournalSettings, session: Session, complain: Callable[[str], None]) -> None:
        """`complain` takes the text of a failure, on the loop: once, and again only after the disk has worked in between."""
        self._loop = asyncio.get_running_loop()
        self._waiting: queue.SimpleQueue[LoggedEvent | _End] = queue.SimpleQueue()
        self._refused = 0
        self._all_written = asyncio.Event()
        self._complain = complain
        self._writer = _Writer(settings, session, self._complain_on_loop)
        # A daemon: a write that hangs on a dead disk must not keep the process.
        threading.Thread(target=self._write_all, name="journal", daemon=True).start()

    def take(self, event: LoggedEvent) -> None:
        """Have an event written. Never waits and never raises: past the bound it is lost, and counted."""
        if self._waiting.qsize() >= limits.JOURNAL_QUEUE_EVENTS:
            self._refused += 1
        else:
            self._waiting.put(event)

    async def close(self, how: str) -> None:
        """Write what waits and how the run ended, for at most `JOURNAL_CLOSE_SECONDS`."""
        self._waiting.put(_End(how))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.JOURNAL_CLOSE_SECONDS):
                await self._all_written.wait()

    def _write_all(self) -> None:
        self._writer.begin()
        end: _End | None = None
        while end is None:
            events, end = self._next_batch()
            self._writer.write(events, self._refused)
        self._writer.end(end.how)
        # A closed loop: nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._all_written.set)

    def _next_batch(self) -> tuple[list[LoggedEvent], _End | None]:
        """What has come, bounded; empty when something else is due first."""
        events: list[LoggedEvent] = []
        wait_seconds = self._writer.due_in()
        with contextlib.suppress(queue.Empty):
            while len(events) < limits.JOURNAL_BATCH_EVENTS:
                item = self._waiting.get(timeout=0.0 if events else wait_seconds)
                if isinstance(item, _End):
                    return events, item
                events.append(item)
        return events, None

    def _complain_on_loop(self, text: str) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._complain, text)


class _Writer:
    """Everything that the thread does; used by it alone."""

    def __init__(self, settings: JournalSettings, session: Session, complain: Callable[[str], None]) -> None:
        began = session.local(session.started_at_unix_seconds)
        self._settings = settings
        self._session = session
        self._complain = complain
        self._is_failing = False
        self._complained_at = -limits.LOG_COMPLAINT_SECONDS
        self._page = SessionLog(session)
        self._updates = UpdateLogs(session)
        self._event_log = files.EventLogFile(settings.session_logs, session.device, began)
        self._update_logs = files.UpdateLogDirectory(settings.update_logs)
        self._page_path = settings.session_logs
        self._version_before = session.version
        self._unwritten = 0
        """Events that are missing in the event log, and that it does not say so yet."""
        self._refused = 0
        now = time.monotonic()
        self._page_at = now - limits.JOURNAL_PAGE_SECONDS
        self._page_due_at: float | None = now
        self._prune_at = now

    def begin(self) -> None:
        """Mend what a crash left, forget what is old, write the first pages."""
        session, directory = self._session, self._settings.session_logs
        self._page_path = files.free_session_path(directory, session.device, session.local(session.started_at_unix_seconds))
        for used in (directory, self._settings.update_logs):
            remove_leftovers(used)
        self._try(lambda: files.mend_event_logs(directory))
        self._version_before = self._update_logs.newest_version() or session.version
        self._write_update(self._updates.start())
        self._version_before = session.version
        self._do_what_is_due()

    def write(self, events: list[LoggedEvent], refused: int) -> None:
        """Write events in every form they have, and what else is due. `refused`: how many ever did not come in."""
        self._note_lost(refused - self._refused)
        self._refused = refused
        for event in events:
            update = self._updates.take(event)
            self._plan_page(limits.JOURNAL_PAGE_SECONDS if self._page.take(event) else limits.JOURNAL_QUIET_PAGE_SECONDS)
            if update is not None:
                self._write_update(update)
        self._append(events)
        self._do_what_is_due()

    def due_in(self) -> float:
        """Seconds until something is due without any news."""
        due_at = self._prune_at if self._page_due_at is None else min(self._prune_at, self._page_due_at)
        return max(0.0, due_at - time.monotonic())

    def end(self, how: str) -> None:
        """The last page."""
        self._write_page(how)
        self._event_log.close()

    def _append(self, events: list[LoggedEvent]) -> None:
        if not self._settings.event_lines or not (events or self._unwritten):
            return
        zone = self._session.zone
        gap = lost_line(self._unwritten, time.time(), zone) if self._unwritten else b""
        lines = gap + b"".join(event_line(event, zone) for event in events)
        if self._try(lambda: self._event_log.append(lines)):
            self._unwritten = 0
        else:
            self._note_lost(len(events))

    def _note_lost(self, count: int) -> None:
        self._unwritten += count
        self._page.note_lost(count)

    def _write_update(self, update: UpdateLog) -> None:
        def compose(number: int) -> str:
            return update.text(number, self._session, self._version_before)

        self._try(lambda: self._update_logs.write(update.at, update.title, compose))

    def _plan_page(self, after_seconds: float) -> None:
        due_at = self._page_at + after_seconds
        self._page_due_at = due_at if self._page_due_at is None else min(self._page_due_at, due_at)

    def _do_what_is_due(self) -> None:
        now = time.monotonic()
        if self._page_due_at is not None and self._page_due_at <= now:
            self._write_page(None)
        if self._prune_at <= now:
            self._prune_at = now + limits.JOURNAL_PRUNE_SECONDS
            oldest = files.oldest_kept(self._settings.retention_days)
            files.prune_sessions(self._settings.session_logs, self._settings.session_logs_max, oldest)
            self._update_logs.prune(oldest)

    def _write_page(self, ended: str | None) -> None:
        self._page_at, self._page_due_at = time.monotonic(), None
        text = self._page.text(time.time(), ended)
        if not self._try(lambda: write_atomically(self._page_path, text.encode(errors="replace"))):
            self._plan_page(limits.JOURNAL_QUIET_PAGE_SECONDS)

    def _try(self, work: Callable[[], None]) -> bool:
        """Whether the disk did it. The first of several failures in a row is told."""
        try:
            work()
        except (OSError, FileWriteError) as error:
            now = time.monotonic()
            if not self._is_failing and now - self._complained_at >= limits.LOG_COMPLAINT_SECONDS:
                self._complained_at = now
                self._complain(f"The journal cannot be written: {error}. What happens meanwhile is missing in it.")
            self._is_failing = True
            return False
        self._is_failing = False
        return True
