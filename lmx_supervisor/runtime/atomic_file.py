"""Small private files that are replaced whole or not at all, and read with suspicion.

Covers writing (temporary file beside the target, flushed to the platter, renamed over it), reading versioned documents in JSON
or TOML, as their name says, setting unusable files aside, and removing what a crash in mid-write left behind. Does not cover
what is in the documents.
All calls block on the disk: keep them off the event loop.
"""

import errno
import logging
import os
import secrets
import stat
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from lmx_protocol import limits

_log = logging.getLogger(__name__)

_TEMPORARY_SUFFIX = ".lmx-tmp"
_TOML_SUFFIX = ".toml"
_PRIVATE_FILE_MODE = 0o600
_PRIVATE_DIRECTORY_MODE = 0o700


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """Base of a versioned file: a subclass says with the default of `schema` which version it reads and writes."""

    schema: int


DocumentType = TypeVar("DocumentType", bound=Document)


class ReadDocument(msgspec.Struct, Generic[DocumentType], frozen=True, kw_only=True):
    """What was found: a document, nothing (both None), or a file that had to be set aside."""

    document: DocumentType | None = None
    problem: str | None = None
    """Why the file could not be used, for a log line or an event."""
    set_aside: Path | None = None
    """Where the unusable file is now; None with a `problem` when it could not even be renamed."""


class FileWriteError(Exception):
    """The disk did not take a file; the old content is still there. Losing a state file must never stop the service."""

    def __init__(self, path: Path, cause: OSError) -> None:
        super().__init__(f"{path} could not be written: {cause.strerror or cause}")
        self.path = path
        self.errno = cause.errno

    @property
    def disk_full(self) -> bool:
        """Whether there was no space (or no quota) left."""
        return self.errno in (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace `path` by `data` (mode 0600); after a crash at any moment the old or the new content is there, never a mix.

    A missing parent directory is created, private. Raises `FileWriteError`.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{_TEMPORARY_SUFFIX}")
    try:
        path.parent.mkdir(mode=_PRIVATE_DIRECTORY_MODE, parents=True, exist_ok=True)
        try:
            _write_new(temporary, data)
            temporary.replace(path)
        except OSError:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise FileWriteError(path, error) from error


def write_document(path: Path, document: Document) -> None:
    """Replace `path` by a versioned document, in its form for people. Raises `FileWriteError`."""
    if path.suffix == _TOML_SUFFIX:
        write_atomically(path, msgspec.toml.encode(document))
    else:
        write_atomically(path, msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n")


def read_document(path: Path, kind: type[DocumentType]) -> ReadDocument[DocumentType]:
    """A versioned document. Never raises for what is on the disk.

    A file that is empty, truncated, corrupt, of another schema, too large, somebody else's or no file at all is renamed to
    `NAME.corrupt-<time>` with a warning, so that the caller starts afresh and the evidence stays.
    """
    try:
        data = _read_private(path)
        if not data:
            raise ValueError("is empty")
        decode = msgspec.toml.decode if path.suffix == _TOML_SUFFIX else msgspec.json.decode
        document = decode(data, type=kind)
        wanted = next(field.default for field in msgspec.structs.fields(kind) if field.name == "schema")
        if document.schema != wanted:
            raise ValueError(f"has schema {document.schema}, this version reads {wanted}")
    except FileNotFoundError:
        return ReadDocument()
    except (OSError, ValueError, RecursionError) as error:
        set_aside = _set_aside(path)
        where = f"set aside as {set_aside.name}" if set_aside else "left in place, because it could not be renamed"
        _log.warning("unusable file %s: %s; %s", path, error, where)
        return ReadDocument(problem=str(error), set_aside=set_aside)
    return ReadDocument(document=document)


def remove_leftovers(directory: Path) -> int:
    """Delete the temporary files that a crash in mid-write left in `directory`; returns how many. For the start only."""
    leftovers = list(directory.glob(f".*{_TEMPORARY_SUFFIX}"))
    for leftover in leftovers:
        with suppress(OSError):
            leftover.unlink()
    return len(leftovers)


def _write_new(path: Path, data: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _PRIVATE_FILE_MODE)
    with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 - a descriptor, not a path
        view = memoryview(data)
        while view:
            view = view[file.write(view) :]
        _sync_file(descriptor)


def _sync_file(descriptor: int) -> None:
    if sys.platform == "darwin":  # not run: fsync on macOS stops at the drive's cache
        import fcntl

        with suppress(OSError):  # network file systems do not know it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_private(path: Path) -> bytes:
    # O_NONBLOCK: a FIFO under this name must not hang the start.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor, not a path
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise ValueError("is not a regular file")
        if found.st_uid != os.geteuid():
            raise ValueError(f"belongs to user {found.st_uid}")
        if found.st_size > limits.STATE_FILE_BYTES_MAX:
            raise ValueError(f"has {found.st_size} bytes, more than {limits.STATE_FILE_BYTES_MAX}")
        return file.read(limits.STATE_FILE_BYTES_MAX)


def _set_aside(path: Path) -> Path | None:
    target = path.with_name(f"{path.name}.corrupt-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
    try:
        path.replace(target)
    except OSError:
        return None
    return target
