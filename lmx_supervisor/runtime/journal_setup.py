"""From the configuration to the journals of one run: where they are, whose, and what is known of the run at its start."""

import getpass
import os
import platform
import socket
import stat
import sys
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from lmx_supervisor.config.load import LoadedConfig
from lmx_supervisor.config.schema import Config
from lmx_supervisor.config.time_zones import time_zone
from lmx_supervisor.core.records import JournalKind, LogPlaces
from lmx_supervisor.core.startup import StartupDecision
from lmx_supervisor.observe.journal.session_log import Session
from lmx_supervisor.runtime.journal import JournalSettings
from lmx_supervisor.runtime.journal_archive import JournalArchive
from lmx_supervisor.runtime.records import KeptLogs

_STDERR = 2


def journal_settings(config: Config, home: Path) -> JournalSettings:
    """Where the journals are kept, which, and for how long."""
    journaling = config.journaling
    return JournalSettings(
        session_logs=_directory(journaling.session_logs_dir, home / "session-logs"),
        update_logs=_directory(journaling.update_logs_dir, home / "update-logs"),
        event_lines=journaling.event_jsonl_enabled,
        zone=time_zone(journaling.timezone),
        retention_days=journaling.retention_days,
        session_logs_max=journaling.max_session_logs,
    )


def kept_logs(config: Config, home: Path, environ: Mapping[str, str]) -> KeptLogs:
    """What this service writes where, for those who want to read it."""
    settings = journal_settings(config, home)
    places = LogPlaces(
        log_output=_where_stderr_goes(environ),
        log_file=str(Path(config.logging.file).expanduser()) if config.logging.file else None,
        journaling=config.journaling.enabled,
        session_logs_dir=str(settings.session_logs),
        update_logs_dir=str(settings.update_logs),
        crashes_dir=str(home / "crashes"),
    )
    journals = {
        JournalKind.SESSIONS: JournalArchive(settings.session_logs, settings.zone),
        JournalKind.UPDATES: JournalArchive(settings.update_logs, settings.zone),
    }
    return KeptLogs(places, journals)


def session_that_begins(loaded: LoadedConfig, home: Path, decision: StartupDecision) -> Session:
    """This run of the service. Nothing in it is secret: names and numbers, no values of keys."""
    config = loaded.config
    version = metadata.version("lmx")
    return Session(
        device=socket.gethostname().partition(".")[0] or "unknown",
        user=config.journaling.author or _user(),
        version=version,
        started_at_unix_seconds=time.time(),
        zone=time_zone(config.journaling.timezone),
        metadata={
            "version": version,
            "pid": os.getpid(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "home": str(home),
            "config_file": str(loaded.file) if loaded.file else None,
            "host": config.server.host,
            "port": config.server.port,
            "security_profile": config.security.profile,
            "auto_load": list(config.models.auto_load),
            "startup_count": decision.startup_count,
            "safe_mode": decision.safe_mode,
        },
    )


def _directory(configured: str | None, default: Path) -> Path:
    return Path(configured).expanduser() if configured else default


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without a name, as containers have them
        return f"uid {os.getuid()}"


def _where_stderr_goes(environ: Mapping[str, str]) -> str:
    """The file that the log's lines end up in where that can be told, else what kind of place it is."""
    try:
        found = os.fstat(_STDERR)
    except OSError:
        return "nowhere: standard error is closed"
    # systemd names the socket or pipe of its journal by device and inode.
    if environ.get("JOURNAL_STREAM") == f"{found.st_dev}:{found.st_ino}":
        return "the system's journal; journalctl shows it"
    if stat.S_ISREG(found.st_mode):
        return _path_of_stderr() or "a file"
    return "a terminal" if os.isatty(_STDERR) else "a pipe, or what the service manager made of it"


def _path_of_stderr() -> str | None:
    if sys.platform == "darwin":  # not run
        import fcntl

        return fcntl.fcntl(_STDERR, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0").decode(errors="replace")
    try:
        return str(Path(f"/proc/self/fd/{_STDERR}").readlink())
    except OSError:
        return None
