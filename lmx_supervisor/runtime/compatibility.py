"""`<home>/compatibility-registry.json`: which model worked on which backend, learned from what operators are told.

A passed canary is a pass. A load that failed, and a quarantine that service itself led to, are fails; what says nothing about
the model is neither: an unload, a broken installation, a worker that never got as far as importing its backend. A probe is
either of them, and marked: that a model could be opened is less than that it was served (`core.backend_choice`).
"""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from lmx_protocol import limits
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.backend_choice import BY_PROBE
from lmx_supervisor.core.exit_reason import ExitReason
from lmx_supervisor.core.service import CompatibilityRow
from lmx_supervisor.core.slot import STARTING
from lmx_supervisor.runtime.atomic_file import Document, ReadDocument, read_document
from lmx_supervisor.runtime.supervisor import Supervisor
from lmx_supervisor.runtime.write_behind import WriteBehind

FILE_NAME = "compatibility-registry.json"

_SAYS_NOTHING_OF_THE_MODEL = frozenset(
    {
        ExitReason.STOPPED,
        ExitReason.STOP_TIMEOUT,
        ExitReason.CONFIG,
        ExitReason.PROTOCOL,
        ExitReason.WRONG_BUILD,
        ExitReason.SPAWN_FAILED,
        ExitReason.PARENT_GONE,
        ExitReason.EXTERNAL,
        ExitReason.WILL_NOT_FIT,
        ExitReason.MODEL_CHANGED,
    }
)


class Registry(Document, frozen=True, kw_only=True):
    """The whole file, the newest row last."""

    schema: int = 1
    rows: tuple[CompatibilityRow, ...] = ()


def read_registry(home: Path) -> ReadDocument[Registry]:
    """What the home knows; an unusable file is set aside. Blocks on the disk."""
    return read_document(home / FILE_NAME, Registry)


class CompatibilityRegistry:
    """The rows, in memory and on disk. Create it on a running loop; end it with `close`."""

    def __init__(self, home: Path, supervisor: Supervisor, known: Sequence[CompatibilityRow]) -> None:
        self._supervisor = supervisor
        self._rows = deque(known, maxlen=limits.COMPATIBILITY_ROWS_MAX)
        self._file = WriteBehind(home / FILE_NAME, self._compose, self._complain)
        supervisor.subscribe(self._told)

    def rows(self) -> Sequence[CompatibilityRow]:
        """All of them, the newest last."""
        return tuple(self._rows)

    async def close(self) -> None:
        """Write what is not on the disk yet."""
        await self._file.close()

    def _told(self, tell: Tell) -> None:
        row = row_of(tell, time.time())
        if row is not None:
            # Not at once: listeners after this one would hear of the row before they hear what it came from.
            asyncio.get_running_loop().call_soon(self._record, row)

    def _record(self, row: CompatibilityRow) -> None:
        self._rows.append(row)
        self._file.changed()
        self._supervisor.tell(
            "model_compatibility_recorded",
            ts=row.ts,
            model_id=row.model_id,
            backend=row.backend,
            backend_version=row.backend_version,
            outcome=row.outcome,
            reason=row.reason,
            metadata=row.metadata,
        )

    def _compose(self, written: Registry | None) -> Registry | None:
        registry = Registry(rows=tuple(self._rows))
        known = written.rows if written is not None else ()
        return None if registry.rows == known else registry

    def _complain(self, text: str) -> None:
        self._supervisor.tell("state_write_failed", text=text, alarming=True)


def row_of(tell: Tell, now_unix_seconds: float) -> CompatibilityRow | None:
    """What a model's fate says about its compatibility, or None."""
    fields: dict[str, Any] = tell.fields
    if tell.kind == "model_canary_passed":
        return _row(fields, now_unix_seconds, "pass", None, {"canary_seconds": fields["duration_seconds"]})
    if tell.kind == "model_quarantined" and fields["while_serving"]:
        reason = f"{fields['reason']}: {fields['text']}"
        return _row(fields, now_unix_seconds, "fail", reason, {"crash_id": fields["crash_id"]})
    if tell.kind == "worker_exited" and _is_failed_load(fields):
        reason = f"{fields['reason']}: {fields['text']}"
        return _row(fields, now_unix_seconds, "fail", reason, {"crash_id": fields["crash_id"]})
    if tell.kind == "model_probed" and fields["is_evidence"]:
        metadata = {BY_PROBE: "opened without its weights", "probe_seconds": round(fields["duration_seconds"], 3)}
        return _row(fields, now_unix_seconds, fields["outcome"], fields["reason"], metadata)
    return None


def _is_failed_load(fields: dict[str, Any]) -> bool:
    return (
        fields["model_id"] is not None
        and WorkerState(fields["state"]) in STARTING
        and fields["backend_version"] is not None
        # The settings that were tried are to blame, not the backend.
        and not fields.get("trial")
        and ExitReason(fields["reason"]) not in _SAYS_NOTHING_OF_THE_MODEL
    )


def _row(
    fields: dict[str, Any], now: float, outcome: Literal["pass", "fail"], reason: str | None, metadata: dict[str, Any]
) -> CompatibilityRow:
    return CompatibilityRow(
        ts=now,
        model_id=fields["model_id"],
        backend=fields["backend"],
        backend_version=fields["backend_version"],
        outcome=outcome,
        reason=reason[: limits.COMPATIBILITY_REASON_CHARACTERS_MAX] if reason is not None else None,
        metadata=metadata,
    )
