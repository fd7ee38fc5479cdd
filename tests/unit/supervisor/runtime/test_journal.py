"""The journals on a real disk: written as things happen, bounded, numbered, mended; and a disk that does not take them."""

import asyncio
import json
import os
import stat
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lmx_protocol import limits
from lmx_supervisor.core.event_log import LoggedEvent
from lmx_supervisor.observe.journal.session_log import Session
from lmx_supervisor.runtime import journal as journal_module
from lmx_supervisor.runtime import journal_files as files
from lmx_supervisor.runtime.journal import Journal, JournalSettings
from lmx_supervisor.runtime.journal_archive import JournalArchive

BEGAN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
SESSION = Session(
    device="box", user="ann", version="1.2", started_at_unix_seconds=BEGAN.timestamp(), zone=UTC, metadata={"pid": 7}
)
OLD = time.time() - 40 * 86400


class Desk:
    """The journals of one run, in a directory of their own."""

    def __init__(self, home: Path, **changes: object) -> None:
        self.sessions, self.updates = home / "session-logs", home / "update-logs"
        self.complaints: list[str] = []
        self.complained = asyncio.Event()
        known: dict[str, object] = {
            "session_logs": self.sessions,
            "update_logs": self.updates,
            "event_lines": True,
            "zone": UTC,
            "retention_days": 30,
            "session_logs_max": 100,
        }
        self._number = 0
        self.journal = Journal(JournalSettings(**(known | changes)), SESSION, self._complain)  # type: ignore[arg-type]

    def _complain(self, text: str) -> None:
        self.complaints.append(text)
        self.complained.set()

    def tell(self, kind: str, **fields: object) -> None:
        """Something happens."""
        self._number += 1
        self.journal.take(LoggedEvent(self._number, kind, BEGAN.timestamp() + self._number, fields))

    def rows(self) -> list[dict[str, object]]:
        """Every line of every event log."""
        logs = sorted(self.sessions.glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        return [json.loads(line) for path in logs for line in path.read_text().splitlines()]

    def page(self) -> str:
        """The session log."""
        (path,) = self.sessions.glob("*.md")
        return path.read_text()

    def numbers(self) -> list[int]:
        """Of the update logs."""
        return sorted(int(path.name.partition("_")[0]) for path in self.updates.iterdir())


async def until(true: Callable[[], bool]) -> None:
    """Let the thread come to it."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110 - another thread writes files; there is no event to wait for
            await asyncio.sleep(0.01)


async def test_everything_is_written_before_anybody_closes(tmp_path: Path) -> None:
    """Line, page and update log are there while the run goes on; all of it is private."""
    desk = Desk(tmp_path)
    desk.tell("model_loaded", model_id="m")
    await until(lambda: len(desk.rows()) == 1 and "`model_loaded` m" in desk.page() and len(desk.numbers()) == 2)
    written = [*desk.sessions.iterdir(), *desk.updates.iterdir()]
    await desk.journal.close("it was stopped in order")

    assert {0o600} == {stat.S_IMODE(path.stat().st_mode) for path in written}
    assert {0o700} == {stat.S_IMODE(path.stat().st_mode) for path in (desk.sessions, desk.updates)}
    assert [200, 201] == desk.numbers()
    assert "it was stopped in order" in desk.page()
    assert [] == desk.complaints


async def test_closing_writes_what_waits_in_order(tmp_path: Path) -> None:
    """A thousand events in a moment: none is lost and none twice."""
    desk = Desk(tmp_path)
    for number in range(1000):
        desk.tell("request_completed", request_id=str(number), outcome="finished")
    await desk.journal.close("it was stopped in order")

    assert [str(number) for number in range(1000)] == [row["data"]["request_id"] for row in desk.rows()]  # type: ignore[index]
    assert "Requests ended: 1000 finished" in desk.page()


async def test_a_disk_that_hangs_costs_counted_events_and_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Past the bound events are lost, the loop never waits, and the journal says how many are missing."""
    monkeypatch.setattr(limits, "JOURNAL_QUEUE_EVENTS", 5)
    answers = threading.Event()
    append = files.EventLogFile.append

    def append_late(log: files.EventLogFile, lines: bytes) -> None:
        answers.wait(20)
        append(log, lines)

    monkeypatch.setattr(files.EventLogFile, "append", append_late)
    desk = Desk(tmp_path)
    for _ in range(400):
        desk.tell("x")
    answers.set()
    await desk.journal.close("it was stopped in order")
    gaps = [row["data"]["lost"] for row in desk.rows() if row["event_type"] == "journal_gap"]  # type: ignore[index]

    assert 400 == sum(gaps) + sum(row["event_type"] == "x" for row in desk.rows())
    assert sum(gaps) > 0
    assert f"missing in the event log: {sum(gaps)}" in desk.page()


async def test_a_full_disk_is_told_once_and_whole_lines_go_on_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While nothing can be written nothing else happens; then a row stands for what is missing."""
    desk = Desk(tmp_path)
    desk.tell("before")
    await until(lambda: len(desk.rows()) == 1)
    full = threading.Event()
    full.set()
    write, write_page = os.write, journal_module.write_atomically

    def short_write(descriptor: int, data: memoryview) -> int:
        if full.is_set() and threading.current_thread().name == "journal":
            if len(data) > 10:
                return write(descriptor, data[:10])
            raise OSError(28, "No space left on device")
        return write(descriptor, data)

    def no_page(path: Path, data: bytes) -> None:
        if full.is_set():
            raise files_error(path)
        write_page(path, data)

    monkeypatch.setattr(os, "write", short_write)
    monkeypatch.setattr(journal_module, "write_atomically", no_page)
    for _ in range(3):
        desk.tell("meanwhile")
        await desk.complained.wait()
    await until(lambda: desk.journal._waiting.qsize() == 0)
    full.clear()
    desk.tell("after")
    await desk.journal.close("it was stopped in order")

    assert 1 == len(desk.complaints)
    assert "No space left" in desk.complaints[0]
    rows = desk.rows()
    assert ["before", "journal_gap", "after"] == [row["event_type"] for row in rows if row["event_type"] != "meanwhile"]
    assert 3 == sum(row["data"].get("lost", 1) for row in rows if row["event_type"] in ("journal_gap", "meanwhile"))  # type: ignore[attr-defined]


def files_error(path: Path) -> Exception:
    """A disk that is full."""
    return journal_module.FileWriteError(path, OSError(28, "No space left on device"))


async def test_the_oldest_are_forgotten_by_age_and_by_number(tmp_path: Path) -> None:
    """At the start; never the newest, and nothing that is not a journal's."""
    sessions, updates = tmp_path / "session-logs", tmp_path / "update-logs"
    sessions.mkdir()
    updates.mkdir()
    for day in range(1, 6):
        for suffix in ("-0304-box-lmx-service.md", "-030405-box-events.jsonl"):
            path = sessions / f"2025-01-0{day}{suffix}"
            path.write_text("{}\n")
            os.utime(path, (time.time() - 100 + day, time.time() - 100 + day))
    os.utime(sessions / "2025-01-05-0304-box-lmx-service.md", (OLD, OLD))
    (sessions / "notes.md").write_text("mine")
    for number in (200, 998, 999):
        path = updates / f"{number}_2025-01-01_load-m.md"
        path.write_text(f'version_after: "{number}"\n')
        os.utime(path, (OLD, OLD))
    desk = Desk(tmp_path, session_logs_max=3)
    desk.tell("model_loaded", model_id="m")
    await until(lambda: bool(desk.rows()))
    await desk.journal.close("it was stopped in order")

    kept = sorted(path.name[:10] for path in sessions.glob("*.md") if path.name != "notes.md")
    assert ["2025-01-03", "2025-01-04", "2026-01-02"] == kept
    assert (sessions / "notes.md").exists()
    assert [1000, 1001] == desk.numbers()
    assert 'version_before: "999"' in next(updates.glob("1000_*")).read_text()


async def test_names_that_are_taken_are_left_alone(tmp_path: Path) -> None:
    """Two runs that begin in the same second have a page and a log each."""
    for _ in range(2):
        desk = Desk(tmp_path)
        desk.tell("x")
        await desk.journal.close("it was stopped in order")

    assert 2 == len(list(desk.sessions.glob("*.md")))
    assert 2 == len(list(desk.sessions.glob("*.jsonl")))


@pytest.mark.parametrize(
    ("left", "kept"),
    [
        (b'{"a":1}\n{"b":', b'{"a":1}\n'),
        (b'{"a":1}\n', b'{"a":1}\n'),
        (b'{"a"', b""),
        (b"", b""),
    ],
)
def test_half_a_line_of_a_crash_is_cut_off(tmp_path: Path, left: bytes, kept: bytes) -> None:
    """Whole lines before it stay as they are."""
    log = tmp_path / "2026-01-02-030405-box-events.jsonl"
    log.write_bytes(left)
    files.mend_event_logs(tmp_path)

    assert kept == log.read_bytes()


def test_a_log_that_is_large_or_was_taken_away_goes_on_in_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bound on every file, and a log that somebody deleted does not swallow what follows."""
    monkeypatch.setattr(limits, "JOURNAL_EVENT_FILE_BYTES_MAX", 10)
    log = files.EventLogFile(tmp_path / "logs", "box", BEGAN)
    for _ in range(2):
        log.append(b"0123456789\n")
    assert log.path is not None
    log.path.unlink()
    log.append(b"x\n")
    log.close()

    assert {b"0123456789\n", b"x\n"} == {path.read_bytes() for path in (tmp_path / "logs").iterdir()}


def test_the_event_logs_are_bounded_in_bytes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The newest stay, as many as fit; the newest of all always does."""
    monkeypatch.setattr(limits, "JOURNAL_EVENT_BYTES_TOTAL", 25)
    for day in range(1, 5):
        path = tmp_path / f"2026-01-0{day}-030405-box-events.jsonl"
        path.write_bytes(b"x" * 10)
        os.utime(path, (day, day))
    files.prune_sessions(tmp_path, 100, 0.0)

    assert ["2026-01-03", "2026-01-04"] == sorted(path.name[:10] for path in tmp_path.iterdir())


def test_an_archive_shows_plain_files_only(tmp_path: Path) -> None:
    """The newest first, with the time from the name; links, directories, FIFOs and other files are not there."""
    (tmp_path / "2026-01-02-0304-box-lmx-service.md").write_text("page")
    (tmp_path / "2026-01-03-030405-box-events.jsonl").write_text("{}\n")
    (tmp_path / "secret.yaml").write_text("key: hush")
    (tmp_path / "link.md").symlink_to(tmp_path / "secret.yaml")
    (tmp_path / "directory.md").mkdir()
    os.mkfifo(tmp_path / "fifo.md")
    archive = JournalArchive(tmp_path, UTC)

    assert [
        ("2026-01-03-030405-box-events.jsonl", 3, "2026-01-03T03:04:05+00:00"),
        ("2026-01-02-0304-box-lmx-service.md", 4, "2026-01-02T03:04:00+00:00"),
    ] == [(shown.filename, shown.size_bytes, shown.created_at) for shown in archive.files()]
    assert {None} == {archive.find(name) for name in ("link.md", "directory.md", "fifo.md", "../x.md", "secret.yaml")}
    assert [] == JournalArchive(tmp_path / "none", UTC).files()


def test_a_file_is_read_as_it_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Piece by piece; what is appended meanwhile is not part of the answer, and another file of that name is not mixed in."""
    monkeypatch.setattr(limits, "JOURNAL_PIECE_BYTES", 4)
    path = tmp_path / "a.md"
    path.write_bytes(b"0123456789")
    archive = JournalArchive(tmp_path, UTC)
    found = archive.find("a.md")
    assert found is not None
    with path.open("ab") as file:
        file.write(b"more")
    pieces = [archive.piece(found, offset) for offset in (0, 4, 8, 10)]
    other = tmp_path / "b"
    other.write_bytes(b"abcdefghij")
    other.replace(path)

    assert [b"0123", b"4567", b"89", b""] == pieces
    assert b"" == archive.piece(found, 0)
