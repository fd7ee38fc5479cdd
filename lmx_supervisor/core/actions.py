"""Everything the core can ask for. The runtime performs these, in order, and reports back with events."""

from dataclasses import dataclass, field
from enum import StrEnum

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import AnyRequestEvent, ToWorker


class WorkerSignal(StrEnum):
    """The rungs of the stop and hang ladders."""

    TERMINATE = "terminate"
    ABORT = "abort"
    KILL = "kill"


@dataclass(frozen=True, slots=True)
class Spawn:
    """Start a worker process for a backend."""

    incarnation: str
    backend: str


@dataclass(frozen=True, slots=True)
class Send:
    """Send a message to a worker."""

    incarnation: str
    message: ToWorker


@dataclass(frozen=True, slots=True)
class Signal:
    """Send a signal to a worker's process group."""

    incarnation: str
    signal: WorkerSignal


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand an event to the reader of a request; a terminal one is the last for it."""

    event: AnyRequestEvent


@dataclass(frozen=True, slots=True)
class LoadSettled:
    """A load order succeeded."""

    order_id: str
    model_id: str
    already: bool
    footprint_bytes: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class UnloadSettled:
    """An unload order succeeded."""

    order_id: str
    model_id: str
    freed_bytes: int | None


@dataclass(frozen=True, slots=True)
class QuarantineSettled:
    """An order to clear quarantine succeeded; these models may be loaded again."""

    order_id: str
    model_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OrderRefused:
    """An order cannot be granted."""

    order_id: str
    code: ErrorCode
    message: str
    retry_after_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class Tell:
    """Something operators should know: one log line, one event on the bus. `kind` is stable, fields are flat."""

    kind: str
    fields: dict[str, object] = field(default_factory=dict)
    alarming: bool = False


@dataclass(frozen=True, slots=True)
class AllStopped:
    """The drain is over: no request and no worker is left."""


Action = Spawn | Send | Signal | Deliver | LoadSettled | UnloadSettled | QuarantineSettled | OrderRefused | Tell | AllStopped
