"""The official `openai` SDK's Responses API against a running LMX, with scripted and with real models."""

import json
from collections.abc import Iterator
from typing import Literal

import openai
import pytest
from openai.types.responses import FunctionToolParam, ResponseInputParam
from pydantic import BaseModel

from tests.contract.conftest import DEMO, KEY, TINY
from tests.support.live import LiveServer

MODEL = "responder"
SCRIPT = """
context_length: 1000
answers:
  - {contains: "tool: 12:30", pieces: ["It is", " 12:30", "."]}
  - contains: "time"
    reasoning: ["Ask", " the", " clock."]
    tool_calls: [{name: clock, arguments: ['{"city":', ' "Oslo"}']}]
  - {contains: "France", reasoning: ["Easy", "."], pieces: ["The", " capital", " is", " Paris", "."], logprob: -0.5}
  - {contains: "slowly", pieces: ["drip "], tokens: 900, token_seconds: 0.05}
  - {contains: "crash", pieces: ["tick "], tokens: 50, token_seconds: 0.01}
  - {echo: true}
faults:
  - {when: token, number: 5, contains: "crash", do: kill}
"""
PARIS = "The capital is Paris."
QUESTION = "What is the capital of France? Answer in one sentence."
CLOCK: FunctionToolParam = {
    "type": "function",
    "name": "clock",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    "strict": False,
}
JUDGE: FunctionToolParam = {
    "type": "function",
    "name": "judge",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"sure": {"type": "boolean"}},
        "required": ["sure"],
        "additionalProperties": False,
    },
}


class Verdict(BaseModel):
    """A form with everything bounded, so that a model without any sense fills it in a few tokens too."""

    colour: Literal["red", "green"]
    sure: bool


@pytest.fixture(scope="module")
def server(service: LiveServer) -> LiveServer:
    """The service with the scripted model."""
    service.load(MODEL, path=str(service.home / "models" / f"{service.script('responses', SCRIPT)}.script.yaml"))
    return service


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    """A strict client that does not try again."""
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0, _strict_response_validation=True) as made:
        yield made


@pytest.fixture
def real_client(real_service: LiveServer) -> Iterator[openai.OpenAI]:
    """The same, of the service with real models."""
    with openai.OpenAI(
        base_url=f"{real_service.url}/v1", api_key="none", max_retries=0, _strict_response_validation=True
    ) as made:
        yield made


def test_a_response(client: openai.OpenAI) -> None:
    """Text, thoughts and usage, in the SDK's own types."""
    response = client.responses.create(model=MODEL, input="Capital of France?")

    assert (PARIS, "completed") == (response.output_text, response.status)
    assert ["reasoning", "message"] == [item.type for item in response.output]
    assert response.usage is not None
    assert (7, 2) == (response.usage.output_tokens, response.usage.output_tokens_details.reasoning_tokens)


def test_a_streamed_response(client: openai.OpenAI) -> None:
    """The helper puts the pieces together to what the last event carries whole."""
    with client.responses.stream(model=MODEL, input="Capital of France?") as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        response = stream.get_final_response()

    assert PARIS == "".join(deltas) == response.output_text


def test_log_probabilities(client: openai.OpenAI) -> None:
    """Each token's, where the vendor puts them."""
    response = client.responses.create(
        model=MODEL, input="Capital of France?", include=["message.output_text.logprobs"], top_logprobs=1
    )

    (message,) = [item for item in response.output if item.type == "message"]
    (content,) = message.content
    assert content.type == "output_text"
    assert [-0.5] * 5 == [entry.logprob for entry in content.logprobs or ()]


def test_an_agent_calls_a_tool_and_answers(client: openai.OpenAI) -> None:
    """One round with the server's memory of the conversation, and one with the client's own."""
    first = client.responses.create(model=MODEL, input="What time is it?", tools=[CLOCK])
    (call,) = [item for item in first.output if item.type == "function_call"]
    result: ResponseInputParam = [{"type": "function_call_output", "call_id": call.call_id, "output": "12:30"}]
    remembered = client.responses.create(model=MODEL, input=result, previous_response_id=first.id, tools=[CLOCK])
    history: ResponseInputParam = [
        {"role": "user", "content": "What time is it?"},
        *[item.to_dict() for item in first.output],  # type: ignore[list-item]  # what the SDK gave, handed back
        *result,
    ]
    told = client.responses.create(model=MODEL, input=history, tools=[CLOCK])

    assert ("clock", {"city": "Oslo"}) == (call.name, json.loads(call.arguments))
    assert "It is 12:30." == remembered.output_text == told.output_text


def test_a_response_is_kept_and_deleted(client: openai.OpenAI) -> None:
    """It can be read again, with its input, until it is deleted."""
    made = client.responses.create(model=MODEL, input="Capital of France?", metadata={"a": "b"})

    assert made.output_text == client.responses.retrieve(made.id).output_text
    assert ["message"] == [item.type for item in client.responses.input_items.list(made.id)]
    client.responses.delete(made.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(made.id)


def test_a_response_is_cancelled_while_it_is_made(client: openai.OpenAI) -> None:
    """The cancel says so, and the stream raises instead of looking whole."""
    with client.responses.create(model=MODEL, input="slowly", stream=True) as stream, pytest.raises(openai.APIError):
        for event in stream:
            assert event.type != "response.completed"
            if event.type == "response.created":
                made = event.response
            if event.type == "response.output_text.delta":
                assert "cancelled" == client.responses.cancel(made.id).status


def test_mistakes_are_the_sdk_s_own_exceptions(client: openai.OpenAI, server: LiveServer) -> None:
    """Each with the name of the field."""
    with pytest.raises(openai.BadRequestError) as wrong:
        client.responses.create(model=MODEL, input="x", temperature=9)
    with pytest.raises(openai.BadRequestError) as unsupported:
        client.responses.create(model=MODEL, input="x", background=True)
    with pytest.raises(openai.NotFoundError) as unknown:
        client.responses.create(model="no-such-model", input="x")
    with pytest.raises(openai.NotFoundError) as forgotten:
        client.responses.create(model=MODEL, input="x", previous_response_id="resp_gone")
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong") as stranger, pytest.raises(openai.AuthenticationError):
        stranger.responses.create(model=MODEL, input="x")

    assert ["temperature", "background"] == [wrong.value.param, unsupported.value.param]
    assert ["model_not_found", "response_not_found"] == [unknown.value.code, forgotten.value.code]


def test_a_crash_in_mid_stream_raises(client: openai.OpenAI, server: LiveServer) -> None:
    """Whoever reads the stream, by hand or by the helper, gets an exception and never a whole response."""
    seen = []
    with (
        client.responses.create(model=MODEL, input="crash", stream=True) as stream,
        pytest.raises(openai.APIError, match="died while it answered"),
    ):
        seen.extend(event.type for event in stream)
    server.wait_for_state(MODEL, "ready")
    with (
        client.responses.stream(model=MODEL, input="crash it again") as helped,
        pytest.raises(openai.APIError, match="died while it answered"),
    ):
        helped.get_final_response()
    server.wait_for_state(MODEL, "ready")

    assert "response.output_text.delta" in seen
    assert "response.completed" not in seen


@pytest.mark.real
def test_a_real_model_says_paris(real_client: openai.OpenAI) -> None:
    """Streamed and whole, greedily, the same."""
    whole = real_client.responses.create(model=DEMO, input=QUESTION, temperature=0, max_output_tokens=32)
    with real_client.responses.stream(model=DEMO, input=QUESTION, temperature=0, max_output_tokens=32) as stream:
        streamed = stream.get_final_response()

    assert "The capital of France is Paris." == whole.output_text == streamed.output_text


@pytest.mark.real
@pytest.mark.parametrize("model", [DEMO, TINY])
def test_forms_and_forced_calls_on_both_backends(real_client: openai.OpenAI, model: str) -> None:
    """`parse` gives the form however hot the model samples, and a forced call has arguments of the tool's schema."""
    parsed = real_client.responses.parse(
        model=model, input=QUESTION, text_format=Verdict, temperature=1.5, max_output_tokens=200
    )
    called = real_client.responses.create(
        model=model,
        input=QUESTION,
        tools=[JUDGE],
        tool_choice={"type": "function", "name": "judge"},
        parallel_tool_calls=False,
        temperature=1.5,
        max_output_tokens=200,
    )

    assert isinstance(parsed.output_parsed, Verdict)
    (call,) = [item for item in called.output if item.type == "function_call"]
    assert isinstance(json.loads(call.arguments)["sure"], bool)
