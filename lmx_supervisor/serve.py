"""`lmx serve`: configuration, locks, sockets, signals, and the service until somebody stops it.

The port listens before anything is loaded. The first SIGTERM or SIGINT drains, the second shortens the drain, the third
leaves at once (the workers follow by themselves). A clean stop exits 0.
"""

import asyncio
import contextlib
import logging
import os
import socket
import sys
from pathlib import Path
from typing import Any

import msgspec
import setproctitle

from lmx_protocol import limits
from lmx_supervisor.catalog.demo import DEMO_MODEL_ID, find_demo_model
from lmx_supervisor.catalog.scan import id_of_name
from lmx_supervisor.config.error import ConfigError
from lmx_supervisor.config.home import home_directory
from lmx_supervisor.config.load import LoadedConfig, load_config
from lmx_supervisor.config.redact import secret_values
from lmx_supervisor.config.schema import Config
from lmx_supervisor.config.security_rules import open_to_others
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.early_stop import STOP_SIGNALS
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.gateway.listener import serve_http
from lmx_supervisor.host import running_service
from lmx_supervisor.observe.log_format import Redaction
from lmx_supervisor.observe.logs import setup_logging
from lmx_supervisor.runtime.atomic_file import FileWriteError, write_atomically
from lmx_supervisor.runtime.instance_lock import AlreadyRunningError, InstanceLock
from lmx_supervisor.runtime.open_files import raise_open_files_limit
from lmx_supervisor.runtime.run_dir import RunDirError
from lmx_supervisor.runtime.supervisor import Supervisor
from lmx_supervisor.service_manager import ServiceManager

log = logging.getLogger("lmx.serve")

_FAILED = 1


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line said."""

    config_file: Path | None = None
    flags: dict[str, Any] = {}
    """Dotted key → value."""
    demo: bool = False
    models: tuple[str, ...] = ()
    """Files or directories to serve beside the configured ones."""


def run(options: ServeOptions) -> int:
    """Serve until stopped; returns the exit code."""
    os.umask(0o077)
    home = home_directory()
    try:
        home.mkdir(parents=True, exist_ok=True)
        loaded = load_config(file=options.config_file, flags=options.flags, environ=os.environ, home=home)
        paths = _paths_from(options)
        lock = InstanceLock(home)
    except (ConfigError, Refusal, AlreadyRunningError, OSError) as error:
        return _refuse(error)
    with contextlib.closing(lock):
        try:
            listener = _bind(loaded.config)
        except OSError as error:
            server = loaded.config.server
            return _refuse(f"cannot listen on {server.host} port {server.port}: {error.strerror}; choose another with --port")
        redaction = Redaction(secret_values(loaded.config))
        close_logging = setup_logging(loaded.config.logging, redaction)
        try:
            with listener:
                return asyncio.run(_serve(loaded, home, listener, paths, redaction))
        except RunDirError as error:
            return _refuse(error)
        finally:
            close_logging()


def _refuse(error: Exception | str) -> int:
    print(f"lmx serve: {error}", file=sys.stderr)  # noqa: T201 - the one line an operator reads
    return _FAILED


def _paths_from(options: ServeOptions) -> dict[str, str]:
    """Model id → path of the models named on the command line. Raises `Refusal` when the demo model is not installed."""
    paths = {id_of_name(Path(path).name): str(Path(path).absolute()) for path in options.models}
    if options.demo:
        paths[DEMO_MODEL_ID] = str(find_demo_model())
    return paths


def _bind(config: Config) -> socket.socket:
    """The listening socket. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in config.server.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((config.server.host, config.server.port))
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener


async def _serve(loaded: LoadedConfig, home: Path, listener: socket.socket, paths: dict[str, str], redaction: Redaction) -> int:
    """Serve until somebody asks us to stop (0), or our own decisions fail again and again (1: start us afresh)."""
    config = loaded.config
    url = _url_of(listener)
    setproctitle.setproctitle(f"opta_lmx: serving {url}")
    open_files = raise_open_files_limit()
    http_stop = asyncio.Event()
    signals = _StopSignals()
    manager = ServiceManager(os.environ)
    alive = asyncio.create_task(manager.keep_alive())
    async with running_service(loaded, home, paths, redaction) as running:
        signals.supervisor = running.supervisor
        http = asyncio.create_task(
            serve_http(
                create_app(running.service),
                config,
                [listener],
                http_stop,
                open_files_max=open_files,
                drain_seconds=lambda: running.service.config.server.drain_seconds,
            )
        )
        try:
            _announce(home, url)
            log.info(
                "started", extra={"url": url, "pid": os.getpid(), "open_files_max": open_files, "config_file": str(loaded.file)}
            )
            manager.ready()
            _warn_when_open_to_others(config)
            wanted = tuple(dict.fromkeys((*config.models.auto_load, *paths)))
            loading = asyncio.create_task(running.service.load_at_start(wanted))
            asked = asyncio.create_task(signals.asked.wait())
            unsound = asyncio.create_task(running.supervisor.unsound.wait())
            await asyncio.wait([asked, unsound, http], return_when=asyncio.FIRST_COMPLETED)
            for task in (asked, unsound, loading):
                task.cancel()
            manager.stopping()
            # The HTTP side stays up meanwhile and tells new requests to come back.
            drain_seconds = running.service.config.server.drain_seconds
            log.info("stopping", extra={"drain_seconds": drain_seconds})
            await running.supervisor.drain(drain_seconds)
        finally:
            http_stop.set()
            await http
            (home / "server.json").unlink(missing_ok=True)
    alive.cancel()
    log.info("stopped")
    return _FAILED if running.supervisor.unsound.is_set() else 0


class _StopSignals:
    """The first asks for a drain, the second shortens it, the third leaves at once. Heard from before anything starts."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.supervisor: Supervisor | None = None
        self._received = 0
        for number in STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, self._receive)

    def _receive(self) -> None:
        self._received += 1
        if self._received == 1:
            self.asked.set()
        elif self._received == 2 and self.supervisor is not None:
            self.supervisor.shorten_drain(limits.DRAIN_SECOND_SIGNAL_SECONDS)
        else:
            os._exit(_FAILED)


def _url_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _announce(home: Path, url: str) -> None:
    """Tell the command line where we are. A disk that cannot take it stops nothing."""
    try:
        write_atomically(home / "server.json", msgspec.json.encode({"url": url, "pid": os.getpid()}))
    except FileWriteError as error:
        log.warning("announce_failed", extra={"text": str(error)})


def _warn_when_open_to_others(config: Config) -> None:
    what = open_to_others(config)
    if what is not None:
        log.warning("open_to_others", extra={"host": config.server.host, "text": what})
