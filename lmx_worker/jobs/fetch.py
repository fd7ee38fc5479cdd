"""One file from the hub into the staging directory: resumed, retried within bounds, verified before it counts."""

import threading
from collections.abc import Iterator

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.jobs import FetchModel
from lmx_worker.jobs.hub import Hub, HubTrouble, RemoteFile, WrongBytesError
from lmx_worker.jobs.refusal import JobRefusal
from lmx_worker.jobs.staging import Staging
from lmx_worker.jobs.tally import Tally


class StoppedError(Exception):
    """Another file's failure ended the download."""


class Patience:
    """How often in a row something may fail without progress, and how long to wait in between."""

    def __init__(self, work: FetchModel, stopped: threading.Event) -> None:
        self._work = work
        self._stopped = stopped
        self._failures = 0

    def progressed(self) -> None:
        """The next failure is the first again."""
        self._failures = 0

    def endure(self, what: str, trouble: HubTrouble) -> None:
        """Wait before the next attempt. Raises `JobRefusal` when there have been enough, `StoppedError`."""
        self._failures += 1
        if self._failures >= self._work.attempts_max:
            text = f"{what}: {self._failures} attempts in a row failed, the last one with: {trouble}."
            raise JobRefusal(ErrorCode.HUB_UNAVAILABLE, f"{text} What has come is kept; ask again to go on.")
        delay = self._work.retry_initial_seconds * 2 ** (self._failures - 1)
        if self._stopped.wait(min(max(delay, trouble.retry_after_seconds), self._work.retry_max_seconds)):
            raise StoppedError


class Fetcher:
    """Fetches files of one snapshot; each call from a thread of its own."""

    def __init__(
        self, work: FetchModel, hub: Hub, commit: str, staging: Staging, tally: Tally, stopped: threading.Event
    ) -> None:
        self._work = work
        self._hub = hub
        self._commit = commit
        self._staging = staging
        self._tally = tally
        self._stopped = stopped

    def fetch(self, file: RemoteFile) -> None:
        """Have the file whole in the staging directory. Raises `JobRefusal`, `StoppedError`."""
        patience = Patience(self._work, self._stopped)
        wrong = 0
        counted = self._staging.part_bytes(file)
        self._tally.add_bytes(counted)
        while True:
            before = self._staging.part_bytes(file)
            try:
                self._go_on(file)
                self._staging.accept(file)
            except WrongBytesError as error:
                self._tally.add_bytes(-self._staging.part_bytes(file))
                self._staging.discard_part(file)
                wrong += 1
                if wrong >= limits.DOWNLOAD_CORRUPT_MAX:
                    text = f"{file.name} is not what the hub promised, {wrong} times in a row: {error}. It was thrown away."
                    raise JobRefusal(ErrorCode.DOWNLOAD_CORRUPT, text) from error
            except HubTrouble as trouble:
                if self._staging.part_bytes(file) - before >= limits.DOWNLOAD_COUNTS_AS_PROGRESS_BYTES:
                    patience.progressed()
                self._tally.waiting(file.name, str(trouble))
                patience.endure(file.name, trouble)
            else:
                self._tally.moving(file.name)
                self._tally.file_done()
                return

    def _go_on(self, file: RemoteFile) -> None:
        """Take in what is missing at the end of the part."""
        have = self._staging.part_bytes(file)
        if have >= file.size_bytes:
            return
        with self._hub.content(self._commit, file, have) as (begins, content):
            if begins > have:
                raise HubTrouble(f"asked for the bytes from {have} on, the hub sent those from {begins} on")
            self._tally.add_bytes(begins - have)
            self._write(file, begins, content)
        if self._staging.part_bytes(file) < file.size_bytes:
            raise HubTrouble("the connection was closed early")

    def _write(self, file: RemoteFile, begins: int, content: Iterator[bytes]) -> None:
        written = begins
        with self._staging.part(file, begins) as part:
            for chunk in content:
                if self._stopped.is_set():
                    raise StoppedError
                if written + len(chunk) > file.size_bytes:
                    raise WrongBytesError(f"it goes on after the {file.size_bytes} bytes that the hub promised")
                view = memoryview(chunk)
                while view:
                    taken = part.write(view)
                    view = view[taken:]
                    written += taken
                    self._tally.add_bytes(taken)
                self._tally.moving(file.name)
