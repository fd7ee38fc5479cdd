"""Names for models in every dialect: where they lead, what the answer calls the model, and names that lead nowhere."""

import json
from typing import Any

import httpx
import msgspec
import pytest
from starlette.testclient import TestClient

from lmx_protocol.messages import CountRequest, EmbedRequest, Finished, RankRequest, Scores, Usage, Vectors
from lmx_protocol.states import FinishReason, ModelTask, RankMethod, WorkerState
from lmx_supervisor.config.schema import Config, ModelsConfig, RoutingConfig
from lmx_supervisor.gateway.app import create_app
from tests.gateway.service import FACTS, FedAnswer, FedService, worker_view

HI = [{"role": "user", "content": "hi"}]
READER = msgspec.structs.replace(FACTS, tasks=(ModelTask.EMBED, ModelTask.RANK))
ROUTES: list[tuple[str, dict[str, Any]]] = [
    ("/v1/chat/completions", {"messages": HI}),
    ("/v1/completions", {"prompt": "hi"}),
    ("/v1/responses", {"input": "hi"}),
    ("/v1/messages", {"messages": HI, "max_tokens": 5}),
    ("/v1/messages/count_tokens", {"messages": HI}),
    ("/v1/embeddings", {"input": "hi"}),
    ("/v1/rerank", {"query": "hi", "documents": ["a"]}),
]
GENERATING = ROUTES[:4]
NAMED = ("/v1/embeddings", "/v1/rerank", *(path for path, _ in GENERATING))
"""Their answers name the model."""


@pytest.fixture
def service() -> FedService:
    """A service with two models that answer and one that reads."""
    routing = RoutingConfig(aliases={"code": ("gone", "b", "a"), "reader": ("gone", "r"), "nobody": ("x", "y"), "empty": ()})
    service = FedService(Config(routing=routing, models=ModelsConfig(default_model="code")))
    service.workers = [worker_view("a"), worker_view("b"), msgspec.structs.replace(worker_view("r"), facts=READER)]
    service.on_submit = answer
    return service


def answer(fed: FedAnswer) -> None:
    """What the model that was asked would say."""
    request, end = fed.request, Finished(request_id=fed.request_id, reason=FinishReason.STOP, usage=Usage(prompt_tokens=3))
    if isinstance(request, EmbedRequest):
        fed.feed(Vectors(request_id=fed.request_id, first_index=0, dimensions=1, data=b"\0\0\x80?"), end)
    elif isinstance(request, RankRequest):
        fed.feed(Scores(request_id=fed.request_id, first_index=0, values=(0.5,), method=RankMethod.COSINE), end)
    elif isinstance(request, CountRequest):
        fed.feed(end)
    else:
        fed.feed_text("Hi.")
        fed.feed(end)


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_an_alias_leads_to_the_first_that_is_served(
    client: httpx.AsyncClient, service: FedService, path: str, body: dict[str, Any]
) -> None:
    """In every dialect, and the answer names the model, not the alias."""
    reads = path in ("/v1/embeddings", "/v1/rerank")
    response = await client.post(path, json={"model": "reader" if reads else "code", **body})

    expected = "r" if reads else "b"
    assert 200 == response.status_code, response.text
    assert [expected] == [asked.request.model_id for asked in service.answers]
    if path in NAMED:
        assert expected == response.json()["model"]


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_auto_is_a_model_that_can_do_it(
    client: httpx.AsyncClient, service: FedService, path: str, body: dict[str, Any]
) -> None:
    """The first by its id that generates or reads, as the route needs."""
    response = await client.post(path, json={"model": "auto", **body})

    assert 200 == response.status_code, response.text
    assert ["r" if path in ("/v1/embeddings", "/v1/rerank") else "a"] == [asked.request.model_id for asked in service.answers]


@pytest.mark.parametrize(("path", "body"), ROUTES[:5])
async def test_a_request_that_names_no_model(
    client: httpx.AsyncClient, service: FedService, path: str, body: dict[str, Any]
) -> None:
    """It gets `models.default_model`, which may be an alias; without one the field is required."""
    given = await client.post(path, json=body)
    null = await client.post(path, json={"model": None, **body})
    service.config = Config()
    refused = await client.post(path, json=body)

    assert (200, 200, 400) == (given.status_code, null.status_code, refused.status_code)
    assert ["b", "b"] == [asked.request.model_id for asked in service.answers]
    assert "model: this field is required." in refused.text


async def test_streams_name_the_model_that_answers(client: httpx.AsyncClient) -> None:
    """Every chunk of every dialect that has the field."""
    for path, body in GENERATING:
        streamed = await client.post(path, json={"model": "code", "stream": True, **body})
        parts = [line.removeprefix("data: ") for line in streamed.text.splitlines() if line.startswith("data: ")]
        names = {str(name) for part in parts if part != "[DONE]" for name in _models_in(json.loads(part))}

        assert {"b"} == names, path


def _models_in(value: Any) -> list[Any]:
    if not isinstance(value, dict):
        return []
    return [found for key, inner in value.items() for found in ([inner] if key == "model" else _models_in(inner))]


def test_names_on_a_websocket(service: FedService) -> None:
    """The same names mean the same; one that leads nowhere is that chat's error, and the socket goes on."""
    with TestClient(create_app(service)) as http, http.websocket_connect("/v1/chat/stream") as socket:
        socket.send_json({"type": "chat.request", "request_id": "1", "model": "nobody", "messages": HI})
        refused = socket.receive_json()
        socket.send_json({"type": "chat.request", "request_id": "2", "model": "code", "messages": HI, "stream": False})
        done = socket.receive_json()

    assert ("chat.error", "1", "model_not_found", "model") == tuple(
        refused[key] for key in ("type", "request_id", "code", "param")
    )
    assert ("chat.done", ["b"]) == (done["type"], [asked.request.model_id for asked in service.answers])


@pytest.mark.parametrize(("path", "body"), ROUTES)
async def test_an_alias_of_nothing_that_is_served(
    client: httpx.AsyncClient, service: FedService, path: str, body: dict[str, Any]
) -> None:
    """404 that says which models would serve it and how to load one; nothing is queued."""
    service.workers.append(worker_view("y", WorkerState.QUARANTINED))
    response = await client.post(path, json={"model": "nobody", **body})

    assert 404 == response.status_code
    words = response.json()["error"]["message"]
    assert (
        "No model that 'nobody' stands for is loaded: 'x', 'y' (quarantined). Load one of them with `lmx load MODEL`" in words
    )
    assert [] == service.answers


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("empty", "No model has the id 'empty', and as an alias it stands for none."),
        ("auto", "No model is loaded."),
    ],
)
async def test_names_without_any_model(client: httpx.AsyncClient, service: FedService, name: str, words: str) -> None:
    """An alias whose list is empty, and `auto` when nothing is served."""
    service.workers = []
    response = await client.post("/v1/chat/completions", json={"model": name, "messages": HI})

    error = response.json()["error"]
    assert (404, "model_not_found", "model") == (response.status_code, error["code"], error["param"])
    assert error["message"].startswith(words)


async def test_while_the_service_stops_an_alias_is_refused_as_everything_else(
    client: httpx.AsyncClient, service: FedService
) -> None:
    """That its models are leaving is no 404: the fleet says that it is shutting down."""
    service.draining, service.workers = True, []
    await client.post("/v1/chat/completions", json={"model": "code", "messages": HI})

    assert ["code"] == [asked.request.model_id for asked in service.answers]
