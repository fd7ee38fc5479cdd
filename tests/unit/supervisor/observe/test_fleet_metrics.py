"""The fleet's gauges against a snapshot, and the whole scrape."""

import msgspec
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from lmx_protocol import limits
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.actions import Tell
from lmx_supervisor.core.views import ExitView, WorkerView
from lmx_supervisor.observe.fleet_metrics import FleetMetrics
from lmx_supervisor.observe.metrics import Metrics
from tests.gateway.service import FedService, worker_view


@pytest.fixture
async def service() -> FedService:
    """A service in memory whose fleet the test sets."""
    return FedService()


def _registry(service: FedService, *workers: WorkerView) -> CollectorRegistry:
    service.workers = list(workers)
    registry = CollectorRegistry()
    registry.register(FleetMetrics(service.fleet, service.status, service.memory))
    return registry


async def test_a_worker_is_in_exactly_one_state(service: FedService) -> None:
    """Its state is 1 and every other 0, so that a rule on one state ends when it is left."""
    registry = _registry(service, worker_view("m", WorkerState.QUARANTINED))
    states = {state: registry.get_sample_value("lmx_worker_state", {"model": "m", "state": state}) for state in WorkerState}
    assert states.pop(WorkerState.QUARANTINED) == 1.0
    assert set(states.values()) == {0.0}
    readiness = {"model": "m", "state": "quarantined"}
    assert registry.get_sample_value("lmx_model_readiness_state", readiness) == 1.0


async def test_the_gauges_are_the_snapshot_s(service: FedService) -> None:
    """Memory, heartbeat, load time, failures and last exit of a worker, and what the served models can do at once."""
    view = msgspec.structs.replace(
        worker_view("m"),
        heartbeat_age_seconds=0.5,
        peak_footprint_bytes=2 * 1024**3,
        tokens_per_second=80.0,
        prefill_tokens_per_second=900.0,
        consecutive_failures=2,
        last_exit=ExitView(reason="hung", text="x", at_unix_seconds=1.0),
    )
    registry = _registry(service, view, worker_view("down", WorkerState.BACKOFF))
    names = (
        "worker_memory_bytes",
        "worker_memory_peak_bytes",
        "worker_tokens_per_second",
        "worker_prefill_tokens_per_second",
        "worker_heartbeat_age_seconds",
        "model_load_duration_seconds",
        "worker_consecutive_failures",
    )
    values = [registry.get_sample_value(f"lmx_{name}", {"model": "m"}) for name in names]
    assert values == [1024**3, 2 * 1024**3, 80.0, 900.0, 0.5, 1.0, 2.0]
    assert registry.get_sample_value("lmx_worker_last_exit_info", {"model": "m", "reason": "hung"}) == 1.0
    assert registry.get_sample_value("lmx_concurrent_limit") == 8.0
    assert registry.get_sample_value("lmx_loaded_models") == 1.0


async def test_what_is_unknown_has_no_series(service: FedService) -> None:
    """A worker that has not reported for duty has no heartbeat; its age is not zero."""
    registry = _registry(service, worker_view("m"))
    assert registry.get_sample_value("lmx_worker_heartbeat_age_seconds", {"model": "m"}) is None


async def test_a_scrape_is_bounded_and_can_be_parsed(service: FedService) -> None:
    """However many models and however odd their ids, the text is valid and has a bounded number of series."""
    odd = 'a"b\\c\nd'
    service.workers = [worker_view(odd), *(worker_view(f"m{number}") for number in range(2 * limits.METRIC_MODELS_MAX))]
    metrics = Metrics(service.fleet, service.status, service.memory, on_request_completed=service.events.take)
    for worker in service.workers:
        metrics.take(Tell("model_loaded", {"model_id": worker.model_id}))
    families = list(text_string_to_metric_families(metrics.text().decode()))
    models = {sample.labels["model"] for family in families for sample in family.samples if "model" in sample.labels}
    assert odd in models
    assert len(models) == limits.METRIC_MODELS_MAX + 1
    assert not [family.name for family in families if family.name.endswith("_created")]


async def test_the_budget_is_measured(service: FedService) -> None:
    """What is promised, what is left, what a model holds, and whether requests are refused for it."""
    service.is_shedding = True
    service.budget = msgspec.structs.replace(service.budget, shedding=True)
    registry = _registry(service, msgspec.structs.replace(worker_view("m"), reserved_bytes=5))

    gauges = ("lmx_memory_limit_gb", "lmx_memory_reserved_gb", "lmx_memory_free_gb", "lmx_load_shedding")
    assert [7.0, 2.0, 1.0, 1.0] == [registry.get_sample_value(name) for name in gauges]
    assert 5 == registry.get_sample_value("lmx_worker_reserved_bytes", {"model": "m"})
