"""`<home>/predictor.json`: which models were wanted lately, so that what the predictor has learned outlives a restart.

Written every half minute while something changes, and at the end: an access is not worth a write to the disk of its own.
"""

import asyncio
from pathlib import Path

from lmx_protocol import limits
from lmx_supervisor.core.events import AccessesKnown
from lmx_supervisor.runtime.atomic_file import Document, ReadDocument, read_document
from lmx_supervisor.runtime.supervisor import Supervisor
from lmx_supervisor.runtime.write_behind import WriteBehind

FILE_NAME = "predictor.json"


class SavedAccesses(Document, frozen=True, kw_only=True):
    """The whole file."""

    schema: int = 1
    total_accesses: int = 0
    history: tuple[str, ...] = ()
    """Model ids, the latest last."""


def read_accesses(home: Path) -> ReadDocument[SavedAccesses]:
    """What the home knows; an unusable file is set aside. Blocks on the disk."""
    return read_document(home / FILE_NAME, SavedAccesses)


def accesses_known(saved: SavedAccesses | None) -> AccessesKnown:
    """What the fleet is told of earlier runs."""
    if saved is None:
        return AccessesKnown((), 0)
    return AccessesKnown(saved.history[-limits.PREDICTOR_HISTORY_MAX :], saved.total_accesses)


class AccessKeeper:
    """Keeps the file true while the service runs. Create it on a running loop; end it with `close`."""

    def __init__(self, home: Path, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._file = WriteBehind(home / FILE_NAME, self._compose, self._complain)
        self._began_with = self._accesses()
        self._timer = asyncio.get_running_loop().create_task(self._look_again_and_again())

    async def close(self) -> None:
        """Write what is not on the disk yet."""
        self._timer.cancel()
        await self._file.close()

    async def _look_again_and_again(self) -> None:
        while True:
            await asyncio.sleep(limits.PREDICTOR_WRITE_SECONDS)
            self._file.changed()

    def _accesses(self) -> SavedAccesses:
        seen = self._supervisor.lasting().accesses
        return SavedAccesses(total_accesses=seen.total_accesses, history=seen.history)

    def _compose(self, written: SavedAccesses | None) -> SavedAccesses | None:
        accesses = self._accesses()
        return None if accesses == (written or self._began_with) else accesses

    def _complain(self, text: str) -> None:
        self._supervisor.tell("state_write_failed", text=text, alarming=True)
