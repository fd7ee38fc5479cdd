"""The journals' directories: appending whole lines, writing and counting pages, forgetting the oldest. All calls block.

Every file is private. A full disk is an `OSError` or a `FileWriteError`, and what was there before it is whole.
"""

import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import msgspec

from lmx_protocol import limits
from lmx_supervisor.observe.journal import names
from lmx_supervisor.runtime.atomic_file import write_atomically

_DAY_SECONDS = 86400.0
_VERSION_LINE = "version_after: "


class EventLogFile:
    """Appends to the events of one session; goes on in a further file when one is large, or was taken away."""

    def __init__(self, directory: Path, device: str, began: datetime) -> None:
        self._directory = directory
        self._device = device
        self._began = began
        self._descriptor: int | None = None
        self._attempt = 0
        self.path: Path | None = None
        """The file of now; None before the first line."""

    def append(self, lines: bytes) -> None:
        """Write whole lines, or nothing. Raises `OSError`."""
        descriptor = self._open()
        size_bytes = os.fstat(descriptor).st_size
        try:
            rest = memoryview(lines)
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        except OSError:
            # Half a line would spoil the next one; a full disk can still be given back.
            os.ftruncate(descriptor, size_bytes)
            raise

    def close(self) -> None:
        """Nothing is appended any more."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _open(self) -> int:
        if self._descriptor is not None:
            found = os.fstat(self._descriptor)
            if found.st_nlink and found.st_size < limits.JOURNAL_EVENT_FILE_BYTES_MAX:
                return self._descriptor
            self.close()
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for attempt in range(self._attempt + 1, self._attempt + limits.JOURNAL_NAMES_TRIED_MAX):
            self._attempt = attempt
            path = self._directory / names.events_name(self._began, self._device, attempt)
            with suppress(FileExistsError):
                self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                self.path = path
                return self._descriptor
        raise FileExistsError("every name for the event log is taken")


def free_session_path(directory: Path, device: str, began: datetime) -> Path:
    """Where the session log of a run that begins now goes; an earlier run of the same minute keeps its own."""
    attempts = range(1, limits.JOURNAL_NAMES_TRIED_MAX)
    paths = (directory / names.session_name(began, device, attempt) for attempt in attempts)
    return next((path for path in paths if not path.exists()), directory / names.session_name(began, device, 1))


class UpdateLogDirectory:
    """The numbered pages. Numbers grow for ever: the newest page is never forgotten."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def write(self, at: datetime, title: str, compose: Callable[[int], str]) -> None:
        """Write a page under the next number. Raises `FileWriteError`."""
        number = self._newest()[0] + 1
        write_atomically(self._directory / names.update_name(number, at, title), compose(number).encode(errors="replace"))

    def newest_version(self) -> str | None:
        """The version that wrote the newest page; None when that cannot be told."""
        path = self._newest()[1]
        if path is None:
            return None
        try:
            head = path.read_bytes()[: limits.JOURNAL_PIECE_BYTES].decode(errors="replace")
            lines = (line for line in head.splitlines() if line.startswith(_VERSION_LINE))
            version = msgspec.json.decode(next(lines, "null").removeprefix(_VERSION_LINE))
        except (OSError, msgspec.DecodeError):
            return None
        return version if isinstance(version, str) else None

    def prune(self, older_than_unix_seconds: float) -> None:
        """Keep the newest pages."""
        pages = sorted(self._pages(), key=lambda page: page[0], reverse=True)
        _keep_newest([path for _, path in pages], limits.JOURNAL_UPDATES_MAX, older_than_unix_seconds)

    def _newest(self) -> tuple[int, Path | None]:
        return max(self._pages(), key=lambda page: page[0], default=(names.FIRST_UPDATE_NUMBER - 1, None))

    def _pages(self) -> list[tuple[int, Path]]:
        pages = ((names.update_number(path.name), path) for path in _files(self._directory))
        return [(number, path) for number, path in pages if number is not None]


def prune_sessions(directory: Path, count_max: int, older_than_unix_seconds: float) -> None:
    """Keep the newest session logs, and the newest event logs within their bound of bytes. The newest of each always stays."""
    newest_first = sorted(_files(directory), key=_written_at, reverse=True)
    _keep_newest([path for path in newest_first if names.is_session_log(path.name)], count_max, older_than_unix_seconds)
    event_logs = [path for path in newest_first if names.is_event_log(path.name)]
    _keep_newest(event_logs, count_max, older_than_unix_seconds, limits.JOURNAL_EVENT_BYTES_TOTAL)


def mend_event_logs(directory: Path) -> None:
    """Cut off what a crash in mid-write left of a line at the end of the newest event log. For the start only."""
    logs = [path for path in _files(directory) if names.is_event_log(path.name)]
    newest = max(logs, key=_written_at, default=None)
    if newest is None:
        return
    with newest.open("r+b") as file:
        size_bytes = file.seek(0, os.SEEK_END)
        start = file.seek(max(0, size_bytes - limits.JOURNAL_TAIL_BYTES))
        tail = file.read(limits.JOURNAL_TAIL_BYTES)
        whole = tail.rfind(b"\n") + 1
        if whole < len(tail) and (whole or start == 0):
            file.truncate(start + whole)


def oldest_kept(retention_days: int) -> float:
    """What was last written before this moment is forgotten; unix seconds."""
    return time.time() - retention_days * _DAY_SECONDS


def _keep_newest(newest_first: list[Path], count_max: int, older_than: float, bytes_max: int | None = None) -> None:
    total_bytes = 0
    for number, path in enumerate(newest_first, start=1):
        try:
            found = path.lstat()
            total_bytes += found.st_size
            too_many = number > count_max or (bytes_max is not None and total_bytes > bytes_max)
            if number > 1 and (too_many or found.st_mtime < older_than):
                path.unlink()
        except OSError:
            continue


def _written_at(path: Path) -> float:
    """When a file was written last; what is gone meanwhile counts as the oldest."""
    try:
        return path.lstat().st_mtime
    except OSError:
        return 0.0


def _files(directory: Path) -> Iterable[Path]:
    """The plain files of a directory; none where there is no such directory."""
    try:
        return [path for path in directory.iterdir() if path.is_file() and not path.is_symlink()]
    except OSError:
        return []
