"""The workers as GET /admin/workers tells them, and their table for `lmx ps`."""

from collections.abc import Mapping
from typing import Any

import msgspec

from lmx_protocol.states import WorkerState
from lmx_supervisor.cli.failures import NoAnswer
from lmx_supervisor.cli.quantities import short_duration, short_size
from lmx_supervisor.cli.terminal import table
from lmx_supervisor.core.views import LoadProgressView, SpareView, WorkerView

WORKERS_PATH = "/admin/workers"

_COLUMNS: tuple[tuple[str, str], ...] = (
    ("MODEL", "MODEL"),
    ("BACKEND", "BACKEND"),
    ("PID", "PID"),
    ("STATE", "STATE"),
    ("UPTIME", "UP"),
    ("RESTARTS", "RST"),
    ("USED/RESERVED", "MEMORY"),
    ("RUNNING", "RUN"),
    ("WAITING", "WAIT"),
    ("TOK/S", "TOK/S"),
    ("LAST EXIT", "EXIT"),
)
"""Each heading, and what is left of it in a narrow terminal."""
_FIRST_TO_GO = ("PID", "BACKEND")
"""What a narrow terminal does not show rather than to cut the names of models; `--json` has it."""


class Fleet(msgspec.Struct, frozen=True):
    """Every model's slot, and the warm spares."""

    workers: tuple[WorkerView, ...]
    spares: tuple[SpareView, ...] = ()

    def worker(self, model_id: str) -> WorkerView | None:
        """The slot of a model, or None."""
        return next((worker for worker in self.workers if worker.model_id == model_id), None)


def parse_fleet(document: Mapping[str, Any]) -> Fleet:
    """The document with its types. Raises `NoAnswer` when it has another shape."""
    try:
        return msgspec.convert(document, Fleet)
    except msgspec.ValidationError as error:
        raise NoAnswer(f"{WORKERS_PATH} answers in a form this version of lmx does not know ({error})") from error


def percent_loaded(progress: LoadProgressView) -> int:
    """How far a load is, 0 to 100."""
    return min(100, 100 * progress.done // progress.total) if progress.total > 0 else 0


def state_text(worker: WorkerView) -> str:
    """The state, with how far a load is or when the next restart comes; or that a model waits for room, or makes it."""
    if worker.state is WorkerState.LOADING and worker.load_progress is not None:
        return f"{worker.state} {percent_loaded(worker.load_progress)}%"
    if worker.state is WorkerState.BACKOFF and worker.restart_in_seconds is not None:
        return f"{worker.state} {short_duration(worker.restart_in_seconds)}"
    if worker.waits_because is not None:
        return "awaits room"
    return "yields" if worker.yields_to is not None else str(worker.state)


def fleet_lines(fleet: Fleet, columns: int | None) -> list[str]:
    """The table of `lmx ps`, in at most `columns` characters where that is given."""
    rows = [_row(worker) for worker in fleet.workers]
    lines = table([heading for heading, _ in _COLUMNS], rows)
    for left_out in range(len(_FIRST_TO_GO) + 1):
        if columns is None or max(map(len, lines)) <= columns:
            return lines
        kept = [index for index, (heading, _) in enumerate(_COLUMNS) if heading not in _FIRST_TO_GO[:left_out]]
        narrow = [_COLUMNS[index][1] for index in kept]
        cells = [[row[index] for index in kept] for row in rows]
        is_last = left_out == len(_FIRST_TO_GO)
        shrink = (narrow.index("EXIT"), *((narrow.index("MODEL"), narrow.index("STATE")) if is_last else ()))
        lines = table(narrow, cells, shrink=shrink, columns=columns)
    return lines


def _row(worker: WorkerView) -> tuple[str, ...]:
    return (
        worker.model_id,
        worker.backend,
        str(worker.pid or "-"),
        state_text(worker),
        short_duration(worker.uptime_seconds) if worker.pid else "-",
        str(worker.restarts),
        f"{short_size(worker.footprint_bytes)}/{short_size(worker.reserved_bytes or None)}",
        f"{worker.requests_active}/{worker.concurrent_limit}",
        str(worker.requests_waiting),
        f"{worker.tokens_per_second:.0f}",
        worker.last_exit.reason if worker.last_exit else "-",
    )
