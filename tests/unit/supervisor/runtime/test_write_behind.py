"""A file that follows memory: every change gets there, never two writes at once, and a bad disk stops nothing."""

import asyncio
import threading
from pathlib import Path

import pytest

from lmx_supervisor.runtime import write_behind
from lmx_supervisor.runtime.atomic_file import Document, read_document, write_document
from lmx_supervisor.runtime.write_behind import WriteBehind


class Number(Document, frozen=True, kw_only=True):
    schema: int = 1
    value: int


class Memory:
    """What the file follows."""

    def __init__(self, path: Path) -> None:
        self.value = 0
        self.complaints: list[str] = []
        self.path = path
        self.file = WriteBehind(path, self._compose, self.complaints.append)

    def _compose(self, written: Number | None) -> Number | None:
        document = Number(value=self.value)
        return None if document == written else document

    def set(self, value: int) -> None:
        self.value = value
        self.file.changed()

    def on_disk(self) -> int | None:
        document = read_document(self.path, Number).document
        return None if document is None else document.value


async def test_changes_reach_the_disk_by_themselves_and_at_the_latest_with_close(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first without anybody waiting for it, the last because nothing is lost at the end."""
    written = threading.Event()

    def write(path: Path, document: Number) -> None:
        write_document(path, document)
        written.set()

    monkeypatch.setattr(write_behind, "write_document", write)
    memory = Memory(tmp_path / "n.json")
    memory.set(1)
    assert await asyncio.to_thread(written.wait, 5)
    assert memory.on_disk() == 1
    memory.set(2)
    await memory.file.close()

    assert memory.on_disk() == 2


async def test_many_changes_are_few_writes_and_never_two_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A storm of changes is written once per delay, and a slow disk is not asked again while it works."""
    writing, together, writes = threading.Lock(), [], []

    def slow(path: Path, document: Number) -> None:
        together.append(writing.locked())
        with writing:
            writes.append(document.value)
            write_document(path, document)

    monkeypatch.setattr(write_behind, "write_document", slow)
    memory = Memory(tmp_path / "n.json")
    for value in range(1, 1001):
        memory.set(value)
        if value % 100 == 0:
            await asyncio.sleep(0)
    await memory.file.close()

    assert memory.on_disk() == 1000
    assert len(writes) <= 2
    assert not any(together)


async def test_what_did_not_change_is_not_written(tmp_path: Path) -> None:
    """Telling of a change that was none leaves the file alone."""
    memory = Memory(tmp_path / "n.json")
    await memory.file.write_now()
    before = memory.path.stat().st_ino
    await memory.file.write_now()
    await memory.file.close()

    assert memory.path.stat().st_ino == before


async def test_a_disk_that_fails_is_told_once_and_tried_again_with_the_next_change(tmp_path: Path) -> None:
    """The old file stays; when the disk takes writes again, the next change is there."""
    home = tmp_path / "home"
    memory = Memory(home / "n.json")
    home.write_text("no directory")
    for value in (1, 2):
        memory.value = value
        await memory.file.write_now()
    assert len(memory.complaints) == 1
    assert "n.json" in memory.complaints[0]
    home.unlink()
    memory.set(3)
    await memory.file.close()

    assert memory.on_disk() == 3


async def test_a_disk_that_hangs_does_not_hold_up_the_loop_or_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that does not return is given up after its bound, and complained about."""
    hang = threading.Event()
    monkeypatch.setattr(write_behind, "write_document", lambda *_: hang.wait(10))
    monkeypatch.setattr(write_behind.limits, "STATE_WRITE_SECONDS", 0.05)
    memory = Memory(tmp_path / "n.json")
    memory.set(1)
    async with asyncio.timeout(5):
        await memory.file.close()
    hang.set()

    assert len(memory.complaints) == 1


async def test_without_a_thread_to_be_had_the_last_write_is_done_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the end it is complained about and left to the next change; there is no change after the end."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    memory = Memory(tmp_path / "n.json")
    memory.value = 1
    await memory.file.write_now()
    before_the_end = memory.on_disk()
    await memory.file.close()

    assert (before_the_end, memory.on_disk()) == (None, 1)
    assert "thread" in memory.complaints[0]
