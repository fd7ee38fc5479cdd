"""POST /v1/completions over HTTP: whole, streamed, kept alive, refused."""

import json
from typing import Any

import httpx
import msgspec
from openai.types import Completion

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Failed
from lmx_supervisor.config.schema import Config, ServerConfig
from lmx_supervisor.gateway.app import create_app
from tests.gateway.asgi import Exchange, chunks
from tests.gateway.service import FACTS, MODEL, FedService, feeding, worker_view

ASK: dict[str, Any] = {"model": MODEL, "prompt": "Once"}
URL = "/v1/completions"


async def test_a_whole_answer_is_what_openai_python_expects(client: httpx.AsyncClient, service: FedService) -> None:
    """The official SDK's strict model accepts it; prompts by choices, flattened, and a prompt's tokens counted once."""
    response = await client.post(URL, json={**ASK, "prompt": ["Once", "Twice"], "n": 2, "echo": True})

    completion = Completion.model_validate(response.json(), strict=True)
    assert [(0, "OnceHello"), (1, "OnceHello"), (2, "TwiceHello"), (3, "TwiceHello")] == [
        (choice.index, choice.text) for choice in completion.choices
    ]
    assert completion.id.startswith("cmpl-")
    assert completion.usage is not None
    assert (6, 8) == (completion.usage.prompt_tokens, completion.usage.completion_tokens)
    assert ["Once", "Once", "Twice", "Twice"] == [answer.request.prompt for answer in service.answers]


async def test_a_stream_is_made_of_the_same_objects(client: httpx.AsyncClient) -> None:
    """An empty beginning, text, an end with its reason, the end marker."""
    response = await client.post(URL, json={**ASK, "stream": True, "stream_options": {"include_usage": True}})

    *events, usage, done = chunks(response.content)
    assert [("", None), ("Hel", None), ("lo", None), ("", "stop")] == [
        (event["choices"][0]["text"], event["choices"][0]["finish_reason"]) for event in events
    ]
    assert {"text_completion"} == {event["object"] for event in [*events, usage]}
    assert (5, "[DONE]") == (usage["usage"]["total_tokens"], done)


async def test_a_quiet_stream_is_kept_alive_by_comments() -> None:
    """Which no client of this interface takes for text."""
    service = FedService(Config(server=ServerConfig(stream_keep_alive_seconds=0.01)))
    service.on_submit = lambda answer: answer.feed_text("Hel")
    request = Exchange(create_app(service), "POST", URL, body=json.dumps({**ASK, "stream": True}).encode())
    await request.message()
    await request.message()

    assert b": keep-alive\n\n" == (await request.message())["body"]
    service.answers[0].finish()
    assert b"[DONE]" in await request.rest()


async def test_a_failure_before_the_first_text_is_a_status(client: httpx.AsyncClient, service: FedService) -> None:
    """With the worker's own words, and the field by the name that this interface has for it."""
    service.on_submit = feeding([Failed(request_id="", code=ErrorCode.INVALID_VALUE, message="no", param="prompt_tokens")])

    response = await client.post(URL, json={**ASK, "prompt": [1], "stream": True})

    assert (400, "prompt") == (response.status_code, response.json()["error"]["param"])


async def test_the_best_cannot_be_chosen_without_log_probabilities(client: httpx.AsyncClient, service: FedService) -> None:
    """A model that has none is refused by the field that the client sent."""
    worker = worker_view()
    facts = msgspec.structs.replace(FACTS, unsupported_fields=("logprobs",))
    service.workers = [msgspec.structs.replace(worker, facts=facts)]

    answers = [await client.post(URL, json={**ASK, **fields}) for fields in ({"best_of": 2}, {"logprobs": 1})]

    assert [("not_supported", "best_of"), ("not_supported", "logprobs")] == [
        (answer.json()["error"]["code"], answer.json()["error"]["param"]) for answer in answers
    ]
    assert [] == service.answers


async def test_a_long_text_is_one_prompt(client: httpx.AsyncClient, service: FedService) -> None:
    """A text may be as long as a body; the bound on arrays is not for it."""
    text = "x" * (limits.PROMPT_ARRAY_BYTES_MAX + 1)

    assert 200 == (await client.post(URL, json={**ASK, "prompt": text})).status_code
    assert text == service.answers[0].request.prompt
