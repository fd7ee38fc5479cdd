"""Models that are loaded for a request, as the gateway sees it: which are looked up, for whom, and what is told instead."""

from typing import Any

import httpx
import msgspec
import pytest
from starlette.testclient import TestClient

from lmx_protocol.errors import ErrorCode
from lmx_protocol.states import WorkerState
from lmx_supervisor.config.schema import Config, ModelsConfig, NamedKey, RoutingConfig, SecurityConfig
from lmx_supervisor.core.refusal import Refusal
from lmx_supervisor.gateway.app import create_app
from tests.gateway.service import FedService, worker_view
from tests.gateway.test_routing import HI, NAMED, ROUTES, answer

ALIASES = {"code": ("org/elsewhere", "broken", "quarantined", "here"), "reader": ("here",), "nobody": ("x", "y")}


@pytest.fixture
def service() -> FedService:
    """A service that serves `a`, has `here` on its disk, and may load what begins with `h`, `b`, `q` or `org/`."""
    models = ModelsConfig(load_on_demand=True, on_demand_models=("h*", "b*", "q*", "org/*"))
    service = FedService(Config(models=models, routing=RoutingConfig(aliases=ALIASES, default_model="here")))
    service.workers = [
        worker_view("a"),
        worker_view("quarantined", WorkerState.QUARANTINED),
        worker_view("broken", WorkerState.FAILED),
    ]
    service.loadable = {"here": "here", "here.gguf": "here", "broken": "broken"}
    service.on_submit = answer
    return service


def models_asked(service: FedService) -> list[str]:
    """The models that requests were submitted to."""
    return [asked.request.model_id for asked in service.answers]


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_every_dialect_has_a_model_loaded_by_any_name_of_it(
    client: httpx.AsyncClient, service: FedService, path: str, body: dict[str, Any]
) -> None:
    """The request goes to the model that was looked up, under its id, which the answer names."""
    response = await client.post(path, json={"model": "here.gguf", **body})

    assert 200 == response.status_code, response.text
    assert (["here.gguf"], ["here"]) == (service.demands, models_asked(service))
    if path in NAMED:
        assert "here" == response.json()["model"]


def test_a_socket_has_a_model_loaded_too(service: FedService) -> None:
    """And a model that is not on this machine is that chat's error."""
    with TestClient(create_app(service)) as http, http.websocket_connect("/v1/chat/stream") as socket:
        socket.send_json({"type": "chat.request", "request_id": "1", "model": "org/elsewhere", "messages": HI})
        refused = socket.receive_json()
        socket.send_json({"type": "chat.request", "request_id": "2", "model": "here", "messages": HI, "stream": False})
        done = socket.receive_json()

    assert ("chat.error", "1", "model_not_found", "model") == tuple(
        refused[key] for key in ("type", "request_id", "code", "param")
    )
    assert ("chat.done", ["here"]) == (done["type"], models_asked(service))


@pytest.mark.parametrize("name", ["a", "quarantined", "x"])
async def test_nothing_is_looked_up_that_is_served_quarantined_or_not_in_the_list(
    client: httpx.AsyncClient, service: FedService, name: str
) -> None:
    """The fleet answers for these, in its own words."""
    await client.post("/v1/chat/completions", json={"model": name, "messages": HI})

    assert ([], [name]) == (service.demands, models_asked(service))


async def test_nothing_is_looked_up_while_it_is_off(client: httpx.AsyncClient, service: FedService) -> None:
    """Which is what it is by default, and again after a reload."""
    assert Config().models.load_on_demand is False
    service.config = msgspec.structs.replace(service.config, models=ModelsConfig())
    await client.post("/v1/chat/completions", json={"model": "here", "messages": HI})

    assert ([], ["here"]) == (service.demands, models_asked(service))


@pytest.mark.parametrize("name", ["code", "reader", "auto"])
async def test_an_alias_of_nothing_that_is_served_is_the_first_of_its_models_that_can_be_loaded(
    client: httpx.AsyncClient, service: FedService, name: str
) -> None:
    """What is not on this machine, quarantined or broken is passed over; `auto` is `routing.default_model`."""
    service.workers = [worker for worker in service.workers if worker.model_id != "a"]
    response = await client.post("/v1/chat/completions", json={"model": name, "messages": HI})

    assert (200, "here") == (response.status_code, response.json()["model"])
    assert (["org/elsewhere", "here"] if name == "code" else ["here"]) == service.demands


async def test_an_alias_of_nothing_that_may_be_loaded_is_refused_as_ever(
    client: httpx.AsyncClient, service: FedService
) -> None:
    """404 that names what it stands for."""
    response = await client.post("/v1/chat/completions", json={"model": "nobody", "messages": HI})

    assert (404, []) == (response.status_code, service.answers)
    assert "No model that 'nobody' stands for is loaded: 'x', 'y'" in response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("refusal", "status", "code"),
    [
        (Refusal(ErrorCode.MODEL_INCOMPLETE, "2 files are missing", param="model"), 409, "model_incomplete"),
        (Refusal(ErrorCode.OVERLOADED, "the disk hangs", param="model", retry_after_seconds=7), 503, "overloaded"),
    ],
)
async def test_a_model_that_cannot_be_loaded_as_it_is(
    client: httpx.AsyncClient, service: FedService, refusal: Refusal, status: int, code: str
) -> None:
    """The reason is told, with the status it has everywhere; nothing waits."""
    service.loadable["here"] = refusal
    response = await client.post("/v1/chat/completions", json={"model": "here", "messages": HI})

    error = response.json()["error"]
    assert (status, code, "model") == (response.status_code, error["code"], error["param"])
    assert (refusal.message, []) == (error["message"], service.answers)
    if refusal.retry_after_seconds is not None:
        assert "7" == response.headers["Retry-After"]


async def test_a_key_has_only_its_own_models_loaded(client: httpx.AsyncClient, service: FedService) -> None:
    """403 for another, before anything is looked up; of an alias only what the key may use."""
    keys = {"mine": NamedKey(key="k", models=("here",))}
    service.config = msgspec.structs.replace(service.config, security=SecurityConfig(inference_keys=keys))
    mine = {"Authorization": "Bearer k"}
    other = await client.post("/v1/chat/completions", json={"model": "broken", "messages": HI}, headers=mine)
    alias = await client.post("/v1/chat/completions", json={"model": "code", "messages": HI}, headers=mine)

    assert (403, "model_not_allowed") == (other.status_code, other.json()["error"]["code"])
    assert (200, ["here"]) == (alias.status_code, service.demands)


async def test_models_that_could_be_loaded_are_not_listed(client: httpx.AsyncClient, service: FedService) -> None:
    """`GET /v1/models` lists what answers now, as it always did."""
    assert ["a"] == [model["id"] for model in (await client.get("/v1/models")).json()["data"]]
    assert [] == service.demands
