"""How far a job is: numbers that its threads count up and its beat reads."""

import threading

from lmx_protocol.jobs import JobPhase, JobProgress
from lmx_worker.memory import footprint_bytes


class PhaseTally:
    """Of work that goes through phases, some of which count bytes. Thread-safe: one thread writes."""

    def __init__(self) -> None:
        self._now = JobPhase(phase="starting")

    def enter(self, phase: str, done_bytes: int = 0, total_bytes: int = 0) -> None:
        """Say what is being done, and how much of it is done."""
        self._now = JobPhase(phase=phase, done_bytes=done_bytes, total_bytes=total_bytes)

    def progress(self) -> JobPhase:
        """All of it at this moment, with what it costs."""
        now = self._now
        return JobPhase(phase=now.phase, done_bytes=now.done_bytes, total_bytes=now.total_bytes, memory_bytes=footprint_bytes())


class Tally:
    """Of a download. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done_bytes = 0
        self._files_done = 0
        self._troubles: dict[str, str] = {}

    def add_bytes(self, count: int) -> None:
        """Count bytes that are on this machine now; negative when some turned out to be worthless."""
        with self._lock:
            self._done_bytes += count

    def file_done(self) -> None:
        """Count a whole file."""
        with self._lock:
            self._files_done += 1

    def waiting(self, file: str, trouble: str) -> None:
        """Say what a file waits for."""
        with self._lock:
            self._troubles[file] = trouble

    def moving(self, file: str) -> None:
        """It does not wait any more."""
        if file in self._troubles:
            with self._lock:
                self._troubles.pop(file, None)

    def progress(self) -> JobProgress:
        """All of it at this moment."""
        with self._lock:
            trouble = next(iter(self._troubles.values()), None)
            return JobProgress(done_bytes=max(0, self._done_bytes), files_done=self._files_done, trouble=trouble)
