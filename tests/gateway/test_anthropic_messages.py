"""Anthropic's messages: shapes, the order of a stream's events, keep-alive, failures, and token counts."""

import asyncio
import json
from typing import Any

import anthropic.types
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import CountRequest, Failed, Finished, Prefill, Reasoning, Text, ToolCallPart, Usage
from lmx_protocol.states import FinishReason
from lmx_supervisor.config.schema import Config, ServerConfig
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.gateway.dialects.anthropic_messages import MessageTranslator
from lmx_supervisor.gateway.dialects.base import AnswerPart, CollectedAnswer
from tests.gateway.asgi import Exchange
from tests.gateway.service import MODEL, FedAnswer, FedService, feeding, silent

BODY: dict[str, Any] = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**BODY, "stream": True}
URL = "/v1/messages"
COUNT_URL = "/v1/messages/count_tokens"
USAGE = Usage(prompt_tokens=10, completion_tokens=7, cached_tokens=4, reasoning_tokens=2)


def finish(reason: FinishReason = FinishReason.STOP, stop_sequence: str | None = None) -> Finished:
    """An end that cost something."""
    return Finished(request_id="", reason=reason, usage=USAGE, stop_sequence=stop_sequence)


def events(body: bytes) -> list[dict[str, Any]]:
    """The payloads of an event stream; the name of each event is the `type` of its payload."""
    found = []
    for event in body.split(b"\n\n"):
        if event:
            name, data = event.split(b"\n")
            found.append(json.loads(data.removeprefix(b"data: ")))
            assert found[-1]["type"] == name.removeprefix(b"event: ").decode()
    return found


def put_together(stream: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a client makes of a stream; fails when its events are not in the vendor's order."""
    first, *rest, last = [event for event in stream if event["type"] != "ping"]
    assert (first["type"], last) == ("message_start", {"type": "message_stop"})
    message: dict[str, Any] = first["message"]
    arguments = ""
    block: dict[str, Any] | None = None
    for event in rest:
        match event["type"]:
            case "content_block_start":
                assert (block, event["index"]) == (None, len(message["content"]))
                block, arguments = event["content_block"], ""
            case "content_block_delta":
                assert block is not None and event["index"] == len(message["content"])
                kind = event["delta"].pop("type")
                for field, piece in event["delta"].items():
                    if kind == "input_json_delta":
                        arguments += piece
                    else:
                        block[field] += piece
            case "content_block_stop":
                assert block is not None and event["index"] == len(message["content"])
                if block["type"] == "tool_use":
                    block["input"] = json.loads(arguments or "{}")
                message["content"].append(block)
                block = None
            case other:
                assert other == "message_delta" and block is None
                message |= event["delta"]
                message["usage"] |= event["usage"]
    return message


async def test_a_whole_message_is_what_the_sdk_expects(client: httpx.AsyncClient, service: FedService) -> None:
    """The official SDK's strict model accepts it, and cached tokens are not counted as input twice."""
    service.on_submit = feeding([Text(request_id="", text="Hello"), finish()])

    response = await client.post(URL, json=BODY)

    message = anthropic.types.Message.model_validate(response.json(), strict=True)
    assert [{"type": "text", "text": "Hello"}] == response.json()["content"]
    assert message.id.startswith("msg_")
    assert ("message", "assistant", MODEL) == (message.type, message.role, message.model)
    assert {"stop_reason": "end_turn", "stop_sequence": None}.items() <= response.json().items()
    assert (6, 4, 0, 7) == (
        message.usage.input_tokens,
        message.usage.cache_read_input_tokens,
        message.usage.cache_creation_input_tokens,
        message.usage.output_tokens,
    )
    assert response.json()["usage"]["output_tokens_details"] == {"thinking_tokens": 2}
    assert response.headers["request-id"] == response.headers["x-request-id"]


async def test_a_stream_has_every_event_in_the_vendors_order(client: httpx.AsyncClient, service: FedService) -> None:
    """Thinking with its signature, text, and a tool call, each a block of its own, then the delta of the message, then stop."""
    service.on_submit = feeding(
        [
            Prefill(request_id="", done_tokens=10, prompt_tokens=10, cached_tokens=4),
            Reasoning(request_id="", text="Hm"),
            Reasoning(request_id="", text="m."),
            Text(request_id="", text="Let me see."),
            ToolCallPart(request_id="", index=0, call_id="call_1", name="look"),
            ToolCallPart(request_id="", index=0, arguments='{"a":'),
            ToolCallPart(request_id="", index=0, arguments="1}"),
            finish(FinishReason.TOOL_CALLS),
        ]
    )

    response = await client.post(URL, json=STREAM)

    said = events(response.content)
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert [event["type"].removeprefix("content_block_") for event in said] == [
        "message_start",
        *("start", "delta", "delta", "delta", "stop"),
        *("start", "delta", "stop"),
        *("start", "delta", "delta", "stop"),
        "message_delta",
        "message_stop",
    ]
    assert [0] * 5 + [1] * 3 + [2] * 4 == [event["index"] for event in said if "index" in event]
    assert [delta["delta"]["type"] for delta in said if delta["type"] == "content_block_delta"] == [
        *("thinking_delta", "thinking_delta", "signature_delta", "text_delta", "input_json_delta", "input_json_delta")
    ]
    assert {"type": "tool_use", "id": "call_1", "name": "look", "input": {}} == said[9]["content_block"]
    assert {"type": "thinking", "thinking": "", "signature": ""} == said[1]["content_block"]
    assert {"stop_reason": "tool_use", "stop_sequence": None} == said[-2]["delta"]
    assert {"input_tokens": 6, "cache_read_input_tokens": 4, "output_tokens": 7}.items() <= said[-2]["usage"].items()
    start = said[0]["message"]
    assert (6, 4, 0) == tuple(start["usage"][name] for name in ("input_tokens", "cache_read_input_tokens", "output_tokens"))
    assert ([], None, None) == (start["content"], start["stop_reason"], start["stop_sequence"])


@pytest.mark.parametrize(
    ("finished", "expected"),
    [
        (finish(FinishReason.STOP), ("end_turn", None)),
        (finish(FinishReason.STOP, "END"), ("stop_sequence", "END")),
        (finish(FinishReason.LENGTH), ("max_tokens", None)),
        (finish(FinishReason.TOOL_CALLS), ("tool_use", None)),
    ],
)
async def test_stop_reasons(
    finished: Finished, expected: tuple[str, str | None], client: httpx.AsyncClient, service: FedService
) -> None:
    """Each end has the vendor's name for it, and `stop_sequence` is null unless one was met, streamed or not."""
    service.on_submit = feeding([Text(request_id="", text="x"), finished])

    whole = (await client.post(URL, json=BODY)).json()
    delta = events((await client.post(URL, json=STREAM)).content)[-2]["delta"]

    assert expected == (whole["stop_reason"], whole["stop_sequence"]) == (delta["stop_reason"], delta["stop_sequence"])


WORDS = st.text(alphabet='ab \\"{}\n\r\u00e9\u0085\u2028\U0001f600', max_size=12)
CALL = st.dictionaries(WORDS, st.integers() | WORDS, max_size=3).map(json.dumps)


@st.composite
def answers(draw: st.DrawFn) -> list[AnswerPart]:
    """The parts of an answer as a worker may send them: any order, any cuts, empty pieces, calls numbered one after another."""
    parts: list[AnswerPart] = []
    calls = 0
    for kind in draw(st.lists(st.sampled_from(["text", "thinking", "call"]), max_size=6)):
        whole = draw(CALL) if kind == "call" else draw(WORDS)
        cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
        pieces = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        if kind == "call":
            head = ToolCallPart(request_id="", index=calls, call_id=f"call_{calls}", name="look", arguments=pieces[0])
            parts += [head, *(ToolCallPart(request_id="", index=calls, arguments=piece) for piece in pieces[1:])]
            calls += 1
        else:
            make = Text if kind == "text" else Reasoning
            parts += [make(request_id="", text=piece) for piece in pieces]
    return parts


@given(answers(), st.sampled_from(FinishReason), st.booleans())
def test_the_stream_and_the_whole_message_say_the_same(
    parts: list[AnswerPart], reason: FinishReason, hides_thinking: bool
) -> None:
    """Whatever the model says in whatever pieces, the streamed blocks put together are the whole message's blocks."""
    finished = finish(reason)
    streaming, waiting = (
        MessageTranslator("msg_1", '"text"', http_request_id="req", hides_thinking=hides_thinking) for _ in range(2)
    )
    answer = CollectedAnswer(finished=finished)
    for part in parts:
        answer.add(part)

    body = streaming.opening() + b"".join(streaming.part(0, part) for part in parts)
    body += streaming.keep_alive() + streaming.finished(0, finished) + streaming.closing([finished])

    whole = json.loads(waiting.whole([answer]))
    assert whole == put_together(events(body))
    anthropic.types.Message.model_validate(whole, strict=True)
    assert all(line.startswith(("event: ", "data: ")) for line in body.decode().splitlines() if line)


async def test_hidden_thinking_is_signed_and_empty(client: httpx.AsyncClient, service: FedService) -> None:
    """With `display: omitted` the block is there, with its signature and without its words."""
    service.on_submit = feeding([Reasoning(request_id="", text="secret"), Text(request_id="", text="x"), finish()])
    thinking = {"type": "adaptive", "display": "omitted"}

    response = await client.post(URL, json={**BODY, "thinking": thinking})

    block, _ = response.json()["content"]
    assert ("thinking", "") == (block["type"], block["thinking"])
    assert block["signature"]


async def test_a_call_that_was_cut_off_has_no_arguments(client: httpx.AsyncClient, service: FedService) -> None:
    """Half a JSON object never reaches a tool: the input is empty and the stop reason says why."""
    call = ToolCallPart(request_id="", index=0, call_id="c", name="look", arguments='{"path": "/')
    service.on_submit = feeding([call, finish(FinishReason.LENGTH)])

    message = (await client.post(URL, json=BODY)).json()

    assert ({}, "max_tokens") == (message["content"][0]["input"], message["stop_reason"])


async def test_a_quiet_stream_pings(service: FedService) -> None:
    """While nothing flows, `event: ping` goes out by the clock, before and between the pieces of the text."""
    service.config = Config(server=ServerConfig(stream_keep_alive_seconds=0.05))
    service.on_submit = silent
    request = Exchange(create_app(service), "POST", URL, body=json.dumps(STREAM).encode())
    async with asyncio.timeout(5):
        await service.submitted.wait()
    (answer,) = service.answers
    answer.feed_text("Hel")
    assert 200 == (await request.message())["status"]
    pings = 0
    while pings < 2:
        pings += (await request.message())["body"].startswith(b"event: ping")
    answer.feed_text("lo")
    answer.finish()

    assert b'"text":"lo"' in (rest := await request.rest())
    assert rest.endswith(b'event: message_stop\ndata: {"type":"message_stop"}\n\n')


async def test_a_failure_in_mid_stream_is_an_error_event_and_no_stop(client: httpx.AsyncClient, service: FedService) -> None:
    """A worker lost after the first text ends the stream with `event: error`; no message is complete without its stop."""
    lost = Failed(request_id="", code=ErrorCode.WORKER_LOST, message="The worker died.")
    service.on_submit = feeding([Text(request_id="", text="Hel"), lost])

    response = await client.post(URL, json=STREAM)

    *_, last = events(response.content)
    assert last == {
        "type": "error",
        "error": {"type": "api_error", "message": "The worker died."},
        "request_id": response.headers["request-id"],
    }
    assert b"message_delta" not in response.content and b"message_stop" not in response.content


async def test_tokens_are_counted_without_generating(client: httpx.AsyncClient, service: FedService) -> None:
    """The count is the worker's, of the whole prompt; what the cache holds does not make it smaller."""

    def count(answer: FedAnswer) -> None:
        assert isinstance(answer.request, CountRequest)
        answer.finish(usage=Usage(prompt_tokens=321))

    service.on_submit = count
    body = {
        "model": MODEL,
        "messages": BODY["messages"],
        "system": "s",
        "tools": [{"name": "t", "input_schema": {"type": "object"}}],
    }

    response = await client.post(COUNT_URL, json=body)

    assert {"input_tokens": 321} == response.json()
    assert ["s", "hi"] == [message.content for message in service.answers[0].request.of.messages]
    assert ["t"] == [tool.name for tool in service.answers[0].request.of.tools]


async def test_a_count_whose_client_leaves_is_cancelled(service: FedService) -> None:
    """Nobody waits for it any more, so it does not hold a place."""
    service.on_submit = silent
    body = json.dumps({"model": MODEL, "messages": BODY["messages"]}).encode()
    request = Exchange(create_app(service), "POST", COUNT_URL, body=body)
    async with asyncio.timeout(5):
        await service.submitted.wait()
        request.disconnect()
        await service.answers[0].cancelled.wait()
    assert [] == await request.done()
