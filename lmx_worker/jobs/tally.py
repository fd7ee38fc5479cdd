"""How far a download is: numbers that its threads count up and its beat reads."""

import threading

from lmx_protocol.jobs import JobProgress


class Tally:
    """Thread-safe."""

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
