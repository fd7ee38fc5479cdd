"""A small service in memory for the gateway's tests: it serves what a test feeds it, and remembers what it was asked."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence

import msgspec

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import AnyRequest, AnyRequestEvent, Cancelled, Finished, ModelFacts, Terminal, Text, Usage
from lmx_protocol.states import READINESS, FinishReason, ModelFormat, Readiness, WorkerState
from lmx_supervisor.config.schema import Config
from lmx_supervisor.core.autotune import Candidate, Metrics, TunedRecord, TuneOrder, TuneReport
from lmx_supervisor.core.benchmark import Benchmark, BenchmarkOrder, BenchmarkResult, Sample, stats_of
from lmx_supervisor.core.crashes import CrashHeadline, CrashReport
from lmx_supervisor.core.downloads.orders import Deletion, DownloadOrder, DownloadView, ModelOnItsWay
from lmx_supervisor.core.load_profile import LoadProfile, settings_of
from lmx_supervisor.core.measured import Measured, RecentError, RecentOfModel
from lmx_supervisor.core.predictor import PredictorView
from lmx_supervisor.core.presets import PresetBook
from lmx_supervisor.core.records import JournalFile, JournalKind, LogPlaces, OutputMark, OutputReader
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import (
    Answer,
    CompatibilityRow,
    HostMemory,
    KeySetUnavailable,
    LoadOrder,
    LoadOutcome,
    ModelOnDisk,
    Origin,
    PrefixCacheUse,
    ReloadOutcome,
    ServiceStatus,
    TurnedAway,
    UnloadOutcome,
)
from lmx_supervisor.core.views import FleetView, LoadProgressView, MemoryView, ReadinessView, WorkerView
from lmx_supervisor.observe.event_bus import EventBus
from lmx_supervisor.observe.log_format import Redaction
from lmx_supervisor.runtime.worker_outputs import WorkerOutputs
from tests.gateway.jobs import FedJobs

MODEL = "org/model"
FACTS = ModelFacts(
    backend="scripted",
    backend_version="1",
    architecture="none",
    context_length=4096,
    train_context_length=4096,
    vocabulary_size=100,
    parameters=0,
    weights_bytes=0,
    slots=8,
    has_chat_template=True,
)
SAMPLE = Sample(
    prompt_tokens=5,
    tokens=10,
    cached_tokens=0,
    first_token_seconds=0.5,
    total_seconds=2.0,
    prefill_seconds=0.25,
    decode_seconds=1.0,
    text="Round and round.",
)


class FedAnswer:
    """An answer whose events a test feeds one by one, or all at once."""

    def __init__(self, request: AnyRequest) -> None:
        self.request = request
        self.cancelled = asyncio.Event()
        self.ended = asyncio.Event()
        self.reads = 0
        self._events: asyncio.Queue[AnyRequestEvent] = asyncio.Queue()

    @property
    def request_id(self) -> str:
        return self.request.request_id

    def feed(self, *events: AnyRequestEvent) -> None:
        for event in events:
            self._events.put_nowait(event)

    def feed_text(self, *pieces: str) -> None:
        self.feed(*(Text(request_id=self.request_id, text=piece) for piece in pieces))

    def finish(self, reason: FinishReason = FinishReason.STOP, usage: Usage | None = None) -> None:
        usage = usage or Usage(prompt_tokens=3, completion_tokens=2, cached_tokens=1)
        self.feed(Finished(request_id=self.request_id, reason=reason, usage=usage))

    async def next_event(self) -> AnyRequestEvent:
        assert not self.ended.is_set(), "read past the terminal event"
        self.reads += 1
        event = await self._events.get()
        if isinstance(event, Terminal):
            self.ended.set()
        return event

    def cancel(self) -> None:
        if not self.cancelled.is_set():
            self.cancelled.set()
            self.feed(Cancelled(request_id=self.request_id))


class FedRecords:
    """Everything a `core.records.Records` offers, from plain attributes that tests set."""

    def __init__(self) -> None:
        self.measurements = Measured()
        self.errors: list[RecentError] = []
        self.places = LogPlaces(
            log_output="a terminal", log_file=None, journaling=True,
            session_logs_dir="/s", update_logs_dir="/u", crashes_dir="/c",
        )  # fmt: skip
        self.journals: dict[JournalKind, dict[str, list[bytes]]] = {kind: {} for kind in JournalKind}
        """Pieces of each file."""
        self.outputs = WorkerOutputs()

    def measured(self) -> Measured:
        return self.measurements

    def recent_of_models(self) -> Mapping[str, RecentOfModel]:
        return self.measurements.recent_of_models

    def recent_errors(self) -> Sequence[RecentError]:
        return self.errors

    def log_places(self) -> LogPlaces:
        return self.places

    async def journal_files(self, kind: JournalKind) -> list[JournalFile]:
        return [
            JournalFile(filename=name, size_bytes=sum(map(len, pieces)), created_at="2026-01-02T03:04:00+00:00")
            for name, pieces in self.journals[kind].items()
        ]

    async def journal_text(self, kind: JournalKind, filename: str) -> AsyncIterator[bytes] | None:
        pieces = self.journals[kind].get(filename)
        return _each(pieces) if pieces is not None else None

    def worker_output(self, model_id: str, after: OutputMark | None) -> OutputReader | None:
        return self.outputs.reader(model_id, after, strike=lambda text: text)


async def _each(pieces: list[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


class FedPrefixes:
    """A prefix cache of a few bytes."""

    def __init__(self) -> None:
        self.cleared: list[str | None] = []

    async def use(self) -> PrefixCacheUse:
        return PrefixCacheUse(enabled=True, files=2, bytes=1000, bytes_max=2000)

    async def clear(self, model_id: str | None = None) -> int:
        self.cleared.append(model_id)
        return 1000


class FedService:
    """Everything a `core.service.Service` offers, from plain attributes that tests set."""

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config()
        self.workers: list[WorkerView] = [worker_view()]
        self.jobs = FedJobs()
        self.draining = False
        self.memory_percent = 50.0
        self.budget = MemoryView(
            total_bytes=8 * 1024**3, limit_bytes=7 * 1024**3, reserved_bytes=2 * 1024**3, free_bytes=1024**3
        )
        self.is_shedding = False
        self.shed = 0
        self.turned_away: list[TurnedAway] = []
        self.on_disk: list[ModelOnDisk] = []
        self.on_submit: Callable[[FedAnswer], None] = _say_hello
        self.answers: list[FedAnswer] = []
        self.origins: list[Origin] = []
        self.events = EventBus(Redaction(()))
        self.prefixes = FedPrefixes()
        self.crash_reports: dict[str, CrashReport] = {}
        self.reload_result: ReloadOutcome | Exception = ReloadOutcome(updated=(), ignored=())
        self.metrics_text = b""
        self.records = FedRecords()
        self.crash_loop_detected = False
        self.key_set: bytes | KeySetUnavailable = KeySetUnavailable("none was set")
        self.key_set_reads = 0
        self.submitted = asyncio.Event()
        self.demands: list[str] = []
        self.loadable: dict[str, str | Exception] = {}
        """Name → the id of a model that is not loaded and on disk."""
        self.orders: list[LoadOrder] = []
        self.cleared: list[str | None] = []
        self.rows: list[CompatibilityRow] = []
        self.seen = PredictorView(0, (), None)
        self.presets = PresetBook()
        self.download_views: dict[str, DownloadView] = {}
        self.download_orders: list[DownloadOrder] = []
        self.download_refusal: Refusal | None = None
        self.confirmed: list[str] = []
        self.deleted: list[str] = []
        self.load_result: LoadOutcome | ModelOnItsWay | Exception = LoadOutcome(
            model_id=MODEL, already=False, footprint_bytes=3 * 1024**3, seconds=1.5
        )
        self.load_gate = asyncio.Event()
        self.load_gate.set()
        self.load_finished = asyncio.Event()
        self.measured = Benchmark(backend="scripted", samples=(SAMPLE, SAMPLE))
        self.benchmark_orders: list[BenchmarkOrder] = []
        self.benchmark_gate = asyncio.Event()
        self.benchmark_gate.set()
        self.benchmark_cancelled = asyncio.Event()
        self.kept: list[BenchmarkResult] = []
        self.tune_orders: list[TuneOrder] = []
        self.tuned: list[TunedRecord] = []
        self.unload_result: UnloadOutcome | Exception = UnloadOutcome(model_id=MODEL, freed_bytes=1024**3)

    def fleet(self) -> FleetView:
        return FleetView(
            workers=tuple(self.workers),
            spares=(),
            requests_in_flight=1,
            requests_waiting=0,
            draining=self.draining,
            concurrent_limit=8,
        )

    def status(self) -> ServiceStatus:
        memory = HostMemory(total_bytes=8 * 1024**3, used_bytes=0, available_bytes=0, used_percent=self.memory_percent)
        return ServiceStatus(
            uptime_seconds=5.0,
            started_at_unix_seconds=1.0,
            memory=memory,
            loop_lag_seconds=0.0,
            loop_lag_max_seconds=0.0,
            startup_complete=True,
            safe_mode=False,
            crash_loop_detected=self.crash_loop_detected,
            startup_count=1,
        )

    def memory(self) -> MemoryView:
        return self.budget

    def note_shed(self) -> None:
        self.shed += 1

    def note_turned_away(self, why: TurnedAway) -> None:
        self.turned_away.append(why)

    def metrics(self) -> bytes:
        return self.metrics_text

    def submit(self, request: AnyRequest, origin: Origin) -> Answer:
        self.origins.append(origin)
        answer = FedAnswer(request)
        self.answers.append(answer)
        self.on_submit(answer)
        self.submitted.set()
        return answer

    async def demand(self, name: str) -> str:
        self.demands.append(name)
        if name not in self.loadable:
            raise Refusal(ErrorCode.MODEL_NOT_FOUND, f"Model '{name}' is not on this machine.", param="model")
        found = self.loadable[name]
        if isinstance(found, Exception):
            raise found
        return found

    async def load(self, order: LoadOrder) -> LoadOutcome | ModelOnItsWay:
        self.orders.append(order)
        await self.load_gate.wait()
        self.load_finished.set()
        if isinstance(self.load_result, Exception):
            raise self.load_result
        return self.load_result

    async def unload(self, model_id: str) -> UnloadOutcome:
        if isinstance(self.unload_result, Exception):
            raise self.unload_result
        return self.unload_result

    async def restart(self, model_id: str) -> LoadOutcome:
        if isinstance(self.load_result, Exception):
            raise self.load_result
        assert isinstance(self.load_result, LoadOutcome)
        return self.load_result

    async def confirm_load(self, token: str) -> ModelOnItsWay:
        self.confirmed.append(token)
        if self.download_refusal is not None:
            raise self.download_refusal
        if token != "dl-x":
            raise Refusal(ErrorCode.TOKEN_NOT_FOUND, "no such token", param="confirmation_token")
        return ModelOnItsWay(
            status="downloading", model_id=MODEL, estimated_size_bytes=1536, message="on its way", download_id="dl-1"
        )

    async def download(self, order: DownloadOrder) -> DownloadView:
        self.download_orders.append(order)
        if self.download_refusal is not None:
            raise self.download_refusal
        return download_view("dl-1", order.repo_id)

    def downloads(self) -> Sequence[DownloadView]:
        return list(self.download_views.values())

    def find_download(self, download_id: str) -> DownloadView:
        if download_id not in self.download_views:
            raise Refusal(ErrorCode.DOWNLOAD_NOT_FOUND, "no such download", param="download_id")
        return self.download_views[download_id]

    async def cancel_download(self, download_id: str) -> DownloadView:
        view = self.find_download(download_id)
        if view.completed_at is None:
            self.download_views[download_id] = msgspec.structs.replace(view, status="cancelled", completed_at=9.0)
        return self.download_views[download_id]

    async def delete(self, model_id: str) -> Deletion:
        self.deleted.append(model_id)
        if self.download_refusal is not None:
            raise self.download_refusal
        return Deletion(model_id=model_id, freed_bytes=123)

    async def clear_quarantine(self, model_id: str | None) -> tuple[str, ...]:
        self.cleared.append(model_id)
        quarantined = [worker.model_id for worker in self.workers if worker.readiness.state is Readiness.QUARANTINED]
        released = tuple(name for name in quarantined if model_id in (None, name))
        if model_id is not None and not released:
            raise Refusal(ErrorCode.MODEL_NOT_FOUND, f"Model '{model_id}' is not quarantined.")
        return released

    async def reload_presets(self) -> PresetBook:
        return self.presets

    def accesses(self) -> PredictorView:
        return self.seen

    def compatibility(self) -> Sequence[CompatibilityRow]:
        return self.rows

    async def benchmark(self, order: BenchmarkOrder) -> Benchmark:
        self.benchmark_orders.append(order)
        try:
            await self.benchmark_gate.wait()
        except asyncio.CancelledError:
            self.benchmark_cancelled.set()
            raise
        return self.measured

    async def benchmark_and_keep(self, order: BenchmarkOrder) -> BenchmarkResult:
        self.benchmark_orders.append(order)
        result = BenchmarkResult(
            model_id=order.model_id,
            backend="scripted",
            timestamp="2026-01-01T00:00:00+00:00",
            status="ok",
            hardware="a machine",
            lmx_version="1",
            prompt_preview=order.prompt,
            stats=stats_of(self.measured.samples, warmup_runs=order.warmup_runs),
        )
        self.kept.append(result)
        return result

    async def benchmark_results(self, model_id: str | None) -> list[BenchmarkResult]:
        return [result for result in self.kept if model_id in (None, result.model_id)]

    async def autotune(self, order: TuneOrder) -> TuneReport:
        self.tune_orders.append(order)
        profile = order.profiles[0] if order.profiles else LoadProfile()
        metrics = Metrics(avg_tokens_per_second=10.0, error_rate=0.0)
        record = TunedRecord(
            ts=1.0,
            model_id=order.model_id,
            backend="llamacpp",
            backend_version="1",
            profile=settings_of(profile),
            metrics=metrics,
            score=10.0,
        )
        self.tuned.append(record)
        return TuneReport(record=record, candidates=(Candidate(profile=profile, metrics=metrics),))

    def tuned_record(self, model_id: str, backend: str | None, backend_version: str | None) -> TunedRecord | None:
        fit = (
            record
            for record in self.tuned
            if record.model_id == model_id
            and backend in (None, record.backend)
            and backend_version in (None, record.backend_version)
        )
        return next(fit, None)

    async def available(self) -> list[ModelOnDisk]:
        return self.on_disk

    async def crashes(self, model_id: str | None, at_most: int) -> list[CrashHeadline]:
        found = [crash.summary for crash in self.crash_reports.values() if model_id in (None, crash.summary.model_id)]
        return list(found[:at_most])

    async def crash(self, crash_id: str) -> CrashReport | None:
        return self.crash_reports.get(crash_id)

    async def read_key_set(self) -> bytes:
        self.key_set_reads += 1
        if isinstance(self.key_set, KeySetUnavailable):
            raise self.key_set
        return self.key_set

    async def reload_config(self) -> ReloadOutcome:
        if isinstance(self.reload_result, Exception):
            raise self.reload_result
        return self.reload_result


def _say_hello(answer: FedAnswer) -> None:
    answer.feed_text("Hel", "lo")
    answer.finish()


def feeding(events: Iterable[AnyRequestEvent]) -> Callable[[FedAnswer], None]:
    """For `on_submit`: these events, with the request's own id."""
    return lambda answer: answer.feed(*(msgspec.structs.replace(event, request_id=answer.request_id) for event in events))


def silent(_: FedAnswer) -> None:
    """For `on_submit`: nothing yet; the test feeds later."""


def worker_view(
    model_id: str = MODEL,
    state: WorkerState = WorkerState.READY,
    *,
    progress: LoadProgressView | None = None,
    restarts: int = 0,
) -> WorkerView:
    """A slot in a given state."""
    return WorkerView(
        model_id=model_id,
        path="/models/model",
        format=ModelFormat.SCRIPT,
        backend="scripted",
        incarnation="abc",
        pid=42,
        state=state,
        readiness=ReadinessView(state=READINESS[state]),
        wanted=True,
        state_since_unix_seconds=10.0,
        loaded_at_unix_seconds=11.0,
        last_used_at_unix_seconds=None,
        uptime_seconds=1.0,
        restarts=restarts,
        consecutive_failures=0,
        restart_in_seconds=None,
        load_seconds=1.0,
        load_progress=progress,
        footprint_bytes=1024**3,
        peak_footprint_bytes=1024**3,
        requests_active=0,
        requests_waiting=0,
        requests_total=7,
        tokens_total=70,
        tokens_per_second=0.0,
        suspect=False,
        last_exit=None,
        facts=FACTS,
    )


def download_view(
    download_id: str = "dl-1", repo_id: str = MODEL, status: str = "downloading", completed_at: float | None = None
) -> DownloadView:
    """A download half-way."""
    return DownloadView(
        download_id=download_id,
        repo_id=repo_id,
        revision=None,
        status=status,  # type: ignore[arg-type]
        progress_percent=50.0,
        downloaded_bytes=500,
        total_bytes=1000,
        files_completed=1,
        files_total=2,
        bytes_per_second=100.0,
        eta_seconds=5.0,
        trouble=None,
        attempts=1,
        error=None,
        error_code=None,
        started_at=1.0,
        completed_at=completed_at,
        local_path=None,
        loads_model=False,
    )
