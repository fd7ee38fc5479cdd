"""Everything the core can ask for. The runtime performs these, in order, and reports back with events."""

from dataclasses import dataclass, field
from enum import StrEnum

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import AnyRequestEvent, ModelFacts, ModelSpec, Sampling, ToWorker
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.exit_reason import ExitObservation, Verdict


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
class VerifyMemory:
    """Find out whether a dead worker's memory is back; report with `MemoryChecked`, again when what was missing is back."""

    incarnation: str
    owed_bytes: int


@dataclass(frozen=True, slots=True)
class RequestTrace:
    """A request that was in flight at a death: numbers only, never its text."""

    request_id: str
    prompt_characters: int
    max_tokens: int | None
    tokens_delivered: int
    replays: int
    on_trial: bool
    sampling: Sampling


@dataclass(frozen=True, slots=True)
class Autopsy:
    """A worker died that should not have: everything the core knows about it, for the crash bundle."""

    crash_id: str
    model_id: str | None
    backend: str
    backend_version: str | None
    pid: int | None
    state: WorkerState
    verdict: Verdict
    observation: ExitObservation
    uptime_seconds: float
    spec: ModelSpec | None
    facts: ModelFacts | None
    story: tuple[tuple[float, str], ...]
    """Seconds before the death, and what happened."""
    memory_curve: tuple[tuple[float, int], ...]
    """Seconds before the death, and the footprint in bytes."""
    requests: tuple[RequestTrace, ...]


@dataclass(frozen=True, slots=True)
class Prefetch:
    """A model is likely to be wanted next: find it, and report with `PrefetchWanted`. That it cannot be found is no failure."""

    model_id: str


@dataclass(frozen=True, slots=True)
class AllStopped:
    """The drain is over: no request and no worker is left."""


Action = (
    Spawn
    | Send
    | Signal
    | Deliver
    | LoadSettled
    | UnloadSettled
    | QuarantineSettled
    | OrderRefused
    | Tell
    | VerifyMemory
    | Autopsy
    | Prefetch
    | AllStopped
)
