"""The journals' directories, read: listing, and the bytes of one file. All calls block on the disk."""

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from lmx_protocol import limits
from lmx_supervisor.core.records import JournalFile
from lmx_supervisor.observe.journal import names


@dataclass(frozen=True, slots=True)
class Found:
    """A file as it was when it was asked for: a log that grows is served up to there, and one that was replaced no further."""

    path: Path
    size_bytes: int
    inode: int


class JournalArchive:
    """One directory. Nothing but plain files with plain names is seen in it."""

    def __init__(self, directory: Path, zone: tzinfo) -> None:
        self.directory = directory
        self._zone = zone

    def files(self) -> list[JournalFile]:
        """The newest first, at most `JOURNAL_FILES_LISTED_MAX`; none where there is no such directory."""
        listed: list[tuple[datetime, JournalFile]] = []
        with suppress(OSError):
            for path in self.directory.iterdir():
                found = self.find(path.name)
                if found is not None:
                    began = self._began_at(path)
                    shown = JournalFile(filename=path.name, size_bytes=found.size_bytes, created_at=began.isoformat())
                    listed.append((began, shown))
        listed.sort(key=lambda each: (each[0], each[1].filename), reverse=True)
        return [shown for _, shown in listed[: limits.JOURNAL_FILES_LISTED_MAX]]

    def find(self, filename: str) -> Found | None:
        """One file; None when there is none of that name, or it is not a plain one."""
        if not names.may_be_served(filename):
            return None
        path = self.directory / filename
        try:
            found = path.lstat()
        except OSError:
            return None
        return Found(path, found.st_size, found.st_ino) if stat.S_ISREG(found.st_mode) else None

    @staticmethod
    def piece(found: Found, offset: int) -> bytes:
        """The bytes from `offset` on, at most `JOURNAL_PIECE_BYTES`; none at the end, or when it is not that file any more."""
        size_bytes = min(limits.JOURNAL_PIECE_BYTES, found.size_bytes - offset)
        try:
            descriptor = os.open(found.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return b""
        try:
            if os.fstat(descriptor).st_ino != found.inode:
                return b""
            return os.pread(descriptor, size_bytes, offset)
        finally:
            os.close(descriptor)

    def _began_at(self, path: Path) -> datetime:
        """From its name where that says it: the page of a session is replaced all the time."""
        began = names.began_at(path.name, self._zone)
        try:
            return (began or datetime.fromtimestamp(path.lstat().st_mtime, UTC)).astimezone(UTC)
        except OSError:
            return datetime.fromtimestamp(0, UTC)
