"""Several inference keys: each has its models, its place in the line and its own things, and is counted by its name."""

import asyncio
import json
import logging
from typing import Any

import httpx
import msgspec
import pytest
from starlette.applications import Starlette

from lmx_protocol.states import ModelTask
from lmx_supervisor.config.schema import Config, NamedKey, RoutingConfig, SecurityConfig
from lmx_supervisor.core.presets import Preset, PresetBook
from lmx_supervisor.gateway.app import create_app
from tests.gateway.asgi import Exchange
from tests.gateway.service import FACTS, FedService, silent, worker_view
from tests.gateway.test_chat_socket import CHAT, Socket
from tests.gateway.test_routing import answer

KEYS = {
    "alice": NamedKey(key="k-alice", models=("org/*",)),
    "bob": NamedKey(key="k-bob", models=("other",), concurrent_max=1),
    "carol": NamedKey(key="k-carol"),
}
SECURITY = SecurityConfig(admin_key="admin", inference_api_key="shared", inference_keys=KEYS)
ROUTING = RoutingConfig(aliases={"code": ("other",), "best": ("other", "org/better", "org/model")}, default_model="other")
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/completions": {"prompt": "hi"},
    "/v1/responses": {"input": "hi"},
    "/v1/messages": {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5},
    "/v1/messages/count_tokens": {"messages": [{"role": "user", "content": "hi"}]},
    "/v1/embeddings": {"input": "hi"},
    "/v1/rerank": {"query": "hi", "documents": ["a"]},
}


@pytest.fixture
def service() -> FedService:
    """Two models, `org/model` and `other`, and the keys."""
    fed = FedService(Config(security=SECURITY, routing=ROUTING))
    fed.workers.append(worker_view("other"))
    return fed


def by(key: str) -> dict[str, str]:
    """The headers of a client with this key."""
    return {"Authorization": f"Bearer {key}"}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("key", "model", "allowed"),
    [("k-alice", "org/model", True), ("k-alice", "other", False), ("k-alice", "code", False), ("k-bob", "code", True),
     ("k-alice", "missing", False), ("k-carol", "other", True), ("shared", "other", True), ("admin", "other", True)],
)  # fmt: skip
async def test_a_key_reaches_only_its_models(
    service: FedService, client: httpx.AsyncClient, path: str, key: str, model: str, allowed: bool
) -> None:
    """Whatever route and name lead to a model: 403 in the route's envelope, before anything is submitted or told of it."""
    response = await client.post(path, json={**BODIES[path], "model": model}, headers=by(key))
    refused = response.status_code == 403
    error = response.json().get("error", {}) if refused else {}

    assert refused == (not allowed), response.text
    if refused:
        assert service.answers == []
        assert error["type"] == "permission_error"
        assert path.startswith("/v1/messages") or (error["code"], error["param"]) == ("model_not_allowed", "model")


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    ("key", "name", "model"),
    [
        ("k-alice", "auto", "org/model"),
        ("k-alice", "best", "org/model"),
        ("k-alice", "preset:coder", "org/model"),
        ("k-bob", "auto", "other"),
        ("shared", "best", "other"),
        ("admin", "auto", "other"),
    ],
)
async def test_a_name_leads_to_a_model_of_the_key(
    service: FedService, client: httpx.AsyncClient, path: str, key: str, name: str, model: str
) -> None:
    """`auto`, an alias and the alias behind a preset stand for the models that the key may use, and for no others."""
    if name.startswith("preset:") and path in ("/v1/embeddings", "/v1/rerank"):
        name = "best"
    service.presets = PresetBook((Preset(name="coder", model="best"),))
    does_all = msgspec.structs.replace(FACTS, tasks=tuple(ModelTask))
    service.workers = [msgspec.structs.replace(worker, facts=does_all) for worker in service.workers]
    service.on_submit = answer
    response = await client.post(path, json={**BODIES[path], "model": name}, headers=by(key))

    assert 200 == response.status_code, response.text
    assert [model] == [asked.request.model_id for asked in service.answers]


async def test_a_name_that_leads_to_no_model_of_the_key(service: FedService, client: httpx.AsyncClient) -> None:
    """404 with what may be loaded where that can be one of its own, else 403. What is only for others is not named."""
    service.workers = [worker_view("other")]
    errors = {}
    for name in ("auto", "best", "code"):
        body = {**BODIES["/v1/chat/completions"], "model": name}
        response = await client.post("/v1/chat/completions", json=body, headers=by("k-alice"))
        errors[name] = (response.status_code, response.json()["error"])

    words = {name: error["message"] for name, (_, error) in errors.items()}
    assert {name: (status, error["code"], error["param"]) for name, (status, error) in errors.items()} == {
        "auto": (404, "model_not_found", "model"),
        "best": (404, "model_not_found", "model"),
        "code": (403, "model_not_allowed", "model"),
    }
    assert words["auto"].startswith("No model that this key may use is loaded.")
    assert "No model that 'best' stands for is loaded: 'org/better', 'org/model'. Load one of them" in words["best"]
    assert words["code"].startswith("This key may use none of the models that 'code' stands for;")
    assert not [text for text in words.values() if "'other'" in text]
    assert service.answers == []


@pytest.mark.parametrize(("key", "ids"), [("k-alice", ["org/model"]), ("k-bob", ["other"]), ("shared", ["org/model", "other"])])
async def test_a_key_sees_only_its_models(client: httpx.AsyncClient, key: str, ids: list[str]) -> None:
    """In the list, and one by one; that one is not for it says nothing about whether it is there."""
    listing = (await client.get("/v1/models", headers=by(key))).json()
    each = {model: (await client.get(f"/v1/models/{model}", headers=by(key))).status_code for model in ("org/model", "other")}

    assert sorted(model["id"] for model in listing["data"]) == ids
    assert [model for model, status in sorted(each.items()) if status == 200] == ids
    assert set(each.values()) <= {200, 403}


@pytest.mark.live_keys("security.inference_keys")
async def test_what_a_key_may_changes_with_a_reload(service: FedService, client: httpx.AsyncClient) -> None:
    """From the next request on: other models, and no way in for a key that was taken away."""
    before = await client.get("/v1/models/other", headers=by("k-alice"))
    changed = {"alice": NamedKey(key="k-alice", models=("other",))}
    service.config = Config(security=SecurityConfig(inference_keys=changed))
    after = await client.get("/v1/models/other", headers=by("k-alice"))
    gone = await client.get("/v1/models/other", headers=by("k-bob"))

    assert [before.status_code, after.status_code, gone.status_code] == [403, 200, 401]


async def test_requests_are_counted_and_logged_by_the_name(
    service: FedService, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Not by what the client calls itself, nor can others call themselves so; the key itself is nowhere."""
    caplog.set_level(logging.INFO, logger="lmx.http")
    body = {**BODIES["/v1/chat/completions"], "model": "org/model"}
    for key, claims in (("k-alice", "somebody"), ("shared", "alice"), ("shared", "somebody")):
        await client.post("/v1/chat/completions", json=body, headers={**by(key), "X-Client-ID": claims})

    assert [origin.client_id for origin in service.origins] == ["alice", None, "somebody"]
    assert [getattr(record, "caller", None) for record in caplog.records] == ["alice", None, None]
    assert not [record for record in caplog.records if "k-alice" in str(vars(record))]


async def test_a_key_brings_its_own_limit_into_the_line(service: FedService, client: httpx.AsyncClient) -> None:
    """How many of its requests may run at once is known where requests wait; others bring none. A reload changes it."""
    body = {**BODIES["/v1/chat/completions"], "model": "other"}
    for key in ("k-bob", "k-carol", "shared", "admin"):
        await client.post("/v1/chat/completions", json=body, headers=by(key))
    service.config = Config(security=SecurityConfig(inference_keys={"bob": NamedKey(key="k-bob", concurrent_max=7)}))
    await client.post("/v1/chat/completions", json=body, headers=by("k-bob"))

    limits = [(origin.key_name, origin.key_concurrent_max) for origin in service.origins]
    assert limits == [("bob", 1), ("carol", None), (None, None), (None, None), ("bob", 7)]


@pytest.mark.parametrize(("key", "status"), [("k-bob", 404), ("shared", 404), ("k-alice", 200), ("admin", 200)])
async def test_a_key_ends_only_its_own_requests(service: FedService, key: str, status: int) -> None:
    """Knowing the id of somebody else's request is not enough; the admin key ends everything."""
    service.on_submit = silent
    app = create_app(service)
    running = ask(app, "k-alice", "org/model", request_id="mine")
    await service.submitted.wait()
    cancel = Exchange(app, "POST", "/v1/requests/mine/cancel", headers=by(key))

    assert await status_of(cancel) == status
    if status == 404:
        service.answers[0].finish()
    assert await status_of(running) == (200 if status == 404 else 499)


async def test_a_key_finds_only_its_own_responses(client: httpx.AsyncClient) -> None:
    """Neither read, nor gone on from, nor deleted by another key; the admin key sees it."""
    body = {"model": "org/model", "input": "hi"}
    made = (await client.post("/v1/responses", json=body, headers=by("k-alice"))).json()["id"]
    path = f"/v1/responses/{made}"
    statuses = {}
    for key in ("k-carol", "shared", "k-alice", "admin"):
        going_on = {**body, "previous_response_id": made}
        statuses[key] = [
            (await client.get(path, headers=by(key))).status_code,
            (await client.get(f"{path}/input_items", headers=by(key))).status_code,
            (await client.post("/v1/responses", json=going_on, headers=by(key))).status_code,
        ]
    by_another = await client.delete(path, headers=by("k-carol"))
    by_itself = await client.delete(path, headers=by("k-alice"))

    assert statuses == {"k-carol": [404] * 3, "shared": [404] * 3, "k-alice": [200] * 3, "admin": [200] * 3}
    assert (by_another.status_code, by_itself.status_code) == (404, 200)


async def test_a_socket_does_not_outlast_its_key(service: FedService) -> None:
    """Every chat is checked anew: its model, its place in the line, and whether the key is still one."""
    headers = {"authorization": "Bearer k-bob"}
    socket = Socket(service, headers)
    await socket.message()
    endings = []
    for model, security in (("org/model", SECURITY), ("other", SECURITY), ("other", SecurityConfig(inference_api_key="x"))):
        service.config = Config(security=security)
        socket.say({**CHAT, "model": model, "stream": False})
        endings.append((await socket.frame())["type"])
    await socket.close()

    assert endings == ["chat.error", "chat.done", "chat.error"]


def ask(app: Starlette, key: str, model: str, *, request_id: str = "r", **fields: Any) -> Exchange:
    """A chat in flight."""
    body = json.dumps({**BODIES["/v1/chat/completions"], "model": model, **fields}).encode()
    return Exchange(app, "POST", "/v1/chat/completions", body=body, headers={**by(key), "X-Request-ID": request_id})


async def status_of(request: Exchange) -> int:
    """How a request in flight ends."""
    status: int = (await request.message())["status"]
    await request.rest()
    async with asyncio.timeout(5):
        await request.done()
    return status
