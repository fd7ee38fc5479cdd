"""`preset:NAME` in every dialect that generates, and the admin routes about presets."""

from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from lmx_protocol.messages import CountRequest, GenerateRequest, Message
from lmx_supervisor.core.load_profile import GenerationDefaults
from lmx_supervisor.core.presets import Preset, PresetBook
from lmx_supervisor.gateway.app import create_app
from tests.gateway.service import MODEL, FedService, worker_view

HI = [{"role": "user", "content": "hi"}]
PARAMETERS = GenerationDefaults(temperature=0.25, top_p=0.5, top_k=7, max_tokens=99, stop=("END",))
TALKER = Preset(name="talker", model=MODEL, parameters=PARAMETERS, system_prompt="Be brief.", routing_alias="chat")
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": HI}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/messages", {"messages": HI}),
]
OWN = {"role": "system", "content": "Own."}
SYSTEM = Message(role="system", content="Be brief.")


@pytest.fixture
def service() -> FedService:
    """A service with two models, and presets for one of them, for an alias and for none."""
    service = FedService()
    service.workers.append(worker_view("other"))
    service.presets = PresetBook([TALKER, Preset(name="aliased", model="chat"), Preset(name="lost", model="gone")])
    return service


def asked(service: FedService) -> GenerateRequest:
    """What the last request came to."""
    request = service.answers[-1].request
    assert isinstance(request, GenerateRequest)
    return request


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_a_preset_says_what_the_request_leaves_out(
    client: httpx.AsyncClient, service: FedService, path: str, body: dict[str, Any]
) -> None:
    """Model, parameters and system prompt; the answer names the model."""
    response = await client.post(path, json={"model": "preset:talker", **body})

    assert (200, MODEL) == (response.status_code, response.json()["model"]), response.text
    request = asked(service)
    sampling = request.sampling
    assert (0.25, 0.5, 7, 99, ("END",)) == (
        sampling.temperature,
        sampling.top_p,
        sampling.top_k,
        request.max_tokens,
        request.stop,
    )
    if request.prompt is not None:
        assert "Be brief.\n\nhi" == request.prompt
    else:
        assert (SYSTEM, Message(role="user", content="hi")) == request.messages


@pytest.mark.parametrize(
    ("path", "body", "length"),
    [
        ("/v1/chat/completions", {"messages": [OWN, *HI], "stop": []}, "max_tokens"),
        ("/v1/chat/completions", {"messages": [{**OWN, "role": "developer"}, *HI], "stop": []}, "max_completion_tokens"),
        ("/v1/responses", {"input": "hi", "instructions": "Own."}, "max_output_tokens"),
        ("/v1/responses", {"input": [OWN, *HI]}, "max_tokens"),
        ("/v1/messages", {"messages": HI, "system": "Own.", "stop_sequences": []}, "max_tokens"),
    ],
)  # fmt: skip
async def test_what_the_request_says_itself_stands(
    client: httpx.AsyncClient, service: FedService, path: str, body: dict[str, Any], length: str
) -> None:
    """Also where it says what LMX would have done anyhow: what is said is not what is left out."""
    response = await client.post(path, json={"model": "preset:talker", "temperature": 0.7, "top_p": 1, length: 5, **body})

    assert 200 == response.status_code, response.text
    request = asked(service)
    assert (0.7, 1.0, 7, 5) == (
        request.sampling.temperature,
        request.sampling.top_p,
        request.sampling.top_k,
        request.max_tokens,
    )
    assert ["Own."] == [message.content for message in request.messages if message.role == "system"]
    assert (() if "stop" in str(body) else ("END",)) == request.stop


async def test_a_count_is_of_the_prompt_with_its_system_prompt(client: httpx.AsyncClient, service: FedService) -> None:
    """What is counted is what would be generated from."""
    service.on_submit = lambda answer: answer.finish()
    await client.post("/v1/messages/count_tokens", json={"model": "preset:talker", "messages": HI})

    count = service.answers[-1].request
    assert isinstance(count, CountRequest)
    assert (MODEL, SYSTEM) == (count.of.model_id, count.of.messages[0])


def test_a_preset_on_a_websocket(service: FedService) -> None:
    """The same there; what the client says itself stands, unlike in the predecessor."""
    with TestClient(create_app(service)) as http, http.websocket_connect("/v1/chat/stream") as socket:
        body = {"type": "chat.request", "model": "preset:talker", "messages": HI, "stream": False}
        socket.send_json({**body, "temperature": 0.7})
        assert "chat.done" == socket.receive_json()["type"]
        socket.send_json({**body, "model": "preset:nobody"})
        refused = socket.receive_json()

    request = asked(service)
    assert (MODEL, 0.7, 99, SYSTEM) == (request.model_id, request.sampling.temperature, request.max_tokens, request.messages[0])
    assert ("chat.error", "model_not_found") == (refused["type"], refused["code"])


async def test_the_model_of_a_preset_may_be_an_alias_that_a_preset_made(client: httpx.AsyncClient, service: FedService) -> None:
    """A preset's `routing_alias` is an alias like those of the configuration."""
    direct = await client.post("/v1/chat/completions", json={"model": "chat", "messages": HI})
    through = await client.post("/v1/chat/completions", json={"model": "preset:aliased", "messages": HI})
    stack = (await client.get("/admin/stack")).json()

    assert [MODEL, MODEL] == [direct.json()["model"], through.json()["model"]]
    assert {"preferences": [MODEL], "resolved_model": MODEL, "loaded": True} == stack["roles"]["chat"]


@pytest.mark.parametrize(("path", "body"), [*ROUTES, ("/v1/embeddings", {"input": "hi"})])
async def test_an_unknown_preset(client: httpx.AsyncClient, service: FedService, path: str, body: dict[str, Any]) -> None:
    """404 that names it, and those there are; nothing is queued."""
    response = await client.post(path, json={"model": "preset:x", **body})

    assert (404, []) == (response.status_code, service.answers)
    known = "preset:aliased, preset:lost, preset:talker"
    assert f"There is no preset 'preset:x'; known are {known}." == response.json()["error"]["message"]


async def test_a_preset_whose_model_is_not_loaded(client: httpx.AsyncClient, service: FedService) -> None:
    """The fleet refuses the model by its own id."""
    await client.post("/v1/chat/completions", json={"model": "preset:lost", "messages": HI})

    assert "gone" == asked(service).model_id


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/embeddings", {"input": "hi"}, "model"),
        ("/v1/rerank", {"query": "hi", "documents": ["a"]}, "model"),
        ("/v1/completions", {"prompt": [1, 2]}, "prompt"),
    ],
)
async def test_where_a_preset_cannot_be_honoured(
    client: httpx.AsyncClient, service: FedService, path: str, body: dict[str, Any], param: str
) -> None:
    """What only reads has no use for one; a system prompt cannot go before tokens. Neither is ignored."""
    response = await client.post(path, json={"model": "preset:talker", **body})

    error = response.json()["error"]
    assert (400, "not_supported", param, []) == (response.status_code, error["code"], error["param"], service.answers)


async def test_an_echo_is_of_what_the_client_sent(client: httpx.AsyncClient, service: FedService) -> None:
    """Not of the system prompt that went before it."""
    response = await client.post("/v1/completions", json={"model": "preset:talker", "prompt": "hi", "echo": True})

    assert "hiHello" == response.json()["choices"][0]["text"]


async def test_the_admin_routes(client: httpx.AsyncClient, service: FedService) -> None:
    """All of them, one of them, none of that name; a reload says how many there are."""
    listed = (await client.get("/admin/presets")).json()
    one = await client.get("/admin/presets/talker")
    none = await client.get("/admin/presets/nobody")
    reloaded = await client.post("/admin/presets/reload")

    assert (3, ["aliased", "lost", "talker"]) == (listed["count"], [preset["name"] for preset in listed["presets"]])
    assert {
        "name": "talker",
        "description": "",
        "model": MODEL,
        "parameters": {"temperature": 0.25, "top_p": 0.5, "top_k": 7, "max_tokens": 99, "stop": ["END"]},
        "system_prompt": "Be brief.",
        "routing_alias": "chat",
        "auto_load": False,
        "performance": {},
        "chat_template": None,
    } == one.json()
    assert (404, "model_not_found") == (none.status_code, none.json()["error"]["code"])
    assert "preset:nobody" in none.json()["error"]["message"]
    assert {"success": True, "presets_loaded": 3} == reloaded.json()
