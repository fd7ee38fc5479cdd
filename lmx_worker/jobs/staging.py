"""Where a snapshot is gathered before it is a model: by content, so that whatever was fetched once is not fetched again.

    <models>/.downloads/<owner>@<name>/
        lock            one process at a time
        parts/KEY       bytes of a file, from its beginning, as far as they came; nothing says that they are right
        whole/KEY       files that were verified to their last byte, then put here in one step
        new/            the snapshot, built of links to `whole`, then made the target in one step
        old/            what the target was, for the moment between two renames

Everything below a directory whose name starts with a dot is no model to the catalog. A kill at any point leaves parts that are
verified before they count, whole files, and a target that is the old or the new one.
"""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from lmx_protocol.errors import ErrorCode
from lmx_protocol.jobs import SET_ASIDE
from lmx_worker.jobs.hub import Listing, RemoteFile, WrongBytesError
from lmx_worker.jobs.refusal import JobRefusal

MANIFEST = ".lmx-download.json"

_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.EXDEV, errno.EMLINK, errno.ENOSYS})
_HASH_CHUNK_BYTES = 1024**2


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a download put into its directory; lies there as `MANIFEST`."""

    repo_id: str
    commit: str
    files: tuple[str, ...]


class Staging:
    """One repository's. Call everything but `part` and `accept` from one thread; those two, for different files, from any."""

    def __init__(self, directory: Path, target: Path) -> None:
        self._directory = directory
        self._target = target
        self._parts, self._whole = directory / "parts", directory / "whole"
        self._new, self._old = directory / "new", directory / SET_ASIDE

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make it, and keep other processes out; one that is dying is waited for. Raises `JobRefusal`."""
        with disk_failures(self._directory):
            for directory in (self._parts, self._whole):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def free_bytes(self) -> int:
        """What the disk has left for us."""
        nearest = next(path for path in (self._directory, *self._directory.parents) if path.exists())
        return shutil.disk_usage(nearest).free

    def present_bytes(self, file: RemoteFile) -> int:
        """How much of a file is here already, judged by sizes alone."""
        if self._whole_path(file).is_file():
            return file.size_bytes
        existing = self._existing(file)
        if existing is not None:
            return file.size_bytes
        return min(self.part_bytes(file), file.size_bytes)

    def is_whole(self, file: RemoteFile) -> bool:
        """Whether a file is here and verified."""
        return self._whole_path(file).is_file()

    def part_bytes(self, file: RemoteFile) -> int:
        """How much of a file has come."""
        try:
            return self._part_path(file).stat().st_size
        except FileNotFoundError:
            return 0

    @contextmanager
    def part(self, file: RemoteFile, start: int) -> Iterator[BinaryIO]:
        """A file's part, cut to `start` bytes, to be written on. Raises `JobRefusal` when the disk does not take it."""
        with disk_failures(self._directory), self._part_path(file).open("ab", buffering=0) as part:
            part.truncate(start)
            yield part

    def discard_part(self, file: RemoteFile) -> None:
        """Forget what has come of a file."""
        self._part_path(file).unlink(missing_ok=True)

    def accept(self, file: RemoteFile) -> None:
        """Verify a part that has all its bytes, and count it as whole from here on. Raises `WrongBytesError`."""
        path = self._part_path(file)
        with disk_failures(self._directory):
            path.touch()
            verify(path, file)
            self._keep(path, file)

    def take_over(self, file: RemoteFile, cached: Path | None) -> bool:
        """Use the file that the target, or else the client's cache, already has, if its bytes are the right ones."""
        for candidate, is_ours in ((self._existing(file), True), (cached, False)):
            if candidate is None:
                continue
            path = self._part_path(file)
            try:
                verify(candidate, file)
                path.unlink(missing_ok=True)
                # The cache belongs to others, who may change their files: a copy is ours.
                _link_or_copy(candidate, path) if is_ours else shutil.copyfile(candidate, path)
                verify(path, file) if not is_ours else None
                self._keep(path, file)
            except (WrongBytesError, FileNotFoundError):
                continue
            except OSError as error:
                raise _of_disk(error, self._directory) from error
            return True
        return False

    def promote(self, repo_id: str, listing: Listing, *, selection: bool) -> None:
        """Make the snapshot the target, in one step.

        What the target has beside it stays, except for files that an earlier download put there and a whole snapshot (no
        `selection` of files) has no more: mixed shards of two versions would be a model that never was.
        """
        with disk_failures(self._directory):
            shutil.rmtree(self._new, ignore_errors=True)
            self._new.mkdir(mode=0o755)
            names = {file.name for file in listing.files}
            kept = self._build(listing.files, names, selection=selection)
            manifest = Manifest(repo_id=repo_id, commit=listing.commit, files=tuple(sorted(names | kept)))
            _write_synced(self._new / MANIFEST, msgspec.json.encode(manifest))
            self._swap()
            shutil.rmtree(self._directory, ignore_errors=True)

    def _build(self, files: Iterable[RemoteFile], names: set[str], *, selection: bool) -> set[str]:
        """Link everything into `new`; returns which of the earlier download's files are among it."""
        for file in files:
            path = self._new / file.name
            path.parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(self._whole_path(file), path)
        before = self._before()
        ours = _manifest_files(before)
        kept: set[str] = set()
        for path in sorted(before.rglob("*")) if before.is_dir() else ():
            name = path.relative_to(before).as_posix()
            if path.is_dir() or name in names or name == MANIFEST or (name in ours and not selection):
                continue
            (self._new / name).parent.mkdir(parents=True, exist_ok=True)
            _link_or_copy(path, self._new / name)
            kept |= {name} & ours
        return kept

    def _swap(self) -> None:
        self._target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if self._target.is_dir():
            shutil.rmtree(self._old, ignore_errors=True)
            self._target.rename(self._old)
        self._new.rename(self._target)
        _sync_directory(self._target.parent)

    def _before(self) -> Path:
        """What the target is, or was when a swap was cut off between its two steps."""
        return self._target if self._target.is_dir() else self._old

    def _existing(self, file: RemoteFile) -> Path | None:
        path = self._before() / file.name
        try:
            return path if path.stat().st_size == file.size_bytes and path.is_file() else None
        except OSError:
            return None

    def _keep(self, path: Path, file: RemoteFile) -> None:
        with path.open("rb") as verified:
            os.fsync(verified.fileno())
        path.replace(self._whole_path(file))

    def _part_path(self, file: RemoteFile) -> Path:
        return self._parts / file.key

    def _whole_path(self, file: RemoteFile) -> Path:
        return self._whole / file.key


def verify(path: Path, file: RemoteFile) -> None:
    """Prove that a file has the bytes that the hub promised. Raises `WrongBytesError`, `OSError`."""
    size_bytes = path.stat().st_size
    if size_bytes != file.size_bytes:
        raise WrongBytesError(f"it has {size_bytes} bytes, and the hub promised {file.size_bytes}")
    if file.sha256 is not None:
        wanted, digest = file.sha256, hashlib.sha256()
    else:
        # Git hashes a header before the content.
        wanted, digest = str(file.git_sha1), hashlib.sha1(b"blob %d\0" % size_bytes, usedforsecurity=False)
    with path.open("rb") as content:
        while chunk := content.read(_HASH_CHUNK_BYTES):
            digest.update(chunk)
    if digest.hexdigest() != wanted:
        raise WrongBytesError(f"its hash is {digest.hexdigest()}, and the hub promised {wanted}")


@contextmanager
def disk_failures(where: Path) -> Iterator[None]:
    """What a disk refuses, as the refusal it means."""
    try:
        yield
    except OSError as error:
        raise _of_disk(error, where) from error


def _of_disk(error: OSError, where: Path) -> JobRefusal:
    if error.errno in _NO_SPACE:
        text = f"The disk of {where.parent} took no more ({error.strerror}). Free space, then ask again: what has come is kept."
        return JobRefusal(ErrorCode.INSUFFICIENT_DISK, text)
    return JobRefusal(ErrorCode.DOWNLOAD_FAILED, f"{where} cannot be written: {error.strerror or error}.")


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        shutil.copyfile(source, target)


def _manifest_files(directory: Path) -> set[str]:
    try:
        return set(msgspec.json.decode((directory / MANIFEST).read_bytes(), type=Manifest).files)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return set()


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
