"""GET /admin/memory: the host, the budget, and who holds which part of it."""

import httpx
import msgspec

from lmx_protocol.states import WorkerState
from lmx_supervisor.config.schema import Config, MemoryConfig
from tests.gateway.service import MODEL, FedService, worker_view

GIB = 1024**3


async def test_memory_has_the_runbooks_fields_and_the_budget(client: httpx.AsyncClient, service: FedService) -> None:
    """What scripts read, with the threshold in force; and what a load may still have."""
    service.config = Config(memory=MemoryConfig(max_memory_percent=85))
    memory = (await client.get("/admin/memory")).json()

    assert {"total_unified_memory_gb", "used_gb", "available_gb", "threshold_percent", "models"} <= set(memory)
    assert (8.0, 85, False) == (memory["total_unified_memory_gb"], memory["threshold_percent"], memory["load_shedding"])
    assert {"limit_gb": 7.0, "reserved_gb": 2.0, "others_gb": 0.0, "free_gb": 1.0} == memory["budget"]


async def test_every_model_shows_what_it_costs_and_what_is_reserved_for_it(
    client: httpx.AsyncClient, service: FedService
) -> None:
    """A served and pinned one, one that is loading, one that made room for it; not one that holds nothing."""
    served = msgspec.structs.replace(service.workers[0], reserved_bytes=2 * GIB, keep_alive_seconds=0)
    loading = msgspec.structs.replace(worker_view("new", WorkerState.LOADING), reserved_bytes=3 * GIB, footprint_bytes=None)
    gone = msgspec.structs.replace(worker_view("old", WorkerState.STOPPED), evicted_for="new", footprint_bytes=None)
    failed = msgspec.structs.replace(worker_view("bad", WorkerState.FAILED), footprint_bytes=None)
    service.workers = [served, loading, gone, failed]
    models = (await client.get("/admin/memory")).json()["models"]

    assert {MODEL, "new", "old"} == set(models)
    assert (1.0, 2.0, True, True) == tuple(models[MODEL][name] for name in ("memory_gb", "reserved_gb", "loaded", "pinned"))
    assert (None, 3.0, False) == tuple(models["new"][name] for name in ("memory_gb", "reserved_gb", "loaded"))
    assert "new" == models["old"]["evicted_for"]
