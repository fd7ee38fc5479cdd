"""What the gateway asks of a running supervisor about what it noted of itself: measurements, errors, journals, workers' output.

`lmx_supervisor.runtime` provides it.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import msgspec

from lmx_supervisor.core.measured import Measured, RecentError, RecentOfModel


class JournalKind(StrEnum):
    """The two journals."""

    SESSIONS = "sessions"
    UPDATES = "updates"


class JournalFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file of a journal."""

    filename: str
    size_bytes: int
    created_at: str
    """ISO 8601, in UTC."""


class LogPlaces(msgspec.Struct, frozen=True, kw_only=True):
    """Where this service writes what it has to say."""

    log_output: str
    """Where standard error goes: a file's path, or in words."""
    log_file: str | None
    """The further file of `logging.file`."""
    journaling: bool
    session_logs_dir: str
    update_logs_dir: str
    crashes_dir: str


@dataclass(frozen=True, slots=True)
class OutputPart:
    """Whole lines that a worker printed, or what is lost of them."""

    incarnation: str
    lines: tuple[str, ...]
    end: int
    """Bytes of the worker's output up to the end of these lines."""
    lost_bytes: int | None = 0
    """Before these lines, and not known any more; None: nobody knows how many."""


@dataclass(frozen=True, slots=True)
class OutputMark:
    """How far a reader has come: in the output of one incarnation, so many bytes."""

    incarnation: str
    end: int


class OutputReader(Protocol):
    """One reader of what a model's workers print, from one incarnation to the next. Close it when done."""

    def read(self) -> list[OutputPart]:
        """What was printed since the last read, in order and bounded; empty when nothing was."""

    async def wait(self, seconds: float) -> None:
        """Return when there may be something to read or nothing will follow, at the latest after `seconds`."""

    @property
    def ended(self) -> bool:
        """Whether nothing will follow what was read: the service has stopped."""

    def close(self) -> None:
        """Make room for another reader."""


class Records(Protocol):
    """Everything the gateway may ask of them."""

    def measured(self) -> Measured:
        """What is known of requests, as one document."""

    def recent_of_models(self) -> Mapping[str, RecentOfModel]:
        """The same of the last minutes, by the label of the model, without what only counts since the start."""

    def recent_errors(self) -> Sequence[RecentError]:
        """What went wrong lately, the newest first."""

    def log_places(self) -> LogPlaces:
        """Where everything is written."""

    async def journal_files(self, kind: JournalKind) -> list[JournalFile]:
        """The files of a journal, the newest first. Raises `Refusal` when the disk does not answer."""

    async def journal_text(self, kind: JournalKind, filename: str) -> AsyncIterator[bytes] | None:
        """One file's bytes as they are now, piece by piece; None when there is none of that name. Raises `Refusal`."""

    def worker_output(self, model_id: str, after: OutputMark | None) -> OutputReader | None:
        """Read what a model's workers print, from where a reader was; None when the model had none lately.

        Raises `Refusal` when there are too many readers.
        """
