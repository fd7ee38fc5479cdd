"""What this process costs the machine, read cheaply enough for every heartbeat.

Linux: resident plus swapped bytes (`VmRSS + VmSwap`), not the proportional size. Memory-mapped weights are file pages that show
in RSS only; they must stay resident for the model to run, so they count. Two workers that map one file are both charged for it,
which errs on the safe side, and the proportional size would need a walk over every page table entry (tens of milliseconds for
a large model) instead of one read of about 50 microseconds.

macOS: `phys_footprint`, the number the kernel's memory limits act on; it counts GPU buffers, which RSS does not. Not run.
"""

import ctypes
import os
import struct
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RUSAGE_INFO_V0 = 0
_RUSAGE_INFO_V0_BYTES = 96
# struct rusage_info_v0: 16 bytes of uuid, then 64-bit counters of which the eighth is ri_phys_footprint.
_PHYS_FOOTPRINT_OFFSET = 16 + 7 * 8


def footprint_bytes() -> int:
    """Bytes this process costs the machine now; 0 where the platform does not say."""
    if sys.platform == "darwin":
        return _darwin_footprint_bytes()
    try:
        return parse_status(_STATUS.read_bytes())
    except OSError:
        return 0


def parse_status(status: bytes) -> int:
    """`VmRSS + VmSwap` of a Linux `/proc/<pid>/status`, in bytes."""
    total_kib = 0
    for line in status.splitlines():
        if line.startswith((b"VmRSS:", b"VmSwap:")):
            total_kib += int(line.split()[1])
    return total_kib * 1024


def parse_rusage_v0(rusage: bytes) -> int:
    """`ri_phys_footprint` of a Darwin `struct rusage_info_v0`, in bytes."""
    (footprint,) = struct.unpack_from("=Q", rusage, _PHYS_FOOTPRINT_OFFSET)
    return int(footprint)


def _darwin_footprint_bytes() -> int:
    buffer = ctypes.create_string_buffer(_RUSAGE_INFO_V0_BYTES)
    libproc = ctypes.CDLL("/usr/lib/libproc.dylib")
    if libproc.proc_pid_rusage(os.getpid(), _RUSAGE_INFO_V0, buffer) != 0:
        return 0
    return parse_rusage_v0(buffer.raw)
