"""What the system knows of a death beyond its wait status: kills for want of memory, model files that were cut short."""

import signal
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from pathlib import Path

from lmx_protocol import limits
from lmx_supervisor.catalog.disk_calls import DiskCalls
from lmx_supervisor.core.exit_reason import ExitObservation
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.model_files import file_sizes, has_shrunk
from lmx_supervisor.runtime.oom_evidence import oom_evidence


class Witness:
    """One per supervisor. It asks the disk in threads, and gives up soon: evidence must not delay a restart."""

    def __init__(self) -> None:
        self._oom = oom_evidence()
        self._calls = DiskCalls(at_once=limits.DEATH_EVIDENCE_CALLS_MAX, seconds=limits.DEATH_EVIDENCE_SECONDS)

    async def sizes_of(self, path: Path) -> Mapping[Path, int]:
        """The sizes of a model's files in bytes, to be compared at its worker's death; empty when the disk does not answer."""
        try:
            return await self._calls.run(lambda: file_sizes(path))
        except Refusal:
            return {}

    async def testify(
        self, seen: ExitObservation, pid: int, sizes_at_load: Awaitable[Mapping[Path, int]] | None
    ) -> ExitObservation:
        """The observation with everything that is known about it."""
        try:
            if seen.signal_number == signal.SIGKILL:
                return replace(seen, oom_confirmed=await self._was_killed_for_memory(pid))
            if seen.signal_number == signal.SIGBUS and sizes_at_load is not None:
                sizes = await sizes_at_load
                return replace(seen, model_truncated=await self._calls.run(lambda: has_shrunk(sizes)))
        except Refusal:
            return seen
        return seen

    async def _was_killed_for_memory(self, pid: int) -> bool:
        # A thread costs milliseconds on a busy machine, and clients are waiting to hear of the death.
        return await self._calls.run(lambda: self._oom.claim(pid)) if self._oom.waits_for_disk else self._oom.claim(pid)
