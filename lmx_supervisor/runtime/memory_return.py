"""Whether the memory of a dead worker is back with the machine.

Linux gives a process's memory back before it reports the exit, so there is nothing to wait for. macOS may keep a killed
process's GPU memory wired for a while (not run here): there the memory available before the death is compared with what is
available now.
"""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator

from lmx_protocol import limits
from lmx_supervisor.core.service import HostMemory
from lmx_supervisor.observe.host_memory import read_host_memory


class MemoryProbe:
    """Looks at the host's memory; tests put another reading in its place."""

    frees_before_exit = sys.platform == "linux"
    _last: HostMemory | None = None

    def host(self) -> HostMemory | None:
        """The host's memory now; the reading before when it cannot be read, for want of descriptors say."""
        with contextlib.suppress(OSError):
            self._last = read_host_memory()
        return self._last

    def available_bytes(self) -> int:
        """What the machine has available now, as far as that is known."""
        host = self.host()
        return host.available_bytes if host is not None else 0


async def missing_until_back(
    probe: MemoryProbe, owed_bytes: int, available_before_bytes: int, *, patience_seconds: float = limits.MEMORY_RETURN_SECONDS
) -> AsyncIterator[int]:
    """How many bytes are missing: 0 as soon as they are back; otherwise a first answer after the patience, and 0 when they are.

    Other processes take and give memory meanwhile, so half of what is owed counts as all of it.
    """
    loop = asyncio.get_running_loop()
    patient_until = loop.time() + patience_seconds
    told = False
    while True:
        missing = missing_bytes(owed_bytes, available_before_bytes, probe.available_bytes(), probe.frees_before_exit)
        if missing == 0:
            yield 0
            return
        if not told and loop.time() >= patient_until:
            told = True
            yield missing
        await asyncio.sleep(limits.MEMORY_RETURN_POLL_SECONDS)


def missing_bytes(owed_bytes: int, available_before_bytes: int, available_now_bytes: int, frees_before_exit: bool) -> int:
    """What has not come back of what was owed. Pure."""
    if frees_before_exit:
        return 0
    returned = available_now_bytes - available_before_bytes
    return 0 if returned >= owed_bytes * limits.MEMORY_RETURN_RATIO else owed_bytes - max(0, returned)
