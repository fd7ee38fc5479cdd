"""A file that follows what changes in memory: written soon after a change, off the loop, never twice at a time.

A disk that takes no writes stops nothing: the old file stays, operators are told once a minute, and the next change tries
again.
"""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Generic

from lmx_protocol import limits
from lmx_supervisor.catalog.disk_calls import DiskCalls, NoThreadRefusal
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.atomic_file import DocumentType, FileWriteError, write_document


class WriteBehind(Generic[DocumentType]):
    """One file. Create it on a running loop; end it with `close`."""

    def __init__(
        self, path: Path, compose: Callable[[DocumentType | None], DocumentType | None], complain: Callable[[str], None]
    ) -> None:
        """Nothing is written before the first `changed` or `write_now`.

        Args:
            path: the file.
            compose: takes the document that was written last and gives the one to write now, or None when nothing changed.
            complain: takes the text of a failure, at most once a minute.
        """
        self._path = path
        self._compose = compose
        self._complain = complain
        self._complained_at: float | None = None
        self._written: DocumentType | None = None
        self._disk = DiskCalls(at_once=1, seconds=limits.STATE_WRITE_SECONDS)
        self._changed = asyncio.Event()
        self._writer = asyncio.get_running_loop().create_task(self._write_changes())

    def changed(self) -> None:
        """There may be something to write."""
        self._changed.set()

    async def write_now(self) -> None:
        """Write without waiting for anything more to change. Never raises for the disk."""
        await self._write(self._disk.run)

    async def close(self) -> None:
        """Write what is still to be written, and nothing afterwards."""
        self._writer.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._writer
        await self._write(self._run_whatever_happens)

    async def _write(self, run: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        document = self._compose(self._written)
        if document is None:
            return
        try:
            await run(partial(write_document, self._path, document))
        except (FileWriteError, Refusal, UnicodeEncodeError) as error:
            self._failed(str(error))
        else:
            self._written = document

    async def _run_whatever_happens(self, write: Callable[[], None]) -> None:
        """Without a thread to be had, on this one: there is no other time, and nobody is served whom a disk could delay."""
        try:
            await self._disk.run(write)
        except NoThreadRefusal:
            write()

    async def _write_changes(self) -> None:
        while True:
            await self._changed.wait()
            await asyncio.sleep(limits.STATE_WRITE_DELAY_SECONDS)
            self._changed.clear()
            await self.write_now()

    def _failed(self, text: str) -> None:
        now = time.monotonic()
        if self._complained_at is None or now - self._complained_at >= limits.STATE_WRITE_COMPLAINT_SECONDS:
            self._complained_at = now
            self._complain(text)
