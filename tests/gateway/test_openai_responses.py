"""OpenAI Responses: the object, the typed stream, conversations that go on, what is remembered, and what is refused."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import TypeAdapter

from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import (
    Failed,
    Finished,
    Message,
    OutputForm,
    Reasoning,
    Sampling,
    Text,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolCallPart,
    ToolChoice,
    Usage,
)
from lmx_protocol.states import FinishReason, OutputKind, ToolMode
from lmx_supervisor.gateway.app import create_app
from lmx_supervisor.gateway.callers import ADMIN
from lmx_supervisor.gateway.dialects.base import AnswerPart, CollectedAnswer
from lmx_supervisor.gateway.dialects.openai_responses_translator import ResponsesTranslator
from lmx_supervisor.gateway.response_store import ResponseStore, StoredResponse
from tests.gateway.asgi import Exchange
from tests.gateway.service import MODEL, FedService, feeding, silent

URL = "/v1/responses"
ASK: dict[str, Any] = {"model": MODEL, "input": "hi"}
WEATHER = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
ECHOED: dict[str, Any] = {"model": MODEL, "tools": [], "tool_choice": "auto", "parallel_tool_calls": True}

_stream_event: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent)


def finished(reason: FinishReason = FinishReason.STOP) -> Finished:
    """The end of an answer."""
    usage = Usage(prompt_tokens=7, completion_tokens=5, cached_tokens=3, reasoning_tokens=2)
    return Finished(request_id="", reason=reason, usage=usage)


THOUGHT_AND_CALLED = [
    Reasoning(request_id="", text="hm"),
    Text(request_id="", text="Let me "),
    Text(request_id="", text="look."),
    ToolCallPart(request_id="", index=0, call_id="c1", name="weather", arguments=""),
    ToolCallPart(request_id="", index=0, arguments='{"city":'),
    ToolCallPart(request_id="", index=0, arguments='"Bern"}'),
    finished(FinishReason.TOOL_CALLS),
]


def events_of(body: bytes) -> list[dict[str, Any]]:
    """The events of a stream: each is named like its type, and they are numbered from 0."""
    events = []
    for block in body.decode().removesuffix("\n\n").split("\n\n"):
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


async def test_a_whole_response_is_what_openai_python_expects(client: httpx.AsyncClient) -> None:
    """The official SDK's strict model accepts the object, and it tells text, status and usage."""
    body = (await client.post(URL, json=ASK)).json()

    response = Response.model_validate(body)
    assert ("Hello", "completed", MODEL) == (response.output_text, response.status, response.model)
    assert response.id.startswith("resp_")
    assert response.usage is not None
    assert (3, 2, 5) == (response.usage.input_tokens, response.usage.output_tokens, response.usage.total_tokens)
    assert (1, 2) == (response.usage.input_tokens_details.cached_tokens, response.usage.input_tokens_details.cache_write_tokens)
    assert ["completed"] == [item["status"] for item in body["output"]]


async def test_a_stream_opens_fills_and_closes_each_item(service: FedService, client: httpx.AsyncClient) -> None:
    """Every event is one of the official SDK's types, in the vendor's order, and the last one carries the whole response."""
    service.on_submit = feeding(THOUGHT_AND_CALLED)
    events = events_of((await client.post(URL, json={**ASK, "stream": True, "tools": [WEATHER]})).content)

    for event in events:
        _stream_event.validate_python(event)
    assert [event["type"].removeprefix("response.") for event in events] == [
        *("created", "in_progress"),
        *("output_item.added", "content_part.added", "reasoning_text.delta"),
        *("reasoning_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "content_part.added", "output_text.delta", "output_text.delta"),
        *("output_text.done", "content_part.done", "output_item.done"),
        *("output_item.added", "function_call_arguments.delta", "function_call_arguments.delta"),
        *("function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    last = events[-1]["response"]
    assert ["reasoning", "message", "function_call"] == [item["type"] for item in last["output"]]
    assert ("c1", "weather", '{"city":"Bern"}') == tuple(last["output"][2][key] for key in ("call_id", "name", "arguments"))
    assert "Let me look." == last["output_text"]
    assert 2 == last["usage"]["output_tokens_details"]["reasoning_tokens"]


@given(
    st.lists(
        st.one_of(
            st.builds(Text, request_id=st.just(""), text=st.text()),
            st.builds(Reasoning, request_id=st.just(""), text=st.text()),
            st.builds(
                ToolCallPart,
                request_id=st.just(""),
                index=st.just(0),
                arguments=st.text(),
                call_id=st.just("c"),
                name=st.just("f"),
            ),
        )
    ),
    st.sampled_from(FinishReason),
)
def test_the_stream_and_the_whole_response_say_the_same(parts: list[AnswerPart], reason: FinishReason) -> None:
    """However an answer is cut into parts, deltas, closed items and the whole object tell the same."""
    end = finished(reason)
    streaming = ResponsesTranslator("resp_1", ECHOED, created_unix_seconds=1)
    body = streaming.opening() + b"".join(streaming.part(0, part) for part in parts)
    events = events_of(body + streaming.keep_alive() + streaming.finished(0, end) + streaming.closing([end]))
    collected = CollectedAnswer(finished=end)
    for part in parts:
        collected.add(part)
    whole = json.loads(ResponsesTranslator("resp_1", ECHOED, created_unix_seconds=1).whole([collected]))

    def told(kind: str) -> str:
        return "".join(event["delta"] for event in events if event["type"] == f"response.{kind}.delta")

    def held(response: dict[str, Any], kind: str) -> str:
        return "".join(part["text"] for item in response["output"] if item["type"] == kind for part in item["content"])

    streamed = events[-1]["response"]
    assert told("output_text") == held(streamed, "message") == held(whole, "message") == whole["output_text"]
    assert told("reasoning_text") == held(streamed, "reasoning") == held(whole, "reasoning")
    assert [item["arguments"] for item in streamed["output"] if item["type"] == "function_call"] == [
        item["arguments"] for item in whole["output"] if item["type"] == "function_call"
    ]
    assert (streamed["status"], streamed["usage"]) == (whole["status"], whole["usage"])
    assert [event["item"] for event in events if event["type"] == "response.output_item.done"] == streamed["output"]


async def test_an_answer_cut_at_its_bound_is_incomplete(service: FedService, client: httpx.AsyncClient) -> None:
    """`response.incomplete` ends the stream, and says why."""
    service.on_submit = feeding([Text(request_id="", text="Hel"), finished(FinishReason.LENGTH)])
    *_, last = events_of((await client.post(URL, json={**ASK, "stream": True, "max_output_tokens": 1})).content)

    assert ("response.incomplete", "incomplete") == (last["type"], last["response"]["status"])
    assert {"reason": "max_output_tokens"} == last["response"]["incomplete_details"]


async def test_a_failure_in_mid_stream_is_never_completed(service: FedService, client: httpx.AsyncClient) -> None:
    """A lost worker is a failed response and an error, which the official SDK raises; nothing says that it is complete."""
    service.on_submit = feeding(
        [Text(request_id="", text="Hel"), Failed(request_id="", code=ErrorCode.WORKER_LOST, message="The worker died.")]
    )
    events = events_of((await client.post(URL, json={**ASK, "stream": True})).content)

    *_, failed, error = events
    assert ("response.failed", "failed") == (failed["type"], failed["response"]["status"])
    assert ("error", "worker_lost", "worker_lost") == (error["type"], error["code"], error["error"]["code"])
    assert "response.completed" not in {event["type"] for event in events}
    stored = (await client.get(f"{URL}/{failed['response']['id']}")).json()
    assert ("failed", "The worker died.") == (stored["status"], stored["error"]["message"])


async def test_a_failure_before_the_first_text_is_a_status(service: FedService, client: httpx.AsyncClient) -> None:
    """Nothing was sent yet: the client gets a proper 503 to act on."""
    service.on_submit = feeding([Failed(request_id="", code=ErrorCode.WORKER_LOST, message="The worker died.")])
    response = await client.post(URL, json={**ASK, "stream": True})

    assert (503, "worker_lost") == (response.status_code, response.json()["error"]["code"])


async def test_the_whole_request_reaches_the_worker(service: FedService, client: httpx.AsyncClient) -> None:
    """Items become turns: reasoning and calls join the assistant's; every option arrives under its neutral name."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    body = {
        "model": MODEL,
        "instructions": "Be brief.",
        "input": [
            {"role": "developer", "content": "Be kind."},
            {
                "type": "message",
                "role": "user",
                "content": [{"type": "input_text", "text": "a"}, {"type": "input_text", "text": "b"}],
            },
            {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "so", "annotations": []}]},
            {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c1", "output": "rain"},
        ],
        "max_output_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.25,
        "tools": [{**WEATHER, "description": "Tells it.", "strict": True}],
        "tool_choice": {"type": "function", "name": "weather"},
        "parallel_tool_calls": False,
        "text": {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}},
        "reasoning": {"effort": "none"},
        "include": ["message.output_text.logprobs"],
        "top_logprobs": 2,
    }
    assert 200 == (await client.post(URL, json=body)).status_code

    request = service.answers[0].request
    assert request.messages == (
        Message(role="system", content="Be brief."),
        Message(role="system", content="Be kind."),
        Message(role="user", content="a\nb"),
        Message(
            role="assistant",
            content="so",
            reasoning="hm",
            tool_calls=(ToolCall(call_id="c1", name="weather", arguments="{}"),),
        ),
        Message(role="tool", content="rain", tool_call_id="c1"),
    )
    assert (9, 2) == (request.max_tokens, request.logprobs)
    assert Sampling(temperature=0.5, top_p=0.25) == request.sampling
    assert (Tool(name="weather", description="Tells it.", parameters='{"type":"object"}', strict=True),) == request.tools
    assert ToolChoice(mode=ToolMode.NAMED, name="weather", parallel=False) == request.tool_choice
    assert OutputForm(kind=OutputKind.JSON_SCHEMA, source=json.dumps(schema, separators=(",", ":"))) == request.output
    assert {"reasoning_effort": "none", "enable_thinking": False} == json.loads(request.template_arguments)


async def test_log_probabilities_are_told_when_asked_for(service: FedService, client: httpx.AsyncClient) -> None:
    """They come in the vendor's place, with exact bytes."""
    told = TokenLogprob(token=b"Hi", logprob=-0.5)
    service.on_submit = feeding([Text(request_id="", text="Hi", logprobs=(told,)), finished()])
    body = (await client.post(URL, json={**ASK, "include": ["message.output_text.logprobs"]})).json()

    assert [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}] == body["output"][0]["content"][0][
        "logprobs"
    ]
    Response.model_validate(body)


async def test_a_conversation_goes_on_from_a_remembered_response(service: FedService, client: httpx.AsyncClient) -> None:
    """The earlier turns and answers come first, without the earlier instructions; chains go on from chains."""
    first = (await client.post(URL, json={**ASK, "instructions": "Once."})).json()
    second = (await client.post(URL, json={**ASK, "input": "and?", "previous_response_id": first["id"]})).json()
    await client.post(URL, json={**ASK, "input": "so?", "instructions": "Now.", "previous_response_id": second["id"]})

    assert second["previous_response_id"] == first["id"]
    assert [(turn.role, turn.content) for turn in service.answers[2].request.messages] == [
        ("system", "Now."),
        ("user", "hi"),
        ("assistant", "Hello"),
        ("user", "and?"),
        ("assistant", "Hello"),
        ("user", "so?"),
    ]


async def test_a_response_can_be_read_again_and_deleted(client: httpx.AsyncClient) -> None:
    """GET tells what POST told, input_items what was asked; after DELETE neither is known, nor gone on from."""
    made = (await client.post(URL, json={**ASK, "metadata": {"a": "b"}})).json()
    url = f"{URL}/{made['id']}"

    assert made == (await client.get(url)).json()
    (item,) = (await client.get(f"{url}/input_items")).json()["data"]
    assert ("user", [{"type": "input_text", "text": "hi"}]) == (item["role"], item["content"])
    assert {"id": made["id"], "object": "response", "deleted": True} == (await client.delete(url)).json()
    for response in (
        await client.get(url),
        await client.get(f"{url}/input_items"),
        await client.delete(url),
        await client.post(f"{url}/cancel"),
        await client.post(URL, json={**ASK, "previous_response_id": made["id"]}),
    ):
        assert (404, "response_not_found") == (response.status_code, response.json()["error"]["code"])


async def test_what_is_not_to_be_stored_is_not(client: httpx.AsyncClient) -> None:
    """`store: false` leaves nothing behind."""
    made = (await client.post(URL, json={**ASK, "store": False})).json()

    assert 404 == (await client.get(f"{URL}/{made['id']}")).status_code


async def test_a_response_that_is_being_made_can_be_cancelled(service: FedService) -> None:
    """Its id is known from the first event; the cancel ends the generation, and the stream says so."""
    service.on_submit = lambda answer: answer.feed_text("Hel")
    app = create_app(service)
    stream = Exchange(app, "POST", URL, body=json.dumps({**ASK, "stream": True}).encode())
    while b"output_text.delta" not in (await stream.message()).get("body", b""):
        pass
    response_id = service.answers[0].request_id

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        assert "in_progress" == (await client.get(f"{URL}/{response_id}")).json()["status"]
        assert "cancelled" == (await client.post(f"{URL}/{response_id}/cancel")).json()["status"]
        datas = [
            line.removeprefix("data: ") for line in (await stream.rest()).decode().split("\n") if line.startswith("data: ")
        ]
        failed, error = map(json.loads, datas)
        await stream.done()
        ended = await client.get(f"{URL}/{response_id}")
        again = await client.post(f"{URL}/{response_id}/cancel")

    assert service.answers[0].cancelled.is_set()
    assert ("response.failed", "cancelled") == (failed["type"], failed["response"]["status"])
    assert "request_cancelled" == error["code"]
    assert "cancelled" == ended.json()["status"]
    assert (400, "response_id") == (again.status_code, again.json()["error"]["param"])


async def test_a_client_that_leaves_leaves_nothing_behind(service: FedService) -> None:
    """Its generation is cancelled, and half an answer is not remembered."""
    service.on_submit = silent
    app = create_app(service)
    request = Exchange(app, "POST", URL, body=json.dumps(ASK).encode())
    await asyncio.wait_for(service.submitted.wait(), 5)
    request.disconnect()
    await asyncio.wait_for(service.answers[0].cancelled.wait(), 5)
    await request.done()

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
        assert 404 == (await client.get(f"{URL}/{service.answers[0].request_id}")).status_code


CALL = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"input": None}, "invalid_request_error", "input"),
        ({"input": []}, "invalid_request_error", "input"),
        ({"input": 5}, "invalid_request_error", "input"),
        ({"input": [{"type": "message", "content": "x"}]}, "invalid_request_error", "input.0.role"),
        ({"input": [{"role": "user"}]}, "invalid_request_error", "input.0.content"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "not_supported", "input.0.content.0.type"),
        ({"input": [{"role": "user", "content": [{"type": "input_text"}]}]}, "invalid_request_error", "input.0.content.0.text"),
        ({"input": [{"type": "web_search_call"}]}, "not_supported", "input.0.type"),
        ({"input": [{**CALL, "name": None}]}, "invalid_request_error", "input.0.name"),
        ({"input": [{"type": "function_call_output", "output": "x"}]}, "invalid_request_error", "input.0.call_id"),
        ({"input": [{"type": "function_call_output", "call_id": "c"}]}, "invalid_request_error", "input.0.output"),
        ({"temperature": 3}, "invalid_request_error", "temperature"),
        ({"max_output_tokens": 0}, "invalid_request_error", "max_output_tokens"),
        ({"max_tokens": "many"}, "invalid_request_error", "max_tokens"),
        ({"tools": [{"type": "web_search"}]}, "not_supported", "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "invalid_request_error", "tools.0.name"),
        ({"tools": [WEATHER, WEATHER]}, "invalid_value", "tools.1.name"),
        ({"tools": [{**WEATHER, "parameters": []}]}, "invalid_request_error", "tools.0.parameters"),
        ({"tool_choice": "required"}, "invalid_value", "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "x"}}, "invalid_value", "tool_choice.name"),
        ({"tools": [WEATHER], "tool_choice": {"type": "mcp"}}, "not_supported", "tool_choice.type"),
        ({"text": {"format": {"type": "json_schema", "name": "n"}}}, "invalid_request_error", "text.format.schema"),
        ({"text": {"format": {"type": "xml"}}}, "not_supported", "text.format.type"),
        ({"text": {"verbosity": "high"}}, "not_supported", "text.verbosity"),
        ({"background": True}, "not_supported", "background"),
        ({"conversation": "conv_1"}, "not_supported", "conversation"),
        ({"prompt": {"id": "p"}}, "not_supported", "prompt"),
        ({"truncation": "auto"}, "not_supported", "truncation"),
        ({"max_tool_calls": 1}, "not_supported", "max_tool_calls"),
        ({"include": ["file_search_call.results"]}, "not_supported", "include.0"),
        ({"metadata": {"a": 1}}, "invalid_request_error", "metadata"),
        ({"reasoning": {"effort": "huge"}}, "invalid_request_error", "reasoning.effort"),
    ],
)
async def test_what_cannot_be_done_is_refused(client: httpx.AsyncClient, change: dict[str, Any], code: str, param: str) -> None:
    """Each with 400, the vendor's envelope and the name of the field."""
    response = await client.post(URL, json={**ASK, **change})

    error = response.json()["error"]
    assert (400, code, param) == (response.status_code, error["code"], error["param"]), error


async def test_only_the_allowed_tools_are_shown(service: FedService, client: httpx.AsyncClient) -> None:
    """A choice among some of the tools hides the others."""
    other = {**WEATHER, "name": "other"}
    choice = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "other"}]}
    body = (await client.post(URL, json={**ASK, "tools": [WEATHER, other], "tool_choice": choice})).json()

    assert ["other"] == [tool.name for tool in service.answers[0].request.tools]
    assert ToolMode.REQUIRED is service.answers[0].request.tool_choice.mode
    assert ["weather", "other"] == [tool["name"] for tool in body["tools"]]
    Response.model_validate(body)


def stored(response_id: str, size_bytes: int) -> StoredResponse:
    """A response of that size."""
    return StoredResponse(response_id, owner=None, body=b"x" * size_bytes, items=b"", turns=())


def kept(store: ResponseStore, ids: str) -> list[str | None]:
    """Which of them are remembered."""
    return [each if store.get(each, ADMIN) is not None else None for each in ids]


def test_the_store_forgets_the_oldest_first() -> None:
    """Both bounds hold after every keep, and what is gone is gone with its size."""
    store = ResponseStore(entries_max=3, bytes_max=100)
    for number in range(5):
        store.keep(stored(str(number), 10))

    assert [None, None, "2", "3", "4"] == kept(store, "01234")
    store.keep(stored("large", 85))
    assert [None, None, "4"] == kept(store, "234")
    assert 95 == store.size_bytes
    store.keep(stored("huge", 101))
    assert store.get("huge", ADMIN) is None
    assert store.delete("4", ADMIN) and not store.delete("4", ADMIN)
    assert 85 == store.size_bytes
