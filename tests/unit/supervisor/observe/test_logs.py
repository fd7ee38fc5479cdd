"""The set-up as a whole: records arrive, nothing waits, nothing is lost silently, and it can be taken down again."""

import json
import logging
import os
import stat
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lmx_supervisor.config.schema import LoggingConfig
from lmx_supervisor.observe.log_format import Redaction
from lmx_supervisor.observe.logs import setup_logging

log = logging.getLogger("lmx.test")


def run_python(code: str, **options: object) -> "subprocess.CompletedProcess[bytes]":
    """A fresh interpreter, so that its stderr can be blocked or closed; 30 seconds mean that it hangs."""
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], timeout=30, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_records_reach_stderr_and_file(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Both outputs get the same lines, without secrets, in a file only the owner can read."""
    file = tmp_path / "logs" / "lmx.log"
    close = setup_logging(LoggingConfig(file=str(file)), Redaction(["hush"]))
    log.info("one %s", "hush", extra={"model": "m"})
    log.debug("not at this level")
    try:
        raise RuntimeError("hush")
    except RuntimeError:
        log.exception("two")
    close()
    lines = file.read_text().splitlines()
    assert lines == capfd.readouterr().err.splitlines()
    first, second = map(json.loads, lines)
    assert (first["message"], first["model"]) == ("one [redacted]", "m")
    assert "RuntimeError: [redacted]" in second["exception"]
    assert second["uptime_seconds"] >= first["uptime_seconds"] >= 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_closing_puts_logging_back(capfd: pytest.CaptureFixture[str]) -> None:
    """Handlers, levels and threads are as before, so that a test or a restart in the process starts clean."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("hypercorn.error").level
    close = setup_logging(LoggingConfig(level="ERROR", format="text"), Redaction([]))
    assert logging.getLogger("hypercorn.error").level == logging.WARNING
    close()
    assert (root.handlers[:], root.level, logging.getLogger("hypercorn.error").level) == before
    assert capfd.readouterr().err == ""


def test_a_slip_in_a_log_call_costs_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """Arguments that do not fit the message are shown beside it."""
    close = setup_logging(LoggingConfig(), Redaction([]))
    log.info("%d models", "three")
    close()
    assert json.loads(capfd.readouterr().err)["message"] == "%d models ('three',)"


def test_the_file_is_rotated(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """At its size limit the file starts anew and the configured number of old ones is kept."""
    file = tmp_path / "lmx.log"
    close = setup_logging(LoggingConfig(file=str(file), max_file_bytes=65536, backup_count=1), Redaction([]))
    for _ in range(100):
        log.info("x" * 2000)
    close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lmx.log", "lmx.log.1"]
    assert all(path.stat().st_size <= 65536 for path in tmp_path.iterdir())
    assert capfd.readouterr().err.count("\n") == 100


def test_a_file_that_cannot_be_written_is_told_once(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A full or missing disk costs the file's lines; the terminal still gets all of them and one complaint."""
    (tmp_path / "taken").write_text("a file where the directory should be")
    close = setup_logging(LoggingConfig(file=str(tmp_path / "taken" / "lmx.log")), Redaction([]))
    for number in range(3):
        log.info("line %d", number)
    close()
    messages = [json.loads(line)["message"] for line in capfd.readouterr().err.splitlines()]
    complaints = [message for message in messages if "cannot be written" in message]
    assert len(complaints) == 1
    assert [message for message in messages if message not in complaints] == ["line 0", "line 1", "line 2"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_survived() -> None:
    """Out of space in mid-write ends neither the service nor its logging, nor does closing raise."""
    done = run_python(
        """
        import logging
        from lmx_supervisor.config.schema import LoggingConfig
        from lmx_supervisor.observe.log_format import Redaction
        from lmx_supervisor.observe.logs import setup_logging
        close = setup_logging(LoggingConfig(file="/dev/full", max_file_bytes=2**40), Redaction([]))
        logging.warning("first")
        logging.warning("second")
        close()
        """,
        capture_output=True,
    )
    assert done.returncode == 0
    messages = [json.loads(line)["message"] for line in done.stderr.splitlines()]
    assert sum("No space left" in message for message in messages) == 1
    assert {"first", "second"} <= set(messages)


def test_nobody_waits_for_a_stuck_terminal() -> None:
    """With a stderr that nobody reads the loop keeps running, records are dropped, and the process still ends by itself."""
    reader, writer = os.pipe()
    try:
        done = run_python(
            """
            import logging, time
            from lmx_protocol import limits
            limits.LOG_CLOSE_SECONDS = 0.1
            limits.LOG_QUEUE_RECORDS = 100
            from lmx_supervisor.config.schema import LoggingConfig
            from lmx_supervisor.observe.log_format import Redaction
            from lmx_supervisor.observe.logs import setup_logging
            close = setup_logging(LoggingConfig(), Redaction([]))
            slowest = 0.0
            for _ in range(500):
                before = time.monotonic()
                logging.info("x" * 10_000)
                slowest = max(slowest, time.monotonic() - before)
            close()
            print(slowest)
            """,
            stderr=writer,
            stdout=subprocess.PIPE,
        )
    finally:
        os.close(reader)
        os.close(writer)
    assert done.returncode == 0
    assert float(done.stdout) < 1


def test_dropped_records_are_counted_and_told() -> None:
    """When the reader comes back after a flood, the log says how many lines are missing."""
    done = run_python(
        """
        import logging, os, shutil, sys, threading
        from lmx_protocol import limits
        limits.LOG_QUEUE_RECORDS = 10
        from lmx_supervisor.config.schema import LoggingConfig
        from lmx_supervisor.observe.log_format import Redaction
        from lmx_supervisor.observe.logs import setup_logging
        reader, writer = os.pipe()
        terminal = os.dup(2)
        os.dup2(writer, 2)
        os.close(writer)
        close = setup_logging(LoggingConfig(), Redaction([]))
        for _ in range(100):
            logging.info("x" * 10_000)
        with open(reader, "rb") as pipe:
            reading = threading.Thread(target=shutil.copyfileobj, args=(pipe, sys.stdout.buffer))
            reading.start()
            close()
            os.dup2(terminal, 2)
            reading.join()
        """,
        capture_output=True,
    )
    messages = [json.loads(line)["message"] for line in done.stdout.splitlines()]
    written = [message for message in messages if message.startswith("xxx")]
    told = [message for message in messages if message.endswith("log records were dropped: the output is too slow")]
    dropped = sum(int(message.split()[0]) for message in told)
    assert dropped > 0
    assert len(written) + dropped == 100


def test_a_closed_stderr_is_survived() -> None:
    """A service whose terminal is gone keeps running."""
    done = run_python(
        """
        import logging, os
        from lmx_supervisor.config.schema import LoggingConfig
        from lmx_supervisor.observe.log_format import Redaction
        from lmx_supervisor.observe.logs import setup_logging
        os.close(2)
        close = setup_logging(LoggingConfig(), Redaction([]))
        logging.error("into the void")
        close()
        """
    )
    assert done.returncode == 0
