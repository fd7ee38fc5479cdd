"""GET /admin/metrics/json and /admin/diagnostics."""

import httpx
import msgspec
import pytest

from lmx_protocol.states import WorkerState
from lmx_supervisor.core.measured import Measured, RecentError, RecentOfModel, RecentRequests, RequestTotals
from lmx_supervisor.gateway.openapi.record_answers import DiagnosticsOut, MetricsOut
from tests.gateway.service import MODEL, FedService, worker_view

MEASURED = Measured(
    total=RequestTotals(requests=40, errors=2, completion_tokens=900),
    stream_requests=7,
    prompt_tokens=100,
    recent=RecentRequests(latency_p95_seconds=1.25, latency_mean_seconds=0.5, error_ratio=0.04, ended_per_second=0.5),
    models={MODEL: RequestTotals(requests=30, errors=1, completion_tokens=800), "quiet": RequestTotals()},
    recent_of_models={MODEL: RecentOfModel(queue_wait_p95_seconds=0.25, error_ratio=0.1, tokens_per_second=20.0)},
    clients={"me": RequestTotals(requests=5, errors=1, completion_tokens=50)},
)


async def test_the_metrics_are_one_document(service: FedService, client: httpx.AsyncClient) -> None:
    """The predecessor's names and those the SLO reads, with null where nothing happened."""
    service.records.measurements = MEASURED
    answer = await client.get("/admin/metrics/json")
    said = answer.json()

    msgspec.json.decode(answer.content, type=MetricsOut)
    assert (40, 2, 7, 100, 900) == (
        said["total_requests"],
        said["total_errors"],
        said["total_stream_requests"],
        said["total_prompt_tokens"],
        said["total_completion_tokens"],
    )
    assert {"total": 40, "errors": 2, "stream_total": 7, "throughput_1m": 0.5} == said["requests"]
    assert {"prompt_total": 100, "completion_total": 900} == said["tokens"]
    assert (1.25, "2026-03-02", 5.0) == (said["latency_p95_sec"], said["schema_version"], said["uptime_seconds"])
    assert (0.25, 0.1, 30) == tuple(said["per_model"][MODEL][name] for name in ("queue_wait_sec", "error_rate", "requests"))
    assert (None, None, 0) == tuple(said["per_model"]["quiet"][name] for name in ("queue_wait_sec", "error_rate", "requests"))
    assert {"me": {"requests": 5, "errors": 1, "tokens": 50}} == said["per_client"]
    assert None is said["speculative"]["acceptance_ratio"]


async def test_diagnostics_have_the_contracts_shape(service: FedService, client: httpx.AsyncClient) -> None:
    """Every documented field, the errors newest first as they were told."""
    service.records.measurements = MEASURED
    service.records.errors = [
        RecentError(at_unix_seconds=9.0, kind="worker_exited", model_id="m", code="native_crash", text="it crashed")
    ]
    answer = await client.get("/admin/diagnostics")
    said = answer.json()

    msgspec.json.decode(answer.content, type=DiagnosticsOut)
    assert (1, 0, MODEL, "routable") == (
        said["models"]["loaded_count"],
        said["models"]["quarantined_count"],
        said["models"]["models"][0]["id"],
        said["models"]["models"][0]["readiness"],
    )
    assert (40, 1, 500.0, 4.0, 900, 1000) == tuple(
        said["inference"][name]
        for name in (
            "total_requests",
            "active_requests",
            "avg_latency_ms",
            "error_rate_pct",
            "tokens_generated",
            "total_tokens_processed",
        )
    )
    assert [
        {"timestamp": 9.0, "type": "worker_exited", "model_id": "m", "code": "native_crash", "message": "it crashed"}
    ] == said["recent_errors"]
    assert {"active_runs": 0, "completed_runs": 0, "failed_runs": 0} == said["agents"]


@pytest.mark.parametrize(
    ("memory_percent", "error_ratio", "quarantined", "crash_loop", "verdict"),
    [
        (50.0, None, False, False, "healthy"),
        (89.9, 0.05, False, False, "healthy"),
        (90.0, None, False, False, "degraded"),
        (50.0, None, True, False, "degraded"),
        (50.0, 0.051, False, False, "critical"),
        (95.0, None, True, True, "critical"),
    ],
)
async def test_the_verdict_follows_its_rules(
    service: FedService,
    client: httpx.AsyncClient,
    memory_percent: float,
    error_ratio: float | None,
    quarantined: bool,
    crash_loop: bool,
    verdict: str,
) -> None:
    """Critical before degraded before healthy; memory counts from its threshold on, errors above five in a hundred."""
    service.memory_percent, service.crash_loop_detected = memory_percent, crash_loop
    service.records.measurements = Measured(recent=RecentRequests(error_ratio=error_ratio))
    if quarantined:
        service.workers.append(worker_view("bad", WorkerState.QUARANTINED))

    assert verdict == (await client.get("/admin/diagnostics")).json()["health_verdict"]
