"""Several answers to one request (`n`): merged with their numbers, paced one by one, and ended together."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletion

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import Failed, Text
from lmx_protocol.states import FinishReason
from lmx_supervisor.config.schema import Config, ServerConfig
from lmx_supervisor.gateway.app import create_app
from tests.gateway.asgi import Exchange, chunks
from tests.gateway.service import MODEL, FedAnswer, FedService, silent

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "n": 3}
STREAM = {**CHAT, "stream": True}
URL = "/v1/chat/completions"


def exchange(service: FedService, body: dict[str, Any]) -> Exchange:
    """A chat request in flight."""
    return Exchange(create_app(service), "POST", URL, body=json.dumps(body).encode())


async def all_ended(answers: list[FedAnswer]) -> None:
    """Every answer was read to its terminal event."""
    async with asyncio.timeout(5):
        for answer in answers:
            await answer.ended.wait()


async def test_each_choice_is_a_generation_of_its_own(client: httpx.AsyncClient, service: FedService) -> None:
    """As many generations as choices, with ids and seeds of their own, and everything else alike."""
    service.on_submit = lambda answer: (answer.feed_text(str(len(service.answers))), answer.finish())[-1]

    response = await client.post(URL, json={**CHAT, "seed": limits.SEED_MAX})

    completion = ChatCompletion.model_validate(response.json(), strict=True)
    assert ["1", "2", "3"] == [choice.message.content for choice in completion.choices]
    assert [0, 1, 2] == [choice.index for choice in completion.choices]
    requests = [answer.request for answer in service.answers]
    assert [limits.SEED_MAX, 0, 1] == [request.sampling.seed for request in requests]
    assert [completion.id, f"{completion.id}-1", f"{completion.id}-2"] == [request.request_id for request in requests]
    assert 1 == len({request.messages for request in requests})
    assert completion.usage is not None
    assert (3, 6) == (completion.usage.prompt_tokens, completion.usage.completion_tokens)


async def test_a_stream_merges_the_choices_as_they_come(service: FedService) -> None:
    """Every chunk names its choice, a choice that is done says so while others go on, and one end marker ends all."""
    service.on_submit = silent
    request = exchange(service, STREAM)
    await service.submitted.wait()
    first, second, third = service.answers
    second.feed_text("b")
    await request.message()
    opening = chunks((await request.message())["body"])
    second.finish()
    second_end = chunks((await request.message())["body"])
    third.feed_text("c")
    third_text = chunks((await request.message())["body"])
    third.finish(FinishReason.LENGTH)
    first.finish()
    *_, done = rest = chunks(await request.rest())

    assert [0, 1, 2, 1] == [event["choices"][0]["index"] for event in opening]
    assert (1, "stop") == (second_end[0]["choices"][0]["index"], second_end[0]["choices"][0]["finish_reason"])
    assert (2, "c") == (third_text[0]["choices"][0]["index"], third_text[0]["choices"][0]["delta"]["content"])
    assert {(0, "stop"), (2, "length")} == {
        (event["choices"][0]["index"], event["choices"][0]["finish_reason"]) for event in rest[:-1]
    }
    assert ("[DONE]", 1) == (done, rest.count("[DONE]"))


async def test_no_choice_is_passed_over_for_ever(service: FedService) -> None:
    """A choice that always has something to say does not keep the others waiting."""
    service.on_submit = lambda answer: answer.feed_text(*("x" * 50 if answer is service.answers[0] else "y"))
    request = exchange(service, STREAM)
    async with asyncio.timeout(5):
        seen: list[int] = []
        while not {1, 2} <= set(seen[3:]):
            seen += [event["choices"][0]["index"] for event in chunks((await request.message()).get("body", b""))]

    assert seen[3:].count(0) < 5
    request.disconnect()
    await request.done()
    await all_ended(service.answers)


async def test_the_failure_of_one_choice_ends_the_whole(service: FedService) -> None:
    """Before the first text it is the status of the response; the other choices are cancelled."""
    service.on_submit = silent
    request = exchange(service, STREAM)
    await service.submitted.wait()
    service.answers[1].feed(Failed(request_id="", code=ErrorCode.RATE_LIMIT_EXCEEDED, message="busy", retry_after_seconds=5))

    assert 429 == (await request.message())["status"]
    await all_ended(service.answers)
    assert [True, False, True] == [answer.cancelled.is_set() for answer in service.answers]


async def test_the_failure_of_one_choice_ends_the_stream(service: FedService) -> None:
    """After the first text it is an error event without an end marker; what was finished before stays finished."""
    service.on_submit = silent
    request = exchange(service, STREAM)
    await service.submitted.wait()
    service.answers[0].feed_text("a")
    service.answers[0].finish()
    await request.message()
    await request.message()
    service.answers[2].feed(
        Text(request_id="", text="c"), Failed(request_id="", code=ErrorCode.WORKER_LOST, message="The worker died.")
    )
    *_, last = chunks(await request.rest())

    assert "worker_lost" == last["error"]["code"]
    await all_ended(service.answers)
    assert [False, True, False] == [answer.cancelled.is_set() for answer in service.answers]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"guided_regex": "("}, "guided_regex"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
async def test_a_workers_refusal_names_the_clients_field(
    client: httpx.AsyncClient, service: FedService, fields: dict[str, Any], param: str
) -> None:
    """The worker knows one form, the client the field in which it asked for it."""
    refused = Failed(request_id="", code=ErrorCode.INVALID_VALUE, message="no", param="response_format")
    service.on_submit = lambda answer: answer.feed(refused)

    response = await client.post(URL, json={**CHAT, **fields})

    assert (400, param) == (response.status_code, response.json()["error"]["param"])


async def test_a_client_that_leaves_cancels_every_choice(service: FedService) -> None:
    """Nothing goes on computing for nobody."""
    service.on_submit = lambda answer: answer.feed_text("x")
    request = exchange(service, CHAT)
    await service.submitted.wait()

    request.disconnect()

    await request.done()
    await all_ended(service.answers)
    assert all(answer.cancelled.is_set() for answer in service.answers)


async def test_choices_are_kept_alive_by_one_clock() -> None:
    """While all of them are silent one empty delta flows per interval, of a choice that has not ended."""
    service = FedService(Config(server=ServerConfig(stream_keep_alive_seconds=0.01)))
    service.on_submit = lambda answer: answer.feed_text("x")
    request = exchange(service, STREAM)
    for _ in range(4):
        await request.message()

    kept_alive = [chunks((await request.message())["body"]) for _ in range(3)]

    assert [[(0, {})]] * 3 == [
        [(event["choices"][0]["index"], event["choices"][0]["delta"]) for event in sent] for sent in kept_alive
    ]
    assert [2, 2, 2] == [answer.reads for answer in service.answers]
    service.answers[0].finish()
    while 1 not in (indexes := [event["choices"][0]["index"] for event in chunks((await request.message())["body"])]):
        assert [0] == indexes
    for answer in service.answers[1:]:
        answer.finish()
    assert b"[DONE]" in await request.rest()
