"""Everything that can happen to the fleet. `Fleet.handle` takes these and nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from lmx_protocol.messages import AnyRequest, FromWorker, ModelSpec
from lmx_supervisor.core.claims import NO_CLAIM, Claim
from lmx_supervisor.core.exit_reason import ExitObservation, Verdict
from lmx_supervisor.core.load_profile import UNTUNED, ProfileLayers
from lmx_supervisor.core.memory_need import MemoryNeed
from lmx_supervisor.core.stop_reason import StopReason
from lmx_supervisor.core.trial import Trial


@dataclass(frozen=True, slots=True)
class LoadWanted:
    """Somebody wants a model served; `order_id` names who to tell."""

    order_id: str
    spec: ModelSpec
    backend: str
    digest: str = ""
    """Changes with the model's files and its load configuration; another one ends a quarantine."""
    at_start: bool = False
    """Keep trying even if the first load fails."""
    force: bool = False
    """Try even a quarantined model."""
    size_bytes: int = 0
    """Of the model's files: the least that it will need."""
    need: MemoryNeed | None = None
    """What it will need; None: that cannot be told, and nothing is claimed."""
    keep_alive_seconds: float | None = None
    """How long it may be idle before it is unloaded; 0: for ever. None: as the configuration says."""
    profile: ProfileLayers = UNTUNED
    """Who tuned `spec`, and what its requests default to."""
    replaces: bool = False
    """A model that is loaded already is loaded anew, as ordered here; requests that come meanwhile wait for it."""
    trial: Trial | None = None
    """Only to try its settings."""


@dataclass(frozen=True, slots=True)
class PrefetchWanted:
    """The model that was likely to be wanted next was found; `load` says how it would be loaded."""

    load: LoadWanted


@dataclass(frozen=True, slots=True)
class Demanded:
    """A request for a model that is not loaded is about to come; `load` says how it would be loaded, and is no order."""

    load: LoadWanted


@dataclass(frozen=True, slots=True)
class UnloadWanted:
    """Somebody wants a model gone."""

    order_id: str
    model_id: str
    reason: StopReason = StopReason.MANUAL


@dataclass(frozen=True, slots=True)
class RestartWanted:
    """Somebody wants a model's worker replaced by a fresh one."""

    order_id: str
    model_id: str


@dataclass(frozen=True, slots=True)
class QuarantineClearWanted:
    """An operator releases a model, or all of them (None)."""

    order_id: str
    model_id: str | None


@dataclass(frozen=True, slots=True)
class QuarantineKnown:
    """A quarantine that outlived a restart of the service."""

    spec: ModelSpec
    backend: str
    digest: str
    reason: str
    consecutive_failures: int
    last_exit: Verdict | None


@dataclass(frozen=True, slots=True)
class DrainWanted:
    """The service is to stop: refuse new work, end what runs within `seconds`, stop every worker. Repeated: shorten."""

    seconds: float


@dataclass(frozen=True, slots=True)
class RequestArrived:
    """A client wants an answer."""

    request: AnyRequest
    claim: Claim = NO_CLAIM


@dataclass(frozen=True, slots=True)
class RequestCancelled:
    """A client does not want its answer any more."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Spawned:
    """A process exists."""

    incarnation: str
    pid: int


@dataclass(frozen=True, slots=True)
class SpawnFailed:
    """A process could not be started."""

    incarnation: str
    detail: str


@dataclass(frozen=True, slots=True)
class Said:
    """A worker sent a message."""

    incarnation: str
    message: FromWorker


@dataclass(frozen=True, slots=True)
class Misbehaved:
    """A worker broke the protocol on the wire: bytes that are no message, or more than its credit allowed."""

    incarnation: str
    detail: str


@dataclass(frozen=True, slots=True)
class FilesChanged:
    """A file of a model is not what it was when its load began; the worker may hold parts of both."""

    incarnation: str
    detail: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A process is gone; the kernel said so."""

    incarnation: str
    observation: ExitObservation


@dataclass(frozen=True, slots=True)
class MemoryChecked:
    """How much of a dead worker's memory the machine has not got back, and how much it has available."""

    incarnation: str
    missing_bytes: int
    available_bytes: int


@dataclass(frozen=True, slots=True)
class HostMemoryRead:
    """The memory of this host at this moment."""

    total_bytes: int
    available_bytes: int
    resident_bytes: Mapping[str, int] = field(default_factory=dict)
    """Incarnation → what this very reading counts as used by that worker; where it is not known, its own word is taken."""

    @property
    def used_percent(self) -> float:
        """Of the total."""
        return 100.0 * (self.total_bytes - self.available_bytes) / self.total_bytes if self.total_bytes else 0.0


@dataclass(frozen=True, slots=True)
class ProcessorsCounted:
    """How many cores this host has for us."""

    processors: int


@dataclass(frozen=True, slots=True)
class PeakKnown:
    """What a model, loaded in a certain way, cost at its peak before this start."""

    digest: str
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class AccessesKnown:
    """Which models were wanted before this start, the last one last, and how often any was."""

    history: tuple[str, ...]
    total: int


@dataclass(frozen=True, slots=True)
class SafeModeKnown:
    """This start is a safe one: nothing is loaded that nobody orders."""


@dataclass(frozen=True, slots=True)
class Tick:
    """Time passed; due deadlines act."""


Event = (
    LoadWanted
    | PrefetchWanted
    | Demanded
    | UnloadWanted
    | RestartWanted
    | QuarantineClearWanted
    | QuarantineKnown
    | DrainWanted
    | RequestArrived
    | RequestCancelled
    | Spawned
    | SpawnFailed
    | Said
    | Misbehaved
    | FilesChanged
    | Exited
    | MemoryChecked
    | HostMemoryRead
    | ProcessorsCounted
    | PeakKnown
    | AccessesKnown
    | SafeModeKnown
    | Tick
)
