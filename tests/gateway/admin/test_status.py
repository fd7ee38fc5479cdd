"""GET /admin/status, /admin/health and /admin/workers."""

import httpx
import msgspec
import pytest

from lmx_protocol.states import WorkerState
from lmx_supervisor.config.schema import Config, ModelsConfig
from lmx_supervisor.core.measured import Measured, RecentOfModel
from lmx_supervisor.core.views import WorkerView
from tests.gateway.service import MODEL, FedService, worker_view


async def test_status_has_the_contracts_fields(client: httpx.AsyncClient) -> None:
    """What the runbook's scripts read is there, with the units the names say."""
    status = (await client.get("/admin/status")).json()

    assert (1, [MODEL], 1, 64, 8) == (
        status["loaded_models"],
        status["models"],
        status["in_flight_requests"],
        status["max_concurrent_requests"],
        status["concurrent_limit"],
    )
    promised = {"limit_gb", "reserved_gb", "free_gb", "load_shedding"}
    assert {"total_gb", "used_gb", "available_gb", "usage_percent", "threshold_percent"} | promised == set(status["memory"])
    assert (8.0, 90) == (status["memory"]["total_gb"], status["memory"]["threshold_percent"])
    assert {"version", "uptime_seconds", "loop_lag_seconds"} <= set(status)


async def test_status_has_what_each_model_does_now(client: httpx.AsyncClient, service: FedService) -> None:
    """In one call: places, line, speeds, times, memory and restarts of every slot; null where nothing was measured."""
    busy = {"requests_active": 3, "requests_waiting": 2, "concurrent_limit": 4, "tokens_per_second": 80.5}
    more = {"prefill_tokens_per_second": 900.0, "reserved_bytes": 2 * 1024**3, "restarts": 1}
    service.workers = [msgspec.structs.replace(worker_view(), **busy, **more), worker_view("idle", WorkerState.LOADING)]
    recent = RecentOfModel(
        queue_wait_p50_seconds=0.1, queue_wait_p95_seconds=0.2, first_token_p50_seconds=0.3, first_token_p95_seconds=0.4
    )
    service.records.measurements = Measured(recent_of_models={MODEL: recent})
    models = (await client.get("/admin/status")).json()["per_model"]

    assert models[MODEL] == {
        "state": "ready",
        "running_requests": 3,
        "waiting_requests": 2,
        "concurrent_limit": 4,
        "tokens_per_second": 80.5,
        "prefill_tokens_per_second": 900.0,
        "ttft_p50_sec": 0.3,
        "ttft_p95_sec": 0.4,
        "queue_wait_p50_sec": 0.1,
        "queue_wait_p95_sec": 0.2,
        "memory_gb": 1.0,
        "peak_gb": 1.0,
        "reserved_gb": 2.0,
        "restarts": 1,
    }
    assert ("loading", None) == (models["idle"]["state"], models["idle"]["ttft_p95_sec"])


async def test_the_performance_of_a_model_tells_how_its_limit_adapts(client: httpx.AsyncClient, service: FedService) -> None:
    """The contract's block on the adaptive limit: as configured, and what it heard of this model's answers."""
    service.workers = [msgspec.structs.replace(worker_view(), latency_p95_seconds=3.5, places_held_back=1)]
    defaults = (await client.get(f"/admin/models/{MODEL}/performance")).json()["global_defaults"]
    assert defaults["adaptive"] == {
        "enabled": True,
        "latency_target_ms": 2500,
        "latency_window_size": 128,
        "latency_p95_sec": 3.5,
        "min_concurrent_requests": 1,
        "last_reason": "answers begin late",
    }
    assert defaults["max_concurrent_requests"] == 64


@pytest.mark.parametrize(
    ("held_back", "memory_percent", "enabled", "reason"),
    [
        (0, 50.0, True, None),
        (1, 50.0, True, "answers begin late"),
        (0, 95.0, True, "memory is short"),
        (1, 95.0, True, "answers begin late"),
        (0, 95.0, False, None),
    ],
)
async def test_why_a_limit_is_lower_than_it_could_be(
    client: httpx.AsyncClient, service: FedService, held_back: int, memory_percent: float, enabled: bool, reason: str | None
) -> None:
    """Late answers or short memory, whichever holds places back; nothing where the limit does not adapt."""
    service.config = Config(models=ModelsConfig(adaptive_concurrency_enabled=enabled))
    service.workers = [msgspec.structs.replace(worker_view(), places_held_back=held_back)]
    service.memory_percent = memory_percent
    performance = (await client.get(f"/admin/models/{MODEL}/performance")).json()

    assert reason == performance["global_defaults"]["adaptive"]["last_reason"]


async def test_health_is_ok_or_says_what_is_wrong(client: httpx.AsyncClient, service: FedService) -> None:
    """Degraded by memory and by failing models, with both reasons named."""
    fine = (await client.get("/admin/health")).json()
    service.memory_percent = 96.0
    service.workers.append(worker_view("bad", WorkerState.QUARANTINED))
    degraded = (await client.get("/admin/health")).json()

    assert ("ok", None) == (fine["status"], fine["reason"])
    assert ("degraded", "memory usage is 96.0 %; bad is quarantined") == (degraded["status"], degraded["reason"])


async def test_workers_shows_every_slot(client: httpx.AsyncClient, service: FedService) -> None:
    """Unlike the list of loaded models, the fleet includes what does not serve, and round-trips into the view's type."""
    service.workers.append(worker_view("bad", WorkerState.FAILED))

    fleet = (await client.get("/admin/workers")).json()
    one = await client.get("/admin/workers/org%2Fmodel")

    assert [MODEL, "bad"] == [worker["model_id"] for worker in fleet["workers"]]
    assert [] == fleet["spares"]
    assert service.workers[0] == msgspec.json.decode(one.content, type=WorkerView)
    assert 404 == (await client.get("/admin/workers/none")).status_code
