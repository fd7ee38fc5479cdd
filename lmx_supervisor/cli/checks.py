"""What `lmx doctor` concludes from what it measured. No I/O."""

import signal
from collections.abc import Sequence
from enum import StrEnum

import msgspec

from lmx_protocol import limits
from lmx_supervisor.cli.quantities import short_size


class Verdict(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    found: str
    advice: str | None = None
    """What to do, unless all is well."""


def check_python(version: tuple[int, int, int], least: tuple[int, int]) -> Check:
    """The interpreter."""
    found = ".".join(map(str, version))
    if version[:2] >= least:
        return Check("python", Verdict.OK, found)
    return Check("python", Verdict.PROBLEM, found, f"LMX needs Python {least[0]}.{least[1]} or newer")


def check_open_files(soft: int, hard: int) -> Check:
    """The limit on open files: the server raises the soft one itself, up to the hard one. -1 is no limit."""
    found = f"limit {_limit(soft)}, can be raised to {_limit(hard)}"
    if hard < 0 or hard >= limits.NOFILE_WANTED:
        return Check("open files", Verdict.OK, found)
    advice = f"raise the hard limit to {limits.NOFILE_WANTED} (ulimit -Hn, LimitNOFILE=) to serve more connections"
    return Check("open files", Verdict.WARNING, found, advice)


def check_socket_path(longest: str, reason: str | None) -> Check:
    """The longest path of a worker's socket, against what every platform takes; `reason` says why there can be none."""
    if reason is not None:
        return Check("socket path", Verdict.PROBLEM, reason, "no worker can be started before this is put right")
    size_bytes = len(longest.encode())
    found = f"{size_bytes} of {limits.IPC_PATH_BYTES_MAX} bytes"
    if size_bytes <= limits.IPC_PATH_BYTES_MAX:
        return Check("socket path", Verdict.OK, found)
    return Check("socket path", Verdict.PROBLEM, found, f"workers cannot be reached at {longest}")


def check_memory(total_bytes: int, available_bytes: int) -> Check:
    """The memory of the host or its container."""
    found = f"{short_size(available_bytes)} of {short_size(total_bytes)} free"
    if available_bytes >= limits.CLI_MEMORY_FREE_BYTES_WANTED:
        return Check("memory", Verdict.OK, found)
    return Check("memory", Verdict.WARNING, found, "only small models will fit")


def check_home(home: str, reason: str | None, free_bytes: int | None) -> Check:
    """The home directory: `reason` says why it cannot be written to, `free_bytes` is the room on its disk."""
    if reason is not None:
        return Check("home", Verdict.PROBLEM, f"{home}: {reason}", "make it writable, or set LMX_HOME to a directory that is")
    if free_bytes is None or free_bytes >= limits.CLI_DISK_FREE_BYTES_WANTED:
        return Check("home", Verdict.OK, f"{home}, {short_size(free_bytes)} free")
    return Check("home", Verdict.WARNING, f"{home}, {short_size(free_bytes)} free", "models and crash reports need room there")


def check_config(file: str | None, reason: str | None) -> Check:
    """The configuration: the file it came from, and why the server would not start with it."""
    if reason is not None:
        return Check("config", Verdict.PROBLEM, reason, "the server does not start with this; see: lmx config check")
    return Check("config", Verdict.OK, file or "no file; defaults and environment")


def check_port(host: str, port: int, taken: str | None, our_pid: int | None) -> Check:
    """Where the server would listen: `taken` says why it cannot; `our_pid` is the LMX server that does already."""
    found = f"{host}:{port}"
    if taken is None:
        return Check("port", Verdict.OK, f"{found} is free")
    if our_pid is not None:
        return Check("port", Verdict.OK, f"{found} is served by LMX (pid {our_pid})")
    return Check("port", Verdict.PROBLEM, f"{found}: {taken}", "stop what listens there, or choose another: lmx serve --port 0")


def check_backend(name: str, status: int | None, output: str) -> Check:
    """One backend, from the exit status (negative: a signal; None: took too long) and output of a process that imported it."""
    subject = f"backend {name}"
    last_line = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "")
    if status == 0:
        return Check(subject, Verdict.OK, last_line or "works")
    if status is None:
        found = f"did not import within {limits.CLI_BACKEND_CHECK_SECONDS:g} s"
    elif status < 0:
        found = f"importing it ended with {_signal_name(-status)}: it was built for another processor or system"
    else:
        found = last_line or f"importing it ended with status {status}"
    return Check(subject, Verdict.WARNING, found, f"to use it: scripts/install {name}")


def check_backends(checks: Sequence[Check]) -> Check | None:
    """Without any backend for real models nothing can be served; `checks` are those backends'. None: there is one."""
    if any(check.verdict is Verdict.OK for check in checks):
        return None
    return Check("backends", Verdict.PROBLEM, "none works", "install one: scripts/install llamacpp")


def check_demo_model(path: str | None) -> Check:
    """The small model that `lmx serve --demo` serves."""
    if path is not None:
        return Check("demo model", Verdict.OK, path)
    return Check("demo model", Verdict.WARNING, "not installed", "for lmx serve --demo: scripts/install demo")


def _limit(value: int) -> str:
    return "no limit" if value < 0 else str(value)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
