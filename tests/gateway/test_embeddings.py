"""POST /v1/embeddings: shapes, replays, what is refused, and clients that leave."""

import base64
import json
import struct
from typing import Any

import httpx
import msgspec
import pytest
from openai.types import CreateEmbeddingResponse

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Cancelled, EmbedRequest, Failed, Finished, Prefill, Usage, Vectors
from lmx_protocol.states import FinishReason, ModelTask
from lmx_supervisor.gateway.app import create_app
from tests.gateway.asgi import Exchange
from tests.gateway.service import MODEL, FedService, feeding, silent, worker_view

URL = "/v1/embeddings"
BODY: dict[str, Any] = {"model": MODEL, "input": ["first", "second"]}


def vectors(first_index: int, *numbers: tuple[float, ...]) -> Vectors:
    """An event with these vectors."""
    data = b"".join(struct.pack(f"<{len(vector)}f", *vector) for vector in numbers)
    return Vectors(request_id="", first_index=first_index, dimensions=len(numbers[0]), data=data)


FINISHED = Finished(request_id="", reason=FinishReason.STOP, usage=Usage(prompt_tokens=7))
EVENTS = [Prefill(request_id="", done_tokens=1, prompt_tokens=7), vectors(0, (0.5, -1.0)), vectors(1, (0.25, 2.0)), FINISHED]


def give_tasks(service: FedService, *tasks: ModelTask) -> None:
    """Make the service's model one that can do these."""
    view = worker_view()
    assert view.facts is not None
    facts = msgspec.structs.replace(view.facts, tasks=tasks, embedding_dimensions=2)
    service.workers[:] = [msgspec.structs.replace(view, facts=facts)]


@pytest.fixture(autouse=True)
def embeds(service: FedService) -> None:
    """The model embeds, and gives two vectors."""
    give_tasks(service, ModelTask.EMBED, ModelTask.RANK)
    service.on_submit = feeding(EVENTS)


def asked(service: FedService) -> EmbedRequest:
    """What the service was asked for."""
    request = service.answers[-1].request
    assert isinstance(request, EmbedRequest)
    return request


async def test_the_answer_is_what_openai_python_expects(client: httpx.AsyncClient, service: FedService) -> None:
    """The official SDK's strict model accepts it; vectors stand at their indexes, and the tokens are the worker's."""
    response = await client.post(URL, json={**BODY, "user": "u"})

    parsed = CreateEmbeddingResponse.model_validate(response.json(), strict=True)
    assert [(0, [0.5, -1.0]), (1, [0.25, 2.0])] == [(entry.index, entry.embedding) for entry in parsed.data]
    assert (MODEL, 7, 7) == (parsed.model, parsed.usage.prompt_tokens, parsed.usage.total_tokens)
    assert ("first", "second") == asked(service).inputs
    assert "application/json" == response.headers["content-type"]


async def test_base64_carries_the_same_numbers(client: httpx.AsyncClient) -> None:
    """Little-endian float32, as the SDK unpacks them."""
    response = await client.post(URL, json={**BODY, "encoding_format": "base64"})

    packed = [base64.b64decode(entry["embedding"]) for entry in response.json()["data"]]
    assert [(0.5, -1.0), (0.25, 2.0)] == [struct.unpack("<2f", vector) for vector in packed]


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        ("one", ("one",)),
        (["one"], ("one",)),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
async def test_every_form_of_input_is_taken(client: httpx.AsyncClient, service: FedService, given: Any, inputs: Any) -> None:
    """A text, texts, the tokens of one, the tokens of several."""
    service.on_submit = feeding([vectors(0, *[(1.0,)] * len(inputs)), FINISHED])
    response = await client.post(URL, json={"model": MODEL, "input": given, "dimensions": 1})

    assert 200 == response.status_code
    assert (inputs, 1) == (asked(service).inputs, asked(service).dimensions)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": None}, "input"),
        ({"input": ["a", ""]}, "input.1"),
        ({"input": ["a", 1]}, "input.1"),
        ({"input": [1, "a"]}, "input.1"),
        ({"input": [[1], []]}, "input.1"),
        ({"input": [[1], "a"]}, "input.1"),
        ({"input": [-1]}, "input.0"),
        ({"input": [1.5]}, "input.0"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": 5}, "input"),
        ({"input": ["a"] * (limits.EMBEDDING_INPUTS_MAX + 1)}, "input"),
        ({"input": [[1]] * (limits.EMBEDDING_INPUTS_MAX + 1)}, "input"),
        ({"input": [1] * (limits.EMBEDDING_TOKENS_MAX + 2)}, "input"),
        ({"input": "x" * (limits.TEXTS_BYTES_MAX + 1)}, "input"),
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": limits.EMBEDDING_DIMENSIONS_MAX + 1}, "dimensions"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"model": ""}, "model"),
        ({"user": "u" * (limits.USER_CHARACTERS_MAX + 1)}, "user"),
    ],
)
async def test_bad_input_is_a_400_that_names_the_field(
    client: httpx.AsyncClient, service: FedService, fields: dict[str, Any], param: str
) -> None:
    """In the contract's envelope, before anything is queued."""
    response = await client.post(URL, json={**BODY, **fields})

    assert (400, param) == (response.status_code, response.json()["error"]["param"])
    assert {"message", "type", "param", "code"} == set(response.json()["error"])
    assert not service.answers


async def test_a_missing_field_is_named(client: httpx.AsyncClient) -> None:
    """Without input there is nothing to do."""
    response = await client.post(URL, json={"model": MODEL})

    assert (400, "input") == (response.status_code, response.json()["error"]["param"])


async def test_a_model_that_does_not_embed_is_refused(client: httpx.AsyncClient, service: FedService) -> None:
    """400 `not_supported` about the model, at once."""
    give_tasks(service, ModelTask.GENERATE)
    response = await client.post(URL, json=BODY)

    error = response.json()["error"]
    assert (400, "not_supported", "model") == (response.status_code, error["code"], error["param"])
    assert not service.answers


async def test_vectors_that_come_twice_are_taken_by_their_index(client: httpx.AsyncClient, service: FedService) -> None:
    """As after a replay: the later ones count, and nothing is doubled."""
    service.on_submit = feeding([vectors(0, (9.0,)), vectors(0, (1.0,), (2.0,)), FINISHED])
    response = await client.post(URL, json=BODY)

    assert [[1.0], [2.0]] == [entry["embedding"] for entry in response.json()["data"]]


@pytest.mark.parametrize(
    ("end", "status", "code"),
    [
        (Failed(request_id="", code=ErrorCode.WORKER_LOST, message="lost"), 503, "worker_lost"),
        (
            Failed(request_id="", code=ErrorCode.CONTEXT_LENGTH_EXCEEDED, message="long", param="input"),
            400,
            "context_length_exceeded",
        ),
        (Cancelled(request_id=""), 500, "generation_error"),
        (FINISHED, 500, "generation_error"),
    ],
)
async def test_half_an_answer_is_no_answer(
    client: httpx.AsyncClient, service: FedService, end: Failed | Cancelled | Finished, status: int, code: str
) -> None:
    """Whatever ends it before the last vector is a status, never a shorter list."""
    service.on_submit = feeding([vectors(0, (1.0,)), end])
    response = await client.post(URL, json=BODY)

    assert (status, code) == (response.status_code, response.json()["error"]["code"])


async def test_a_client_that_leaves_cancels_its_request(service: FedService) -> None:
    """Also while it waits for the rest of the vectors."""
    service.on_submit = silent
    exchange = Exchange(create_app(service), "POST", URL, body=json.dumps(BODY).encode())
    await service.submitted.wait()
    service.answers[0].feed(vectors(0, (1.0,)))
    exchange.disconnect()
    await service.answers[0].cancelled.wait()

    assert [] == await exchange.done()


async def test_a_request_can_be_cancelled_by_its_id(service: FedService) -> None:
    """As any other: whoever waits for it is told, and the worker too."""
    service.on_submit = silent
    app = create_app(service)
    waiting = Exchange(app, "POST", URL, body=json.dumps(BODY).encode(), headers={"x-request-id": "mine-1"})
    await service.submitted.wait()
    cancel = Exchange(app, "POST", "/v1/requests/mine-1/cancel")

    assert 200 == (await cancel.message())["status"]
    assert b"request_cancelled" in await waiting.rest()
    assert service.answers[0].cancelled.is_set()


async def test_a_large_answer_is_written_in_blocks(service: FedService) -> None:
    """Many vectors never become one piece of the size of all, and together they are one JSON document."""
    count, dimensions = 200, 256
    service.on_submit = feeding([vectors(0, *[(0.1,) * dimensions] * count), FINISHED])
    body = {"model": MODEL, "input": ["x"] * count}
    exchange = Exchange(create_app(service), "POST", URL, body=json.dumps(body).encode())
    start = await exchange.message()
    whole, largest = b"", 0
    while True:
        message = await exchange.message()
        whole += message["body"]
        largest = max(largest, len(message["body"]))
        if not message["more_body"]:
            break

    assert 200 == start["status"]
    assert largest < len(whole) / 4
    assert [count, dimensions] == [len(json.loads(whole)["data"]), len(json.loads(whole)["data"][-1]["embedding"])]
