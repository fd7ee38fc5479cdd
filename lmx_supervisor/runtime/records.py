"""What the service has noted of itself, for readers. Satisfies `core.records.Records`."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

from lmx_protocol import limits
from lmx_supervisor.catalog.disk_calls import DiskCalls
from lmx_supervisor.core.measured import Measured, RecentError, RecentOfModel
from lmx_supervisor.core.records import JournalFile, JournalKind, LogPlaces, OutputMark, OutputReader
from lmx_supervisor.observe.event_bus import EventBus
from lmx_supervisor.observe.metrics import Metrics
from lmx_supervisor.observe.recent_errors import RecentErrors
from lmx_supervisor.runtime.journal_archive import Found, JournalArchive
from lmx_supervisor.runtime.worker_outputs import WorkerOutputs


@dataclass(frozen=True, slots=True)
class KeptLogs:
    """What is written where."""

    places: LogPlaces
    journals: Mapping[JournalKind, JournalArchive]


class ServiceRecords:
    """One service's. Create it on a running loop."""

    def __init__(
        self, kept: KeptLogs, events: EventBus, metrics: Metrics, outputs: WorkerOutputs, strike: Callable[[str], str]
    ) -> None:
        """`strike` removes secrets from text."""
        self._kept = kept
        self._metrics = metrics
        self._outputs = outputs
        self._strike = strike
        self._errors = RecentErrors()
        events.listen(self._errors.take)
        self._calls = DiskCalls(at_once=limits.JOURNAL_READS_AT_ONCE, seconds=limits.JOURNAL_READ_SECONDS)

    def measured(self) -> Measured:
        """What is known of requests, as one document."""
        return self._metrics.measured()

    def recent_of_models(self) -> Mapping[str, RecentOfModel]:
        """How the last minutes were, by model."""
        return self._metrics.requests.recent_of_models()

    def recent_errors(self) -> Sequence[RecentError]:
        """What went wrong lately, the newest first."""
        return self._errors.newest_first()

    def log_places(self) -> LogPlaces:
        """Where everything is written."""
        return self._kept.places

    async def journal_files(self, kind: JournalKind) -> list[JournalFile]:
        """The files of a journal, the newest first. Raises `Refusal` when the disk does not answer."""
        return await self._calls.run(self._kept.journals[kind].files)

    async def journal_text(self, kind: JournalKind, filename: str) -> AsyncIterator[bytes] | None:
        """One file's bytes as they are now, piece by piece; None when there is none of that name. Raises `Refusal`."""
        archive = self._kept.journals[kind]
        found = await self._calls.run(lambda: archive.find(filename))
        return self._pieces(archive, found) if found is not None else None

    async def _pieces(self, archive: JournalArchive, found: Found) -> AsyncIterator[bytes]:
        offset = 0

        def next_piece() -> bytes:
            return archive.piece(found, offset)

        while piece := await self._calls.run(next_piece):
            yield piece
            offset += len(piece)

    def worker_output(self, model_id: str, after: OutputMark | None) -> OutputReader | None:
        """Read what a model's workers print, from where a reader was; None when it had none lately. Raises `Refusal`."""
        return self._outputs.reader(model_id, after, self._strike)
