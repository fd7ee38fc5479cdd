"""What this machine is, in the words of its maker."""

import ctypes
import ctypes.util
import sys
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_NAME_LINES = ("model name", "Hardware", "Model")
"""As different architectures call it, the best first."""
_NAME_BYTES_MAX = 256


@cache
def chip_name() -> str | None:
    """The processor's name; None where the system does not tell."""
    if sys.platform == "darwin":  # not run
        return _sysctl_text(b"machdep.cpu.brand_string")
    try:
        return chip_in(_CPUINFO.read_text(errors="replace"))
    except OSError:
        return None


def chip_in(cpuinfo: str) -> str | None:
    """The processor's name in the kernel's list of processors. Pure."""
    lines = (line.partition(":") for line in cpuinfo.splitlines())
    named = {name.strip(): value.strip() for name, _, value in lines}
    return next((named[name] for name in _NAME_LINES if named.get(name)), None)


def _sysctl_text(name: bytes) -> str | None:
    library = ctypes.CDLL(ctypes.util.find_library("c"))
    buffer, size = ctypes.create_string_buffer(_NAME_BYTES_MAX), ctypes.c_size_t(_NAME_BYTES_MAX)
    failed = library.sysctlbyname(name, buffer, ctypes.byref(size), None, ctypes.c_size_t(0))
    return None if failed else buffer.value.decode(errors="replace") or None
