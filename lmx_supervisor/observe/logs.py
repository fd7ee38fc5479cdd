"""Log set-up: one JSON object a line, or text for reading, on stderr and optionally in a rotating file.

The event loop never waits for a slow terminal, pipe or disk: records go through a bounded queue to a thread that writes them,
and what does not fit is dropped and counted. Formatting is in `log_format`.
"""

import logging
import os
import queue
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from io import TextIOWrapper
from logging.handlers import QueueHandler, QueueListener, RotatingFileHandler
from pathlib import Path

from lmx_protocol import limits
from lmx_supervisor.config.schema import LoggingConfig
from lmx_supervisor.observe.log_format import JsonLines, ReadableLines, Redaction

_STDERR = 2
_OWN_LOGGER = "lmx.log"
_QUIET_LOGGERS = ("hypercorn.access", "hypercorn.error", "asyncio", "httpx", "httpcore")

Closer = Callable[[], None]


def setup_logging(config: LoggingConfig, redaction: Redaction) -> Closer:
    """Send all logging to stderr and, if configured, to a file; `redaction` strikes secrets out of every record.

    Returns a function that writes what is still queued (for at most `LOG_CLOSE_SECONDS`) and puts logging back as it was.
    """
    formatter = JsonLines(redaction) if config.format == "structured" else ReadableLines(redaction)
    terminal = _Terminal(_STDERR)
    outputs: list[logging.Handler] = [terminal]
    if config.file is not None:
        path = Path(config.file).expanduser()
        outputs.append(_PrivateFile(path, config.max_file_bytes, config.backup_count, terminal))
    for output in outputs:
        output.setFormatter(formatter)
    entrance = _Entrance()
    writer = _Writer(entrance, outputs)

    root = logging.getLogger()
    before = root.handlers[:], root.level, {name: logging.getLogger(name).level for name in _QUIET_LOGGERS}
    root.handlers[:] = [entrance]
    root.setLevel(config.level)
    for name in _QUIET_LOGGERS:
        logging.getLogger(name).setLevel(logging.WARNING)
    writer.start()

    def close() -> None:
        root.handlers[:], level, quiet = before
        root.setLevel(level)
        for name, own_level in quiet.items():
            logging.getLogger(name).setLevel(own_level)
        if writer.finish():
            for output in outputs:
                with suppress(OSError):
                    output.close()

    return close


def set_log_level(level: str) -> None:
    """Log what is at least this severe, from now on."""
    logging.getLogger().setLevel(level)


class _Entrance(QueueHandler):
    """Takes a record on any thread without ever waiting."""

    queue: "queue.Queue[logging.LogRecord | None]"

    def __init__(self) -> None:
        super().__init__(queue.Queue(limits.LOG_QUEUE_RECORDS))
        self.dropped = 0
        self._start = time.monotonic()

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Freeze the record: its arguments and traceback may change or hold memory until the writer comes to it."""
        record = logging.makeLogRecord(vars(record))
        try:
            record.msg, record.args = record.getMessage(), None
        except (TypeError, ValueError):
            # A slip in a log call must cost neither the line nor the caller.
            record.msg, record.args = f"{record.msg} {record.args!r}", None
        if record.exc_info:
            record.exc_text, record.exc_info = logging.Formatter().formatException(record.exc_info), None
        # The wall clock may jump; this one tells how far apart two lines really are.
        record.uptime_seconds = time.monotonic() - self._start
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            self.queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def record(self, message: str) -> logging.LogRecord:
        """A warning of our own, past the queue."""
        return self.prepare(logging.LogRecord(_OWN_LOGGER, logging.WARNING, __file__, 0, message, None, None))


class _Writer(QueueListener):
    """Writes records on a thread of its own, and says how many were dropped."""

    def __init__(self, entrance: _Entrance, outputs: Sequence[logging.Handler]) -> None:
        super().__init__(entrance.queue, *outputs)
        self._entrance = entrance
        self._told = 0

    def handle(self, record: logging.LogRecord) -> None:
        self._tell_of_drops()
        super().handle(record)

    def finish(self) -> bool:
        """Write what is queued and end the thread; False when an output takes nothing more, which must not keep anybody."""
        thread, self._thread = self._thread, None
        assert thread is not None, "finished twice"
        deadline = time.monotonic() + limits.LOG_CLOSE_SECONDS
        try:
            self._entrance.queue.put(None, timeout=limits.LOG_CLOSE_SECONDS)
        except queue.Full:
            return False
        thread.join(max(0.0, deadline - time.monotonic()))
        if thread.is_alive():
            return False
        self._tell_of_drops()
        return True

    def _tell_of_drops(self) -> None:
        dropped = self._entrance.dropped
        if dropped > self._told:
            super().handle(self._entrance.record(f"{dropped - self._told} log records were dropped: the output is too slow"))
            self._told = dropped


class _Terminal(logging.Handler):
    """Stderr, by its descriptor: a write that hangs holds none of Python's locks, so the process can still end."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def createLock(self) -> None:  # noqa: N802 - the base class's name
        """No lock: only the writer's thread comes here, and the one at exit must not wait for a write that hangs."""
        self.lock = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record. When stderr is gone there is nobody left to tell."""
        with suppress(OSError):
            rest = memoryview(f"{self.format(record)}\n".encode(errors="backslashreplace"))
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]


class _PrivateFile(RotatingFileHandler):
    """A rotating file only its owner may read. A full or missing disk costs lines of it, and one complaint a minute."""

    def __init__(self, path: Path, bytes_max: int, backups: int, complaints_to: logging.Handler) -> None:
        # Opened with the first record, on the writer's thread: a slow disk must not delay the start.
        super().__init__(path, maxBytes=bytes_max, backupCount=backups, encoding="utf-8", errors="backslashreplace", delay=True)
        self._complaints_to = complaints_to
        self._complained_at = -limits.LOG_COMPLAINT_SECONDS

    def createLock(self) -> None:  # noqa: N802 - the base class's name
        """No lock, as for the terminal: at exit nobody may wait for a disk that does not answer."""
        self.lock = None

    def _open(self) -> TextIOWrapper:
        path = Path(self.baseFilename)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        return open(descriptor, "a", encoding=self.encoding, errors=self.errors)  # noqa: PTH123 - a descriptor

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class's name
        """Say on the terminal that the file takes no records, at most once in `LOG_COMPLAINT_SECONDS`."""
        now = time.monotonic()
        if now - self._complained_at < limits.LOG_COMPLAINT_SECONDS:
            return
        self._complained_at = now
        complaint = logging.makeLogRecord(vars(record))
        complaint.name, complaint.levelno, complaint.levelname = _OWN_LOGGER, logging.WARNING, "WARNING"
        complaint.msg, complaint.exc_text = f"the log file {self.baseFilename} cannot be written: {sys.exc_info()[1]}", None
        self._complaints_to.handle(complaint)
