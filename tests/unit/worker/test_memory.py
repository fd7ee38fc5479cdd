"""What a worker says about its memory."""

import mmap
import struct
import sys
import time

import pytest

from lmx_worker.memory import footprint_bytes, parse_rusage_v0, parse_status


def test_status_adds_resident_and_swapped() -> None:
    """Swapped pages still cost the machine; other lines do not count."""
    status = b"Name:\tpython\nVmPeak:\t  900 kB\nVmRSS:\t  100 kB\nRssAnon:\t   60 kB\nVmSwap:\t   24 kB\n"

    assert 124 * 1024 == parse_status(status)


def test_rusage_reads_the_physical_footprint() -> None:
    """The eighth counter of Darwin's structure is the footprint (layout checked here, call not run)."""
    rusage = bytes(16) + struct.pack("=10Q", *range(1, 11))

    assert 8 == parse_rusage_v0(rusage)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_footprint_grows_with_memory_and_is_cheap() -> None:
    """Taking 32 MiB shows, and one reading is cheap enough for every beat."""
    before = footprint_bytes()
    ballast = mmap.mmap(-1, 32 * 1024**2)
    ballast.write(b"\xa5" * len(ballast))
    started_at = time.perf_counter()
    after = footprint_bytes()

    assert time.perf_counter() - started_at < 0.05
    assert after - before > len(ballast) * 0.9

    ballast.close()
