"""One reading of the host's memory, with the part of it that belongs to our workers."""

from collections.abc import Mapping

from lmx_supervisor.core.events import HostMemoryRead
from lmx_supervisor.observe.resident import resident_bytes
from lmx_supervisor.runtime.memory_return import MemoryProbe


def host_reading(probe: MemoryProbe, worker_pids: Mapping[str, int]) -> HostMemoryRead | None:
    """For the core; `worker_pids` by incarnation. None when the memory has never been readable."""
    host = probe.host()
    if host is None:
        return None
    sizes = {name: resident_bytes(pid) for name, pid in worker_pids.items()}
    return HostMemoryRead(
        host.total_bytes, host.available_bytes, {name: size for name, size in sizes.items() if size is not None}
    )
