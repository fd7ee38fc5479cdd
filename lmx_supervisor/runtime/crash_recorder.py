"""Takes autopsies on the event loop and writes their bundles in a thread of its own: no death waits for a disk.

A disk that does not take a bundle costs that bundle and one log line a minute, never the restart.
"""

import asyncio
import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable

from lmx_protocol import limits
from lmx_supervisor.core.actions import Autopsy
from lmx_supervisor.runtime.atomic_file import FileWriteError
from lmx_supervisor.runtime.crash_archive import CrashArchive
from lmx_supervisor.runtime.crash_bundle import write_bundle

log = logging.getLogger("lmx.crashes")


class CrashRecorder:
    """Writes into one archive from its creation, on a running loop, to `close`."""

    def __init__(self, archive: CrashArchive, strike: Callable[[str], str]) -> None:
        """`strike` removes secrets from text; it is called in the thread."""
        self._archive = archive
        self._strike = strike
        self._loop = asyncio.get_running_loop()
        self._waiting: queue.SimpleQueue[tuple[Autopsy, float, float] | None] = queue.SimpleQueue()
        self._all_written = asyncio.Event()
        self._lost = 0
        self._complained_at = -limits.CRASH_COMPLAINT_SECONDS
        # A daemon: a write that hangs on a dead disk must not keep the process.
        self._thread = threading.Thread(target=self._write_all, name="crash-recorder", daemon=True)
        self._thread.start()

    def record(self, autopsy: Autopsy) -> None:
        """Have a bundle written. Never waits and never raises: past the bound the bundle is lost, and counted."""
        if self._waiting.qsize() >= limits.CRASH_BUNDLES_WAITING_MAX:
            self._lost += 1
            self._complain("the disk does not answer")
            return
        self._waiting.put((autopsy, time.time(), time.monotonic() + limits.CRASH_BUNDLE_SECONDS))

    async def close(self) -> None:
        """Write what waits, for at most `CRASH_BUNDLE_SECONDS`. Needs no thread but our own: there may be none to be had."""
        self._waiting.put(None)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limits.CRASH_BUNDLE_SECONDS):
                await self._all_written.wait()

    def _write_all(self) -> None:
        self._archive.remove_unfinished()
        self._archive.prune()
        while (waiting := self._waiting.get()) is not None:
            self._write(*waiting)
        # A closed loop: nobody waits any more.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._all_written.set)

    def _write(self, autopsy: Autopsy, at_unix_seconds: float, deadline: float) -> None:
        try:
            bundle = write_bundle(self._archive.directory, autopsy, at_unix_seconds, self._strike, deadline)
            log.info("crash_bundle", extra={"crash_id": autopsy.crash_id, "model_id": autopsy.model_id, "path": str(bundle)})
            self._archive.prune()
        except (OSError, FileWriteError) as error:
            self._lost += 1
            self._complain(str(error))

    def _complain(self, problem: str) -> None:
        now = time.monotonic()
        if now - self._complained_at >= limits.CRASH_COMPLAINT_SECONDS:
            self._complained_at = now
            log.warning("crash_bundle_lost", extra={"text": problem, "lost": self._lost})
