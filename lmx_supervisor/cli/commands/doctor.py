"""`lmx doctor`: measures this machine and installation, and says what stands in the way of serving."""

import errno
import os
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import typer

from lmx_protocol import limits
from lmx_protocol.states import BackendName
from lmx_supervisor.catalog.demo import find_demo_model
from lmx_supervisor.cli import checks, options
from lmx_supervisor.cli.checks import Check, Verdict
from lmx_supervisor.cli.connection import read_server_file
from lmx_supervisor.cli.exit_status import ExitStatus
from lmx_supervisor.cli.terminal import print_json, printable, table, terminal_columns, wrapped
from lmx_supervisor.config.error import ConfigError
from lmx_supervisor.config.home import home_directory
from lmx_supervisor.config.load import load_config
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.observe.host_memory import read_host_memory
from lmx_supervisor.runtime.run_dir import RunDir, RunDirError

_LEAST_PYTHON = (3, 11)
_FOUND_COLUMN = 2

# In a process of its own: what is wrong with a native library may end the process that imports it.
_IMPORT_BACKEND = """
import sys
from lmx_worker.backends.registry import create_backend
try:
    print(create_backend(sys.argv[1]).import_libraries())
except ImportError as error:
    sys.exit(str(error))
"""

app = typer.Typer(add_completion=False)


@app.command(epilog="Example: lmx doctor --json")
def doctor(*, as_json: options.Json = False) -> None:
    """Check this machine and installation; needs no server. Exit status 1 when something prevents serving."""
    found = examine(home_directory())
    if as_json:
        print_json(found)
    else:
        print("\n".join(report_lines(found, terminal_columns())))
    if any(check.verdict is Verdict.PROBLEM for check in found):
        raise typer.Exit(ExitStatus.FAILED)


def report_lines(found: Sequence[Check], columns: int | None) -> list[str]:
    """A table of what was found, then what to do, in lines of so many characters; what the table shortened is told there."""
    rows = [(check.name, check.verdict, check.found) for check in found]
    lines = table(("CHECK", "VERDICT", "FOUND"), rows, shrink=(_FOUND_COLUMN,), columns=columns)
    for check, row in zip(found, lines[1:], strict=True):
        if check.advice:
            texts = [check.advice] if printable(check.found) in row else [check.found, check.advice]
            lines += [line for text in texts for line in wrapped(f"{check.verdict}: {check.name}: {text}", columns)]
    return lines


def examine(home: Path) -> list[Check]:
    """Every check, in the order in which they are shown."""
    config_check, config = _config(home)
    memory = read_host_memory()
    with ThreadPoolExecutor(len(BackendName)) as pool:
        backends = list(pool.map(_backend, BackendName))
    real = [check for name, check in zip(BackendName, backends, strict=True) if name is not BackendName.SCRIPTED]
    none_works = checks.check_backends(real)
    return [
        checks.check_python(sys.version_info[:3], _LEAST_PYTHON),
        _home(home),
        config_check,
        _port(config, home),
        checks.check_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
        _run_directory(),
        checks.check_memory(memory.total_bytes, memory.available_bytes),
        *backends,
        *([none_works] if none_works else []),
        checks.check_demo_model(_demo_model()),
    ]


def _config(home: Path) -> tuple[Check, Config]:
    try:
        loaded = load_config(file=None, flags={}, environ=os.environ, home=home)
    except ConfigError as error:
        return checks.check_config(None, str(error)), Config()
    return checks.check_config(str(loaded.file) if loaded.file else None, None), loaded.config


def _home(home: Path) -> Check:
    # The server makes what is missing, so the nearest directory that is there decides.
    nearest = next(directory for directory in (home, *home.parents) if directory.exists())
    if not nearest.is_dir():
        return checks.check_home(str(home), f"{nearest} is no directory", None)
    if not os.access(nearest, os.W_OK | os.X_OK):
        return checks.check_home(str(home), f"{nearest} is not writable", None)
    return checks.check_home(str(home), None, shutil.disk_usage(nearest).free)


def _port(config: Config, home: Path) -> Check:
    host, port = config.server.host, config.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    taken, ours = None, None
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # As the server binds: connections of a server that has just stopped do not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            taken = error.strerror or str(error)
            running = read_server_file(home) if error.errno == errno.EADDRINUSE else None
            ours = running.pid if running and running.url.endswith(f":{port}") else None
    return checks.check_port(host, port, taken, ours)


def _run_directory() -> Check:
    try:
        # A real one: besides the length of its path, its owner and mode matter.
        with closing(RunDir()) as run_dir:
            return checks.check_socket_path(f"{run_dir.path / run_dir.path.name}-{sys.maxsize}", None)
    except (OSError, RunDirError) as error:
        return checks.check_socket_path("", str(error))


def _backend(name: BackendName) -> Check:
    command = [sys.executable, "-c", _IMPORT_BACKEND, name]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limits.CLI_BACKEND_CHECK_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return checks.check_backend(name, None, "")
    return checks.check_backend(name, done.returncode, done.stdout if done.returncode == 0 else done.stderr)


def _demo_model() -> str | None:
    try:
        return str(find_demo_model())
    except Refusal:
        return None
