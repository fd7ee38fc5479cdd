"""The operating system's own report of a crash: text to read, never the core itself, which would be as large as the model.

Linux: what `coredumpctl info` says, where systemd collects crashes. macOS: the `.ips` report of the process (not run).
"""

import shutil
import subprocess
import sys
from pathlib import Path

from lmx_protocol import limits


def native_report(pid: int, seconds: float) -> str | None:
    """The report about `pid`, None where there is none. Returns within about `seconds`."""
    if sys.platform == "darwin":
        return diagnostic_report(Path("~/Library/Logs/DiagnosticReports").expanduser(), pid)
    return _coredumpctl(pid, seconds)


def diagnostic_report(directory: Path, pid: int) -> str | None:
    """The newest `.ips` report in `directory` that is about `pid`, shortened to a bound (not run)."""
    for path in sorted(directory.glob("*.ips"), key=lambda path: path.stat().st_mtime, reverse=True)[
        : limits.OS_REPORTS_READ_MAX
    ]:
        with path.open(encoding="utf-8", errors="replace") as file:
            text = file.read(limits.OS_REPORT_BYTES_MAX)
        if f'"pid" : {pid},' in text:
            return f"{path}\n{text}"
    return None


def _coredumpctl(pid: int, seconds: float) -> str | None:
    program = shutil.which("coredumpctl")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--no-pager", "info", str(pid)],
            capture_output=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout[: limits.OS_REPORT_BYTES_MAX].decode("utf-8", "replace") if done.returncode == 0 else None
