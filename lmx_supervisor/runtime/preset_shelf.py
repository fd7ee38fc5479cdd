"""The presets in force: read from their directory at the start and whenever somebody asks for it, replaced whole."""

from collections.abc import Callable
from pathlib import Path

from lmx_protocol import limits
from lmx_supervisor.catalog.disk_calls import DiskCalls
from lmx_supervisor.catalog.preset_files import read_presets
from lmx_supervisor.config.schema import Config, presets_directory
from lmx_supervisor.core.load_profile import LoadProfile
from lmx_supervisor.core.presets import PresetBook, Skipped
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.runtime.supervisor import Supervisor

_NOTHING: tuple[PresetBook, tuple[Skipped, ...]] = (PresetBook(), ())


class PresetShelf:
    """One home's. Create it on a running loop; it is empty before the first `reload`."""

    def __init__(self, config: Callable[[], Config], home: Path, supervisor: Supervisor) -> None:
        self._config = config
        self._home = home
        self._supervisor = supervisor
        self._calls = DiskCalls(at_once=1, seconds=limits.CONFIG_READ_SECONDS)
        self.book = PresetBook()
        """What was read last. Never changes; a reload puts another in its place."""

    async def reload(self) -> bool:
        """Read the presets again; returns whether they differ. Operators are told of every file that gives none.

        Raises:
            Refusal: the disk did not answer; what was read last stays in force.
        """
        config, (book, skipped) = self._config(), _NOTHING
        if config.presets.enabled:
            directory, is_named = presets_directory(config, self._home), config.presets.directory is not None
            book, skipped = await self._calls.run(lambda: read_presets(directory, must_exist=is_named))
        for each in skipped:
            self._supervisor.tell("preset_skipped", file=each.file, reason=each.reason, alarming=True)
        changed, self.book = book != self.book, book
        self._supervisor.tell("presets_loaded", presets=book.names(), skipped=len(skipped))
        return changed

    async def try_reload(self) -> bool:
        """As `reload`; a disk that does not answer is told to operators instead."""
        try:
            return await self.reload()
        except Refusal as refusal:
            self._supervisor.tell("presets_unreadable", text=refusal.message, alarming=True)
            return False

    def performance_of(self, model_id: str, _: str) -> LoadProfile:
        """How a model is to be loaded, on whatever backend, as far as the presets say."""
        return self.book.performance_of(model_id)
