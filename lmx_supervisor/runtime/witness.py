"""What the system knows of a death beyond its wait status: kills for want of memory, model files that were cut short."""

import signal
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

from lmx_protocol import limits
from lmx_supervisor.catalog.disk_calls import DiskCalls
from lmx_supervisor.core.exit_reason import ExitObservation
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.model_files import Looks, changed_file, has_shrunk, look_at_files
from lmx_supervisor.runtime.oom_evidence import oom_evidence


class Witness:
    """One per supervisor. It asks the disk in threads, and gives up soon: evidence must not delay a restart."""

    def __init__(self) -> None:
        self._oom = oom_evidence()
        self._calls = DiskCalls(at_once=limits.DEATH_EVIDENCE_CALLS_MAX, seconds=limits.DEATH_EVIDENCE_SECONDS)

    async def look_at_files(self, path: Path) -> Looks:
        """A model's files as they are when its load begins; empty when the disk does not answer."""
        try:
            return await self._calls.run(lambda: look_at_files(path))
        except Refusal:
            return {}

    async def changed_file(self, at_load: Awaitable[Looks]) -> str | None:
        """Which file of a model changed since its load began, and how; None for none, or when the disk does not answer."""
        looks = await at_load
        try:
            return await self._calls.run(lambda: changed_file(looks))
        except Refusal:
            return None

    async def testify(self, seen: ExitObservation, pid: int, files_at_load: Awaitable[Looks] | None) -> ExitObservation:
        """The observation with everything that is known about it."""
        try:
            if seen.signal_number == signal.SIGKILL:
                return replace(seen, oom_confirmed=await self._was_killed_for_memory(pid))
            if seen.signal_number == signal.SIGBUS and files_at_load is not None:
                looks = await files_at_load
                return replace(seen, model_truncated=await self._calls.run(lambda: has_shrunk(looks)))
        except Refusal:
            return seen
        return seen

    async def _was_killed_for_memory(self, pid: int) -> bool:
        # A thread costs milliseconds on a busy machine, and clients are waiting to hear of the death.
        return await self._calls.run(lambda: self._oom.claim(pid)) if self._oom.waits_for_disk else self._oom.claim(pid)
