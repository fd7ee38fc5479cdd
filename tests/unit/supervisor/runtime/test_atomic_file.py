"""Old or new content, never a mix; unusable files are set aside; a full disk is a typed error."""

import errno
import os
import stat
from pathlib import Path

import pytest

from lmx_protocol import limits
from lmx_supervisor.runtime.atomic_file import (
    Document,
    FileWriteError,
    read_document,
    remove_leftovers,
    write_atomically,
    write_document,
)


class Note(Document, frozen=True, kw_only=True):
    """A document of version 2."""

    schema: int = 2
    text: str


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the tests write."""
    return tmp_path / "home" / "note.json"


def test_what_is_written_is_read_back_and_private(file: Path) -> None:
    """A document survives the round trip, readable by its owner only, with nothing else left in the directory."""
    write_document(file, Note(text="old"))
    write_document(file, Note(text="new"))
    assert read_document(file, Note).document == Note(text="new")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert [path.name for path in file.parent.iterdir()] == ["note.json"]


def test_a_missing_file_is_no_problem(file: Path) -> None:
    """The first start finds nothing, and nothing to complain about."""
    found = read_document(file, Note)
    assert (found.document, found.problem, found.set_aside) == (None, None, None)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b'{"schema": 2, "te', b"\xff\xfe\x00", b"[]", b'{"schema": 3, "text": "x"}', b'{"schema": 2}', b"[" * 100_000],
    ids=["empty", "truncated", "cut", "binary", "wrong shape", "future schema", "field missing", "deep"],
)
def test_an_unusable_file_is_set_aside(file: Path, data: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """It is renamed with its bytes intact, a warning says so, and the name is free again."""
    write_atomically(file, data)
    found = read_document(file, Note)
    assert found.document is None
    assert found.problem
    assert found.set_aside is not None
    assert found.set_aside.name.startswith("note.json.corrupt-")
    assert found.set_aside.read_bytes() == data
    assert not file.exists()
    assert "set aside as note.json.corrupt-" in caplog.text


def test_things_that_are_no_files_are_set_aside_without_waiting(file: Path) -> None:
    """A directory, a FIFO without a writer, a link and an oversized file neither hang nor stop the start."""
    file.parent.mkdir()

    def link() -> None:
        file.symlink_to(file.parent)

    def oversized() -> None:
        file.touch()
        os.truncate(file, limits.STATE_FILE_BYTES_MAX + 1)

    for create in (file.mkdir, lambda: os.mkfifo(file), link, oversized):
        create()
        assert read_document(file, Note).set_aside is not None
    assert len(list(file.parent.iterdir())) == 4


@pytest.mark.parametrize("step", ["open", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failure_at_any_step_keeps_the_old_content(file: Path, monkeypatch: pytest.MonkeyPatch, step: str, code: int) -> None:
    """Whatever the disk refuses, the caller gets one typed error, the old file and no litter."""
    write_document(file, Note(text="old"))

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as disk:
        disk.setattr(Path if step == "replace" else os, step, fail)
        with pytest.raises(FileWriteError, match=r"note\.json could not be written") as failure:
            write_document(file, Note(text="new"))
    assert failure.value.disk_full == (code == errno.ENOSPC)
    assert read_document(file, Note).document == Note(text="old")
    assert [path.name for path in file.parent.iterdir()] == ["note.json"]


def test_leftovers_of_a_crash_are_removed_at_start(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies between writing and renaming leaves a temporary file, which the next start deletes."""

    class KilledError(BaseException):
        pass

    def die(*_: object) -> None:
        raise KilledError

    write_document(file, Note(text="old"))
    with monkeypatch.context() as disk:
        disk.setattr(Path, "replace", die)
        with pytest.raises(KilledError):
            write_document(file, Note(text="new"))
    assert len(list(file.parent.iterdir())) == 2
    assert remove_leftovers(file.parent) == 1
    assert read_document(file, Note).document == Note(text="old")
    assert [path.name for path in file.parent.iterdir()] == ["note.json"]
