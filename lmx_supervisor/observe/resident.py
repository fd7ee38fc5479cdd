"""What a reading of the host's memory counts as used by one process, so that the rest of it is known to be everybody else's.

Linux: resident pages that belong to no file. Mapped weights are file cache, which the host counts as available. macOS: the
worker's own word is the better number (not run).
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int) -> int | None:
    """Of a process of ours; None where that is not known, or when it has gone."""
    if sys.platform != "linux":
        return None
    with suppress(OSError, ValueError):
        return parse_statm(Path(f"/proc/{pid}/statm").read_text())
    return None


def parse_statm(text: str) -> int:
    """Resident minus shared pages, in bytes. Raises `ValueError`."""
    _, resident, shared, *_ = (int(field) for field in text.split())
    return (resident - shared) * _PAGE_BYTES
