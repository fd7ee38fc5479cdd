"""The fleet and its host as gauges, read off their snapshots at the moment of a scrape; nothing is stored here."""

from collections.abc import Callable, Iterator, Sequence

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

from lmx_protocol import limits
from lmx_protocol.states import Readiness, WorkerState
from lmx_supervisor.core.service import ServiceStatus
from lmx_supervisor.core.views import FleetView, MemoryView, WorkerView
from lmx_supervisor.observe.units import gigabytes


class FleetMetrics:
    """A collector for a registry."""

    def __init__(
        self, fleet: Callable[[], FleetView], status: Callable[[], ServiceStatus], memory: Callable[[], MemoryView]
    ) -> None:
        self._fleet = fleet
        self._status = status
        self._memory = memory

    def collect(self) -> Iterator[Metric]:
        """Everything, as it is now. A fleet of more models than `METRIC_MODELS_MAX` shows that many of them."""
        fleet, status = self._fleet(), self._status()
        yield from _service_metrics(fleet, status)
        yield from _memory_metrics(self._memory())
        yield from _worker_metrics(fleet.workers[: limits.METRIC_MODELS_MAX])

    def describe(self) -> Iterator[Metric]:
        """Nothing: asking for the names must not need a running fleet."""
        return iter(())


def _service_metrics(fleet: FleetView, status: ServiceStatus) -> Iterator[Metric]:
    serving = [worker for worker in fleet.workers if worker.readiness.state is Readiness.ROUTABLE]
    yield GaugeMetricFamily("lmx_uptime_seconds", "Since the start of the service.", status.uptime_seconds)
    yield GaugeMetricFamily("lmx_loaded_models", "Models that requests are routed to.", len(serving))
    yield GaugeMetricFamily("lmx_memory_used_gb", "Memory in use on this host.", gigabytes(status.memory.used_bytes))
    yield GaugeMetricFamily("lmx_memory_total_gb", "Memory of this host.", gigabytes(status.memory.total_bytes))
    yield GaugeMetricFamily("lmx_in_flight_requests", "Requests that a worker has.", fleet.requests_in_flight)
    yield GaugeMetricFamily("lmx_queued_requests", "Requests that wait for a worker.", fleet.requests_waiting)
    yield GaugeMetricFamily("lmx_concurrent_limit", "Requests that may run at once, now.", fleet.concurrent_limit)
    yield GaugeMetricFamily("lmx_loop_lag_seconds", "How late the supervisor's loop was last.", status.loop_lag_seconds)
    yield GaugeMetricFamily("lmx_loop_lag_max_seconds", "How late it ever was.", status.loop_lag_max_seconds)
    yield GaugeMetricFamily("lmx_safe_mode", "1 when nothing was loaded because of a crash loop.", float(status.safe_mode))


def _memory_metrics(memory: MemoryView) -> Iterator[Metric]:
    for name, text, size_bytes in (
        ("lmx_memory_limit_gb", "Memory that models and everybody else may use together.", memory.limit_bytes),
        ("lmx_memory_reserved_gb", "Memory promised to models.", memory.reserved_bytes),
        ("lmx_memory_others_gb", "Memory used by what is no model of ours.", memory.others_bytes),
        ("lmx_memory_free_gb", "Memory that a load may still reserve.", memory.free_bytes),
    ):
        yield GaugeMetricFamily(name, text, gigabytes(size_bytes))
    yield GaugeMetricFamily("lmx_load_shedding", "1 while requests are refused for want of memory.", float(memory.shedding))


def _worker_metrics(workers: Sequence[WorkerView]) -> Iterator[Metric]:
    yield _one_hot("lmx_worker_state", "The state of a model's worker.", WorkerState, workers, lambda worker: worker.state)
    yield _one_hot(
        "lmx_model_readiness_state",
        "How far a model is from being routed to.",
        Readiness,
        workers,
        lambda worker: worker.readiness.state,
    )

    def gauge(name: str, text: str, value: Callable[[WorkerView], float | None]) -> Metric:
        return _per_model(GaugeMetricFamily(name, text, labels=("model",)), workers, value)

    yield gauge("lmx_worker_memory_bytes", "Memory footprint of a worker.", lambda worker: worker.footprint_bytes)
    yield gauge(
        "lmx_worker_memory_peak_bytes", "The largest footprint a worker has had.", lambda worker: worker.peak_footprint_bytes
    )
    yield gauge(
        "lmx_worker_tokens_per_second",
        "Tokens a worker generates, in the last second.",
        lambda worker: worker.tokens_per_second,
    )
    yield gauge(
        "lmx_worker_prefill_tokens_per_second",
        "Tokens of prompts a worker computes, in the last second.",
        lambda worker: worker.prefill_tokens_per_second,
    )
    yield gauge("lmx_worker_reserved_bytes", "Memory reserved for a model.", lambda worker: worker.reserved_bytes)
    yield gauge(
        "lmx_worker_heartbeat_age_seconds", "Since a worker's last heartbeat.", lambda worker: worker.heartbeat_age_seconds
    )
    yield gauge(
        "lmx_worker_load_seconds", "From the order to the passed canary, last time.", lambda worker: worker.load_seconds
    )
    yield gauge("lmx_model_load_duration_seconds", "The same, under its older name.", lambda worker: worker.load_seconds)
    yield gauge(
        "lmx_worker_consecutive_failures",
        "Failures in a row without lasting service.",
        lambda worker: worker.consecutive_failures,
    )
    yield gauge(
        "lmx_model_concurrent_limit", "Requests that may run on it at once, now.", lambda worker: worker.concurrent_limit
    )
    yield gauge("lmx_worker_threads", "Cores that were shared out to a worker last.", lambda worker: worker.threads)
    yield gauge(
        "lmx_worker_prefill_ratio", "Of its time, what a worker may put into prompts.", lambda worker: worker.prefill_ratio
    )
    yield from _lane_metrics(workers)
    exits = GaugeMetricFamily("lmx_worker_last_exit_info", "Why a model's worker ended last.", labels=("model", "reason"))
    for worker in workers:
        if worker.last_exit is not None:
            exits.add_metric((worker.model_id, str(worker.last_exit.reason)), 1)
    yield exits


def _lane_metrics(workers: Sequence[WorkerView]) -> Iterator[Metric]:
    labels = ("model", "lane")
    running = GaugeMetricFamily("lmx_model_running_requests", "Requests that a model's worker has, by lane.", labels=labels)
    waiting = GaugeMetricFamily("lmx_model_waiting_requests", "Requests that wait for a model, by lane.", labels=labels)
    for worker in workers:
        for lane, count in worker.lanes.items():
            running.add_metric((worker.model_id, lane), count.running)
            waiting.add_metric((worker.model_id, lane), count.waiting)
    yield from (running, waiting)


def _per_model(
    family: GaugeMetricFamily | CounterMetricFamily,
    workers: Sequence[WorkerView],
    value: Callable[[WorkerView], float | None],
) -> Metric:
    for worker in workers:
        known = value(worker)
        if known is not None:
            family.add_metric((worker.model_id,), known)
    return family


def _one_hot(
    name: str,
    text: str,
    states: type[WorkerState] | type[Readiness],
    workers: Sequence[WorkerView],
    state_of: Callable[[WorkerView], WorkerState | Readiness],
) -> Metric:
    """1 for the state each worker is in and 0 for all others, so that a rule on one state ends when it is left."""
    family = GaugeMetricFamily(name, text, labels=("model", "state"))
    for worker in workers:
        for state in states:
            family.add_metric((worker.model_id, str(state)), float(state_of(worker) is state))
    return family
