"""OpenAI chat: shapes, streams, cancellation, keep-alive, and what is refused."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import (
    Cancelled,
    Failed,
    Message,
    OutputForm,
    Prefill,
    Sampling,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
)
from lmx_protocol.states import OutputKind, ToolMode
from lmx_supervisor.config.schema import Config, ServerConfig
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.gateway.dialects.openai_chat_translator import ChatTranslator
from tests.gateway.asgi import Exchange, chunks
from tests.gateway.service import MODEL, FedService, feeding, silent

CHAT: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}
URL = "/v1/chat/completions"


def exchange(service: FedService, body: dict[str, Any]) -> Exchange:
    """A chat request in flight."""
    return Exchange(create_app(service), "POST", URL, body=json.dumps(body).encode())


async def test_a_whole_answer_is_what_openai_python_expects(client: httpx.AsyncClient) -> None:
    """The official SDK's strict model accepts the answer, and its numbers add up."""
    response = await client.post(URL, json=CHAT)

    completion = ChatCompletion.model_validate(response.json(), strict=True)
    (choice,) = completion.choices
    assert ("Hello", "stop", MODEL) == (choice.message.content, choice.finish_reason, completion.model)
    assert completion.id.startswith("chatcmpl-")
    assert completion.usage is not None
    assert (3, 2, 5) == (completion.usage.prompt_tokens, completion.usage.completion_tokens, completion.usage.total_tokens)
    assert response.json()["usage"]["prompt_tokens_details"] == {"cached_tokens": 1}
    assert response.json()["usage"]["completion_tokens_details"] == {"reasoning_tokens": 0}
    assert {"role": "assistant", "content": "Hello", "refusal": None} == response.json()["choices"][0]["message"]
    assert response.json()["choices"][0]["logprobs"] is None


async def test_a_stream_is_what_openai_python_expects(client: httpx.AsyncClient) -> None:
    """Role first, then content, then the finish reason, then the end marker, all with one id."""
    response = await client.post(URL, json=STREAM)

    *events, done = chunks(response.content)
    parsed = [ChatCompletionChunk.model_validate(event, strict=True) for event in events]
    assert "[DONE]" == done
    assert "text/event-stream; charset=utf-8" == response.headers["content-type"]
    assert [{"role": "assistant", "content": ""}, {"content": "Hel"}, {"content": "lo"}, {}] == [
        event["choices"][0]["delta"] for event in events
    ]
    assert [None, None, None, "stop"] == [chunk.choices[0].finish_reason for chunk in parsed]
    assert 1 == len({chunk.id for chunk in parsed})
    assert all("usage" not in event for event in events)


async def test_usage_is_streamed_when_asked_for(client: httpx.AsyncClient) -> None:
    """With `include_usage` each chunk has a `usage`, null but in the last one, which has no choices."""
    response = await client.post(URL, json={**STREAM, "stream_options": {"include_usage": True}})

    *events, last, _ = chunks(response.content)
    assert all(event["usage"] is None for event in events)
    assert ([], 5) == (last["choices"], last["usage"]["total_tokens"])


async def test_a_failure_in_mid_stream_is_an_error_event_and_no_done(service: FedService) -> None:
    """A worker lost after the first token ends the stream with `worker_lost` and without the end marker."""
    service.on_submit = feeding(
        [Text(request_id="", text="Hel"), Failed(request_id="", code=ErrorCode.WORKER_LOST, message="The worker died.")]
    )
    request = exchange(service, STREAM)

    assert 200 == (await request.message())["status"]
    *_, last = chunks(await request.rest())

    assert {"message": "The worker died.", "type": "server_error", "param": None, "code": "worker_lost"} == last["error"]


async def test_a_stream_cancelled_by_the_server_says_so(service: FedService) -> None:
    """An end that nobody asked for is an error to the client, not a complete answer."""
    service.on_submit = feeding([Text(request_id="", text="Hel"), Cancelled(request_id="")])

    *_, last = chunks(await exchange(service, STREAM).rest())

    assert "generation_error" == last["error"]["code"]


async def test_prompt_progress_does_not_open_the_stream(service: FedService) -> None:
    """A worker lost during prefill is still a clean 503 with a `Retry-After`."""
    service.on_submit = feeding(
        [
            Prefill(request_id="", done_tokens=1, prompt_tokens=2),
            Failed(request_id="", code=ErrorCode.WORKER_LOST, message="lost", retry_after_seconds=3),
        ]
    )

    start = await exchange(service, STREAM).message()

    assert 503 == start["status"]
    assert (b"retry-after", b"3") in start["headers"]


async def test_the_stream_opens_when_nothing_comes_for_long(service: FedService, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the hold the client gets its 200 and the role, though the model has said nothing yet."""
    monkeypatch.setattr(limits, "STATUS_HOLD_SECONDS", 0.01)
    service.on_submit = silent
    request = exchange(service, STREAM)

    start, opening = await request.message(), await request.message()

    assert 200 == start["status"]
    assert {"role": "assistant", "content": ""} == chunks(opening["body"])[0]["choices"][0]["delta"]
    service.answers[0].finish()
    assert b"[DONE]" in await request.rest()


async def test_a_quiet_stream_is_kept_alive() -> None:
    """While the model is silent, empty deltas flow by the clock, and asking again does not claim to have consumed more."""
    service = FedService(Config(server=ServerConfig(stream_keep_alive_seconds=0.01)))
    service.on_submit = lambda answer: answer.feed_text("Hel")
    request = exchange(service, STREAM)
    await request.message()
    await request.message()

    kept_alive = [chunks((await request.message())["body"])[0]["choices"][0]["delta"] for _ in range(3)]

    assert [{}, {}, {}] == kept_alive
    assert 2 == service.answers[0].reads
    service.answers[0].finish()
    assert b"[DONE]" in await request.rest()


async def test_the_next_event_is_asked_for_only_when_the_last_was_written(service: FedService) -> None:
    """A client that does not take its bytes stops the reading of events: that is what bounds the worker."""
    request = exchange(service, STREAM)
    request.writable.clear()
    await service.submitted.wait()
    for _ in range(20):
        await asyncio.sleep(0)

    assert 1 == service.answers[0].reads
    request.writable.set()
    assert b"[DONE]" in await request.rest()


@pytest.mark.parametrize("body", [CHAT, STREAM])
@pytest.mark.parametrize("pieces", [(), ("Hel",)])
async def test_a_client_that_leaves_cancels_its_generation(
    service: FedService, body: dict[str, Any], pieces: tuple[str, ...]
) -> None:
    """Waiting or streaming: the request is cancelled at once and its answer is read to the end."""
    service.on_submit = lambda answer: answer.feed_text(*pieces)
    request = exchange(service, body)
    await service.submitted.wait()
    (answer,) = service.answers

    request.disconnect()

    await request.done()
    async with asyncio.timeout(5):
        await answer.cancelled.wait()
        await answer.ended.wait()


@pytest.mark.parametrize("body", [CHAT, STREAM])
async def test_nothing_is_begun_for_a_client_that_has_left(service: FedService, body: dict[str, Any]) -> None:
    """It sent its request and went while it waited at the door: no model is asked for an answer that nobody awaits."""
    request = exchange(service, body)
    request.disconnect()

    assert [] == await request.done()
    assert [] == service.answers


async def test_an_aborted_handler_cancels_its_generation(service: FedService) -> None:
    """When the server cuts a connection, the model stops computing for it."""
    service.on_submit = silent
    request = exchange(service, STREAM)
    await service.submitted.wait()

    request.task.cancel()

    async with asyncio.timeout(5):
        await service.answers[0].ended.wait()
    assert service.answers[0].cancelled.is_set()


async def test_a_client_that_takes_nothing_is_given_up() -> None:
    """A send that makes no progress for `slow_client_seconds` ends the request."""
    service = FedService(Config(server=ServerConfig(slow_client_seconds=0.01)))
    request = exchange(service, STREAM)
    await request.message()
    request.writable.clear()

    await request.done()

    async with asyncio.timeout(5):
        await service.answers[0].ended.wait()
    assert service.answers[0].cancelled.is_set()


async def test_a_broken_answer_ends_the_stream_with_an_internal_error(
    service: FedService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug behind a started stream is an error event without internals and without the end marker."""

    def broken(*_: object) -> bytes:
        raise ZeroDivisionError("internal detail")

    monkeypatch.setattr(ChatTranslator, "closing", broken)

    *_, last = chunks(await exchange(service, STREAM).rest())

    assert "internal_error" == last["error"]["code"]
    assert "detail" not in last["error"]["message"]


async def test_fields_that_ask_for_nothing_are_accepted(client: httpx.AsyncClient) -> None:
    """Nulls, empty lists and defaults that SDKs send are not refused, and unknown fields are ignored."""
    nothing = {
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "logprobs": False,
        "n": 1,
        "temperature": None,
        "stop": None,
        "metadata": {"a": "b"},
        "functions": [],
        "function_call": "none",
        "store": False,
        "verbosity": "medium",
        "modalities": ["text"],
    }

    assert 200 == (await client.post(URL, json={**CHAT, **nothing})).status_code


async def test_every_field_reaches_the_service(client: httpx.AsyncClient, service: FedService) -> None:
    """What the client chose is in the neutral request, under the neutral names."""
    chosen = {
        "messages": [
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "ann"},
            {
                "role": "assistant",
                "content": None,
                "reasoning_content": "hm",
                "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
            },
            {"role": "tool", "content": "fog", "tool_call_id": "c1"},
            {"role": "assistant", "content": "It is"},
        ],
        "max_tokens": 9,
        "max_completion_tokens": 7,
        "temperature": 0,
        "top_p": 0.5,
        "top_k": 3,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "frequency_penalty": -1,
        "presence_penalty": 2,
        "seed": 5,
        "stop": "END",
        "logit_bias": {"20": -100, "3": 1.5},
        "logprobs": True,
        "top_logprobs": 2,
        "reasoning_effort": "none",
        "chat_template_kwargs": {"tone": "dry"},
        "tools": [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}, "strict": True}}],
        "tool_choice": "required",
        "parallel_tool_calls": False,
        "response_format": {"type": "json_object"},
        "continue_final_message": True,
    }

    await client.post(URL, json={**CHAT, **chosen})

    (answer,) = service.answers
    request = answer.request
    assert (
        Message(role="system", content="be brief"),
        Message(role="user", content="a\nb", name="ann"),
        Message(
            role="assistant", content="", reasoning="hm", tool_calls=(ToolCall(call_id="c1", name="look", arguments="{}"),)
        ),
        Message(role="tool", content="fog", tool_call_id="c1"),
        Message(role="assistant", content="It is"),
    ) == request.messages
    assert (Tool(name="look", parameters='{"type":"object"}', strict=True),) == request.tools
    assert ToolChoice(mode=ToolMode.REQUIRED, parallel=False) == request.tool_choice
    assert OutputForm(kind=OutputKind.JSON_OBJECT) == request.output
    assert (2, True) == (request.logprobs, request.continues_last_message)
    assert {"reasoning_effort": "none", "enable_thinking": False, "tone": "dry"} == json.loads(request.template_arguments)
    assert (MODEL, 7, ("END",)) == (request.model_id, request.max_tokens, request.stop)
    expected = Sampling(
        temperature=0.0,
        top_p=0.5,
        top_k=3,
        min_p=0.1,
        repeat_penalty=1.1,
        frequency_penalty=-1.0,
        presence_penalty=2.0,
        seed=5,
        logit_bias=((3, 1.5), (20, -100.0)),
    )
    assert expected == request.sampling


@pytest.mark.parametrize(("num_ctx", "status"), [(4096, 200), (4097, 400)])
async def test_a_request_cannot_enlarge_the_context(client: httpx.AsyncClient, num_ctx: int, status: int) -> None:
    """`num_ctx` within the loaded context is fine, beyond it is a clear 400 instead of a reload."""
    assert status == (await client.post(URL, json={**CHAT, "num_ctx": num_ctx})).status_code
