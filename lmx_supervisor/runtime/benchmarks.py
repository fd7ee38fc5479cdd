"""Benchmarks of a served model: one real generation after the other, and the results that are kept."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import WorkerState
from lmx_supervisor.catalog.catalog import Catalog
from lmx_supervisor.catalog.disk_calls import DiskCalls
from lmx_supervisor.core.benchmark import Benchmark, BenchmarkOrder, BenchmarkResult, Sample, preview, stats_of
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.views import WorkerView
from lmx_supervisor.observe.host_memory import read_host_memory
from lmx_supervisor.runtime.atomic_file import FileWriteError
from lmx_supervisor.runtime.benchmark_files import read_results, write_result
from lmx_supervisor.runtime.measuring import Submit, measure, measured_request
from lmx_supervisor.runtime.supervisor import Supervisor

_NOT_THERE = frozenset({WorkerState.STOPPED, WorkerState.FAILED, WorkerState.DRAINING})


class Benchmarks:
    """One home's. Create it on a running loop."""

    def __init__(self, home: Path, catalog: Catalog, supervisor: Supervisor, submit: Submit) -> None:
        self._home = home
        self._catalog = catalog
        self._supervisor = supervisor
        self._submit = submit
        self._disk = DiskCalls(at_once=limits.BENCHMARK_CALLS_MAX, seconds=limits.BENCHMARK_READ_SECONDS)

    async def run(self, order: BenchmarkOrder) -> Benchmark:
        """Measure one generation at a time: clients keep the other places. Raises `Refusal` for the first that fails."""
        worker = await self._worker(order.model_id)
        samples = [await self._measure(order) for _ in range(order.warmup_runs + order.runs)]
        return Benchmark(backend=worker.backend, samples=tuple(samples[order.warmup_runs :]))

    async def run_and_keep(self, order: BenchmarkOrder) -> BenchmarkResult:
        """Measure as long as the model answers, and keep what came of it. Raises `Refusal` when nothing did."""
        worker = await self._worker(order.model_id)
        samples: list[Sample] = []
        failed: Refusal | None = None
        while failed is None and len(samples) < order.warmup_runs + order.runs:
            try:
                samples.append(await self._measure(order))
            except Refusal as refusal:
                failed = refusal
        measured = samples[order.warmup_runs :]
        if not measured:
            assert failed is not None, "every run of an order that has any either ends or fails"
            raise failed
        now = datetime.now(UTC)
        result = BenchmarkResult(
            model_id=order.model_id,
            backend=worker.backend,
            timestamp=now.isoformat(),
            status="ok" if failed is None else "insufficient_data",
            hardware=_hardware(),
            lmx_version=version("lmx"),
            prompt_preview=preview(order.prompt),
            stats=stats_of(measured, warmup_runs=order.warmup_runs),
        )
        await self._keep(result, now)
        return result

    async def results(self, model_id: str | None) -> list[BenchmarkResult]:
        """What was kept, the newest first. Raises `Refusal` when the disk does not answer."""
        return await self._disk.run(lambda: read_results(self._home, model_id))

    async def _worker(self, model_id: str) -> WorkerView:
        worker = self._supervisor.view().worker(model_id)
        if worker is not None and worker.state not in _NOT_THERE:
            return worker
        await self._catalog.resolve(model_id)
        text = f"Model '{model_id}' is not loaded; load it with POST /admin/models/load first."
        raise Refusal(ErrorCode.MODEL_NOT_LOADED, text, param="model_id")

    async def _measure(self, order: BenchmarkOrder) -> Sample:
        request = measured_request(order.model_id, order.prompt, order.max_tokens, order.temperature)
        return await measure(self._submit, request)

    async def _keep(self, result: BenchmarkResult, now: datetime) -> None:
        """A disk that takes no file costs the file, not the figures."""
        try:
            await self._disk.run(lambda: write_result(self._home, result, now))
        except (FileWriteError, Refusal) as error:
            self._supervisor.tell("state_write_failed", text=str(error), alarming=True)


def _hardware() -> str:
    memory_gb = read_host_memory().total_bytes / 1024**3
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {memory_gb:.0f} GB"
