"""The service as the gateway and the command line see it: catalog, configuration and fleet behind one port.

Satisfies `core.service.Service`. Loads belong to the service, not to the caller that asked: each runs in a task of its own,
and a caller that goes away only stops waiting.
"""

import asyncio
import logging
import time
from collections.abc import Coroutine, Sequence
from pathlib import Path

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import AnyRequest, CountRequest
from lmx_protocol.states import WorkerState
from lmx_supervisor.catalog.catalog import Catalog
from lmx_supervisor.catalog.disk_calls import DiskCalls
from lmx_supervisor.catalog.model_ids import check_model_id, is_repository_id
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.autotune import TunedRecord, TuneOrder, TuneReport
from lmx_supervisor.core.benchmark import Benchmark, BenchmarkOrder, BenchmarkResult
from lmx_supervisor.core.crashes import CrashHeadline, CrashReport
from lmx_supervisor.core.downloads.orders import Deletion, DownloadOrder, DownloadView, ModelOnItsWay
from lmx_supervisor.core.predictor import PredictorView
from lmx_supervisor.core.presets import PresetBook
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import (
    Answer,
    CompatibilityRow,
    LoadOrder,
    LoadOutcome,
    ModelOnDisk,
    Origin,
    ReloadOutcome,
    ServiceStatus,
    TurnedAway,
    UnloadOutcome,
)
from lmx_supervisor.core.startup import StartupDecision
from lmx_supervisor.core.views import FleetView, MemoryView
from lmx_supervisor.observe.event_bus import EventBus
from lmx_supervisor.observe.host_memory import read_host_memory
from lmx_supervisor.observe.log_format import Redaction
from lmx_supervisor.observe.metrics import Metrics
from lmx_supervisor.runtime.autotuner import Autotuner
from lmx_supervisor.runtime.benchmarks import Benchmarks
from lmx_supervisor.runtime.compatibility import CompatibilityRegistry
from lmx_supervisor.runtime.crash_archive import CrashArchive
from lmx_supervisor.runtime.demands import Demands
from lmx_supervisor.runtime.downloader import Downloader
from lmx_supervisor.runtime.hub_look import HubLooks
from lmx_supervisor.runtime.key_set_reader import KeySetReader
from lmx_supervisor.runtime.live_config import LiveConfig
from lmx_supervisor.runtime.local_jobs import LocalJobs
from lmx_supervisor.runtime.model_loader import ModelLoader
from lmx_supervisor.runtime.model_supply import ModelSupply, being_deleted
from lmx_supervisor.runtime.prefetcher import Prefetcher
from lmx_supervisor.runtime.prefix_disk import PrefixDisk
from lmx_supervisor.runtime.preset_shelf import PresetShelf
from lmx_supervisor.runtime.records import KeptLogs, ServiceRecords
from lmx_supervisor.runtime.state_keeper import StateKeeper
from lmx_supervisor.runtime.supervisor import Supervisor
from lmx_supervisor.runtime.tuned_profiles import TunedProfiles

log = logging.getLogger("lmx.service")

_HOLDS_NO_FILES = frozenset({WorkerState.STOPPED, WorkerState.FAILED, WorkerState.QUARANTINED})


class LocalService:
    """One host's models. Create it on a running loop."""

    def __init__(
        self,
        live: LiveConfig,
        catalog: Catalog,
        supervisor: Supervisor,
        *,
        startup: StartupDecision,
        state: StateKeeper,
        home: Path,
        tuned: TunedProfiles,
        registry: CompatibilityRegistry,
        crashes: CrashArchive,
        redaction: Redaction,
        downloader: Downloader,
        looks: HubLooks,
        shelf: PresetShelf,
        kept_logs: KeptLogs,
        jobs: LocalJobs,
        prefixes: PrefixDisk,
    ) -> None:
        self._shelf = shelf
        self._live = live
        self._downloader = downloader
        self._supply = ModelSupply(lambda: live.config, catalog, downloader, looks)
        self.prefixes = prefixes
        self._deleting: set[str] = set()
        self.jobs = jobs
        jobs.being_deleted = self._deleting
        self._crashes = crashes
        self._crash_calls = DiskCalls(at_once=limits.CRASH_CALLS_MAX, seconds=limits.CRASH_READ_SECONDS)
        self._key_sets = KeySetReader()
        self._catalog = catalog
        self._supervisor = supervisor
        self._loader = ModelLoader(lambda: live.config, catalog, supervisor, registry.rows)
        self._loader.preset_profile = shelf.performance_of
        self._loader.tuned_profile = tuned.profile_for
        self._tuned = tuned
        self._benchmarks = Benchmarks(home, catalog, supervisor, self.submit)
        self._autotuner = Autotuner(lambda: live.config, supervisor, self._loader, tuned, self.submit)
        self._startup = startup
        self._state = state
        self._registry = registry
        self._loads: dict[str, asyncio.Task[LoadOutcome]] = {}
        self._started_at = time.monotonic()
        self._started_at_unix = time.time()
        self._startup_complete = False
        self._events = EventBus(redaction)
        self._metrics = Metrics(self.fleet, self.status, self.memory, on_request_completed=self._events.take)
        self._metrics.watch_work(
            downloads=lambda: [view.status for view in downloader.views()],
            quantize_jobs=lambda: [job.status for job in jobs.quantize_jobs()],
        )
        self.records = ServiceRecords(kept_logs, self._events, self._metrics, supervisor.outputs, redaction.strike)
        """What the service has noted of itself."""
        for listener in (self._events.take, self._metrics.take):
            supervisor.subscribe(listener)
        downloader.on_progress = self._events.take
        downloader.on_arrival = self._load_arrived
        self._prefetcher = Prefetcher(supervisor, self._load_unasked)
        self._demands = Demands(supervisor, self._loader.for_demand, self._deleting)

    @property
    def config(self) -> Config:
        """The configuration in force."""
        return self._live.config

    def fleet(self) -> FleetView:
        """All workers at this moment."""
        return self._supervisor.view()

    def status(self) -> ServiceStatus:
        """The service at this moment."""
        return ServiceStatus(
            uptime_seconds=time.monotonic() - self._started_at,
            started_at_unix_seconds=self._started_at_unix,
            memory=read_host_memory(),
            loop_lag_seconds=self._supervisor.loop_lag_seconds,
            loop_lag_max_seconds=self._supervisor.loop_lag_max_seconds,
            startup_complete=self._startup_complete,
            safe_mode=self._startup.safe_mode,
            crash_loop_detected=self._startup.crash_loop_detected,
            startup_count=self._startup.startup_count,
        )

    def memory(self) -> MemoryView:
        """How the host's memory is shared out at this moment."""
        return self._supervisor.memory()

    @property
    def is_shedding(self) -> bool:
        """Whether the host is so full that only what relieves or explains the pressure may pass."""
        return self._supervisor.is_shedding

    def note_shed(self) -> None:
        """A request was refused for that reason."""
        self._metrics.note_shed()

    def note_turned_away(self, why: TurnedAway) -> None:
        """A request was refused before it was known what it asks for."""
        self._metrics.note_turned_away(why)

    @property
    def events(self) -> EventBus:
        """What operators are told."""
        return self._events

    def metrics(self) -> bytes:
        """Everything that is measured, in Prometheus' text format 0.0.4."""
        return self._metrics.text()

    def submit(self, request: AnyRequest, origin: Origin) -> Answer:
        """Queue a request. Counts of tokens are not measured: they would blur what is known of answers."""
        if isinstance(request, CountRequest):
            return self._supervisor.submit(request, origin.claim())
        return self._supervisor.submit(request, origin.claim(), self._metrics.requests.watch(request.model_id, origin))

    async def demand(self, name: str) -> str:
        """Have a model of this machine loaded for the request that is about to be submitted. Raises `Refusal`."""
        return await self._demands.demand(name)

    async def benchmark(self, order: BenchmarkOrder) -> Benchmark:
        """Measure a served model. Raises `Refusal`."""
        return await self._benchmarks.run(order)

    async def benchmark_and_keep(self, order: BenchmarkOrder) -> BenchmarkResult:
        """Measure a served model, and keep the result. Raises `Refusal`."""
        return await self._benchmarks.run_and_keep(order)

    async def benchmark_results(self, model_id: str | None) -> list[BenchmarkResult]:
        """What was kept, the newest first. Raises `Refusal` when the disk does not answer."""
        return await self._benchmarks.results(model_id)

    async def autotune(self, order: TuneOrder) -> TuneReport:
        """Find the settings that suit a model best, and keep them for its loads. Raises `Refusal`."""
        return await self._autotuner.tune(order)

    def tuned_record(self, model_id: str, backend: str | None, backend_version: str | None) -> TunedRecord | None:
        """The newest record of an autotune that fits; None fits every one."""
        return self._tuned.find(model_id, backend, backend_version)

    async def available(self) -> list[ModelOnDisk]:
        """The models on disk."""
        return await self._catalog.available()

    async def crashes(self, model_id: str | None, at_most: int) -> list[CrashHeadline]:
        """The deaths that evidence is kept of, the newest first. Raises `Refusal` when the disk does not answer."""
        return await self._crash_calls.run(lambda: self._crashes.headlines(model_id, at_most))

    async def crash(self, crash_id: str) -> CrashReport | None:
        """Everything that is kept of one death, or None. Raises `Refusal` when the disk does not answer."""
        return await self._crash_calls.run(lambda: self._crashes.report(crash_id))

    async def reload_config(self) -> ReloadOutcome:
        """Read the configuration again and put in force what can change now. Raises `Refusal`."""
        reload = await self._live.reload()
        updated = (*reload.updated, "presets") if await self._shelf.try_reload() else reload.updated
        self._supervisor.tell(
            "config_reloaded",
            updated=updated,
            ignored=reload.ignored,
            memory_threshold=self.config.memory.max_memory_percent,
            log_level=self.config.logging.level,
        )
        return ReloadOutcome(updated=updated, ignored=reload.ignored)

    async def read_key_set(self) -> bytes:
        """The public keys that tokens are signed with. Raises `KeySetUnavailable`."""
        return await self._key_sets.read(self.config.security.supabase_jwt_jwks_url)

    async def unload(self, model_id: str) -> UnloadOutcome:
        """Drain and stop a model. Raises `Refusal`."""
        return await self._supervisor.unload(model_id)

    async def restart(self, model_id: str) -> LoadOutcome:
        """Replace a served model's worker by a fresh one. Raises `Refusal`."""
        return await self._supervisor.restart(model_id)

    async def clear_quarantine(self, model_id: str | None) -> tuple[str, ...]:
        """Release one model, or all. Raises `Refusal`."""
        return await self._supervisor.clear_quarantine(model_id)

    @property
    def presets(self) -> PresetBook:
        """The presets in force."""
        return self._shelf.book

    async def reload_presets(self) -> PresetBook:
        """Read the presets again. Raises `Refusal`."""
        await self._shelf.reload()
        return self._shelf.book

    def accesses(self) -> PredictorView:
        """Which models were wanted lately, and which one is likely to be next."""
        return self._supervisor.lasting().accesses

    def compatibility(self) -> Sequence[CompatibilityRow]:
        """What was learned about models and backends, the newest last."""
        return self._registry.rows()

    async def load(self, order: LoadOrder) -> LoadOutcome | ModelOnItsWay:
        """Have a model served, or say what it takes to get it here. Raises `Refusal`."""
        if order.model_id in self._deleting:
            raise being_deleted(order.model_id, "model_id")
        load = self._loads.get(order.model_id)
        if load is None:
            load = self._start_load(order.model_id, self._loader.load(order, at_start=False))
        try:
            return await asyncio.shield(load)
        except Refusal as refusal:
            return await self._supply.instead_of(refusal, order)

    async def confirm_load(self, token: str) -> ModelOnItsWay:
        """Start the download that was offered with this token, and load the model when it has arrived. Raises `Refusal`."""
        return await self._supply.confirm(token)

    async def download(self, order: DownloadOrder) -> DownloadView:
        """Fetch a model from the hub. Raises `Refusal`."""
        if order.repo_id in self._deleting:
            raise being_deleted(order.repo_id, "repo_id")
        return await self._supply.download(order)

    def downloads(self) -> Sequence[DownloadView]:
        """Every download that is remembered, the newest last."""
        return self._downloader.views()

    def find_download(self, download_id: str) -> DownloadView:
        """One of them. Raises `Refusal`."""
        return self._downloader.view(download_id)

    async def cancel_download(self, download_id: str) -> DownloadView:
        """End a download and throw away what has come of it. Raises `Refusal`."""
        return await self._downloader.cancel(download_id)

    async def delete(self, model_id: str) -> Deletion:
        """Delete a model from the models directory. Raises `Refusal`."""
        check_model_id(model_id)
        if model_id in self._deleting:
            raise being_deleted(model_id, "model_id")
        self._refuse_if_in_use(model_id)
        # From here on neither a load nor a download of it begins.
        self._deleting.add(model_id)
        try:
            freed_bytes = await self._catalog.delete(model_id)
            parts_bytes = await self._downloader.discard_parts(model_id) if is_repository_id(model_id) else 0
            await self.prefixes.clear(model_id)
        finally:
            self._deleting.discard(model_id)
        if freed_bytes is None and parts_bytes == 0:
            text = f"Model '{model_id}' is not on this machine; GET /admin/models/available lists what is."
            raise Refusal(ErrorCode.MODEL_NOT_FOUND, text, param="model_id")
        self._supervisor.tell("model_deleted", model_id=model_id, freed_bytes=(freed_bytes or 0) + parts_bytes)
        return Deletion(model_id=model_id, freed_bytes=(freed_bytes or 0) + parts_bytes)

    def _refuse_if_in_use(self, model_id: str) -> None:
        """What is deleted must be nobody's: not a worker's, whatever id it serves it by, nor a load's or a download's."""
        directories = self._catalog.directories_of(model_id)
        workers = [each for each in self.fleet().workers if each.state not in _HOLDS_NO_FILES or each.requests_waiting]
        if self._prefetcher.is_busy_with(model_id):
            text = f"Model '{model_id}' is being loaded, because it is likely to be wanted next; unload it first."
            raise Refusal(ErrorCode.MODEL_IN_USE, text, param="model_id")
        users = [worker for worker in workers if not {(path := Path(worker.path)), *path.parents}.isdisjoint(directories)]
        if model_id in (self._autotuner.model_id, *users, *self._loads, *(worker.model_id for worker in workers)) or users:
            raise Refusal(ErrorCode.MODEL_IN_USE, f"Model '{model_id}' is loaded; unload it first.", param="model_id")
        self.jobs.refuse_if_in_use(model_id, directories)
        active = self._downloader.active(model_id)
        if active is not None:
            text = f"Model '{model_id}' is being downloaded; cancel {active.download_id} first."
            raise Refusal(ErrorCode.MODEL_IN_USE, text, param="model_id")

    def _load_arrived(self, order: LoadOrder) -> None:
        """Load a model that was waited for; nobody waits for the answer any more, so operators are told when it fails."""
        if order.model_id in self._loads:
            return

        def tell_failure(load: "asyncio.Task[LoadOutcome]") -> None:
            error = None if load.cancelled() else load.exception()
            if isinstance(error, Refusal):
                self._supervisor.tell(
                    "load_after_download_failed", model_id=order.model_id, code=error.code, text=error.message, alarming=True
                )

        load = self._start_load(order.model_id, self._loader.load(order, at_start=False))
        load.add_done_callback(tell_failure)

    async def load_at_start(self, model_ids: tuple[str, ...]) -> None:
        """Load these models, those of presets and those the last run left, one after the other; failures are logged.

        A start in a crash loop loads nothing, and a safe one only what was named for it.
        """
        if not self._startup.safe_mode:
            of_presets = self.presets.auto_load(self.config.routing.aliases)
            model_ids = tuple(dict.fromkeys((*model_ids, *of_presets)))
        self._tell_safe_mode(model_ids)
        if not self._startup.crash_loop_detected:
            for model_id in model_ids:
                await self._try_at_start(model_id, self._loader.load(LoadOrder(model_id=model_id), at_start=True))
            for model_id in self._startup.restore:
                if model_id not in model_ids:
                    await self._try_at_start(model_id, self._loader.restore(model_id, self._state.to_restore(model_id)))
                self._state.restore_tried(model_id)
        self._startup_complete = True

    def _tell_safe_mode(self, model_ids: tuple[str, ...]) -> None:
        startup = self._startup
        if startup.crash_loop_detected:
            self._supervisor.tell(
                "crash_loop_detected", startup_count=startup.startup_count, reason=startup.reason, alarming=True
            )
            self._supervisor.tell("auto_load_skipped_safe_mode", models=list(model_ids), alarming=True)
        if startup.safe_mode:
            self._supervisor.tell("safe_mode", reason=startup.reason, startup_count=startup.startup_count, alarming=True)

    async def _try_at_start(self, model_id: str, work: Coroutine[None, None, LoadOutcome]) -> None:
        try:
            await self._start_load(model_id, work)
        except Refusal as refusal:
            log.warning("auto_load_failed", extra={"model_id": model_id, "code": refusal.code, "text": refusal.message})

    def _start_load(self, model_id: str, work: Coroutine[None, None, LoadOutcome]) -> "asyncio.Task[LoadOutcome]":
        load = asyncio.get_running_loop().create_task(work)
        self._loads[model_id] = load
        load.add_done_callback(lambda done: self._load_ended(model_id, done))
        return load

    def _load_ended(self, model_id: str, load: "asyncio.Task[LoadOutcome]") -> None:
        if self._loads.get(model_id) is load:
            del self._loads[model_id]
        if not load.cancelled() and load.exception() is not None:
            log.info("load_refused", extra={"model_id": model_id, "text": str(load.exception())})

    async def _load_unasked(self, model_id: str) -> None:
        """Load a model that nobody ordered. Raises `Refusal`, also when it may not be or does not fit."""
        if model_id in self._deleting:
            raise being_deleted(model_id, "model_id")
        await self._loader.load(LoadOrder(model_id=model_id), at_start=False, unasked=True)
