"""The routes under /admin/models."""

import asyncio
from typing import Any

import httpx
import msgspec
import pytest

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import WorkerState
from lmx_supervisor.core.downloads.orders import ModelOnItsWay
from lmx_supervisor.core.load_profile import GenerationDefaults, LoadProfile, ProfileLayers
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.core.service import LoadOrder, LoadOutcome, ModelOnDisk
from lmx_supervisor.gateway.app import create_app
from tests.gateway.asgi import Exchange
from tests.gateway.service import MODEL, FedService, worker_view

LOAD = "/admin/models/load"


async def test_loaded_models_have_the_contracts_shape(client: httpx.AsyncClient, service: FedService) -> None:
    """Every field that scripts read is there, and a model before its canary is not."""
    service.workers.append(worker_view("warming", WorkerState.WARMING))

    listing = (await client.get("/admin/models")).json()

    assert 1 == listing["count"] == len(listing["loaded"])
    (model,) = listing["loaded"]
    assert {
        "id",
        "loaded",
        "memory_gb",
        "loaded_at",
        "use_batching",
        "request_count",
        "last_used_at",
        "context_length",
        "performance",
        "speculative",
        "readiness",
    } == set(model)
    assert (MODEL, True, 1.0, 7, 4096) == (
        model["id"],
        model["loaded"],
        model["memory_gb"],
        model["request_count"],
        model["context_length"],
    )
    assert {"state": "routable", "reason": None, "crash_count": 0} == model["readiness"]


async def test_quarantined_models_are_listed_but_not_counted(client: httpx.AsyncClient, service: FedService) -> None:
    """The runbook looks for them here: not loaded, in state `quarantined`, after those that are."""
    service.workers.insert(0, worker_view("bad", WorkerState.QUARANTINED))

    listing = (await client.get("/admin/models")).json()

    assert 1 == listing["count"]
    assert [(MODEL, True), ("bad", False)] == [(model["id"], model["loaded"]) for model in listing["loaded"]]
    assert ("quarantined", None) == (listing["loaded"][1]["readiness"]["state"], listing["loaded"][1]["loaded_at"])


async def test_an_unloaded_model_is_not_listed_even_in_quarantine(client: httpx.AsyncClient, service: FedService) -> None:
    """Clients unload a model and wait until its id is gone from `loaded`."""
    bad = worker_view("bad", WorkerState.QUARANTINED)
    service.workers.append(msgspec.structs.replace(bad, unloaded=True))

    assert [MODEL] == [model["id"] for model in (await client.get("/admin/models")).json()["loaded"]]


async def test_force_reaches_the_service(client: httpx.AsyncClient, service: FedService) -> None:
    """`allow_unsupported_runtime` is the operator's way past a quarantine."""
    await client.post(LOAD, json={"model_id": MODEL, "allow_unsupported_runtime": True})

    assert [LoadOrder(model_id=MODEL, allow_unsupported_runtime=True)] == service.orders


async def test_how_long_a_model_may_be_idle_reaches_the_service(client: httpx.AsyncClient, service: FedService) -> None:
    """`keep_alive_sec` 0 pins a model, and is not the same as leaving it out."""
    for body in ({"keep_alive_sec": 0}, {"keep_alive_sec": 600}, {}):
        await client.post(LOAD, json={"model_id": MODEL, **body})

    assert [0, 600, None] == [order.keep_alive_seconds for order in service.orders]


@pytest.mark.parametrize("path", ["org/model", "org%2Fmodel"])
async def test_a_restart_answers_like_a_load(client: httpx.AsyncClient, service: FedService, path: str) -> None:
    """The load's shape for any spelling of the id, and the service's own refusal when the model is not served."""
    done = await client.post(f"/admin/models/{path}/restart")
    service.load_result = Refusal(ErrorCode.MODEL_NOT_FOUND, "not served")
    absent = await client.post(f"/admin/models/{path}/restart")

    assert {"success": True, "model_id": MODEL, "memory_after_load_gb": 3.0, "time_to_load_ms": 1500.0} == done.json()
    assert 404 == absent.status_code


async def test_models_on_disk_are_a_bare_list(client: httpx.AsyncClient, service: FedService) -> None:
    """The contract's shape, also for a file whose name is not UTF-8."""
    service.on_disk = [
        ModelOnDisk(model_id="m", path="/models/\udcff", format="gguf", size_bytes=5, modified_at_unix_seconds=0.0)
    ]

    (entry,) = (await client.get("/admin/models/available")).json()

    assert ("m", 5, "1970-01-01T00:00:00Z") == (entry["repo_id"], entry["size_bytes"], entry["downloaded_at"])
    assert "local_path" in entry


async def test_a_load_answers_with_the_models_own_memory(client: httpx.AsyncClient) -> None:
    """200 when the model serves, with what it took."""
    response = await client.post(LOAD, json={"model_id": MODEL})

    expected = {"success": True, "model_id": MODEL, "memory_after_load_gb": 3.0, "time_to_load_ms": 1500.0}
    assert (200, expected) == (response.status_code, response.json())


async def test_a_model_that_is_loaded_already_is_a_success(client: httpx.AsyncClient, service: FedService) -> None:
    """Loading twice is no error; the numbers are null, for nothing was done."""
    service.load_result = LoadOutcome(model_id=MODEL, already=True, footprint_bytes=5, seconds=1.0)

    response = await client.post(LOAD, json={"model_id": MODEL})

    assert {"success": True, "model_id": MODEL, "memory_after_load_gb": None, "time_to_load_ms": None} == response.json()


@pytest.mark.parametrize(("name", "backend"), [("gguf", "llamacpp"), ("mlx-lm", "mlx"), ("vllm-mlx", "mlx"), ("mlx", "mlx")])
async def test_the_predecessors_backend_names_still_work(
    client: httpx.AsyncClient, service: FedService, name: str, backend: str
) -> None:
    """Scripts that name a backend the old way get the backend that does the work today."""
    body = {"model_id": MODEL, "backend": name, "max_context_length": 512, "path": "/a", "performance_overrides": {}}

    await client.post(LOAD, json=body)

    profile = LoadProfile(context_length=512)
    assert [LoadOrder(model_id=MODEL, backend=backend, profile=profile, path="/a")] == service.orders


async def test_overrides_reach_the_service(client: httpx.AsyncClient, service: FedService) -> None:
    """The runbook's example and the predecessor's nesting; beside them the context length may be said in either place."""
    for overrides in ({"max_tokens": 4096, "temperature": 0.7}, {"scheduler": {"max_num_seqs": 8}}, {"context_length": 512}):
        body = {"model_id": MODEL, "performance_overrides": overrides, "max_context_length": 512}
        assert 200 == (await client.post(LOAD, json=body)).status_code

    assert [
        LoadProfile(context_length=512, generation=GenerationDefaults(max_tokens=4096, temperature=0.7)),
        LoadProfile(context_length=512, slots=8),
        LoadProfile(context_length=512),
    ] == [order.profile for order in service.orders]


async def test_what_a_model_was_tuned_by_is_shown(client: httpx.AsyncClient, service: FedService) -> None:
    """In its entry; and with who said what, and what the configuration would have said, by itself."""
    explicit, tuned = LoadProfile(slots=2), LoadProfile(slots=4, threads=1, generation=GenerationDefaults(top_p=0.5))
    layers = ProfileLayers(explicit=explicit, tuned=tuned)
    service.workers = [msgspec.structs.replace(worker_view(), profile=layers, performance=layers.merge())]
    (entry,) = (await client.get("/admin/models")).json()["loaded"]
    shown = (await client.get("/admin/models/org%2Fmodel/performance")).json()
    absent = await client.get("/admin/models/org/other/performance")

    assert {"slots": 2, "threads": 1, "top_p": 0.5} == entry["performance"] == shown["performance"]
    assert {"slots": "override", "threads": "autotune", "top_p": "autotune"} == shown["performance_sources"]
    assert (MODEL, "scripted", 4096, 8) == tuple(
        shown[field] for field in ("model_id", "backend_type", "context_length", "slots")
    )
    assert (4, 4096) == (shown["global_defaults"]["scheduler"]["max_num_seqs"], shown["global_defaults"]["context_length"])
    assert (404, "model_not_found") == (absent.status_code, absent.json()["error"]["code"])


@pytest.mark.parametrize(
    ("field", "code", "param"),
    [
        ({"model_id": "../../etc"}, "invalid_value", "model_id"),
        ({"model_id": "/etc"}, "invalid_value", "model_id"),
        ({"model_id": "a\0b"}, "invalid_value", "model_id"),
        ({"model_id": ""}, "invalid_request_error", "model_id"),
        ({"model_id": None}, "invalid_request_error", "model_id"),
        ({"path": "/a\0b"}, "invalid_value", "path"),
        ({"backend": "vllm"}, "invalid_value", "backend"),
        ({"max_context_length": 0}, "invalid_request_error", "max_context_length"),
        ({"keep_alive_sec": -1}, "invalid_request_error", "keep_alive_sec"),
        ({"performance_overrides": {"kv_group_size": 32}}, "not_supported", "performance_overrides.kv_group_size"),
        ({"performance_overrides": {"slotz": 4}}, "invalid_value", "performance_overrides.slotz"),
        ({"performance_overrides": {"slots": 1.5}}, "invalid_value", "performance_overrides.slots"),
        ({"performance_overrides": [1]}, "invalid_request_error", "performance_overrides"),
        (
            {"max_context_length": 512, "performance_overrides": {"context_length": 1024}},
            "invalid_value",
            "max_context_length",
        ),
    ],
)
async def test_a_bad_load_is_refused_before_the_service_hears_of_it(
    client: httpx.AsyncClient, service: FedService, field: dict[str, Any], code: str, param: str
) -> None:
    """Each wrong or not yet existing field is a 400 with its name."""
    response = await client.post(LOAD, json={"model_id": MODEL, **field})

    error = response.json()["error"]
    assert (400, code, param) == (response.status_code, error["code"], error["param"])
    assert [] == service.orders


async def test_a_model_that_is_not_here_may_be_on_its_way(client: httpx.AsyncClient, service: FedService) -> None:
    """202 in the contract's shape: a prompt with a token and where to confirm, or a download and where to watch it."""
    service.load_result = ModelOnItsWay(
        status="download_required",
        model_id=MODEL,
        estimated_size_bytes=3 * 1024**3,
        message="confirm",
        confirmation_token="dl-t",
    )
    prompt = await client.post(LOAD, json={"model_id": MODEL})
    service.load_result = ModelOnItsWay(
        status="downloading", model_id=MODEL, estimated_size_bytes=None, message="wait", download_id="dl-1"
    )
    started = await client.post(LOAD, json={"model_id": MODEL, "auto_download": True})

    assert (202, 202) == (prompt.status_code, started.status_code)
    assert {
        "status": "download_required",
        "model_id": MODEL,
        "estimated_size_bytes": 3 * 1024**3,
        "estimated_size_human": "3.0 GB",
        "confirmation_token": "dl-t",
        "download_id": None,
        "message": "confirm",
        "confirm_url": "/admin/models/load/confirm",
        "progress_url": None,
    } == prompt.json()
    assert ("dl-1", "/admin/models/download/dl-1/progress", None) == (
        started.json()["download_id"],
        started.json()["progress_url"],
        started.json()["confirm_url"],
    )
    assert [False, True] == [order.auto_download for order in service.orders]


async def test_a_load_survives_the_client_that_asked(service: FedService) -> None:
    """Whoever leaves while a model loads changes nothing for the model."""
    service.load_gate.clear()
    request = Exchange(create_app(service), "POST", LOAD, body=b'{"model_id":"m"}')
    request.disconnect()
    await request.done()

    service.load_gate.set()

    async with asyncio.timeout(5):
        await service.load_finished.wait()


async def test_an_unload_says_what_it_freed(client: httpx.AsyncClient, service: FedService) -> None:
    """The contract's shape, and the service's own refusal when the model is not there."""
    freed = await client.post("/admin/models/unload", json={"model_id": MODEL})
    service.unload_result = Refusal(ErrorCode.MODEL_NOT_FOUND, "not loaded")
    absent = await client.post("/admin/models/unload", json={"model_id": MODEL})

    assert {"success": True, "model_id": MODEL, "memory_freed_gb": 1.0} == freed.json()
    assert 404 == absent.status_code
