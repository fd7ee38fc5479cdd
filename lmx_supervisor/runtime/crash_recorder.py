"""Takes autopsies on the event loop and writes their bundles in a thread of its own: no death waits for a disk.

A disk that does not take a bundle costs that bundle and one log line a minute, never the restart.
"""

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
    """Writes into one archive from its creation to `close`."""

    def __init__(self, archive: CrashArchive, strike: Callable[[str], str]) -> None:
        """`strike` removes secrets from text; it is called in the thread."""
        self._archive = archive
        self._strike = strike
        self._waiting: queue.Queue[tuple[Autopsy, float, float] | None] = queue.Queue(limits.CRASH_BUNDLES_WAITING_MAX)
        self._lost = 0
        self._complained_at = -limits.CRASH_COMPLAINT_SECONDS
        # A daemon: a write that hangs on a dead disk must not keep the process.
        self._thread = threading.Thread(target=self._write_all, name="crash-recorder", daemon=True)
        self._thread.start()

    def record(self, autopsy: Autopsy) -> None:
        """Have a bundle written. Never waits and never raises: past the bound the bundle is lost, and counted."""
        try:
            self._waiting.put_nowait((autopsy, time.time(), time.monotonic() + limits.CRASH_BUNDLE_SECONDS))
        except queue.Full:
            self._lost += 1
            self._complain("the disk does not answer")

    def close(self) -> None:
        """Write what waits, for at most `CRASH_BUNDLE_SECONDS`. Blocks."""
        deadline = time.monotonic() + limits.CRASH_BUNDLE_SECONDS
        try:
            self._waiting.put(None, timeout=limits.CRASH_BUNDLE_SECONDS)
        except queue.Full:
            return
        self._thread.join(max(0.0, deadline - time.monotonic()))

    def _write_all(self) -> None:
        self._archive.remove_unfinished()
        self._archive.prune()
        while (waiting := self._waiting.get()) is not None:
            self._write(*waiting)

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
