"""`<home>/autotune-registry.toml`: the best settings found for each model on each version of a backend, used by its loads.

A record is found only by the version that is installed: another one may want other settings. The file is for people too: what
somebody writes into a profile is used with the next start, and what cannot be is told and left out.
"""

import logging
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec

from lmx_protocol import limits
from lmx_supervisor.core.autotune import TunedRecord
from lmx_supervisor.core.load_profile import NOTHING, LoadProfile, ProfileError, read_profile
from lmx_supervisor.runtime.atomic_file import Document, ReadDocument, read_document
from lmx_supervisor.runtime.backend_versions import installed_version
from lmx_supervisor.runtime.write_behind import WriteBehind

log = logging.getLogger("lmx.tuned_profiles")

FILE_NAME = "autotune-registry.toml"


class TunedFile(Document, frozen=True, kw_only=True):
    """The whole file; keys are `model::backend::version`."""

    schema: int = 1
    records: dict[str, TunedRecord] = msgspec.field(default_factory=dict)


def read_tuned(home: Path) -> ReadDocument[TunedFile]:
    """What the home knows; an unusable file is set aside. Blocks on the disk."""
    return read_document(home / FILE_NAME, TunedFile)


class TunedProfiles:
    """The records, in memory and on disk. Create it on a running loop; end it with `close`."""

    def __init__(self, home: Path, known: TunedFile | None, complain: Callable[[str], None]) -> None:
        self._records = dict(known.records) if known is not None else {}
        self._file = WriteBehind(home / FILE_NAME, self._compose, complain)

    def profile_for(self, model_id: str, backend: str) -> LoadProfile:
        """What a load of this model on this backend is tuned by, with the version that is installed."""
        version = installed_version(backend)
        record = self._records.get(_key(model_id, backend, version)) if version is not None else None
        if record is None:
            return NOTHING
        try:
            return read_profile(record.profile, "profile")
        except ProfileError as error:
            log.warning("tuned_profile_unusable", extra={"model_id": model_id, "text": str(error)})
            return NOTHING

    def find(self, model_id: str, backend: str | None, version: str | None) -> TunedRecord | None:
        """The newest record that fits; None fits every one."""
        fit = [
            record
            for record in self._records.values()
            if record.model_id == model_id and backend in (None, record.backend) and version in (None, record.backend_version)
        ]
        return max(fit, key=lambda record: record.ts, default=None)

    async def keep(self, record: TunedRecord) -> None:
        """Remember a record, now and after a restart; the oldest makes room."""
        self._records[_key(record.model_id, record.backend, record.backend_version)] = record
        for key in _oldest(self._records, len(self._records) - limits.TUNED_PROFILES_MAX):
            del self._records[key]
        await self._file.write_now()

    async def close(self) -> None:
        """Write what is not on the disk yet."""
        await self._file.close()

    def _compose(self, written: TunedFile | None) -> TunedFile | None:
        document = TunedFile(records=dict(self._records))
        nothing_new = document == written or (written is None and not self._records)
        return None if nothing_new else document


def _key(model_id: str, backend: str, version: str) -> str:
    return f"{model_id}::{backend}::{version}"


def _oldest(records: dict[str, TunedRecord], count: int) -> Iterable[str]:
    return sorted(records, key=lambda key: records[key].ts)[: max(0, count)]
