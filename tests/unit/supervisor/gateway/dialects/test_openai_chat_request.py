"""A chat body as neutral requests: what is refused and with which `param`, and what each field means."""

import json
from typing import Any

import msgspec
import pytest

from lmx_protocol import limits
from lmx_protocol.errors import ErrorCode
from lmx_protocol.messages import GenerateRequest, Message, OutputForm, Tool, ToolChoice
from lmx_protocol.states import OutputKind, ToolMode
from lmx_supervisor.gateway.body import decode_json
from lmx_supervisor.gateway.dialects.openai_chat_request import to_generate_requests
from lmx_supervisor.gateway.dialects.openai_chat_schema import chat_decoder
from lmx_supervisor.gateway.model_choice import ChosenModel
from lmx_supervisor.gateway.problem import Problem
from tests.gateway.service import FACTS

CHOSEN = ChosenModel(model_id="m", facts=msgspec.structs.replace(FACTS, context_length=100))
HI = {"role": "user", "content": "hi"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def tool(name: str = "look", **function: Any) -> dict[str, Any]:
    """A tool as clients send it."""
    return {"type": "function", "function": {"name": name, **function}}


def call(**fields: Any) -> dict[str, Any]:
    """An assistant's message with one tool call."""
    called = {"id": "c", "type": "function", "function": {"name": "look", "arguments": "{}"}, **fields}
    return {"role": "assistant", "content": None, "tool_calls": [called]}


def requests(**fields: Any) -> list[GenerateRequest]:
    """What a body asks for."""
    body = json.dumps({"model": "m", "messages": [HI], **fields}).encode()
    return to_generate_requests(decode_json(body, chat_decoder), "id", CHOSEN)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"function_call": "auto"}, "function_call"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "a"}}, "audio"),
        ({"web_search_options": {"a": 1}}, "web_search_options"),
        ({"verbosity": "low"}, "verbosity"),
        ({"store": True}, "store"),
        ({"grammar": "root ::= x"}, "grammar"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages.0.content.0.type"),
        ({"messages": [HI, {"role": "user", "content": [{"type": "input_audio"}]}]}, "messages.1.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "file"}]}]}, "messages.0.content.0.type"),
        ({"messages": [{"role": "assistant", "audio": {"id": "a"}}]}, "messages.0.audio"),
        ({"messages": [{"role": "assistant", "function_call": {"name": "f"}}]}, "messages.0.function_call"),
        ({"messages": [call(type="custom")]}, "messages.0.tool_calls.0.type"),
        ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools.0.type"),
        ({"tools": [tool()], "tool_choice": {"type": "custom", "custom": {"name": "f"}}}, "tool_choice.type"),
        ({"response_format": {"type": "structural_tag"}}, "response_format.type"),
    ],
)
def test_what_cannot_be_done_is_refused(fields: dict[str, Any], param: str) -> None:
    """A field that would change the answer is `not_supported` with its name, never ignored."""
    with pytest.raises(Problem) as refused:
        requests(**fields)

    assert (ErrorCode.NOT_SUPPORTED, param) == (refused.value.code, refused.value.param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"num_ctx": 101}, "num_ctx"),
        ({"tools": [tool(), tool()]}, "tools.1.function.name"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "look"}}}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice.function.name"),
        (
            {
                "tools": [tool()],
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("g")]}},
            },
            "tool_choice.allowed_tools.tools.0.function.name",
        ),
        ({"messages": [{**HI, "tool_calls": call()["tool_calls"]}]}, "messages.0.tool_calls"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
        ({"guided_regex": "a", "response_format": {"type": "json_object"}}, "response_format"),
        ({"guided_regex": "a", "guided_json": SCHEMA}, "guided_regex"),
    ],
)
def test_what_does_not_fit_together_is_refused(fields: dict[str, Any], param: str) -> None:
    """A value that fits its own type but not the rest of the request is `invalid_value` with its name."""
    with pytest.raises(Problem) as refused:
        requests(**fields)

    assert (ErrorCode.INVALID_VALUE, param) == (refused.value.code, refused.value.param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 0}, "n"),
        ({"n": 17}, "n"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "critic", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0.text"),
        ({"messages": [call(function=None)]}, "messages.0.tool_calls.0.function"),
        ({"messages": [call(id="")]}, "messages.0.tool_calls.0.id"),
        ({"messages": [call(function={"name": "f", "arguments": {}})]}, "messages.0.tool_calls.0.function.arguments"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [tool("two words")]}, "tools.0.function.name"),
        ({"tools": [tool(parameters=[])]}, "tools.0.function.parameters"),
        ({"tools": [tool(str(number)) for number in range(limits.TOOLS_MAX + 1)]}, "tools"),
        ({"tools": [tool(description="x" * limits.TOOLS_BYTES_MAX)]}, "tools"),
        ({"tools": [tool()], "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": [tool()], "tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"tools": [tool()], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.allowed_tools"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format.json_schema.schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": []}}},
            "response_format.json_schema.schema",
        ),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_choice": []}, "guided_choice"),
        ({"structured_outputs": {"choice": [1]}}, "structured_outputs.choice.0"),
        ({"structured_outputs": {"structural_tag": {}}}, "structured_outputs"),
        ({"reasoning_effort": "extreme"}, "reasoning_effort"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stop": [1]}, "stop.0"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
    ],
)
def test_what_is_malformed_is_refused(fields: dict[str, Any], param: str) -> None:
    """Wrong types, missing fields and values out of range name the field, down to the index."""
    with pytest.raises(Problem) as refused:
        requests(**fields)

    assert (ErrorCode.INVALID_REQUEST, param) == (refused.value.code, refused.value.param)


def test_a_schema_that_is_not_text_is_refused() -> None:
    """Bytes that are no UTF-8 deep inside a schema, which nobody here looks into, are found before they are handed on."""
    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}],"guided_json":{"a":"\xff"}}'

    with pytest.raises(Problem) as refused:
        to_generate_requests(decode_json(body, chat_decoder), "id", ChosenModel(model_id="m"))

    assert (ErrorCode.INVALID_REQUEST, "guided_json") == (refused.value.code, refused.value.param)


@pytest.mark.parametrize(
    ("choice", "mode", "name"),
    [
        (None, ToolMode.AUTO, ""),
        ("auto", ToolMode.AUTO, ""),
        ("none", ToolMode.NONE, ""),
        ("required", ToolMode.REQUIRED, ""),
        ({"type": "function", "function": {"name": "look"}}, ToolMode.NAMED, "look"),
    ],
)
def test_the_choice_of_tools(choice: Any, mode: ToolMode, name: str) -> None:
    """Each way to say whether tools are called, and parallel calls by default."""
    (request,) = requests(tools=[tool(), tool("listen")], tool_choice=choice)

    assert ToolChoice(mode=mode, name=name) == request.tool_choice
    assert ("look", "listen") == tuple(each.name for each in request.tools)


def test_allowed_tools_hide_the_others() -> None:
    """The model is shown only the tools it may call."""
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "listen"}}]}

    (request,) = requests(
        tools=[tool(), tool("listen", description="hear")],
        tool_choice={"type": "allowed_tools", "allowed_tools": allowed},
        parallel_tool_calls=False,
    )

    assert (Tool(name="listen", description="hear"),) == request.tools
    assert ToolChoice(mode=ToolMode.REQUIRED, parallel=False) == request.tool_choice


@pytest.mark.parametrize(
    ("fields", "form"),
    [
        ({}, OutputForm()),
        ({"response_format": {"type": "text"}}, OutputForm()),
        ({"response_format": {"type": "json_object"}}, OutputForm(kind=OutputKind.JSON_OBJECT)),
        ({"response_format": {"type": "json_object", "schema": SCHEMA}}, SCHEMA),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}}, SCHEMA),
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": SCHEMA}}}, SCHEMA),
        ({"json_schema": SCHEMA}, SCHEMA),
        ({"guided_json": SCHEMA}, SCHEMA),
        ({"guided_json": json.dumps(SCHEMA)}, SCHEMA),
        ({"structured_outputs": {"json": SCHEMA}}, SCHEMA),
        ({"structured_outputs": {"json_object": True}}, OutputForm(kind=OutputKind.JSON_OBJECT)),
        ({"guided_regex": "[a-z]+"}, OutputForm(kind=OutputKind.REGEX, source="[a-z]+")),
        ({"structured_outputs": {"regex": "x"}}, OutputForm(kind=OutputKind.REGEX, source="x")),
        ({"guided_choice": ["a.b", "c|d"]}, OutputForm(kind=OutputKind.REGEX, source=r"a\.b|c\|d")),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, OutputForm(kind=OutputKind.REGEX, source="yes|no")),
        ({"guided_grammar": 'start: "a"'}, OutputForm(kind=OutputKind.GRAMMAR, source='start: "a"')),
        ({"structured_outputs": {"grammar": 'start: "b"'}}, OutputForm(kind=OutputKind.GRAMMAR, source='start: "b"')),
    ],
)
def test_the_form_of_the_answer(fields: dict[str, Any], form: OutputForm | dict[str, Any]) -> None:
    """OpenAI's field and the names other servers' clients use, each as the neutral form; schemas as they were written."""
    (request,) = requests(**fields)

    if isinstance(form, dict):
        assert (OutputKind.JSON_SCHEMA, form) == (request.output.kind, json.loads(request.output.source))
    else:
        assert form == request.output


@pytest.mark.parametrize(
    ("fields", "arguments"),
    [
        ({}, None),
        ({"chat_template_kwargs": {}}, None),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "none"}, {"reasoning_effort": "none", "enable_thinking": False}),
        (
            {"reasoning_effort": "none", "chat_template_kwargs": {"enable_thinking": True}},
            {"reasoning_effort": "none", "enable_thinking": True},
        ),
    ],
)
def test_what_the_chat_template_is_told(fields: dict[str, Any], arguments: dict[str, Any] | None) -> None:
    """`reasoning_effort` under the names templates use; the client's own arguments win."""
    (request,) = requests(**fields)

    assert arguments == (json.loads(request.template_arguments) if request.template_arguments else None)


@pytest.mark.parametrize(
    ("fields", "logprobs"),
    [({}, None), ({"logprobs": False}, None), ({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 20}, 20)],
)
def test_log_probabilities(fields: dict[str, Any], logprobs: int | None) -> None:
    """None, those of the sampled tokens, or those of alternatives too."""
    assert logprobs == requests(**fields)[0].logprobs


def test_earlier_thoughts_and_refusals_are_kept() -> None:
    """A conversation as another server's client keeps it comes through whole."""
    (request,) = requests(
        messages=[
            {"role": "assistant", "content": "a", "reasoning": "because"},
            {"role": "assistant", "content": None, "refusal": "no"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "never"}]},
        ]
    )

    assert (
        Message(role="assistant", content="a", reasoning="because"),
        Message(role="assistant", content="no"),
        Message(role="assistant", content="never"),
    ) == request.messages


def test_choices_differ_in_id_and_seed_only() -> None:
    """Without a seed each choice draws its own; everything else is one request."""
    first, second = requests(n=2, seed=-1)

    assert (None, None) == (first.sampling.seed, second.sampling.seed)
    assert second == msgspec.structs.replace(first, request_id="id-1")
