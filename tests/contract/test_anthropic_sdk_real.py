"""The official `anthropic` SDK against real models on both backends."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic.types import MessageParam, ToolParam

from tests.contract.conftest import DEMO, TINY
from tests.support.live import LiveServer

pytestmark = pytest.mark.real

BOTH = pytest.mark.parametrize("model", [DEMO, TINY])
QUESTION: list[MessageParam] = [{"role": "user", "content": "What is the capital of France? Answer in one sentence."}]
GREEDY: dict[str, Any] = {"extra_body": {"temperature": 0}, "max_tokens": 16}
JUDGE: ToolParam = {
    "name": "judge",
    "description": "Says whether you are sure.",
    "strict": True,
    "input_schema": {
        "type": "object",
        "properties": {"sure": {"type": "boolean"}},
        "required": ["sure"],
        "additionalProperties": False,
    },
}


@pytest.fixture
def client(real_service: LiveServer) -> Iterator[anthropic.Anthropic]:
    """A client that does not try again."""
    with anthropic.Anthropic(base_url=real_service.url, api_key="none", max_retries=0) as made:
        yield made


def text_of(message: anthropic.types.Message) -> str:
    """What the message says."""
    return "".join(block.text for block in message.content if block.type == "text")


@BOTH
def test_a_stream_is_the_message(client: anthropic.Anthropic, model: str) -> None:
    """Greedy, the streamed message equals the whole one, and the whole prompt is in both usages, computed or found."""
    with client.messages.stream(model=model, messages=QUESTION, **GREEDY) as stream:
        pieces = list(stream.text_stream)
        streamed = stream.get_final_message()
    whole = client.messages.create(model=model, messages=QUESTION, **GREEDY)

    assert "".join(pieces) == text_of(streamed) == text_of(whole)
    assert streamed.stop_reason == whole.stop_reason
    usages = [message.usage for message in (streamed, whole)]
    assert usages[0].output_tokens == usages[1].output_tokens
    counted = client.messages.count_tokens(model=model, messages=QUESTION).input_tokens
    assert [counted] * 2 == [usage.input_tokens + (usage.cache_read_input_tokens or 0) for usage in usages]
    assert (usages[1].cache_read_input_tokens or 0) > 0


@BOTH
def test_a_stop_sequence_is_named(client: anthropic.Anthropic, model: str) -> None:
    """The answer ends before it, across the borders of tokens, and says which one it was."""
    said = text_of(client.messages.create(model=model, messages=QUESTION, **GREEDY))
    stop = said[len(said) // 2 :][:3]

    message = client.messages.create(model=model, messages=QUESTION, stop_sequences=["\0", stop], **GREEDY)

    assert ("stop_sequence", stop) == (message.stop_reason, message.stop_sequence)
    assert said[: said.index(stop)] == text_of(message)


def test_a_prefill_is_continued(client: anthropic.Anthropic) -> None:
    """The answer goes on from the assistant's words as if the model had said them itself."""
    said = text_of(client.messages.create(model=DEMO, messages=QUESTION, **GREEDY))
    head, _, _ = said.rpartition(" ")
    prefilled: list[MessageParam] = [*QUESTION, {"role": "assistant", "content": head}]

    message = client.messages.create(model=DEMO, messages=prefilled, **GREEDY)

    assert said == head + text_of(message)


@BOTH
def test_what_a_client_sends_is_counted(client: anthropic.Anthropic, model: str) -> None:
    """Tools and a system prompt make the prompt longer; more than the context is counted too."""
    more: list[dict[str, Any]] = [
        {"messages": QUESTION},
        {"messages": QUESTION, "tools": [JUDGE]},
        {"messages": QUESTION, "system": "You know every capital of the world and answer at once. " * 3},
        {"messages": [{"role": "user", "content": "word " * 9000}]},
    ]
    plain, *longer = [client.messages.count_tokens(model=model, **fields).input_tokens for fields in more]

    assert plain < min(longer)
    assert longer[-1] > 9000


@BOTH
@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "judge"}])
def test_a_round_of_tool_use(client: anthropic.Anthropic, model: str, choice: Any) -> None:
    """A forced call has arguments of their type whatever the model samples, and the model goes on from the result."""
    asked: dict[str, Any] = {"model": model, "max_tokens": 100, "tools": [JUDGE]}
    # One call, or a model without any sense may go on calling until its tokens are spent.
    once = {**choice, "disable_parallel_tool_use": True}
    with client.messages.stream(messages=QUESTION, tool_choice=once, **asked) as stream:
        called = stream.get_final_message()

    calls = [block for block in called.content if block.type == "tool_use"]
    assert (called.stop_reason, len(calls), len(called.content)) == ("tool_use", 1, 1)
    assert [("judge", {"sure"})] == [(call.name, set(call.input)) for call in calls]
    results: Any = [{"type": "tool_result", "tool_use_id": call.id, "content": "noted"} for call in calls]
    history: list[MessageParam] = [*QUESTION, called.to_param(), {"role": "user", "content": results}]
    answered = client.messages.create(messages=history, tool_choice={"type": "none"}, **asked)

    assert all(block.type == "text" for block in answered.content)
    assert answered.stop_reason in ("end_turn", "max_tokens")


@BOTH
def test_results_of_tools_are_shown_to_the_model(client: anthropic.Anthropic, model: str) -> None:
    """A round of tool use is part of the prompt, whatever the template, and the model can be kept from calling again."""
    verdict = "A long verdict: yes, and no doubt about it."
    call = {"type": "tool_use", "id": "toolu_1", "name": "judge", "input": {"sure": True}}
    results = [{"type": "tool_result", "tool_use_id": "toolu_1", "content": verdict}]
    history: Any = [*QUESTION, {"role": "assistant", "content": [call]}, {"role": "user", "content": results}]
    asked: dict[str, Any] = {"model": model, "tools": [JUDGE], "tool_choice": {"type": "none"}}

    answered = client.messages.create(messages=history, **asked, **GREEDY)

    assert all(block.type == "text" for block in answered.content)
    assert answered.stop_reason in ("end_turn", "max_tokens")
    counts = [client.messages.count_tokens(messages=turns, **asked).input_tokens for turns in (QUESTION, history)]
    assert counts[0] + verdict.count(" ") < counts[1]


@BOTH
def test_an_answer_in_a_form(client: anthropic.Anthropic, model: str) -> None:
    """`output_config.format` holds the text to its schema, from any model and however it samples."""
    schema = {
        "type": "object",
        "properties": {"sure": {"type": "boolean"}, "colour": {"enum": ["red", "green"]}},
        "required": ["sure", "colour"],
        "additionalProperties": False,
    }
    message = client.messages.create(
        model=model,
        max_tokens=100,
        messages=QUESTION,
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )

    answer = json.loads(text_of(message))
    assert {"sure", "colour"} == set(answer)
    assert isinstance(answer["sure"], bool) and answer["colour"] in ("red", "green")
