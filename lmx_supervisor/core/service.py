"""What the gateway, the command line and the ASGI entry ask of a running supervisor; `lmx_supervisor.runtime` provides it."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Literal, Protocol

import msgspec

from lmx_protocol.messages import AnyRequest, AnyRequestEvent
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.autotune import TunedRecord, TuneOrder, TuneReport
from lmx_supervisor.core.benchmark import Benchmark, BenchmarkOrder, BenchmarkResult
from lmx_supervisor.core.claims import Claim, Lane
from lmx_supervisor.core.crashes import CrashHeadline, CrashReport
from lmx_supervisor.core.downloads.orders import Deletion, DownloadOrder, DownloadView, ModelOnItsWay
from lmx_supervisor.core.event_log import Gap, LoggedEvent
from lmx_supervisor.core.load_profile import NOTHING, LoadProfile
from lmx_supervisor.core.predictor import PredictorView
from lmx_supervisor.core.presets import PresetBook
from lmx_supervisor.core.probes import ProbeOrder, ProbeReport
from lmx_supervisor.core.quantization.orders import QuantizeJob, QuantizeOrder
from lmx_supervisor.core.records import Records
from lmx_supervisor.core.views import FleetView, MemoryView


class LoadOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A wish to have a model served."""

    model_id: str
    path: str | None = None
    """A file or directory to register under `model_id` first; None: `model_id` must be in the catalog."""
    backend: str | None = None
    allow_unsupported_runtime: bool = False
    """Try even a quarantined model."""
    profile: LoadProfile = NOTHING
    """What the load is tuned by, whatever a tuned profile, a preset or the configuration says."""
    keep_alive_seconds: float | None = None
    """How long the model may be idle before it is unloaded; 0: for ever. None: as the configuration says."""
    auto_download: bool = False
    """Fetch it from the hub when it is not on this machine, without asking again."""


class LoadOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is served now. `already` means that nothing had to be done."""

    model_id: str
    already: bool
    footprint_bytes: int | None = None
    seconds: float | None = None


class UnloadOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is no longer served."""

    model_id: str
    freed_bytes: int | None = None


class ModelOnDisk(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of the catalog."""

    model_id: str
    path: str
    format: str
    size_bytes: int
    modified_at_unix_seconds: float


class HostMemory(msgspec.Struct, frozen=True, kw_only=True):
    """The memory of this machine (or of its cgroup)."""

    total_bytes: int
    used_bytes: int
    available_bytes: int
    used_percent: float


class ServiceStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The service as a whole."""

    uptime_seconds: float
    started_at_unix_seconds: float
    memory: HostMemory
    loop_lag_seconds: float
    loop_lag_max_seconds: float
    startup_complete: bool
    safe_mode: bool
    """Nothing was loaded at the start."""
    crash_loop_detected: bool
    """That is because the starts before this one ended badly."""
    startup_count: int
    """Starts without a clean stop in between within a minute, this one included."""


class CompatibilityRow(msgspec.Struct, frozen=True, kw_only=True):
    """One experience with a model on a backend; `ts` in unix seconds."""

    ts: float
    model_id: str
    backend: str
    backend_version: str | None
    outcome: Literal["pass", "fail"]
    reason: str | None = None
    metadata: dict[str, str | float | None] = {}


class PrefixCacheUse(msgspec.Struct, frozen=True, kw_only=True):
    """How much there is of computed prompts on the disk, and how much there may be."""

    enabled: bool
    files: int
    bytes: int
    bytes_max: int


class ReloadOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload changed, as dotted configuration keys."""

    updated: tuple[str, ...]
    """In force with a new value now; `presets` among them: their files say something else than before."""
    ignored: tuple[str, ...]
    """Changed where they are written, but in force only after the next start."""


class Origin(msgspec.Struct, frozen=True, kw_only=True):
    """Where a request comes from, and what its client wants beside the answer."""

    client_id: str | None = None
    """What the client calls itself."""
    stream: bool = False
    address: str = ""
    """Where its connection comes from."""
    key_name: str | None = None
    """The name of the key it came with, if that has one."""
    key_concurrent_max: int | None = None
    """How many requests of that key may run at once; None: as many as of anybody."""
    lane: Lane = Lane.NORMAL
    time_limit_seconds: float | None = None
    """How long the client waits for the whole answer; None: it did not say."""

    def claim(self) -> Claim:
        """What the request claims of the service."""
        return Claim(
            client=self.client_id or self.address,
            key=self.key_name,
            key_limit=self.key_concurrent_max,
            lane=self.lane,
            time_limit_seconds=self.time_limit_seconds,
        )


class TurnedAway(StrEnum):
    """Why a request was refused at the door."""

    RATE_LIMIT = "rate_limit"
    """Its caller asks too often."""
    HELD_BODIES = "held_bodies"
    """The bodies of all requests are as large as they may be together."""


class Answer(Protocol):
    """The events of one submitted request, in order, ending with exactly one terminal event.

    `next_event` waits for the next event and also tells the service that the one before it was consumed, which re-grants the
    worker's credit: call it only when the previous event has been written out. After the terminal event it must not be called.
    `cancel` is idempotent; the terminal event still arrives. Cancel or read to the end before dropping it.
    """

    @property
    def request_id(self) -> str:
        """The request's id."""

    async def next_event(self) -> AnyRequestEvent:
        """The next event; a `Failed`, `Finished` or `Cancelled` is the last."""

    def cancel(self) -> None:
        """The client is gone, or does not want the answer any more."""


class EventSubscription(Protocol):
    """One reader of what operators are told. Close it when done."""

    def read(self) -> list[LoggedEvent | Gap]:
        """What happened since the last read, in order, a bounded number at a time; empty when there is nothing new."""

    async def wait(self, seconds: float) -> None:
        """Return when there may be something to read or the events have ended, at the latest after `seconds`."""

    @property
    def ended(self) -> bool:
        """Whether nothing will follow what was read: the service has stopped."""

    def close(self) -> None:
        """Make room for another reader."""


class EventFeed(Protocol):
    """What operators are told, as it happens and for a while after."""

    def subscribe(self, last_id: int | None) -> EventSubscription:
        """Read from now on (None), or what follows event `last_id`. Raises `Refusal` when there are too many readers."""


class KeySetUnavailable(Exception):  # noqa: N818 - a state of somebody else's server, not an error of ours
    """The public keys that tokens are signed with cannot be read now; the text says why."""


class Jobs(Protocol):
    """Work on models that is not serving them, each piece in a process of its own."""

    async def probe(self, order: ProbeOrder) -> ProbeReport:
        """Which backends can open a model, without loading it. Raises `Refusal`."""

    async def quantize(self, order: QuantizeOrder) -> QuantizeJob:
        """Have a quantized copy of a model made, when its turn comes. Raises `Refusal`."""

    def quantize_jobs(self) -> Sequence[QuantizeJob]:
        """Every job that is remembered, the newest first."""

    def find_quantize_job(self, job_id: str) -> QuantizeJob:
        """One of them. Raises `Refusal` when it is not known."""

    def cancel_quantize_job(self, job_id: str) -> QuantizeJob:
        """Have it ended; one that is over stays as it is. Raises `Refusal` when it is not known."""


class PrefixCache(Protocol):
    """What stopped models have left of their computed prompts."""

    async def use(self) -> PrefixCacheUse:
        """What there is now. Raises `Refusal`."""

    async def clear(self, model_id: str | None = None) -> int:
        """Delete the prompts of one model, or all; returns the bytes freed. Raises `Refusal`."""


class Service(Protocol):
    """Everything the gateway may ask."""

    @property
    def config(self) -> Config:
        """The configuration in force."""

    def fleet(self) -> FleetView:
        """All workers at this moment."""

    def status(self) -> ServiceStatus:
        """The service at this moment."""

    def memory(self) -> MemoryView:
        """How the host's memory is shared out at this moment."""

    @property
    def is_shedding(self) -> bool:
        """Whether the host is so full that only what relieves or explains the pressure may pass."""

    def note_shed(self) -> None:
        """A request was refused for that reason."""

    def note_turned_away(self, why: TurnedAway) -> None:
        """A request was refused before it was known what it asks for."""

    @property
    def jobs(self) -> Jobs:
        """Probes and quantized copies."""

    @property
    def events(self) -> EventFeed:
        """What operators are told."""

    @property
    def prefixes(self) -> PrefixCache:
        """The computed prompts on the disk."""

    def metrics(self) -> bytes:
        """Everything that is measured, in Prometheus' text format 0.0.4."""

    @property
    def records(self) -> Records:
        """What the service has noted of itself."""

    def submit(self, request: AnyRequest, origin: Origin) -> Answer:
        """Queue a request. Never blocks and never raises for a model's state: refusals arrive as a `Failed` event."""

    async def demand(self, name: str) -> str:
        """Have a model of this machine loaded for the request that is submitted next; returns its id.

        Never downloads, and loads nothing before the request has come. Raises `Refusal` when there is no such model here, or it
        is not whole.
        """

    async def load(self, order: LoadOrder) -> LoadOutcome | ModelOnItsWay:
        """Have a model served; joins a load in flight, and a caller that goes away changes nothing. Raises `Refusal`.

        A model that is not (wholly) on this machine and could be fetched is on its way, or waits to be confirmed.
        """

    async def confirm_load(self, token: str) -> ModelOnItsWay:
        """Start the download that was offered with this token, and load the model when it has arrived. Raises `Refusal`."""

    async def download(self, order: DownloadOrder) -> DownloadView:
        """Fetch a model from the hub; joins a download that is the same. Raises `Refusal`."""

    def downloads(self) -> Sequence[DownloadView]:
        """Every download that is remembered, the newest last."""

    def find_download(self, download_id: str) -> DownloadView:
        """One of them. Raises `Refusal` when it is not known."""

    async def cancel_download(self, download_id: str) -> DownloadView:
        """End a download and throw away what has come of it; one that is over stays as it is. Raises `Refusal`."""

    async def delete(self, model_id: str) -> Deletion:
        """Delete a model from the models directory. Raises `Refusal`, also while it is in use."""

    async def unload(self, model_id: str) -> UnloadOutcome:
        """Drain and stop a model; cancels a load in flight. Raises `Refusal` when it is not there."""

    async def restart(self, model_id: str) -> LoadOutcome:
        """Replace a served model's worker by a fresh one. Raises `Refusal` when the model is not served."""

    async def clear_quarantine(self, model_id: str | None) -> tuple[str, ...]:
        """Release one model, or all (None); returns which. Raises `Refusal` when that one is not quarantined."""

    @property
    def presets(self) -> PresetBook:
        """The presets in force."""

    async def reload_presets(self) -> PresetBook:
        """Read the presets again; returns those in force now. Raises `Refusal` when the disk does not answer."""

    def accesses(self) -> PredictorView:
        """Which models were wanted lately, and which one is likely to be next."""

    def compatibility(self) -> Sequence[CompatibilityRow]:
        """What was learned about models and backends, the newest last."""

    async def benchmark(self, order: BenchmarkOrder) -> Benchmark:
        """Measure a served model; cancelled, it ends what runs. Raises `Refusal`."""

    async def benchmark_and_keep(self, order: BenchmarkOrder) -> BenchmarkResult:
        """The same, and the result is kept. Raises `Refusal` when not one run came to its end."""

    async def benchmark_results(self, model_id: str | None) -> list[BenchmarkResult]:
        """What was kept of one model, or of all (None), the newest first."""

    async def autotune(self, order: TuneOrder) -> TuneReport:
        """Find the settings that suit a model best, and keep them for its loads; cancelled, it puts the model back.

        Raises `Refusal`.
        """

    def tuned_record(self, model_id: str, backend: str | None, backend_version: str | None) -> TunedRecord | None:
        """The newest record of an autotune that fits; None fits every one."""

    async def available(self) -> list[ModelOnDisk]:
        """The models on disk."""

    async def crashes(self, model_id: str | None, at_most: int) -> list[CrashHeadline]:
        """The deaths that evidence is kept of, the newest first; of one model, or of all (None)."""

    async def crash(self, crash_id: str) -> CrashReport | None:
        """Everything that is kept of one death; None when there is nothing of that id."""

    async def reload_config(self) -> ReloadOutcome:
        """Read the configuration again and put in force what can change now. Raises `Refusal` when it cannot be used."""

    async def read_key_set(self) -> bytes:
        """The public keys that tokens are signed with, as they are published where the configuration says.

        Takes a bounded time. Raises `KeySetUnavailable`.
        """
